"""A misspelt name or parameter of any variant fails while a study is read, in one line with the choices."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from pipeline import metrics, variants
from pipeline.errors import ConfigError
from pipeline.runs import METRIC_NEEDS, expand_runs

PROJECT = Path(__file__).resolve().parents[2]
FAMILIES = ("models", "losses", "metrics")
EVERY = [(family, name) for family in FAMILIES for name in variants.names(family)]


@pytest.fixture(scope="module")
def demo() -> dict[str, Any]:
    return YAML(typ="safe", pure=True).load((PROJECT / "config" / "studies" / "demo.yaml").read_text())


def complaint(root: Path, demo: dict[str, Any], family: str, entry: Any) -> str:
    """What reading the demo study says when `entry` stands in its list of `family`."""
    if not root.exists():
        root.mkdir()
        for source in (PROJECT / "config").iterdir():
            if source.name != "studies":
                (root / source.name).symlink_to(source)
        (root / "studies").mkdir()
    study = copy.deepcopy(demo) | {family: [entry]}
    with open(root / "studies" / "mine.yaml", "w") as handle:
        YAML(typ="safe", pure=True).dump(study, handle)
    with pytest.raises(ConfigError) as caught:
        expand_runs("mine", root, PROJECT / "rules" / "variants")
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(("family", "name"), EVERY, ids=["-".join(pair) for pair in EVERY])
def test_a_misspelt_parameter_lists_the_choices(tmp_path: Path, demo: dict[str, Any], family: str, name: str) -> None:
    known = [*variants.parameters(family, name)]
    wrong = f"{known[0]}x" if known else "no_such"
    said = complaint(tmp_path / "config", demo, family, {name: {wrong: 1}})
    assert f"studies/mine.yaml: {family}" in said and repr(wrong) in said
    assert all(parameter in said for parameter in known)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_misspelt_name_lists_the_choices(tmp_path: Path, demo: dict[str, Any], family: str) -> None:
    known = variants.names(family)
    if not known:
        pytest.skip(f"no variant of {family} yet")
    said = complaint(tmp_path / "config", demo, family, f"{known[0]}x")
    assert f"did you mean {known[0]!r}?" in said and all(name in said for name in known)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"arch": "Unte"}, "no architecture 'Unte'; did you mean 'Unet'?"),
        ({"encoder": "resnet19"}, "no encoder 'resnet19'; did you mean 'resnet18'?"),
        ({"encoder": "tu-convnext_tinny"}, "no encoder 'tu-convnext_tinny'; did you mean 'tu-convnext_tiny'?"),
    ],
)
def test_names_of_the_library_are_known_while_a_study_is_read(
    tmp_path: Path, demo: dict[str, Any], params: dict[str, Any], message: str
) -> None:
    assert message in complaint(tmp_path / "config", demo, "models", {"smp": params})


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"leave_out": ["watr"]}, "mean_iou.leave_out: no class 'watr'; did you mean 'water'?"),
        (
            {"leave_out": ["forest", "fields", "urban", "water"]},
            "mean_iou.leave_out names all classes of region 'demo'",
        ),
    ],
)
def test_classes_that_a_metric_leaves_out_are_some_of_the_regions(
    tmp_path: Path, demo: dict[str, Any], params: dict[str, Any], message: str
) -> None:
    assert message in complaint(tmp_path / "config", demo, "metrics", {"mean_iou": params})


@pytest.mark.parametrize(("line", "got"), [("", "None"), ('NEEDS = "count"\n', "'count'")])
def test_a_metric_that_does_not_say_what_it_needs_stops_before_anything_is_trained(
    tmp_path: Path, demo: dict[str, Any], monkeypatch: pytest.MonkeyPatch, line: str, got: str
) -> None:
    package = tmp_path / "pipeline"
    (package / "metrics").mkdir(parents=True)
    for source in [*variants.PACKAGE.iterdir(), *(variants.PACKAGE / "metrics").iterdir()]:
        link = package / source.relative_to(variants.PACKAGE)
        if not link.exists():
            link.symlink_to(source)
    (package / "metrics" / "mine.py").write_text(f"{line}def build(*, k: int = 1):\n    return None\n")
    monkeypatch.setattr(variants, "PACKAGE", package)
    said = complaint(tmp_path / "config", demo, "metrics", "mine")
    assert METRIC_NEEDS == metrics.NEEDS
    assert said == f"src/pipeline/metrics/mine.py: NEEDS must be one of {', '.join(metrics.NEEDS)}, got {got}"
