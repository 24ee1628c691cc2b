"""Architectures of segmentation-models-pytorch by name, and what happens when something about them is wrong."""

from __future__ import annotations

import copy
import inspect
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import segmentation_models_pytorch as library
import timm
import torch
from huggingface_hub import constants
from safetensors.torch import save_file

from pipeline import models
from pipeline.errors import ConfigError, RunError
from pipeline.models import _smp
from pipeline.train.checkpoint import load_checkpoint, save_checkpoint

NAMED = [  # those that the papers and the field name, and one of each family of encoders that the library has
    "vgg16",
    "vgg19",
    "vgg19_bn",
    "resnet34",
    "densenet121",
    "densenet169",
    "inceptionresnetv2",
    "inceptionv4",
    "xception",
    "dpn68",
    "se_resnet50",
    "efficientnet-b0",
    "timm-efficientnet-b0",
    "timm-skresnet18",
    "timm-tf_efficientnet_lite0",
    "mobileone_s0",
    "tu-swin_tiny_patch4_window7_224",
    "tu-swinv2_tiny_window8_256",
    "tu-convnext_tiny",
]


def light_encoder(arch: str) -> str:
    return "tu-test_vit" if arch == "DPT" else "mobilenet_v2"


def output_shape(encoder: str, height: int, width: int) -> tuple[int, ...]:
    """The shape of what a U-Net with five bands and one logit makes of two images, without any arithmetic."""
    with torch.device("cpu" if encoder.startswith("mit_") else "meta"), torch.no_grad():
        network = models.create("smp", 5, 1, encoder=encoder).eval()
        return tuple(network(torch.zeros(2, 5, height, width)).shape)


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


def test_names_of_timm_are_read_from_its_source() -> None:
    found = _smp.timm_models()
    assert found >= set(timm.list_models()) and all(timm.is_model(name) for name in found)
    assert {"vit_base_patch16_224_in21k", "tv_resnet34"} <= found  # names of old
    for wrong in ("tu-resnet10x", "tu-resnet10x.c3_in1k", "tu-", "tu-conv", "tu-def"):
        with pytest.raises(ConfigError, match="no encoder 'tu-"):
            _smp.check(arch="Unet", encoder=wrong, weights=None)


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
        ({"encoder": "tu-zzzz"}, "no encoder 'tu-zzzz'; choices: tu-<name"),
        ({"encoder": "timm-resnet18"}, "no encoder 'timm-resnet18'; did you mean 'tu-resnet18'"),
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


class TestEncodersAndArchitectures:
    @pytest.mark.parametrize("encoder", NAMED)
    def test_named_encoders_take_any_bands_and_one_logit(self, encoder: str) -> None:
        assert output_shape(encoder, 64, 96) == (2, 1, 64, 96)

    @pytest.mark.slow
    @pytest.mark.parametrize("encoder", [name for name in _smp.encoders() if name not in NAMED])
    def test_every_encoder_of_the_library(self, encoder: str) -> None:
        assert output_shape(encoder, 64, 96) == (2, 1, 64, 96)

    def test_named_encoders_cover_every_kind_of_the_library(self) -> None:
        """A kind is a class of encoders; those of transformers (mit) and mobilenet are built elsewhere here."""
        kinds = {facts["encoder"] for facts in library.encoders.encoders.values()}
        own = [name for name in [*NAMED, "mit_b0", "mobilenet_v2"] if not name.startswith("tu-")]
        assert {library.encoders.encoders[name]["encoder"] for name in own} == kinds

    @pytest.mark.parametrize("arch", _smp.architectures())
    def test_every_architecture_learns_with_a_light_encoder(self, arch: str) -> None:
        """PAN pools three times below a stride of 16, so that it needs 128 px."""
        torch.manual_seed(0)
        network = models.create("smp", 5, 1, arch=arch, encoder=light_encoder(arch)).train()
        height = 128 if arch == "PAN" else 64
        logits = network(torch.rand(2, 5, height, 128))
        assert logits.shape == (2, 1, height, 128)
        logits.square().mean().backward()
        first, last = next(network.encoder.parameters()), next(network.segmentation_head.parameters())
        assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in (first, last))

    @pytest.mark.parametrize(("height", "width"), [(63, 64), (75, 97)])
    def test_inception_resnet_is_padded_and_fits_any_size(self, height: int, width: int) -> None:
        assert output_shape("inceptionresnetv2", height, width) == (2, 1, height, width)

    def test_a_transformer_encoder_of_the_library(self) -> None:
        assert output_shape("mit_b0", 64, 96) == (2, 1, 64, 96)

    @pytest.mark.parametrize(
        ("params", "message"),
        [
            ({"arch": "DeepLabV3", "encoder": "vgg16"}, "do not support dilated mode"),
            ({"arch": "DeepLabV3", "encoder": "tu-vgg11"}, "the encoder cannot be dilated, as this architecture needs"),
            ({"arch": "PAN", "encoder": "tu-test_convnext", "output_stride": 3}, "cannot be dilated.*output_stride|3"),
            ({"arch": "Linknet", "encoder": "mit_b0"}, "`mit_b0` is not supported for Linknet"),
            ({"encoder": "tu-test_vit"}, "goes with `arch: DPT`"),
            ({"encoder": "tu-test_resnet.r160"}, "no encoder .*did you mean 'tu-test_resnet.r160_in1k'"),
        ],
    )
    def test_parts_that_do_not_go_together(self, params: dict, message: str) -> None:
        with (
            pytest.raises(ConfigError, match=message) as caught,
            torch.device("cpu" if "mit" in str(params) else "meta"),
        ):
            models.create("smp", **params)
        assert "\n" not in str(caught.value) and not str(caught.value).rstrip().endswith(":")


# --- sizes of images ---------------------------------------------------------------------------------------------


class TestSizes:
    def test_no_multiple_of_the_stride(self) -> None:
        network = models.create("smp", arch="FPN", encoder="mobilenet_v2").eval()
        with pytest.raises(RunError, match="70 × 64 px is no multiple of 32, as FPN needs"):
            network(torch.rand(1, 3, 70, 64))
        with pytest.raises(RunError, match=r"the shape \[3, 64, 64\], not \[N, 3, H, W\]"):
            network(torch.rand(3, 64, 64))
        with torch.no_grad():
            assert models.create("smp", encoder="mobilenet_v2").eval()(torch.rand(1, 3, 70, 64)).shape == (1, 4, 70, 64)

    @pytest.mark.parametrize(
        ("params", "height", "message"),
        [
            ({"arch": "PAN", "encoder": "resnet18"}, 64, "PAN with encoder 'resnet18' fails on .* 64 × 96 px: .*small"),
            ({"encoder": "tu-test_maxvit"}, 48, r"48 × 96 px: .*window.*`img_size: \[48, 96\]`"),
            ({"arch": "DPT", "encoder": "tu-test_vit"}, 60, "60 × 96 px is no multiple of 16, as DPT needs"),
            ({"arch": "DPT", "encoder": "tu-test_vit", "dynamic_img_size": False}, 64, "64 × 96 px: .*160"),
        ],
    )
    def test_sizes_that_an_encoder_cannot_take(self, params: dict, height: int, message: str) -> None:
        network = models.create("smp", **params).eval()
        with pytest.raises(RunError, match=message) as caught:
            network(torch.rand(1, 3, height, 96))
        assert "\n" not in str(caught.value)

    def test_a_transformer_made_for_one_size_takes_any(self) -> None:
        """Unless told otherwise; at its own size it is the same function with the same names of weights."""
        free, fixed = (
            models.create("smp", arch="DPT", encoder="tu-test_vit", **kwargs).eval()
            for kwargs in ({}, {"dynamic_img_size": False})
        )
        fixed.load_state_dict(free.state_dict())
        images = torch.rand(1, 3, 160, 160)
        with torch.no_grad():
            torch.testing.assert_close(free(images), fixed(images))
            assert free(images[:, :, :64, :96]).shape == (1, 4, 64, 96)

    def test_the_device_out_of_memory_and_single_values_stay_what_they_are(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The engine has its own words for both."""
        network = models.create("smp", arch="DeepLabV3Plus", encoder="mobilenet_v2").train()
        with pytest.raises(ValueError, match="more than 1 value per channel"):
            network(torch.rand(1, 3, 64, 64))

        def full(image: torch.Tensor) -> torch.Tensor:
            raise torch.OutOfMemoryError("no memory")

        monkeypatch.setattr(network.encoder, "forward", full)
        with pytest.raises(torch.OutOfMemoryError):
            network(torch.rand(1, 3, 64, 64))

    def test_copies_keep_their_checks(self) -> None:
        network = copy.deepcopy(models.create("smp", 5, 2, encoder="mobilenet_v2"))
        with pytest.raises(RunError, match="3 bands, the network was made for 5"):
            network(torch.rand(1, 3, 64, 64))


# --- pre-trained weights -----------------------------------------------------------------------------------------


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def complaint(error: type[Exception] = RunError, **params: Any) -> str:
    with pytest.raises(error) as caught:
        models.create("smp", weights="imagenet", **params)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 900
    return str(caught.value)


def place(cache: Path, encoder: str, tensors: dict[str, torch.Tensor], **params: Any) -> Path:
    """Put a file of weights where the message about missing ones says, as a person would; returns it."""
    message = complaint(encoder=encoder, **params)
    folder = Path(message.partition("into the folder ")[2].partition(" and write")[0].partition(", or set")[0])
    assert folder.is_relative_to(cache)
    folder.mkdir(parents=True)
    save_file(tensors, folder / "model.safetensors")
    if " and write the word main into the file " in message:
        reference = Path(message.partition("into the file ")[2].partition(", or set")[0])
        reference.parent.mkdir()
        reference.write_text("main")
    else:
        assert "config.json" in message
        (folder / "config.json").write_text(json.dumps({"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}))
    return folder / "model.safetensors"


def classifier(encoder: str, seed: int = 5) -> dict[str, torch.Tensor]:
    """Weights of an encoder as its file has them: those of a network that classifies 1000 kinds of things."""
    torch.manual_seed(seed)
    if encoder.startswith("tu-"):
        return timm.create_model(encoder.removeprefix("tu-")).state_dict()
    tensors = dict(library.encoders.get_encoder(encoder, weights=None).state_dict())
    last = {"resnet18": ("fc", 512), "densenet121": ("classifier", 1024), "mobilenet_v2": ("classifier.1", 1280)}
    if encoder in last:
        name, channels = last[encoder]
        tensors |= {f"{name}.weight": torch.rand(1000, channels), f"{name}.bias": torch.rand(1000)}
    return tensors


def of_encoder(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    tensors = network.encoder.state_dict()
    return {key.removeprefix("model."): value for key, value in tensors.items()}


class TestWeights:
    @pytest.mark.parametrize("encoder", ["resnet18", "densenet121", "mobilenet_v2", "mit_b0"])
    def test_of_the_library_placed_by_hand(self, offline: Path, encoder: str) -> None:
        tensors = classifier(encoder)
        place(offline, encoder, tensors)
        loaded = of_encoder(models.create("smp", encoder=encoder, weights="imagenet"))
        assert loaded.keys() <= tensors.keys() and all(torch.equal(loaded[key], tensors[key]) for key in loaded)

    @pytest.mark.parametrize("encoder", ["tu-test_resnet", "tu-test_resnet.r160_in1k"])
    def test_of_timm_placed_by_hand(self, offline: Path, encoder: str) -> None:
        tensors = classifier(encoder)
        place(offline, encoder, tensors)
        loaded = of_encoder(models.create("smp", encoder=encoder, weights="imagenet"))
        assert loaded.keys() == {key for key in tensors if not key.startswith("fc.")}
        assert all(torch.equal(loaded[key], tensors[key]) for key in loaded)

    def test_of_a_transformer_of_timm(self, offline: Path) -> None:
        tensors = classifier("tu-test_vit")
        place(offline, "tu-test_vit", tensors, arch="DPT")
        network = models.create("smp", arch="DPT", encoder="tu-test_vit", weights="imagenet")
        loaded = of_encoder(network)
        assert loaded.keys() == tensors.keys() and all(torch.equal(loaded[key], tensors[key]) for key in loaded)
        with torch.no_grad():
            assert network.eval()(torch.rand(1, 3, 64, 96)).shape == (1, 4, 64, 96)

    @pytest.mark.parametrize("bands", [1, 2, 5])
    @pytest.mark.parametrize(("encoder", "key"), [("resnet18", "conv1.weight"), ("tu-test_resnet", "conv1.0.weight")])
    def test_the_first_convolution_spreads_over_the_bands(
        self, offline: Path, encoder: str, key: str, bands: int
    ) -> None:
        tensors = classifier(encoder)
        place(offline, encoder, tensors)
        loaded = of_encoder(models.create("smp", bands, 4, encoder=encoder, weights="imagenet"))
        three = tensors[key].double().numpy()
        expected = three.sum(1, keepdims=True) if bands == 1 else three[:, [i % 3 for i in range(bands)]] * 3 / bands
        np.testing.assert_allclose(loaded[key].numpy(), expected, rtol=1e-6, atol=1e-7)
        others = [name for name in loaded if name != key]
        assert all(torch.equal(loaded[name], tensors[name]) for name in others)

    def test_a_named_file_of_timm(self, offline: Path, tmp_path: Path) -> None:
        file = tmp_path / "weights.safetensors"
        params: dict = {"encoder": "tu-test_resnet", "pretrained_cfg_overlay": {"file": str(file)}}
        assert f"there is no file {file}" in complaint(**params)
        tensors = classifier("tu-test_resnet")
        save_file(tensors, file)
        loaded = of_encoder(models.create("smp", weights="imagenet", **params))
        assert torch.equal(loaded["conv1.0.weight"], tensors["conv1.0.weight"])
        file.write_bytes(file.read_bytes()[:5000])
        assert f"{file} is damaged or not theirs" in complaint(**params)

    @pytest.mark.parametrize("encoder", ["resnet18", "tu-test_resnet"])
    def test_a_damaged_file_is_one_line(self, offline: Path, encoder: str) -> None:
        file = place(offline, encoder, classifier(encoder))
        whole = file.read_bytes()
        folder = str(file.parents[2])
        for content in (whole[:-1000], whole[:50], b"<html>not found</html>"):
            file.write_bytes(content)
            message = complaint(encoder=encoder)
            assert f"in {folder} are damaged or not theirs; remove that folder" in message

    @pytest.mark.parametrize(
        ("encoder", "other"), [("resnet18", "mobilenet_v2"), ("tu-test_resnet", "tu-test_convnext")]
    )
    def test_the_file_of_another_network_is_one_line(self, offline: Path, encoder: str, other: str) -> None:
        file = place(offline, encoder, classifier(other))
        assert f"in {file.parents[2]} are damaged or not theirs" in complaint(encoder=encoder)

    def test_a_file_that_lacks_one_layer_is_one_line(self, offline: Path) -> None:
        tensors = classifier("tu-test_resnet")
        place(
            offline, "tu-test_resnet", {key: value for key, value in tensors.items() if key != "layer2.0.conv1.weight"}
        )
        assert "the file lacks layer2.0.conv1.weight" in complaint(encoder="tu-test_resnet")

    def test_an_encoder_that_was_never_trained(self, offline: Path) -> None:
        message = complaint(ConfigError, encoder="tu-swinv2_cr_tiny_224")
        assert "No pretrained weights exist for swinv2_cr_tiny_224" in message

    def test_a_checkpoint_needs_them_no_more(self, offline: Path, tmp_path: Path) -> None:
        place(offline, "resnet18", classifier("resnet18"))
        params = {"encoder": "resnet18", "weights": "imagenet"}
        network = models.create("smp", 3, 2, **params).eval()
        facts = {"model": {"name": "smp", "params": params}, "in_channels": 3, "classes": ["a", "b"]}
        facts |= {"offset": [0.0] * 3, "scale": [1.0] * 3}
        save_checkpoint(tmp_path / "best.safetensors", network.state_dict(), facts)
        shutil.rmtree(offline)
        copy, _ = load_checkpoint(tmp_path / "best.safetensors")
        assert all(torch.equal(value, network.state_dict()[key]) for key, value in copy.state_dict().items())
