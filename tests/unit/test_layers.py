"""Who may import whom: the design's rules, checked over the source of the package."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline import variants

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src" / "pipeline"
FAMILIES = ("models", "losses", "metrics", "schedules", "samplers", "augment")
FILES = sorted(SOURCE.rglob("*.py"))


def modules(path: Path, tree: ast.AST | None = None) -> Iterator[str]:
    """Dotted names of all imports of a file, those inside functions and for type checkers included."""
    for node in ast.walk(tree or ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = ("pipeline", *path.relative_to(SOURCE).parts) if node.level else ()
            base = [*parts[: len(parts) - node.level], *([node.module] if node.module else [])]
            yield from (".".join([*base, alias.name]) for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            first = node.args[0] if node.args else None
            if isinstance(first, ast.Constant) and isinstance(first.value, str):
                yield first.value


def importers(*packages: str) -> set[str]:
    """Files below src/pipeline that import one of `packages`."""
    return {
        path.relative_to(SOURCE).as_posix()
        for path in FILES
        if any(module == p or module.startswith(f"{p}.") for module in modules(path) for p in packages)
    }


def test_the_reader_sees_imports(tmp_path: Path) -> None:
    """Guard of the guards: each kind of import is found."""
    text = "import a.b\nfrom c import d\ndef f():\n    from .g import h\n    importlib.import_module('k')"
    assert set(modules(SOURCE / "losses" / "x.py", ast.parse(text))) == {"a.b", "c.d", "pipeline.losses.g.h", "k"}
    assert {"losses/focal.py", "models/unet.py"} <= importers("torch") and len(FILES) > 15


@pytest.mark.parametrize("family", FAMILIES)
def test_families_import_only_themselves_and_what_lies_below(family: str) -> None:
    allowed = (f"pipeline.{family}", "pipeline.errors", "pipeline.variants")
    for path in sorted((SOURCE / family).rglob("*.py")):
        ours = [module for module in modules(path) if module.partition(".")[0] == "pipeline"]
        assert all(module.startswith(allowed) for module in ours), (path.name, ours)


def test_kinds_of_sources_import_only_what_config_may() -> None:
    allowed = ("pipeline.sources._", "pipeline.section", "pipeline.grid", "pipeline.errors", "pipeline.names")
    for path in sorted((SOURCE / "sources").glob("*.py")):
        ours = [module for module in modules(path) if module.partition(".")[0] == "pipeline"]
        assert all(module.startswith(allowed) for module in ours), (path.name, ours)


@pytest.mark.parametrize("family", [*FAMILIES, "baselines"])
def test_no_variant_imports_another(family: str) -> None:
    known = {f"pipeline.{family}.{name}" for name in variants.names(family)}
    for path in sorted((SOURCE / family).rglob("*.py")):
        own = f"pipeline.{family}.{path.stem}"
        for module in modules(path):
            assert not any(module == name or module.startswith(f"{name}.") for name in known - {own}), (
                path.name,
                module,
            )


@pytest.mark.parametrize(
    ("packages", "folders"),
    [
        (("torch", "torchvision", "segmentation_models_pytorch", "timm"), ("acquire", "labels", "report")),
        (("geopandas", "osmium", "pyogrio"), ("train", *FAMILIES)),
    ],
)
def test_folders_that_stay_free_of_packages(packages: tuple[str, ...], folders: tuple[str, ...]) -> None:
    assert not {file for file in importers(*packages) if file.split("/")[0] in folders}


def test_only_smp_knows_the_model_library() -> None:
    assert importers("segmentation_models_pytorch", "timm", "huggingface_hub") == {"models/smp.py"}
    assert importers("torchvision") == set()


def test_light_modules_import_nothing_heavy() -> None:
    heavy = importers("torch", "rasterio", "osgeo", "geopandas", "osmium", "matplotlib", "pandas", "numpy")
    light = {
        "config.py",
        "variants.py",
        "grid.py",
        "files.py",
        "errors.py",
        "runs.py",
        "command.py",
        "names.py",
        "schema.py",
        "study_schema.py",
        "defaults.py",
        "protocol.py",
        "section.py",
        "mistakes.py",
        "crs_grid.py",
        "extent.py",
        "plan_page.py",
        "__init__.py",
    }
    assert not heavy & light
    assert not {file for file in heavy if file.startswith("sources/")}
    for path in (SOURCE / name for name in sorted(light) if (SOURCE / name).exists()):
        for module in modules(path):
            top = module.split(".")
            assert top[0] != "pipeline" or len(top) < 2 or top[1] == "sources" or not (SOURCE / top[1]).is_dir(), (
                path.name,
                module,
            )


def test_the_package_knows_no_workflow_tool() -> None:
    assert importers("snakemake", "dvc") == set()


def test_nothing_edits_the_import_path() -> None:
    files = [*FILES, *sorted((ROOT / "scripts").glob("*.py")), *sorted((ROOT / "tests").rglob("*.py"))]
    for path in files:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            assert not (isinstance(node, ast.Attribute) and ast.unparse(node) == "sys.path"), path


def test_package_files_import_no_variants() -> None:
    for family in (*FAMILIES, "baselines"):
        init = SOURCE / family / "__init__.py"
        if init.exists():
            names = {f"pipeline.{family}.{name}" for name in variants.names(family)}
            assert not names & set(modules(init)), family
    for init in SOURCE.rglob("__init__.py"):
        own = ".".join(("pipeline", *init.parent.relative_to(SOURCE).parts))
        tree = ast.parse(init.read_text(encoding="utf-8"))
        top = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
        eager = {module for node in top for module in modules(init, ast.Module([node], []))}
        assert not {module for module in eager if module.startswith(f"{own}.") and own != "pipeline"}, init
        assert not {module.split(".")[0] for module in eager} & {"torch", "numpy", "rasterio", "geopandas"}, init
