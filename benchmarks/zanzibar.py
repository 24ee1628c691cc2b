"""Four folds over the buildings of a place on Zanzibar: a narrow U-Net, a random forest, and no building at all.

    REAL_DATA_DIR=<folder> .venv/bin/python -m benchmarks.zanzibar

builds the study `zanzibar` on the CPU with the pipeline's own rules in a copy of the project under tmp/zanzibar, where
data/zanzibar/source is a link to REAL_DATA_DIR/openaerialmap/zanzibar, and prints the tables of docs/results.md. A
second call trains nothing again. `--report` also writes the study's page.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd

from benchmarks.project import ROOT, copy_project

STUDY = "zanzibar"
SITE = Path("openaerialmap", "zanzibar")


def real_site() -> Path:
    """The folder of tiles and OSM extract below REAL_DATA_DIR; exits with one line when it is not there."""
    root = os.environ.get("REAL_DATA_DIR")
    if not root:
        sys.exit("error: REAL_DATA_DIR is not set; give the folder that holds openaerialmap/zanzibar")
    site = Path(root).resolve() / SITE
    if not (site / "tiles").is_dir():
        sys.exit(f"error: {site} has no folder 'tiles'; REAL_DATA_DIR must hold openaerialmap/zanzibar")
    return site


def link_site(folder: Path, site: Path) -> None:
    """Link the site's tiles and extract to where the region expects them in the copy `folder`."""
    link = folder / "data" / "zanzibar" / "source"
    link.parent.mkdir(parents=True, exist_ok=True)
    link.unlink(missing_ok=True)
    link.symlink_to(site, target_is_directory=True)


def run_snakemake(folder: Path, *targets: str, cores: str = "2") -> None:
    """Build `targets` in the copy with its own code; CalledProcessError when a job fails."""
    environment = os.environ | {"PYTHONPATH": str(folder / "src"), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "snakemake", "--cores", cores, *targets]
    subprocess.run(command, cwd=folder, env=environment, check=True, stdin=subprocess.DEVNULL)


def fold_table(table: pd.DataFrame) -> str:
    """Building IoU on each fold's test ground, a row per model, as Markdown."""
    folds = sorted(table["data.split"].unique())
    lines = ["| model | " + " | ".join(folds) + " |", "|:--|" + "--:|" * len(folds)]
    labels = [model_label(row) for row in table.to_dict("records")]
    for label in dict.fromkeys(labels):
        rows = table[[other == label for other in labels]].set_index("data.split")
        lines.append(
            f"| {label} | " + " | ".join(f"{rows.loc[fold, 'test_iou_building']:.3f}" for fold in folds) + " |"
        )
    return "\n".join(lines)


def summary_table(summary: pd.DataFrame) -> str:
    """Mean ± standard deviation (n − 1) over the folds, a row per model, as Markdown."""
    lines = ["| model | folds | building IoU | mean IoU | accuracy |", "|:--|--:|--:|--:|--:|"]
    for row in summary.to_dict("records"):
        scores = [
            f"{row[f'{name}_mean']:.3f} ± {row[f'{name}_sd']:.3f}"
            for name in ("test_iou_building", "test_mean_iou", "test_accuracy")
        ]
        lines.append(f"| {model_label(row)} | {row['n']} | " + " | ".join(scores) + " |")
    return "\n".join(lines)


def model_label(row: dict[str, object]) -> str:
    """The model and, for a network, its loss."""
    name, loss = str(row["model.name"]), row.get("loss.name")
    return f"{name}, {loss}" if row["kind"] == "run" else name.replace("_", " ")


def main(options: argparse.Namespace) -> None:
    """Build the study and print its tables."""
    site = real_site()
    copy_project(options.folder)
    link_site(options.folder, site)
    results = options.folder / "results" / "studies" / STUDY
    wanted = ["report.html"] if options.report else []
    run_snakemake(
        options.folder,
        *[f"results/studies/{STUDY}/{name}" for name in ("summary.csv", *wanted)],
        cores=options.cores,
    )
    print(summary_table(pd.read_csv(results / "summary.csv")))
    print()
    print(fold_table(pd.read_csv(results / "table.csv")))
    if options.report:
        print(f"\nreport: {results / 'report.html'}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=ROOT / "tmp" / "zanzibar", help="where the copy lies")
    parser.add_argument("--cores", default="2")
    parser.add_argument("--report", action="store_true", help="write the study's report.html too")
    main(parser.parse_args())
