"""Write what the README shows of the demo study: the table between its markers, and docs/images.

Run after `make`: .venv/bin/python tools/readme_results.py
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from PIL import Image

HERE = Path(__file__).resolve().parent.parent
STUDY = HERE / "results" / "studies" / "demo"
MARKS = ("<!-- begin: made by tools/readme_results.py -->", "<!-- end -->")
SCORES = {"test_mean_iou": "test mean IoU", "test_accuracy": "test accuracy", "truth_mean_iou": "truth mean IoU"}
MAX_BYTES = 200_000
MAX_PX = 1000


def markdown(table: pd.DataFrame) -> str:
    """A row per run: its name, loss, parameters and scores to three digits."""
    lines = [f"| run | loss | parameters | {' | '.join(SCORES.values())} |", "|---|---|---:|" + "---:|" * len(SCORES)]
    for row in table.to_dict("records"):
        network = row["kind"] == "run"
        name = f"`{row['model.name']}`" if network else f"`{row['run'].split('.')[0]}` (baseline)"
        loss = f"`{row['loss.name']}`" if network else "–"
        parameters = f"{int(row['parameters']):,}" if network else "–"
        scores = " | ".join(f"{row[score]:.3f}" for score in SCORES)
        lines.append(f"| {name} | {loss} | {parameters} | {scores} |")
    return "\n".join(lines)


def replace_block(text: str, block: str) -> str:
    """`text` with what stands between the markers replaced; exits when the markers are missing."""
    head, begin, rest = text.partition(MARKS[0])
    _, end, tail = rest.partition(MARKS[1])
    if not begin or not end:
        raise SystemExit(f"README.md lacks the lines {MARKS[0]} and {MARKS[1]}")
    return f"{head}{MARKS[0]}\n{block}\n{MARKS[1]}{tail}"


def shrink(source: Path, target: Path) -> None:
    """A JPEG of at most `MAX_PX` on its longer side and `MAX_BYTES` bytes."""
    with Image.open(source) as image:
        picture = image.convert("RGB")
    picture.thumbnail((MAX_PX, MAX_PX), Image.Resampling.LANCZOS)
    for quality in (85, 75, 65, 55):
        picture.save(target, quality=quality, optimize=True)
        if target.stat().st_size <= MAX_BYTES:
            return
    raise SystemExit(f"{target} stays above {MAX_BYTES} bytes")


def main() -> None:
    """Update README.md and docs/images from the built demo study."""
    if not (STUDY / "table.csv").is_file():
        raise SystemExit("results/studies/demo/table.csv does not exist; run make first")
    readme = HERE / "README.md"
    readme.write_text(replace_block(readme.read_text(), markdown(pd.read_csv(STUDY / "table.csv"))))
    (HERE / "docs" / "images").mkdir(parents=True, exist_ok=True)
    for name in ("region", "panel"):
        shrink(STUDY / "figures" / f"{name}.jpg", HERE / "docs" / "images" / f"demo_{name}.jpg")


if __name__ == "__main__":
    main()
