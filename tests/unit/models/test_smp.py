"""Architectures of segmentation-models-pytorch by name, and what happens when something about them is wrong."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
import segmentation_models_pytorch as library
import torch
from huggingface_hub import constants
from safetensors.torch import save_file

from pipeline import models
from pipeline.errors import ConfigError, RunError
from pipeline.models import _smp


@pytest.mark.parametrize("encoder", ["mobilenet_v2", "resnet18"])
@pytest.mark.parametrize("arch", ["Unet", "FPN", "DeepLabV3Plus"])
def test_equals_the_library_called_directly(arch: str, encoder: str) -> None:
    torch.manual_seed(3)
    ours = models.create("smp", 4, 5, arch=arch, encoder=encoder).eval()
    torch.manual_seed(3)
    theirs = getattr(library, arch)(encoder, encoder_weights=None, in_channels=4, classes=5).eval()
    images = torch.rand(1, 4, 64, 64)
    with torch.no_grad():
        logits = ours(images)
        assert logits.shape == (1, 5, 64, 64) and torch.equal(logits, theirs(images))


def test_parameters_of_the_architecture_are_passed_on() -> None:
    network = models.create("smp", encoder="mobilenet_v2", decoder_channels=[32, 16, 16, 8, 8], decoder_use_norm=False)
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in network.decoder.modules())
    assert network.segmentation_head[0].in_channels == 8


def test_what_is_read_from_the_source_is_what_the_library_has() -> None:
    classes = [value for value in vars(library).values() if isinstance(value, type)]
    known = {c.__name__: c for c in classes if issubclass(c, torch.nn.Module) and c.__name__ in library.__all__}
    assert sorted(_smp.architectures()) == sorted(known)
    assert _smp.encoders() == {
        name: list(facts["pretrained_settings"]) for name, facts in library.encoders.encoders.items()
    }
    for name, architecture in known.items():
        arguments = inspect.signature(architecture).parameters.values()
        named = [a.name for a in arguments if a.kind is not a.VAR_KEYWORD]
        assert _smp.parameters(name) == [own for own in named if own not in _smp.RESERVED]


def test_encoder_of_timm() -> None:
    network = models.create("smp", encoder="tu-resnet10t", drop_path_rate=0.1).eval()
    with torch.no_grad():
        assert network(torch.rand(1, 3, 64, 64)).shape == (1, 4, 64, 64)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"arch": "Unte"}, r"no architecture 'Unte'; did you mean 'Unet'\? choices: .*DeepLabV3Plus"),
        ({"encoder": "resnet19"}, r"no encoder 'resnet19'; did you mean 'resnet18'\? choices: .*mobilenet_v2"),
        ({"encoder": "tu-resnet10x"}, "no encoder 'tu-resnet10x'; did you mean 'tu-resnet10t'"),
        ({"encoder": "tu-zzzz"}, "no encoder 'tu-zzzz'"),
        ({"decoder_chanels": 3}, r"Unet has no parameter 'decoder_chanels'; did you mean 'decoder_channels'\?"),
        ({"encoder": "tu-resnet10t", "decoder_chanels": 3}, "cannot be made: .*decoder_chanels"),
        ({"encoder_name": "resnet18"}, "'encoder_name' is called 'encoder' here"),
        ({"encoder_weights": None}, "'encoder_weights' is called 'weights' here"),
        ({"activation": "softmax"}, "'activation' is not supported"),
        ({"aux_params": {"classes": 2}}, "'aux_params' is not supported"),
        ({"weights": "imagnet"}, r"no weights 'imagnet' for encoder 'resnet34'; did you mean 'imagenet'\?"),
        ({"encoder": "tu-resnet10t", "weights": "ssl"}, "no weights 'ssl' for encoder 'tu-resnet10t'"),
        ({"decoder_channels": [1, 2]}, "cannot be made: .*2 blocks"),
        ({"encoder_depth": 9}, "cannot be made: .*depth"),
        ({"arch": "DPT"}, "cannot be made: .*Timm"),
        ({"arch": 3}, "arch must be text, got 3"),
    ],
)
def test_mistakes_are_one_line(params: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        models.create("smp", **params)
    assert "\n" not in str(caught.value)


def test_image_size_that_the_network_cannot_take() -> None:
    network = models.create("smp", arch="FPN", encoder="mobilenet_v2").eval()
    with pytest.raises(RunError, match="70 × 64 px is no multiple of 32, as FPN needs"):
        network(torch.rand(1, 3, 70, 64))
    with torch.no_grad():
        assert models.create("smp", encoder="mobilenet_v2").eval()(torch.rand(1, 3, 70, 64)).shape == (1, 4, 70, 64)


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    return tmp_path


def test_weights_placed_by_hand_where_the_error_says(offline: Path) -> None:
    with pytest.raises(
        RunError, match=r"cannot fetch the weights 'imagenet'.*config.json and model.safetensors"
    ) as caught:
        models.create("smp", encoder="resnet18", weights="imagenet")
    message = str(caught.value)
    folder = Path(message.partition("into the folder ")[2].partition(", or set")[0])
    assert folder.is_relative_to(offline) and "\n" not in message
    folder.mkdir(parents=True)
    torch.manual_seed(5)
    source = library.encoders.get_encoder("resnet18", weights=None)
    save_file(source.state_dict(), folder / "model.safetensors")
    (folder / "config.json").write_text("{}")
    network = models.create("smp", encoder="resnet18", weights="imagenet")
    assert all(torch.equal(value, source.state_dict()[key]) for key, value in network.encoder.state_dict().items())


def test_weights_of_timm_from_a_file(offline: Path) -> None:
    with pytest.raises(RunError, match="pretrained_cfg_overlay") as caught:
        models.create("smp", encoder="tu-resnet10t", weights="imagenet")
    assert "\n" not in str(caught.value)
    import timm

    torch.manual_seed(5)
    source = timm.create_model("resnet10t")
    file = offline / "weights.safetensors"
    save_file(source.state_dict(), file)
    network = models.create(
        "smp", encoder="tu-resnet10t", weights="imagenet", pretrained_cfg_overlay={"file": str(file)}
    )
    assert torch.equal(network.encoder.model.state_dict()["conv1.0.weight"], source.state_dict()["conv1.0.weight"])
