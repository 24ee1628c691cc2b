"""Noise by its statistics, blur by SciPy's filter."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage

from pipeline import augment
from pipeline.augment import blur
from pipeline.augment._transform import Batch, Source, Transform
from pipeline.errors import ConfigError


def batch_of(image: torch.Tensor) -> Batch:
    mask = torch.zeros(len(image), *image.shape[2:], dtype=torch.int64)
    return {"image": image, "mask": mask, "colour": torch.rand(len(image), 3, *image.shape[2:])}


def made(name: str, image: torch.Tensor, top: float = 255.0, **params: Any) -> Transform:
    transform = augment.create(name, **params)
    transform.begin(Source(np.ones((len(image), 2), np.int64), ["a", "b"], top, lambda at: {"image": image[at]}))
    return transform


@pytest.mark.parametrize("name", ["noise", "blur"])
@pytest.mark.parametrize("bands", [1, 5])
def test_a_share_of_the_images_changes_and_nothing_else(name: str, bands: int) -> None:
    torch.manual_seed(0)
    given = batch_of(torch.rand(600, bands, 6, 7) * 255)
    before = {key: tensor.clone() for key, tensor in given.items()}
    params = {"sigma_min_px": 0.5} if name == "blur" else {}
    got = made(name, given["image"], probability=0.25, **params)(given)
    assert all(torch.equal(given[key], before[key]) for key in before) and got.keys() == before.keys()
    assert all(torch.equal(got[key], before[key]) for key in ("mask", "colour"))
    changed = (got["image"] != before["image"]).flatten(1).any(dim=1)
    assert abs(changed.float().mean() - 0.25) < 0.05
    for probability in (0.0, 1.0):
        torch.manual_seed(0)
        whole = made(name, given["image"], probability=probability, **params)(given)["image"]
        assert (whole != before["image"]).flatten(1).any(dim=1).all() == bool(probability)


@pytest.mark.parametrize("name", ["noise", "blur"])
def test_the_seed_decides(name: str) -> None:
    given = batch_of(torch.rand(4, 3, 8, 8))
    transform = made(name, given["image"], 1.0)
    results = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        results.append(transform(given)["image"])
    assert torch.equal(results[0], results[1]) and not torch.equal(results[0], results[2])


@pytest.mark.parametrize("top", [255.0, 65535.0, 1.0])
def test_each_chip_draws_its_deviation_and_every_value_its_noise(top: float) -> None:
    torch.manual_seed(2)
    image = torch.full((400, 2, 30, 30), top / 2)
    got = made("noise", image, top, std_min=0.01, std_max=0.05, probability=1.0)(batch_of(image))["image"] / top - 0.5
    spread = got.flatten(1).std(dim=1).double()
    assert 0.0095 < spread.min() < 0.012 and 0.048 < spread.max() < 0.053
    assert abs(spread.mean() - 0.03) < 0.002 and abs(spread.std() - 0.04 / 12**0.5) < 0.0015
    assert abs(got.mean()) < 1e-4
    n = got / spread[:, None, None, None]
    assert abs((n.abs() < 1).double().mean() - 0.6827) < 0.003 and abs((n.abs() < 2).double().mean() - 0.9545) < 0.002
    for other in (n[:, 1], n[:, 0].roll(1, -1), n[:, 0].roll(1, -2), n[:, 0].roll(1, 0)):
        assert abs((n[:, 0] * other).mean()) < 0.01


def test_salt_and_pepper_take_a_share_of_the_pixels_in_all_bands() -> None:
    image = torch.full((100, 3, 40, 40), 100.0)
    torch.manual_seed(0)
    got = made("noise", image, std_max=0.0, salt_and_pepper=0.1, probability=1.0)(batch_of(image))["image"]
    assert torch.equal(got, got[:, :1].expand_as(got))
    shares = [float((got == value).float().mean()) for value in (0, 100, 255)]
    np.testing.assert_allclose(shares, [0.05, 0.9, 0.05], atol=0.003)


def test_noise_stays_in_range_and_none_is_none() -> None:
    image = torch.rand(8, 1, 9, 9) * 255
    got = made("noise", image, std_min=1.0, std_max=1.0, probability=1.0)(batch_of(image))["image"]
    assert got.min() == 0 and got.max() == 255
    assert torch.equal(made("noise", image, std_max=0.0, probability=1.0)(batch_of(image))["image"], image)
    with pytest.raises(ConfigError, match="noise needs pixel values of 0 to 1, and training chips have"):
        made("noise", image, 1.0)


@pytest.mark.parametrize("top", [255.0, 65535.0])
@pytest.mark.parametrize("bands", [1, 3, 5])
def test_each_chip_is_blurred_by_its_sigma_mirrored_at_its_edge(
    top: float, bands: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    sigmas = [0.0, 0.4, 1.3, 2.5]
    monkeypatch.setattr(blur, "draw", lambda *_: torch.tensor(sigmas).reshape(-1, 1, 1, 1))
    image = torch.floor(torch.rand(4, bands, 24, 17, generator=torch.Generator().manual_seed(1)) * top)
    got = made("blur", image, top, sigma_max_px=2.5, probability=1.0)(batch_of(image))["image"]
    for chip, sigma in enumerate(sigmas):
        values = image[chip].double().numpy()
        expected = [ndimage.gaussian_filter(one, sigma, mode="mirror", radius=10) if sigma else one for one in values]
        np.testing.assert_allclose(got[chip].numpy(), np.stack(expected), atol=1e-6 * top)


def test_a_chip_smaller_than_the_kernel_is_blurred_as_far_as_it_goes() -> None:
    image = torch.rand(3, 2, 3, 5)
    got = made("blur", image, 1.0, sigma_min_px=5.0, sigma_max_px=9.0, probability=1.0)(batch_of(image))["image"]
    assert got.shape == image.shape and got.flatten(2).std(dim=2).max() < 0.2 * image.flatten(2).std(dim=2).min()
    flat = torch.full((2, 1, 1, 4), 0.3)
    torch.testing.assert_close(made("blur", flat, 1.0, probability=1.0)(batch_of(flat))["image"], flat)


@pytest.mark.parametrize(
    ("name", "params", "words"),
    [
        ("noise", {"std_max": 1.1}, "std_max 1.1 must be 0 to 1"),
        ("noise", {"std_min": 0.2}, "std_min 0.2 must be no more than std_max 0.05"),
        ("noise", {"salt_and_pepper": -1.0}, "salt_and_pepper -1 must be 0 to 1"),
        ("blur", {"sigma_min_px": -1.0}, "sigma_min_px -1 must be 0 to 100"),
        ("blur", {"sigma_min_px": 3.0}, "sigma_min_px 3 must be no more than sigma_max_px 2"),
        ("blur", {"probability": 1.5}, "probability must be 0 to 1, got 1.5"),
    ],
)
def test_parameters_that_do_not_fit(name: str, params: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=f"augmentation {name}: {words}"):
        augment.create(name, **params)
