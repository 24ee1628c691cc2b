"""Variants found by file name, checked by their signature, without loading them."""

from __future__ import annotations

import datetime
import inspect
import math
import subprocess
import sys
import types
from pathlib import Path

import pytest

from pipeline import variants
from pipeline.errors import ConfigError


@pytest.fixture
def family(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of losses in a package of its own."""
    monkeypatch.setattr(variants, "PROJECT", tmp_path)
    monkeypatch.setattr(variants, "PACKAGE", tmp_path / "src" / "pipeline")
    folder = tmp_path / "src" / "pipeline" / "losses"
    folder.mkdir(parents=True)
    return folder


def write(folder: Path, name: str, text: str) -> None:
    (folder / f"{name}.py").write_text(text)


def test_variants_are_the_files_with_a_build() -> None:
    assert {"focal", "jaccard"} <= set(variants.names("losses"))
    assert {"unet", "smp"} <= set(variants.names("models"))


def test_a_new_file_is_a_new_variant(family: Path) -> None:
    write(family, "dice", "def build(*, smooth=1e-5): ...")
    write(family, "helper", "def other(): ...\nclass A:\n    def build(self): ...")
    write(family, "__init__", "def build(): ...")
    assert variants.names("losses") == ["dice"] and variants.names("models") == []
    assert variants.parameters("losses", "dice") == {"smooth": 1e-5}
    write(family, "dice", "def build(*, smooth=1, gamma=None): ...")
    assert variants.parameters("losses", "dice") == {"smooth": 1, "gamma": None}


@pytest.mark.parametrize("family", ["models", "losses"])
def test_signatures_read_equal_signatures_loaded(family: str) -> None:
    for name in variants.names(family):
        built = inspect.signature(variants.load(family, name).build).parameters.values()
        given = ("in_channels", "classes") if family == "models" else ()
        expected = {p.name: p.default for p in built if p.kind is p.KEYWORD_ONLY and p.name not in given}
        assert variants.parameters(family, name) == expected
        assert variants.accepts_any(family, name) == any(p.kind is p.VAR_KEYWORD for p in built)
        assert variants.module_path(family, name) == Path(inspect.getfile(variants.load(family, name)))


def test_a_variant_declares_constants_as_literals(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert variants.declared("models", "unet", "SMALL") == {"width": 4}
    assert (
        variants.declared("models", "unet", "NO_SUCH") is None and variants.declared("losses", "focal", "X", ()) == ()
    )
    monkeypatch.setattr(variants, "PACKAGE", tmp_path)
    (tmp_path / "losses").mkdir()
    text = 'TARGETS: tuple[str, ...] = ("distance",)\nSMALL = {"a": 2 * len("x")}\ndef build(*, a=1): ...\n'
    (tmp_path / "losses" / "mine.py").write_text(text)
    assert variants.declared("losses", "mine", "TARGETS") == ("distance",)
    with pytest.raises(ConfigError, match=r"mine\.py:2: SMALL must be a literal"):
        variants.declared("losses", "mine", "SMALL")


def test_defaults_fill_what_the_config_leaves_out() -> None:
    full = variants.check("models", "unet", {"width": 8}, "x")
    assert full["width"] == 8 and full["depth"] == 5 and full.keys() == variants.parameters("models", "unet").keys()
    wanted = {"eps": 1e-5, "class_weights": None, "ignore_index": 255, "label_smoothing": 0.0}
    assert variants.check("losses", "jaccard", None, "x") == wanted
    passed = variants.check("models", "smp", {"decoder_channels": [8, 4]}, "x")
    assert passed == {"arch": "Unet", "encoder": "resnet34", "weights": None, "decoder_channels": [8, 4]}


def test_whole_numbers_pass_for_floats() -> None:
    resolved = variants.check("losses", "focal", {"gamma": 2}, "x")
    assert resolved["gamma"] == 2.0 and isinstance(resolved["gamma"], float)


def endless() -> list[object]:
    """What ``&a [*a]`` is in YAML."""
    inner: list[object] = []
    inner.append(inner)
    return inner


@pytest.mark.parametrize(
    ("where", "name", "params", "message"),
    [
        ("losses", "focall", {}, "no loss 'focall'; did you mean 'focal'? choices: "),
        ("losses", 3, {}, "no loss 3; choices: "),
        ("losses", ["focal"], {}, "no loss ['focal']; did you mean 'focal'?"),
        ("losses", "target", {}, "no loss 'target'; "),
        (
            "losses",
            "focal",
            {"alhpa": 1},
            "loss 'focal' has no parameter 'alhpa'; did you mean 'alpha'? choices: alpha, ",
        ),
        ("losses", "focal", {5: 1}, "loss 'focal' has no parameter 5; "),
        ("losses", "focal", {"alpha": "0.25"}, "loss 'focal': alpha must be a number, got '0.25'"),
        ("losses", "focal", {"alpha": True}, "loss 'focal': alpha must be a number, got True"),
        ("losses", "focal", {"alpha": None}, "loss 'focal': alpha must be a number, got None"),
        ("losses", "focal", {"alpha": float("nan")}, "loss 'focal': alpha must be finite, got nan"),
        ("losses", "focal", {"reduction": "pixel"}, "reduction must be one of classes, pixels; got 'pixel'"),
        ("losses", "focal", {"reduction": ["pixels"]}, "reduction must be one of classes, pixels; got ['pixels']"),
        ("losses", "focal", [1], "the parameters of loss 'focal' must be a mapping, got [1]"),
        ("models", "unet", {"width": 8.5}, "model 'unet': width must be a whole number, got 8.5"),
        ("models", "unet", {"width": True}, "model 'unet': width must be a whole number, got True"),
        ("models", "unet", {"classes": 4}, "'classes' of model 'unet' is set by the pipeline from the data"),
        ("models", "smp", {"arch": 7}, "model 'smp': arch must be text, got 7"),
        ("models", "smp", {"weights": 1}, "model 'smp': weights must be text or null, got 1"),
        ("models", "smp", {"foo": datetime.date(2024, 1, 1)}, "model 'smp': foo must be made of finite numbers, "),
        ("models", "smp", {"foo": {"a": [1, math.nan]}}, "true, false, null, lists and mappings, got {'a': [1, nan]}"),
        ("models", "smp", {"foo": -math.inf}, "foo must be made of finite numbers, "),
        ("models", "smp", {"foo": {1: 2}}, "foo must be made of finite numbers, "),
        ("models", "smp", {"foo": {"a"}}, "foo must be made of finite numbers, "),
        ("models", "smp", {"foo": endless()}, "foo must be made of finite numbers, "),
        ("modles", "unet", {}, "no family 'modles' of variants; did you mean 'models'?"),
    ],
)
def test_mistakes_are_one_line(where: str, name: object, params: object, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        variants.check(where, name, params, "study.yaml: here")
    text = str(caught.value)
    assert message in text and "\n" not in text
    assert where == "modles" or text.startswith("study.yaml: here: ")


def test_what_json_holds_is_passed_on_as_it_is() -> None:
    given = {"encoder": "tu-resnet10t", "foo": {"a": [1, 2.5, None, True, "x", {}]}, "bar": (8, 4), "baz": 10**400}
    assert given.items() <= variants.check("models", "smp", given, "x").items()


def test_lists_of_a_named_parameter_are_looked_into(family: Path) -> None:
    write(family, "a", "def build(*, sizes: list = (), any=None): ...")
    for params in ({"sizes": [1, math.nan]}, {"any": datetime.date(2024, 1, 1)}):
        with pytest.raises(ConfigError, match="must be made of finite numbers"):
            variants.check("losses", "a", params, "x")


def test_a_file_name_that_no_run_could_carry_is_refused(family: Path) -> None:
    for name in ("MyLoss", "my-loss", "my.loss"):
        write(family, name, "def build(*, a=1): ...")
        with pytest.raises(ConfigError) as caught:
            variants.check("losses", name, {}, "study.yaml: losses")
        text = str(caught.value)
        assert text.startswith(f"study.yaml: losses: {name!r} is no name: ") and "\n" not in text
        assert text.endswith(f"rename src/pipeline/losses/{name}.py")
    write(family, "dice", "def build(*, a=1): ...")
    assert variants.check("losses", "dice", {}, "x") == {"a": 1}


def test_true_is_not_one_among_options(family: Path) -> None:
    write(
        family, "a", "def build(*, order: Literal[1, 2] = 1, flag: bool = False, sizes: tuple[int, ...] = (1, 2)): ..."
    )
    with pytest.raises(ConfigError, match="order must be a whole number, got True"):
        variants.check("losses", "a", {"order": True}, "x")
    with pytest.raises(ConfigError, match="flag must be true or false, got 1"):
        variants.check("losses", "a", {"flag": 1}, "x")
    with pytest.raises(ConfigError, match="sizes must be a list, got 3"):
        variants.check("losses", "a", {"sizes": 3}, "x")
    assert variants.check("losses", "a", {"sizes": [3]}, "x") == {"order": 1, "flag": False, "sizes": [3]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def build(*, a=1 + x): ...", "src/pipeline/losses/bad.py:1: the default 1 + x of 'a' is no literal"),
        ("def build(*, a): ...", "bad.py:1: parameter 'a' of build has no default"),
        ("def build(a=1): ...", "bad.py:1: build must take keyword-only arguments"),
        ("def build(*a): ...", "bad.py:1: build must take keyword-only arguments"),
        ("\ndef build(**k): ...", "bad.py:2: build must name its parameters instead of **kwargs"),
        ("x = 1\ndef build(:", "bad.py:2: is no valid Python"),
    ],
)
def test_a_variant_that_cannot_be_read_is_named(family: Path, text: str, message: str) -> None:
    write(family, "bad", text)
    with pytest.raises(ConfigError) as caught:
        variants.check("losses", "bad", {}, "x")
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("module", ["pipeline.variants", "pipeline.config", "pipeline.models", "pipeline.losses"])
def test_parsing_a_study_loads_nothing_heavy(module: str) -> None:
    code = (
        f"import sys, {module}; from pipeline import variants; variants.check('losses', 'focal', {{}}, 'x');"
        "variants.check('models', 'smp', {}, 'x'); variants.closure(variants.module_path('models', 'smp'));"
        "print([m for m in ('torch', 'numpy', 'rasterio', 'geopandas', 'timm') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


LIGHT = """
from pipeline import variants
from pipeline.errors import ConfigError

def check(*, parts, size):
    if size < 1:
        raise ConfigError(f"loss sum: size {size} is below 1")
    return {"parts": sorted(parts), "size": size}

def uses(*, parts, **_):
    return [(part, {}) for part in parts]
"""


@pytest.fixture
def light(family: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A loss `sum` of others, with a light module that the import system finds in the package of its own."""
    write(family, "sum", "def build(*, parts: list = ('a',), size: int = 1): ...")
    write(family, "_sum", LIGHT)
    for name in ("a", "b"):
        write(family, name, "def build(*, c=1): ...")
    module = types.ModuleType("pipeline.losses._sum")
    exec(LIGHT, module.__dict__)
    monkeypatch.setitem(sys.modules, "pipeline.losses._sum", module)
    return family


def test_a_light_module_checks_and_may_give_the_parameters_a_form_of_their_own(light: Path) -> None:
    assert variants.check("losses", "sum", {"parts": ["b", "a"]}, "x") == {"parts": ["a", "b"], "size": 1}
    with pytest.raises(ConfigError, match=r"^study: losses: loss sum: size 0 is below 1$"):
        variants.check("losses", "sum", {"size": 0}, "study: losses")


def test_a_variant_may_be_named_like_a_helper_of_others(family: Path) -> None:
    """`distance.py` beside `_distance.py`, which other losses share: that is no light module, and is not imported."""
    write(family, "distance", "def build(*, reach: int = 1): ...")
    write(family, "_distance", "raise ImportError('heavy')")
    assert variants.light("losses", "distance") is None
    assert variants.check("losses", "distance", {"reach": 2}, "x") == {"reach": 2}


def test_what_a_variant_uses_are_itself_and_those_its_parameters_name(light: Path) -> None:
    assert variants.used("losses", "a", {}) == [("losses", "a")]
    assert variants.used("losses", "sum", {}) == [("losses", "sum"), ("losses", "a")]
    both = {"parts": ["b", "a", "b"]}
    assert variants.used("losses", "sum", both) == [("losses", "sum"), ("losses", "b"), ("losses", "a")]
    spec = {"kind": "run", "model": {"name": "gone", "params": {}}, "loss": {"name": "sum", "params": both}}
    assert [path.stem for path in variants.files_of(spec)] == ["sum", "b", "a"]
    rule = {"kind": "rule", "model": {"name": "mine", "params": {}}}
    assert variants.files_of(rule) == []


def test_shortest_leaves_defaults_out_as_json_has_them(family: Path) -> None:
    write(family, "a", "def build(*, sizes: list = (1, 2), gamma: float = 2.0, flag: bool = True): ...")
    assert variants.shortest("losses", "a", {"sizes": [1, 2], "gamma": 2, "flag": True}) == {}
    kept = {"sizes": [2, 1], "gamma": 2.5, "flag": False, "other": 1}
    assert variants.shortest("losses", "a", kept) == kept
