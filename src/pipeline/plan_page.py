"""The plan of a region as one page of Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.plan import CLASS_SHARE, IMAGE_SHARE

PARTS = {
    "cache": "fetched tiles (cache/)",
    "imagery": "imagery, GeoTIFFs",
    "osm": "OSM extracts, as far as they are here",
    "landcover": "land covers on the grid",
    "labels": "labels and where each came from",
    "chips": "chips",
}


def page(plan: Mapping[str, Any]) -> str:
    """`plan` (see `pipeline.plan.plan_region`) for people."""
    grid = plan["grid"]
    box = f", box {', '.join(map(str, plan['bbox']))} (west, south, east, north)" if plan["bbox"] else ""
    head = [
        f"# Plan of {plan['title'] or plan['region']}",
        f"{grid['width']:,} × {grid['height']:,} px = {_pixels(grid['pixels'])} of {grid['gsd_m']:.3g} m, "
        f"{_area(grid['area_km2'])}, {grid['crs'][:40]}{_zoom(grid)}{box}. Shards of {grid['shard_px']:,} px: "
        f"{grid['shards']:,}; {plan['chips']['count']:,} chips of {plan['chips']['px']} px at most.",
    ]
    parts = [*head, *_off(plan), *_imagery(plan), *_zooms(plan), *_labels(plan), *_disk(plan), *_unknown(plan)]
    return "\n\n".join(parts) + "\n"


def warnings(plan: Mapping[str, Any]) -> list[str]:
    """What must be mended before the region can be built, one line each."""
    disk = plan["disk"]
    off = [line for part in ("imagery", "landcover") for entry in plan[part].values() for line in entry["off"]]
    off += [line for entry in plan["osm"] for line in entry["off"]]
    if not disk["enough"]:
        off.append(
            f"the disk has {size(disk['free'])} free, about {size(disk['total'])} are needed: free some, or take a "
            "smaller box, a lower zoom or fewer sources"
        )
    return off


def size(count: int | None) -> str:
    """Bytes for people, in powers of a thousand."""
    if count is None:
        return "unknown"
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 999.5:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:,.0f} TB" if value >= 100 else f"{value:.3g} TB"


def hours(value: float | None) -> str:
    """A time for people."""
    if value is None:
        return "unknown"
    if value < 1 / 60:
        return f"{value * 3600:.0f} s"
    return f"{value * 60:.0f} min" if value < 1 else f"{value:,.1f} h"


def _pixels(count: int) -> str:
    return f"{count / 1e9:,.3g} gigapixels" if count >= 1e9 else f"{count / 1e6:,.3g} megapixels"


def _area(km2: float) -> str:
    return f"{km2:,.0f} km²" if km2 >= 100 else f"{km2:.3g} km²"


def _zoom(grid: Mapping[str, Any]) -> str:
    return "" if grid["zoom"] is None else f" (x/y/z zoom {grid['zoom']})"


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _count(value: int | None) -> str:
    return "unknown" if value is None else f"{value:,}"


def _off(plan: Mapping[str, Any]) -> list[str]:
    lines = warnings(plan)
    return ["## To settle first", "\n".join(f"- {line}" for line in lines)] if lines else []


def _imagery(plan: Mapping[str, Any]) -> list[str]:
    rows = [
        [
            name,
            f"{entry['kind']}, zoom {entry['zoom']}" if entry.get("zoom") else entry["kind"],
            _count(entry.get("tiles")) if "tiles" in entry else "–",
            _count(entry["requests"]),
            size(entry["bytes"]),
            hours(entry["hours"]),
            entry.get("pace", "read by window"),
            "off" if entry["off"] else "on",
        ]
        for name, entry in plan["imagery"].items()
    ]
    known = [entry for entry in plan["imagery"].values() if entry["requests"] is not None]
    if len(rows) > 1 and known:
        requests, fetched = (sum(entry[key] for entry in known) for key in ("requests", "bytes"))
        spent = hours(sum(entry["hours"] for entry in known))
        rows.append(["**all known**", "", "", _count(requests), size(fetched), spent, "one after the other", ""])
    head = ["source", "kind", "tiles", "requests", "to fetch", "time", "at the pace of", "now"]
    page = ["## Imagery", _table(head, rows)]
    if any(entry["requests"] != entry["tiles"] for entry in known if "tiles" in entry):
        page.append(
            "A tile on the border of two shards is asked for twice, so that there are more requests than tiles."
        )
    return page


def _zooms(plan: Mapping[str, Any]) -> list[str]:
    rows = []
    for entry in plan["zooms"]:
        costs = [
            f"{name}: {cost['tiles']:,} tiles, {size(cost['bytes'])}, {hours(cost['hours'])}"
            for name, cost in entry["imagery"].items()
        ]
        rows.append([str(entry["zoom"]), f"{entry['gsd_m']:.3g} m", _pixels(entry["pixels"]), "; ".join(costs) or "–"])
    return ["## Zooms", _table(["zoom", "pixel", "size", "imagery"], rows)] if rows else []


def _labels(plan: Mapping[str, Any]) -> list[str]:
    rows = [["OSM", entry["from"], size(entry["bytes"])] for entry in plan["osm"]]
    rows += [[f"land cover {name}", entry["from"], size(entry["bytes"])] for name, entry in plan["landcover"].items()]
    recipes = ", ".join(plan["labels"]) or "none"
    table = [_table(["for labels", "from", "size"], rows)] if rows else []
    return ["## Labels", *table, f"Recipes that fit the region: {recipes}."]


def _disk(plan: Mapping[str, Any]) -> list[str]:
    disk = plan["disk"]
    rows = [[text, size(disk[key])] for key, text in PARTS.items() if disk[key]]
    rows += [["**together**", f"**{size(disk['total'])}**"], ["free now", size(disk["free"])]]
    note = (
        f"Chips are exact, the rest is estimated: {IMAGE_SHARE:g} bytes per sample of imagery (three bands of 8 bits "
        f"where the source names no bands), {CLASS_SHARE:g} per pixel of classes. Without networks and results."
    )
    return ["## Disk", _table(["what", "size"], rows), note]


def _unknown(plan: Mapping[str, Any]) -> list[str]:
    lines = plan["unknown"]
    return ["## Not counted", "\n".join(f"- {line}" for line in lines)] if lines else []
