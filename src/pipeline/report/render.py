"""The HTML report: one self-contained page, no scripts, styles, fonts or images from elsewhere."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

import jinja2
import pandas as pd
from PIL import Image

from pipeline.errors import RunError
from pipeline.files import write_text
from pipeline.report import views
from pipeline.report.table import ranked, summary

if TYPE_CHECKING:
    from pipeline.runs import Study

MOST_BYTES = 5_000_000
TYPES = {".png": "image/png", ".svg": "image/svg+xml", ".jpg": "image/jpeg", ".jpeg": "image/jpeg"}
SHRINK = ((None, None), (1400, 85), (1000, 80), (700, 75), (480, 60))  # (longest edge in px, JPEG quality)

# figure key → (section of the page, title, alternative text)
FIGURES = {
    "class_iou": ("results", "IoU per class", "Bar chart of the test IoU of each class, networks beside baselines."),
    "confusion": ("results", "Confusion matrix", "Matrix of labelled against predicted classes on the test split."),
    "learning_curves": ("curves", "Learning curves", "Line charts of losses and validation scores over the epochs."),
    "panel": ("predictions", "Test chips", "Test chips in rows: image, label and prediction side by side."),
    "region": ("predictions", "The whole region", "Map of the predicted classes blended over the region's image."),
    "label_distribution": ("data", "Class distribution", "Stacked bars of the share of each class in each split."),
}


class Context(TypedDict, total=False):
    """What the page shows besides table and figures; every key may be left out.

    Attributes:
        runs: content of every run.json, see `results.provenance`.
        regions: dicts of name, title, gsd_m, bbox and imagery, a list of dicts of name, attribution, terms.
        splits: dicts of name, region, facts (the split's JSON) and picture (path of an image).
        captions: figure key → caption, as the drawing functions return it.
        command: what to type to build the study again.
        summary: mean and deviation over seeds and folds; default: `table.summary` of the table.
        intervals: the two tables of `intervals.score_intervals`.
    """

    runs: Sequence[Mapping[str, Any]]
    regions: Sequence[Mapping[str, Any]]
    splits: Sequence[Mapping[str, Any]]
    captions: Mapping[str, str]
    command: str
    summary: pd.DataFrame
    intervals: tuple[pd.DataFrame, pd.DataFrame]


def render_report(
    study: Study, table: pd.DataFrame, out: Path, *, figures: Mapping[str, Path], context: Context
) -> None:
    """Write the report of a study as one HTML page under 5 MB.

    Args:
        study: the resolved study.
        table: of `table.build_table`.
        out: the page.
        figures: key → image (.png, .jpg, .svg). The keys of `FIGURES` have their places; a key may carry a suffix
            after a colon (``region:frankfurt``); others follow under "More figures".
        context: see `Context`.

    Pictures are made smaller when the page would be too big. Raises RunError when a picture is missing or of an
    unknown type, when a key of `context` is unknown, or when the page stays above 5 MB.
    """
    unknown = sorted(set(context) - set(Context.__annotations__))
    if unknown:
        raise RunError(f"report of {study.name}: unknown context {unknown[0]!r}; {', '.join(Context.__annotations__)}")
    facts = _facts(study, table, context)
    template = _environment().get_template("report.html.j2")
    for edge, quality in SHRINK:
        placed = _place(figures, context.get("captions", {}), edge, quality)
        splits = [_split(split, edge, quality) for split in context.get("splits", ())]
        page = template.render(**facts, figures=placed, splits=splits)
        size = len(page.encode())
        if size < MOST_BYTES:
            write_text(out, page)
            return
    raise RunError(
        f"{out} would be {size / 1e6:.1f} MB, more than {MOST_BYTES / 1e6:.0f}, with the smallest pictures; "
        "split the study or hand over fewer figures"
    )


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.tests["weblink"] = lambda text: str(text).startswith(("https://", "http://"))
    return environment


def _facts(study: Study, table: pd.DataFrame, context: Context) -> dict[str, Any]:
    select = study.config.select
    repeats = context.get("summary")
    return {
        "name": study.name,
        "title": study.config.title or study.name,
        "description": study.config.description,
        "introduction": views.introduction(study, table),
        "select": select,
        "headline": views.headline(table, select),
        "comparison": views.comparison(table, select),
        "losses_note": views.losses_note(table),
        "summary": views.summary_view(summary(table) if repeats is None else repeats),
        "random_split": any(split["facts"]["kind"] == "random" for split in context.get("splits", ())),
        "intervals": views.intervals_view(table, *context["intervals"]) if "intervals" in context else None,
        "regions": context.get("regions", ()),
        "provenance": views.provenance_view(context["runs"]) if context.get("runs") else None,
        "numbers": _numbers(table),
        "command": context.get("command", ""),
    }


def _numbers(table: pd.DataFrame) -> dict[str, int]:
    """Run id → its number on the page, networks first."""
    return {run: number for number, run in enumerate(ranked(table)["run"], start=1)}


def _place(
    figures: Mapping[str, Path], captions: Mapping[str, str], edge: int | None, quality: int | None
) -> dict[str, list[dict[str, Any]]]:
    """The figures by section of the page, embedded."""
    placed: dict[str, list[dict[str, Any]]] = {}
    known = list(FIGURES)
    order = sorted(figures, key=lambda key: known.index(_kind(key)) if _kind(key) in known else len(known))
    for key in order:
        kind = _kind(key)
        section, title, alternative = FIGURES.get(kind, ("more", key.replace("_", " "), key.replace("_", " ")))
        suffix = key.partition(":")[2]
        placed.setdefault(section, []).append(
            {
                "title": f"{title}: {suffix}" if suffix else title,
                "alt": alternative,
                "caption": captions.get(key, ""),
                **embed(figures[key], edge, quality),
            }
        )
    return placed


def _kind(key: str) -> str:
    return key.partition(":")[0]


def _split(split: Mapping[str, Any], edge: int | None, quality: int | None) -> dict[str, Any]:
    picture = split.get("picture")
    return {
        "name": split["name"],
        "region": split["region"],
        "picture": None if picture is None else embed(Path(picture), edge, quality),
        **views.split_view(split["facts"]),
    }


def embed(path: Path, edge: int | None = None, quality: int | None = None) -> dict[str, Any]:
    """An image file as ``src`` (a data URI), ``width`` and ``height`` in CSS pixels, 96 to
    the inch of the picture (None for an SVG without them).

    With `edge` a raster image is thinned to that longest edge and stored as JPEG of `quality` where that is smaller.
    Raises RunError when the file is missing, broken, or no .png, .jpg or .svg.
    """
    path = Path(path)
    if path.suffix not in TYPES:
        raise RunError(f"{path}: a report shows {', '.join(TYPES)}, not {path.suffix or 'a file without suffix'}")
    if not path.is_file():
        raise RunError(f"{path} is missing; draw the study's figures again")
    data, kind = path.read_bytes(), TYPES[path.suffix]
    if path.suffix == ".svg":
        return {"src": _uri(data, kind), **_svg_size(data)}
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.load()
            shown = 96 / float(image.info.get("dpi", (96, 96))[0] or 96)
            width, height = (round(edge_px * shown) for edge_px in image.size)
            if edge is not None:
                data, kind = _smaller(image, edge, quality or 85, data, kind)
    except OSError as error:
        raise RunError(f"{path} is no readable image ({error}); draw the study's figures again") from None
    return {"src": _uri(data, kind), "width": width, "height": height}


def _svg_size(data: bytes) -> dict[str, int | None]:
    """Width and height of an SVG in CSS pixels, from the points that its root element declares."""
    root = re.search(rb"<svg[^>]*>", data)
    found = {
        name: re.search(rb'\b%s="([\d.]+)pt"' % name.encode(), root[0]) if root else None
        for name in ("width", "height")
    }
    return {name: round(float(match[1]) * 4 / 3) if match else None for name, match in found.items()}


def _smaller(image: Image.Image, edge: int, quality: int, data: bytes, kind: str) -> tuple[bytes, str]:
    white = Image.new("RGB", image.size, "white")
    white.paste(image, mask=image.getchannel("A") if "A" in image.getbands() else None)
    white.thumbnail((edge, edge), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    white.save(buffer, "JPEG", quality=quality, optimize=True)
    return (buffer.getvalue(), "image/jpeg") if buffer.tell() < len(data) else (data, kind)


def _uri(data: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
