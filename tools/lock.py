"""Write requirements.lock: every installed package that pyproject.toml needs, pinned, without URLs."""

from __future__ import annotations

import importlib.metadata
import re
import tomllib
from pathlib import Path

HERE = Path(__file__).resolve().parent.parent
HEAD = "# Every version pinned, made by `make lock` from what is installed. Ranges are in pyproject.toml.\n"


def requirement(text: str) -> tuple[str, list[str]] | None:
    """(name, extras) of a requirement whose marker holds here, else None."""
    from packaging.requirements import Requirement

    parsed = Requirement(text)
    if parsed.marker is not None and not parsed.marker.evaluate({"extra": ""}):
        return None
    return re.sub(r"[-_.]+", "-", parsed.name).lower(), sorted(parsed.extras)


def closure(names: list[str]) -> dict[str, str]:
    """Versions of `names` and of all they need, transitively."""
    from packaging.requirements import Requirement

    found: dict[str, str] = {}
    todo = [item for text in names if (item := requirement(text))]
    seen: set[tuple[str, str]] = set()
    while todo:
        name, extras = todo.pop()
        distribution = importlib.metadata.distribution(name)
        found[name] = distribution.version
        for extra in ["", *extras]:
            if (name, extra) in seen:
                continue
            seen.add((name, extra))
            for text in distribution.requires or []:
                parsed = Requirement(text)
                if parsed.marker is None or parsed.marker.evaluate({"extra": extra}):
                    todo.append((re.sub(r"[-_.]+", "-", parsed.name).lower(), sorted(parsed.extras)))
    return found


def main() -> None:
    """Resolve pyproject.toml against the installed packages."""
    project = tomllib.loads((HERE / "pyproject.toml").read_text())["project"]
    extras = [text for group in project["optional-dependencies"].values() for text in group]
    pins = closure([*project["dependencies"], *extras, "setuptools", "pip"])
    pins.pop("pip")
    lines = [f"{name}=={version}\n" for name, version in sorted(pins.items())]
    (HERE / "requirements.lock").write_text(HEAD + "".join(lines))


if __name__ == "__main__":
    main()
