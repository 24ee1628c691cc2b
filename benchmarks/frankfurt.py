"""The dry run of the whole Frankfurt region, zooms 17 and 18: both imageries, both land covers, four label variants.

In a fresh copy of the project, `snakemake -n` for every chip store, both splits and the plan; nothing is asked for, and
nothing is built but the plan, whose numbers stand beside the times. Run as ``python -m benchmarks.frankfurt``; exit
status 1 when a dry run takes longer than asked for.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.project import copy_project

BOUND_S = 30.0
ZOOMS = (17, 18)
REGION = "config/regions/frankfurt.yaml"
STORES = ("bing", "google", "landcover-old", "landcover-new", "initial", "bing_old", "bing_new", "google_new")
TARGETS = [
    "data/frankfurt/plan.md",
    *(f"data/frankfurt/chips/{store}/store.json" for store in STORES),
    *(f"data/frankfurt/splits/{split}.parquet" for split in ("blocks", "random")),
]
COUNT = re.compile(r"^(\w+) +(\d+)$", re.MULTILINE)


@dataclass(frozen=True)
class Dry:
    """A dry run: its jobs by rule, and how long it took."""

    jobs: dict[str, int]
    seconds: float


def snakemake(folder: Path, *words: str) -> str:
    """Run snakemake in `folder` and return what it printed; exits with that when it fails."""
    environment = os.environ | {"PYTHONPATH": str(folder / "src"), "OMP_NUM_THREADS": "1"}
    command = [str(folder / ".venv/bin/snakemake"), "--cores", "1", *words]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stdout + done.stderr)
    return done.stdout + done.stderr


def set_zoom(folder: Path, zoom: int) -> None:
    """Write the zoom into the copy's region."""
    path = folder / REGION
    text, count = re.subn(r"grid: \{zoom: \d+\}", f"grid: {{zoom: {zoom}}}", path.read_text())
    assert count == 1, f"{REGION} has no `grid: {{zoom: …}}`"
    path.write_text(text)


def dry_run(folder: Path) -> Dry:
    """The dry run of all `TARGETS`."""
    begin = time.monotonic()
    text = snakemake(folder, "-n", *TARGETS)
    seconds = time.monotonic() - begin
    return Dry({rule: int(count) for rule, count in COUNT.findall(text)}, seconds)


def plan_of(folder: Path) -> dict[str, Any]:
    """The region's plan, made anew."""
    snakemake(folder, "data/frankfurt/plan.md", "--quiet", "all")
    return dict(json.loads((folder / "data/frankfurt/plan.json").read_text()))


def row(zoom: int, dry: Dry, plan: dict[str, Any]) -> str:
    """One line of the table."""
    grid, imagery = plan["grid"], plan["imagery"].values()
    cells = [
        str(zoom),
        f"{grid['pixels'] / 1e9:.2f}",
        f"{grid['shards']:,}",
        f"{dry.jobs['total']:,}",
        f"{dry.seconds:.1f}",
        f"{dry.seconds / BOUND_S:.2f}",
        f"{sum(source['tiles'] for source in imagery):,}",
        f"{sum(source['bytes'] for source in imagery) / 1e9:.2f}",
        f"{sum(source['hours'] for source in imagery):.1f}",
        f"{plan['disk']['total'] / 1e9:.0f}",
    ]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Print the table."""
    head = [
        *("zoom", "gigapixels", "shards", "jobs", "dry run, s", f"of the {BOUND_S:.0f} s asked for"),
        *("tiles", "to fetch, GB", "hours at the entries' rates", "disk, GB"),
    ]
    print(f"| {' | '.join(head)} |\n|{'---|' * len(head)}", flush=True)
    missed = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "project"
        copy_project(folder)
        for zoom in ZOOMS:
            set_zoom(folder, zoom)
            dry = dry_run(folder)
            print(row(zoom, dry, plan_of(folder)), flush=True)
            missed += [zoom] if dry.seconds > BOUND_S else []
    if missed:
        sys.exit(f"above {BOUND_S:.0f} s: zoom {', '.join(map(str, missed))}")


if __name__ == "__main__":
    main()
