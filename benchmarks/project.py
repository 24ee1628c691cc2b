"""A fresh copy of the project in which benchmarks and tests build studies."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def copy_project(folder: Path) -> None:
    """Copy what git knows or would take in, as it lies on disk and with its times, and link the virtual environment.

    Made files that are already in `folder` (data, results) stay; sources in it are replaced.
    """
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    names = [name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]
    for top in {Path(name).parts[0] for name in names if "/" in name}:
        shutil.rmtree(folder / top, ignore_errors=True)
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, folder / name)
    link = folder / ".venv"
    link.unlink(missing_ok=True)
    link.symlink_to(Path(sys.prefix))
