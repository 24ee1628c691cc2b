"""Brightness, contrast, saturation and hue: against torchvision and the equations, and the target that follows them."""

from __future__ import annotations

import colorsys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional as vision

from pipeline import augment
from pipeline.augment import colour
from pipeline.augment._transform import Batch, Source, Transform
from pipeline.errors import ConfigError
from pipeline.losses import _tasks

Array = np.ndarray[Any, np.dtype[Any]]
OFF = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue_degrees": 0.0}


def images(chips: int = 4, bands: int = 3, top: float = 255.0, seed: int = 0) -> torch.Tensor:
    """Smooth colours and black, white, grey and pure ones."""
    rng = np.random.default_rng(seed)
    values = rng.uniform(0, top, (chips, bands, 9, 11))
    values[:, :, 0, 0], values[:, :, 0, 1], values[:, :, 0, 2] = 0, top, top / 2
    values[:, :, 0, 3] = [top, *[0] * (bands - 1)]
    return torch.from_numpy(np.floor(values) if top > 1 else values).float()


def batch_of(image: torch.Tensor) -> Batch:
    mask = torch.arange(image.shape[0] * 99).reshape(-1, 9, 11) % 4
    return {"image": image, "mask": mask, "boundary": mask[:, None].float()}


def made(image: torch.Tensor, top: float = 255.0, **params: Any) -> Transform:
    transform = augment.create("colour", **{**OFF, **params})
    counts = np.ones((len(image), 2), np.int64)
    transform.begin(Source(counts, ["a", "b"], top, lambda at: {"image": image[at]}))
    return transform


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[list[float]]]:
    """What the chips draw, one list per property in their order; taken from the front."""
    wanted: list[list[float]] = []

    def draw(count: int, low: float, high: float, device: torch.device) -> torch.Tensor:
        values = wanted.pop(0)
        assert len(values) == count and all(low - 1e-6 <= value <= high + 1e-6 for value in values)
        return torch.tensor(values).reshape(-1, 1, 1, 1)

    monkeypatch.setattr(colour, "draw", draw)
    yield wanted
    assert not wanted


FACTORS = [0.3, 0.9, 1.0, 1.7]


@pytest.mark.parametrize("top", [255.0, 65535.0, 1.0])
@pytest.mark.parametrize(
    ("name", "adjust"),
    [
        ("brightness", vision.adjust_brightness),
        ("contrast", vision.adjust_contrast),
        ("saturation", vision.adjust_saturation),
    ],
)
def test_each_chip_is_changed_by_its_factor_as_torchvision_does(
    name: str, adjust: Any, top: float, drawn: list[list[float]]
) -> None:
    image = images(top=top)
    drawn.append(FACTORS)
    got = made(image, top, **{name: 0.7})(batch_of(image))["image"]
    expected = torch.stack([adjust(chip / top, factor) * top for chip, factor in zip(image, FACTORS, strict=True)])
    torch.testing.assert_close(got, expected, rtol=0, atol=2e-4 * top)  # its grey has 0.2989 for 0.299
    assert not torch.allclose(got[0], image[0], atol=1e-2 * top)


def test_hue_is_turned_as_torchvision_does(drawn: list[list[float]]) -> None:
    image, turns = images(), [-0.5, -0.1, 0.0, 0.25]
    drawn.append([turn * 2 * np.pi for turn in turns])
    got = made(image, hue_degrees=180.0)(batch_of(image))["image"]
    expected = torch.stack([vision.adjust_hue(chip / 255, turn) * 255 for chip, turn in zip(image, turns, strict=True)])
    torch.testing.assert_close(got, expected, rtol=0, atol=0.255)
    torch.testing.assert_close(got[2], image[2], rtol=0, atol=0.255)


def test_the_equations_one_after_the_other(drawn: list[list[float]]) -> None:
    """Float64, pixel by pixel, with five bands of which the last two are no colours, and blue before red."""
    image = images(3, bands=5)
    factors = [[0.7, 1.0, 1.4], [1.5, 0.6, 1.0], [0.2, 1.9, 1.1], [0.3, -1.2, 2.0]]
    drawn += [list(one) for one in factors]
    params = {"brightness": 1.0, "contrast": 1.0, "saturation": 1.0, "hue_degrees": 180.0, "rgb": [3, 2, 1]}
    got = made(image, **params)(batch_of(image))["image"].double().numpy()
    weights = np.array([0.114, 0.587, 0.299])
    for chip in range(3):
        b, c, s, h = (one[chip] for one in factors)
        x = np.clip(b * image[chip].double().numpy(), 0, 255)
        mean = x.mean(axis=(1, 2))
        mean[:3] = weights @ mean[:3]
        x = np.clip(c * x + (1 - c) * mean[:, None, None], 0, 255)
        x[:3] = np.clip(s * x[:3] + (1 - s) * np.einsum("k,khw->hw", weights, x[:3]), 0, 255)
        for i, j in np.ndindex(9, 11):
            hue, saturation, value = colorsys.rgb_to_hsv(*x[2::-1, i, j] / 255)
            x[2::-1, i, j] = np.array(colorsys.hsv_to_rgb((hue + h / (2 * np.pi)) % 1, saturation, value)) * 255
        np.testing.assert_allclose(got[chip], x, atol=255 * 2e-5)


@pytest.mark.parametrize("bands", [1, 2, 3, 5])
@pytest.mark.parametrize("top", [255.0, 65535.0, 1.0])
def test_almost_no_change_gives_the_image_back_and_full_change_stays_in_range(bands: int, top: float) -> None:
    image = images(bands=bands, top=top)
    assert torch.equal(made(image, top)(batch_of(image))["image"], image)
    faint = dict.fromkeys(OFF, 1e-5)
    torch.testing.assert_close(made(image, top, **faint)(batch_of(image))["image"], image, rtol=0, atol=1e-3 * top)
    transform = made(image, top, brightness=1.0, contrast=1.0, saturation=1.0, hue_degrees=180.0)
    for seed in range(20):
        torch.manual_seed(seed)
        got = transform(batch_of(image))["image"]
        assert got.min() >= 0 and got.max() <= top and not torch.equal(got, image)


def test_grey_images_have_neither_saturation_nor_hue() -> None:
    image = images(bands=1)
    assert torch.equal(made(image, saturation=1.0, hue_degrees=180.0)(batch_of(image))["image"], image)


def test_brightness_and_contrast_of_chosen_bands_alone() -> None:
    image = images(bands=4)
    got = made(image, brightness=0.5, contrast=0.5, bands=[2, 4])(batch_of(image))["image"]
    assert torch.equal(got[:, [0, 2]], image[:, [0, 2]])
    assert (got[:, [1, 3]] != image[:, [1, 3]]).any(dim=3).any(dim=2).all()


def test_nothing_else_of_the_batch_is_touched() -> None:
    given = batch_of(images())
    before = {name: tensor.clone() for name, tensor in given.items()}
    got = made(given["image"], **augment_defaults())(given)
    assert all(torch.equal(given[name], before[name]) for name in before)
    assert got.keys() == given.keys() and torch.equal(got["mask"], before["mask"])
    assert torch.equal(got["boundary"], before["boundary"]) and got["image"].dtype == torch.float32


def augment_defaults() -> dict[str, float]:
    return {"brightness": 0.2, "contrast": 0.2, "saturation": 0.2, "hue_degrees": 10.0}


def test_probability_is_of_chips_and_amounts_differ_between_them() -> None:
    image = torch.full((4000, 1, 2, 2), 100.0)
    torch.manual_seed(1)
    got = made(image, brightness=0.2, probability=0.3)({"image": image, "mask": image[:, 0].long()})["image"]
    assert torch.equal(got, got[:, :, :1, :1].expand_as(got))
    factor = got[:, 0, 0, 0] / 100
    changed = factor != 1
    assert abs(changed.float().mean() - 0.3) < 0.03
    assert 0.8 <= factor.min() < 0.81 and 1.19 < factor.max() <= 1.2
    assert abs(factor[changed].mean() - 1) < 0.01 and abs(factor[changed].std() - 0.4 / 12**0.5) < 0.01


def test_hue_turns_no_further_than_asked() -> None:
    image = torch.tensor([200.0, 100.0, 50.0]).reshape(1, 3, 1, 1).expand(500, 3, 2, 2).contiguous()
    got = made(image, hue_degrees=12.0)({"image": image, "mask": image[:, 0].long()})["image"][:, :, 0, 0].numpy()
    before = colorsys.rgb_to_hsv(200, 100, 50)
    hues = np.array([colorsys.rgb_to_hsv(*pixel) for pixel in got])
    turned = (hues[:, 0] - before[0]) * 360
    assert -12.01 <= turned.min() < -11 and 11 < turned.max() <= 12.01
    np.testing.assert_allclose(hues[:, 1:], np.tile(before[1:], (500, 1)), rtol=1e-4)


@pytest.mark.parametrize("top", [255.0, 65535.0, 1.0])
def test_the_colour_target_is_what_the_loss_would_derive_of_the_new_image(top: float) -> None:
    image = images(12, bands=4, top=top)
    dtype = {255.0: np.uint8, 65535.0: np.uint16, 1.0: np.float32}[top]
    derived = torch.from_numpy(_tasks.colour(image.numpy().astype(dtype))).float()
    of_given = colour.hsv(image[:, :3] / top)
    torch.testing.assert_close(of_given, derived, rtol=0, atol=5e-4)  # the steps of float16
    torch.manual_seed(3)
    got = made(image, top, **augment_defaults(), probability=0.5)(batch_of(image) | {"colour": derived})
    expected = torch.from_numpy(_tasks.colour((got["image"] / top).numpy())).float()
    changed = (got["image"] != image).flatten(1).any(dim=1)
    assert 0 < changed.sum() < 12
    assert torch.equal(got["colour"][~changed], derived[~changed])
    off = (got["colour"] - expected).abs()
    off[:, 0] = torch.minimum(off[:, 0], 1 - off[:, 0])  # a hue of 0 is one of 1
    assert off.max() < 6e-4 and not torch.allclose(got["colour"][changed], derived[changed], atol=0.01)


@pytest.mark.parametrize("top", [1.0, 32767.0])
@pytest.mark.parametrize("wrong", [-0.5, 40000.0, float("nan")])
def test_values_that_clipping_would_change_are_one_line(top: float, wrong: float) -> None:
    image = images(200, top=1.0)
    image[-1, 0, 3, 3] = wrong
    with pytest.raises(ConfigError, match=f"colour needs pixel values of 0 to {top:g}, and training chips") as caught:
        made(image, top)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"brightness": 1.5}, "brightness 1.5 must be 0 to 1"),
        ({"contrast": -0.1}, "contrast -0.1 must be 0 to 1"),
        ({"hue_degrees": 181.0}, "hue_degrees 181 must be 0 to 180"),
        ({"probability": 2.0}, "probability must be 0 to 1, got 2"),
        ({"rgb": [1, 2]}, "rgb must be 3 different bands, counted from 1"),
        ({"rgb": [1, 2, 2]}, "rgb must be 3 different bands"),
        ({"rgb": [0, 1, 2]}, "counted from 1; got"),
        ({"bands": []}, "bands must be different bands"),
        ({"bands": [True]}, "bands must be different bands"),
    ],
)
def test_parameters_that_do_not_fit(params: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=f"augmentation colour: .*{words}"):
        augment.create("colour", **params)


def test_bands_that_the_images_lack_are_one_line() -> None:
    for params in ({"bands": [1, 5]}, {"rgb": [1, 2, 5]}):
        with pytest.raises(ConfigError, match="colour: no band 5; the images have 4"):
            made(images(bands=4), **params)
    with pytest.raises(ConfigError, match="colour: no band 2; the images have 1"):
        made(images(bands=1), bands=[2])
