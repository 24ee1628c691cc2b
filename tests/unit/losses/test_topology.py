"""The topology loss against torchvision's VGG19 layers, and where its weights come from."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torchvision.models.vgg import cfgs, make_layers

from pipeline import losses, variants
from pipeline.errors import ConfigError, RunError
from pipeline.losses import topology
from pipeline.losses._topology import LAYERS

DEFAULT = ("conv1_2", "conv2_2", "conv3_4")
NAME = "vgg19-dcbb9e9d.pth"


@pytest.fixture(scope="module")
def network() -> torch.nn.Sequential:
    """torchvision's features up to conv3_4, random, in float64."""
    torch.manual_seed(0)
    return make_layers(cfgs["E"][:10]).double()


@pytest.fixture(scope="module")
def state(network: torch.nn.Sequential) -> dict[str, torch.Tensor]:
    """Its state dict as torchvision's file names it."""
    return {f"features.{key}": tensor.float() for key, tensor in network.state_dict().items()}


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Path]:
    before = torch.hub.get_dir()
    torch.hub.set_dir(str(tmp_path / "hub"))
    yield tmp_path / "hub" / "checkpoints"
    torch.hub.set_dir(before)


@pytest.fixture
def file(tmp_path: Path, state: dict[str, torch.Tensor]) -> Path:
    torch.save(state, tmp_path / "weights.pth")
    return tmp_path / "weights.pth"


@torch.no_grad()
def reference(
    network: torch.nn.Sequential, logits: torch.Tensor, target: torch.Tensor, layers: tuple[str, ...]
) -> float:
    """The equation: squared differences over M_n W_n H_n, summed over layers, map by map."""
    classes = logits.shape[1]
    shown = logits.sigmoid() if classes == 1 else logits.softmax(dim=1)
    total = 0.0
    for image, labels in zip(shown, target, strict=True):
        for k in range(classes):
            truth = (labels == (1 if classes == 1 else k)).double()
            grey = torch.stack([image[k] * (labels != 255), truth])
            mean, std = (
                torch.tensor(v).view(1, 3, 1, 1).double() for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
            )
            x = (grey.unsqueeze(1).expand(-1, 3, -1, -1) - mean) / std
            for index, module in enumerate(network):
                x = module(x)
                if any(LAYERS[name].index + 1 == index for name in layers):
                    total += float(((x[0] - x[1]) ** 2).sum() / x[0].numel())
    return total / len(logits) / classes


@pytest.mark.parametrize("layers", [DEFAULT, ("conv2_1",)])
@pytest.mark.parametrize("classes", [1, 3])
def test_equals_the_equation(network: torch.nn.Sequential, file: Path, classes: int, layers: tuple[str, ...]) -> None:
    generator = torch.Generator().manual_seed(classes)
    logits = torch.randn(2, classes, 8, 12, generator=generator, dtype=torch.float64) * 2
    target = torch.randint(0, max(2, classes), (2, 8, 12), generator=generator)
    target[0, :2] = 255
    expected = reference(network, logits, target, layers)
    loss = losses.create("topology", weights=str(file), layers=list(layers))
    assert loss(logits, target).item() == pytest.approx(expected, rel=1e-6)
    assert loss(logits.float(), target).item() == pytest.approx(expected, rel=1e-4)


def test_every_layer_has_torchvisions_place_and_shape() -> None:
    with torch.device("meta"):
        features = make_layers(cfgs["E"])
    convolutions = {index: module for index, module in enumerate(features) if isinstance(module, torch.nn.Conv2d)}
    assert {layer.index: (layer.after, layer.before, 3, 3) for layer in LAYERS.values()} == {
        index: tuple(module.weight.shape) for index, module in convolutions.items()
    }
    pools = [index for index, module in enumerate(features) if isinstance(module, torch.nn.MaxPool2d)]
    assert all(layer.pools == sum(pool < layer.index for pool in pools) for layer in LAYERS.values())


def test_an_image_of_nothing_but_ignored_pixels_does_not_dilute_the_mean() -> None:
    loss = losses.create("topology", weights="none", layers=["conv1_1"])
    logits, target = torch.randn(2, 1, 6, 6), torch.randint(0, 2, (2, 6, 6))
    target[1] = 255
    assert loss(logits, target).item() == pytest.approx(loss(logits[:1], target[:1]).item(), rel=1e-6)


def test_nothing_of_vgg19_is_trained_stored_or_drawn_from_torchs_generator() -> None:
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    one, other = (losses.create("topology", weights="none") for _ in range(2))
    assert torch.equal(before, torch.random.get_rng_state())
    assert not list(one.parameters()) and not one.state_dict()
    assert all(torch.equal(a, b) for a, b in zip(one.buffers(), other.buffers(), strict=True))
    assert {buffer.device.type for buffer in one.to("meta").buffers()} == {"meta"}


def test_takes_torchs_hub_file_without_fetching(hub: Path, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(topology, "URL", f"file:///nowhere/{NAME}")
    hub.mkdir(parents=True)
    file.rename(hub / NAME)
    logits, target = torch.randn(1, 1, 8, 8), torch.randint(0, 2, (1, 8, 8))
    assert losses.create("topology")(logits, target) > 0


def test_fetches_a_missing_file_and_checks_its_hash(hub: Path, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = file.rename(file.with_name(NAME))
    monkeypatch.setattr(topology, "URL", file.as_uri())
    with pytest.raises(RunError, match="cannot fetch"):
        losses.create("topology")
    assert not list(hub.iterdir())
    monkeypatch.setattr(topology, "HASH", hashlib.sha256(file.read_bytes()).hexdigest()[:8])
    losses.create("topology")
    assert (hub / NAME).read_bytes() == file.read_bytes()


def test_says_how_to_place_the_file_by_hand(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(topology, "URL", f"file:///nowhere/{NAME}")
    with pytest.raises(RunError) as caught:
        losses.create("topology")
    message = str(caught.value)
    assert f"file:///nowhere/{NAME} (548 MB) into the folder {hub}" in message and "\n" not in message


def test_other_layouts_of_the_same_weights(file: Path, state: dict[str, torch.Tensor]) -> None:
    """safetensors, half precision and torch's older format, which torchvision's file has."""
    save_file(state, file.with_suffix(".safetensors"))
    torch.save(state, file.with_suffix(".old"), _use_new_zipfile_serialization=False)
    torch.save({key: tensor.half() for key, tensor in state.items()}, file.with_suffix(".half"))
    logits, target = torch.randn(1, 2, 8, 8), torch.randint(0, 2, (1, 8, 8))
    expected = losses.create("topology", weights=str(file))(logits, target)
    for suffix, tolerance in ((".safetensors", 0), (".old", 0), (".half", 1e-2)):
        got = losses.create("topology", weights=str(file.with_suffix(suffix)))(logits, target)
        torch.testing.assert_close(got, expected, rtol=tolerance, atol=0)


class Touch:
    """Pickles to a call that leaves a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


def test_files_that_are_no_weights(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    """One line each; code in a pickle is not run."""
    trap = tmp_path / "trap"
    short = {key: tensor for key, tensor in state.items() if key != "features.16.bias"}
    wrong = {**state, "features.7.weight": torch.zeros(1)}
    makers = {
        "pickle.pth": lambda path: path.write_bytes(pickle.dumps(Touch(trap), protocol=2)),
        "zipped.pth": lambda path: torch.save(Touch(trap), path),
        "empty.pth": lambda path: path.touch(),
        "text.pth": lambda path: path.write_text("no weights"),
        "text.safetensors": lambda path: path.write_text("no weights"),
        "list.pth": lambda path: torch.save([torch.zeros(1)], path),
        "short.pth": lambda path: torch.save(short, path),
        "wrong.pth": lambda path: torch.save(wrong, path),
    }
    messages = {}
    for name, maker in makers.items():
        maker(tmp_path / name)
        with pytest.raises(RunError) as caught:
            losses.create("topology", weights=str(tmp_path / name))
        messages[name] = str(caught.value)
    assert not trap.exists() and not any("\n" in message for message in messages.values())
    assert all(str(tmp_path / name) in message for name, message in messages.items())
    assert "features.16.bias is missing" in messages["short.pth"]
    assert "features.7.weight has the shape [1], not [128, 128, 3, 3]" in messages["wrong.pth"]
    with pytest.raises(RunError, match="there is no file"):
        losses.create("topology", weights=str(tmp_path / "gone.pth"))


def test_images_that_are_too_small() -> None:
    loss = losses.create("topology", weights="none")
    with pytest.raises(RunError, match="3 × 8 px are too few for layer conv3_4, which needs 4"):
        loss(torch.zeros(1, 1, 3, 8), torch.zeros(1, 3, 8, dtype=torch.int64))


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"layers": []}, "layers is empty"),
        ({"layers": ["conv1_3"]}, "no layer 'conv1_3'; did you mean"),
        ({"layers": [3]}, "no layer 3"),
        ({"layers": [["conv1_1"]]}, "no layer \\[.conv1_1.\\]"),
        ({"layers": ["conv1_1", "conv1_1"]}, "twice"),
        ({"weights": " "}, "imagenet, none or the path"),
    ],
)
def test_parameters_are_checked_while_the_snakefile_is_parsed(params: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        variants.check("losses", "topology", params, "config/studies/x.yaml: losses")
    assert "\n" not in str(caught.value)


def test_the_truth_costs_nothing_and_every_mistake_something() -> None:
    target = torch.zeros(1, 16, 16, dtype=torch.int64)
    target[0, :, 7:9] = 1
    gap, thick = target.clone(), target.clone()
    gap[0, 6:10, 7:9] = 0
    thick[0, 4:12, 9] = 1
    loss = losses.create("topology", weights="none")
    costs = [loss((shape * 2.0 - 1).unsqueeze(1) * 800, target).item() for shape in (target, gap, thick)]
    assert costs[0] == 0 and costs[1] > 0 and costs[2] > 0
