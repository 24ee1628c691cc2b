"""Where a result came from: code, versions, device."""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

PACKAGES = ("torch", "numpy", "pyarrow", "safetensors", "segmentation-models-pytorch", "timm", "scikit-learn")


def code_hash(files: Iterable[Path]) -> str:
    """SHA-256 over the names and contents of source files."""
    digest = hashlib.sha256()
    for path in sorted(files):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that a result depends on, as far as installed."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def environment(device: torch.device | None = None) -> dict[str, Any]:
    """Device and versions for run.json."""
    name = "cpu"
    if device is not None and device.type == "cuda":
        import torch

        name = torch.cuda.get_device_name(device)
    return {"device": name, "versions": versions()}


def run_code_hash(script: Path, spec: dict[str, Any]) -> str:
    """Hash of all code that `script` executes for a run, its variants included."""
    from pipeline import variants

    files = variants.closure(script, variants.files_of(spec))
    return code_hash(path if path.is_absolute() else variants.PROJECT / path for path in files)
