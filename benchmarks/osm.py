"""OSM extracts to layers beside osmium-tool and ogr2ogr, and memory against the extract's size.

The extracts are seeded towns (`benchmarks.osm_town`), made once and kept below the temporary folder. Both sides write
the same features to the same layers of a GeoPackage, each command in a process of its own; ours also keeps all tags as
JSON. Anonymous memory is what a process allocates; resident memory holds pages of the file of node locations besides,
which the kernel drops when it needs them. Run as ``python -m benchmarks.osm``. Exit status 1 when a bound is missed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from benchmarks import osm_town

WAYS = 1_000_000
SIZES = (250_000, 1_000_000, 4_000_000)
FLAT = 1.25  # anonymous memory at any size beside that at the smallest
LAYERS = {  # layer → osmium's filter, geometry type
    "roads": ("w/highway", "linestring"),
    "waterways": ("w/waterway", "linestring"),
    "railways": ("w/railway", "linestring"),
    "water": ("wr/natural=water", "polygon"),
    "buildings": ("wr/building", "polygon"),
    "landuse": ("wr/landuse", "polygon"),
}
PEERS = ("osmium", "ogr2ogr")


class Measured(NamedTuple):
    """Wall time, and greatest anonymous and resident memory of a process."""

    seconds: float
    anonymous_mib: float
    peak_mib: float


def measure(command: list[str]) -> Measured:
    """Run a command to its end, looking at its memory every 20 ms; exits with its output when it fails."""
    begin, anonymous, peak = time.monotonic(), 0, 0
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        while process.poll() is None:
            fields = dict(line.split(":", 1) for line in Path(f"/proc/{process.pid}/status").read_text().splitlines())
            if "RssAnon" in fields:
                anonymous = max(anonymous, int(fields["RssAnon"].split()[0]))
                peak = max(peak, int(fields["VmHWM"].split()[0]))
            time.sleep(0.02)
        if process.returncode:
            output.seek(0)
            sys.exit(output.read())
    return Measured(time.monotonic() - begin, anonymous / 1024, peak / 1024)


def town(ways: int) -> Path:
    """The extract of a town, made unless it is there."""
    version = hashlib.sha256(Path(osm_town.__file__).read_bytes()).hexdigest()[:10]
    path = Path(tempfile.gettempdir()) / "pipeline-bench-osm" / f"town-{ways}-{version}.osm.pbf"
    if not path.exists():
        print(f"making {path} …", file=sys.stderr, flush=True)
        osm_town.write_town(path, ways)
    return path


def ours(pbf: Path, folder: Path, box_of: int | None) -> list[str]:
    """The command that makes our layers of `pbf`, in the box of the town of `box_of` ways (None: all of it)."""
    box = [] if box_of is None else ["--box-of", str(box_of)]
    return [sys.executable, "-m", "benchmarks.osm", "--step", str(pbf), "--folder", str(folder), *box]


def step(pbf: Path, folder: Path, box_of: int | None) -> None:
    """Make our layers."""
    from pipeline.acquire.osm import extract_osm

    box = None if box_of is None else osm_town.town_box(box_of)
    extract_osm(pbf, box, folder / "ours.gpkg", folder / "ours.json", log=print)


def peer(pbf: Path, folder: Path) -> list[Measured]:
    """Make the same layers with tags-filter, export and ogr2ogr; what each command took."""
    done = []
    part, text, out = folder / "part.osm.pbf", folder / "part.geojsonseq", folder / "peer.gpkg"
    for layer, (tags, geometry) in LAYERS.items():
        config = {"attributes": {"type": True, "id": True}}
        config |= {"linear_tags": geometry == "linestring", "area_tags": geometry == "polygon"}
        (folder / "export.json").write_text(json.dumps(config))
        kind = "LINESTRING" if geometry == "linestring" else "MULTIPOLYGON"
        export = [
            "-c",
            str(folder / "export.json"),
            f"--geometry-types={geometry}",
            "-x",
            "print_record_separator=false",
        ]
        into = ["-f", "GPKG", *(["-update"] if out.exists() else []), str(out), f"GeoJSONSeq:{text}"]
        for command in (
            ["osmium", "tags-filter", "--overwrite", "-o", str(part), str(pbf), tags],
            ["osmium", "export", "--overwrite", *export, "-f", "geojsonseq", "-o", str(text), str(part)],
            ["ogr2ogr", *into, "-nln", layer, "-nlt", kind],
        ):
            done.append(measure(command))
    return done


def counts(path: Path) -> dict[str, int]:
    """Features of each layer that has some."""
    import pyogrio

    found = {name: pyogrio.read_info(path, layer=name)["features"] for name, _ in pyogrio.list_layers(path)}
    return {name: count for name, count in sorted(found.items()) if count}


def speed(folder: Path) -> bool:
    """Print the table of times; whether the bound holds."""
    pbf = town(WAYS)
    mine = measure(ours(pbf, folder, None))
    print(f"### {WAYS:,} ways to layers\n")
    if not all(map(shutil.which, PEERS)):
        print(f"ours: {mine.seconds:.1f} s; {' and '.join(PEERS)} are not installed: nothing to compare with\n")
        return True
    commands = peer(pbf, folder)
    same = counts(folder / "ours.gpkg") == counts(folder / "peer.gpkg")
    seconds = sum(one.seconds for one in commands)
    holds = same and mine.seconds <= seconds
    print("| what | seconds | ratio | anonymous, MiB | resident, MiB | no slower |\n|:--|--:|--:|--:|--:|:--|")
    greatest = [max(values) for values in zip(*commands, strict=True)]
    print(f"| tags-filter, export, ogr2ogr | {seconds:.1f} | 1.00 | {greatest[1]:.0f} | {greatest[2]:.0f} | |")
    verdict = "yes" if holds else "NO"
    print(
        f"| ours | {mine.seconds:.1f} | {mine.seconds / seconds:.2f} | {mine.anonymous_mib:.0f} | {mine.peak_mib:.0f} "
        f"| {verdict} |\n\nequal counts in all layers: {'yes' if same else 'NO'}\n"
    )
    return holds


def memory(folder: Path) -> bool:
    """Print the table of memory by size; whether the bound holds."""
    print("### memory\n\n| ways | box | seconds | anonymous, MiB | ratio | resident, MiB | flat |")
    print("|--:|:--|--:|--:|--:|--:|:--|")
    holds = True
    for box_of, what in ((SIZES[0], f"the town of {SIZES[0]:,} ways"), (None, "all of the extract")):
        base = 0.0
        for ways in SIZES:
            found = measure(ours(town(ways), folder, box_of))
            base = base or found.anonymous_mib
            ratio = found.anonymous_mib / base
            holds &= ratio <= FLAT
            flat = "yes" if ratio <= FLAT else "NO"
            row = f"{found.seconds:.1f} | {found.anonymous_mib:.0f} | {ratio:.2f} | {found.peak_mib:.0f} | {flat}"
            print(f"| {ways:,} | {what} | {row} |", flush=True)
    print()
    return holds


def main() -> None:
    """Print both tables, or one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="*", choices=["speed", "memory", []], help="default: both")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--box-of", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--step", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        step(options.step, options.folder, options.box_of)
        return
    os.environ["OMP_NUM_THREADS"] = "1"
    missed = False
    for name, table in (("speed", speed), ("memory", memory)):
        if not options.tables or name in options.tables:
            with tempfile.TemporaryDirectory(prefix="bench-osm-") as folder:
                missed |= not table(Path(folder))
    sys.exit("a bound is missed" if missed else 0)


if __name__ == "__main__":
    main()
