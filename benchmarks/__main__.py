"""Every benchmark, one after the other, each in a process of its own: `make bench`.

Exit status 1 when one misses its bound or fails; the others run all the same.
"""

from __future__ import annotations

import subprocess
import sys

BENCHMARKS = (
    "demo",
    "tiles",
    "osm",
    "labels",
    "frankfurt",
    "losses",
    "kills",
    "kills_training",
    "metrics",
    "training",
    "startup",
)


def main() -> None:
    """Run those named on the command line, else all."""
    missed = []
    for name in sys.argv[1:] or BENCHMARKS:
        print(f"\n## {name}\n", flush=True)
        if subprocess.run([sys.executable, "-m", f"benchmarks.{name}"]).returncode:
            missed.append(name)
    if missed:
        sys.exit(f"missed or failed: {', '.join(missed)}")


if __name__ == "__main__":
    main()
