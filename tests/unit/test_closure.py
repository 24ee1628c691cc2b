"""The static import closure: what a rule depends on, and nothing else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pipeline import variants
from pipeline.errors import ConfigError
from pipeline.train.provenance import run_code_hash


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(variants, "PROJECT", tmp_path)
    monkeypatch.setattr(variants, "PACKAGE", tmp_path / "src" / "pipeline")
    return tmp_path


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def names(paths: list[Path]) -> set[str]:
    return {path.as_posix().removeprefix("src/pipeline/") for path in paths}


def test_every_way_to_import_is_followed(package: Path) -> None:
    modules = ["a", "b", "c", "d", "e", "f", "g", "typed", "unused"]
    write(package, {f"src/pipeline/{name}.py": "" for name in modules})
    write(
        package,
        {
            "src/pipeline/__init__.py": "",
            "src/pipeline/sub/__init__.py": "import pipeline.a",
            "src/pipeline/sub/inner.py": "from . import near\nfrom ..b import thing\nfrom .. import c",
            "src/pipeline/sub/near.py": "",
            "src/pipeline/sub/far.py": "",
            "scripts/job.py": "import os\nfrom typing import TYPE_CHECKING\nfrom pipeline import d\n"
            "def main():\n    from pipeline.sub.inner import x\n    import pipeline.e as e\n"
            "if TYPE_CHECKING:\n    from pipeline import typed\nelse:\n    from pipeline import f\n",
        },
    )
    found = names(variants.closure(package / "scripts/job.py", [package / "src/pipeline/g.py"]))
    assert found == {
        "scripts/job.py", "__init__.py", "a.py", "b.py", "c.py", "d.py", "e.py", "f.py", "g.py",
        "sub/__init__.py", "sub/inner.py", "sub/near.py",
    }  # fmt: skip


def test_cycles_end_and_edits_are_seen(package: Path) -> None:
    write(
        package,
        {
            "src/pipeline/__init__.py": "",
            "src/pipeline/a.py": "import pipeline.b",
            "src/pipeline/b.py": "import pipeline.a",
        },
    )
    assert names(variants.closure(package / "src/pipeline/a.py")) == {"__init__.py", "a.py", "b.py"}
    write(package, {"src/pipeline/b.py": "import pipeline.c", "src/pipeline/c.py": ""})
    assert names(variants.closure(package / "src/pipeline/a.py")) == {"__init__.py", "a.py", "b.py", "c.py"}


def test_paths_outside_the_project_stay_absolute(package: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    script = tmp_path_factory.mktemp("elsewhere") / "job.py"
    script.write_text("")
    assert variants.closure(script) == [script.resolve()]


def test_a_missing_file_is_one_line(package: Path) -> None:
    with pytest.raises(ConfigError, match=r"scripts/nothing\.py does not exist"):
        variants.closure(package / "scripts/nothing.py")


def test_a_training_depends_on_its_own_loss_alone() -> None:
    loss, network = variants.module_path("losses", "focal"), variants.module_path("models", "unet")
    found = names(variants.closure(loss, [network]))
    assert {"losses/focal.py", "losses/target.py", "losses/__init__.py", "models/__init__.py", "variants.py"} <= found
    assert {"models/unet.py", "errors.py", "__init__.py"} <= found
    assert not {"losses/jaccard.py", "models/smp.py"} & found


def test_closure_covers_what_really_is_imported() -> None:
    """Against the interpreter: every file of the package that importing a module executes is in its closure."""
    for module in ("pipeline.losses.focal", "pipeline.config", "pipeline.metrics.confusion"):
        code = (
            f"import sys, {module}; print(*(m.__file__ for n, m in sys.modules.items()"
            " if n.partition('.')[0] == 'pipeline'), sep='\\n')"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        really = {Path(line).relative_to(variants.PROJECT) for line in done.stdout.split()}
        path = variants.PACKAGE / Path(*module.split(".")[1:]).with_suffix(".py")
        assert really <= set(variants.closure(path)), module


def test_closures_are_sorted_relative_and_stable() -> None:
    path = variants.module_path("models", "unet")
    found = variants.closure(path)
    assert found == sorted(found) == variants.closure(path, [path])
    assert not any(item.is_absolute() for item in found)


def test_a_weighted_sum_depends_on_its_terms_and_no_other_loss() -> None:
    """Editing losses/boundary_f1.py retrains the sums that use it, and no other run."""
    script = variants.PROJECT / "scripts" / "train.py"
    unet = {"name": "unet", "params": {}}

    def files(loss: dict) -> set[str]:
        return names(variants.closure(script, variants.files_of({"kind": "run", "model": unet, "loss": loss})))

    terms = ["cross_entropy", {"boundary_f1": {}}]
    own = files({"name": "weighted_sum", "params": {"terms": terms}})
    assert {"losses/weighted_sum.py", "losses/_weighted_sum.py", "losses/boundary_f1.py"} <= own
    assert "losses/cross_entropy.py" in own and not {"losses/focal.py", "losses/multi_task.py"} & own
    default = files({"name": "weighted_sum", "params": {}})
    assert {"losses/generalized_dice.py", "losses/focal.py"} <= default and "losses/boundary_f1.py" not in default
    plain = files({"name": "jaccard", "params": {}})
    assert "losses/jaccard.py" in plain and "train/weight_search.py" in plain
    others = {f"losses/{name}.py" for name in variants.names("losses") if name != "jaccard"}
    assert not plain & {*others, "losses/_tasks.py", "losses/_distance.py", "losses/_weighted_sum.py"}


def test_the_code_hash_of_a_run_follows_the_terms_of_its_loss() -> None:
    script = variants.PROJECT / "scripts" / "train.py"

    def digest(terms: list) -> str:
        loss = {"name": "weighted_sum", "params": {"terms": terms}}
        return run_code_hash(script, {"kind": "run", "model": {"name": "unet", "params": {}}, "loss": loss})

    assert digest(["focal"]) == digest([{"focal": {"gamma": 1.0}}])
    assert len({digest(["focal"]), digest(["jaccard"]), digest(["focal", "jaccard"])}) == 3
