"""ResUNet-a against the tables of its paper, and its parts against plain arithmetic."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from pipeline import models, variants
from pipeline.errors import ConfigError, RunError
from pipeline.models._resunet_a_parts import MultiTaskHead, PooledMiddle, PyramidPooling, ResBlockA, UpCombine

TASKS = ["mask", "boundary", "distance", "colour"]


def make(seed: int = 0, bands: int = 3, classes: int = 4, **params: Any) -> nn.Module:
    torch.manual_seed(seed)
    return models.create("resunet_a", bands, classes, **{"width": 4, "psp": "end", **params})


def parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters() if p.requires_grad)


def count(**params: Any) -> int:
    """Trainable parameters with the paper's five bands and six classes."""
    with torch.device("meta"):
        return parameters(models.create("resunet_a", 5, 6, **params))


# --- parameters ---------------------------------------------------------------------------------------------------


def counted_by_hand(
    depth: str, head: str = "single", down: int = 1, psp: str = "both", printed: bool = False, f0: int = 32
) -> int:
    """Weights and biases of Tables 1 to 3 with 5 bands and 6 classes, layer by layer."""

    def normed(before: int, after: int, kernel: int = 1) -> int:
        return kernel**2 * before * after + 2 * after

    def block(f: int, branches: int) -> int:
        return branches * (2 * (2 * f + 9 * f * f) + f)

    def pooling(before: int, after: int, scales: int) -> int:
        each = after // scales
        return scales * normed(before, each) + normed(before + scales * each, after)

    branches = [4, 4, 3, 3, 1, 1, 1][: 6 if depth == "d6" else 7]
    upward = [3, 3, 4, 4, 4] if depth == "d6" else [1, 3, 4, 4, 4, 4]
    channels = [f0 * 2**i for i in range(len(branches))]
    total = normed(5, f0) + sum(map(block, channels, branches))
    total += sum(down**2 * a * b for a, b in itertools.pairwise(channels))
    if depth == "d7v1":
        total += 2 * channels[-1] * channels[-1] + channels[-1]
    elif psp in ("both", "middle"):
        total += pooling(channels[-1], channels[-1], 4 if depth == "d6" else 3)
    for f, n in zip(reversed(channels[:-1]), upward, strict=True):
        total += normed(2 * f, f // 2) + normed(f // 2 + f, f) + block(f, 1 if printed else n)
    total += pooling(2 * f0, f0, 4) if psp in ("both", "end") else normed(2 * f0, f0)
    if head == "single":
        return total + f0 * 6 + 6
    known = 6 if head == "cmtsk" else 0
    for before, layers in ((f0 + 2 * known, 2), (f0 + known, 1), (2 * f0, 2)):
        total += normed(before, f0, 3) + (layers - 1) * normed(f0, f0, 3) + f0 * 6 + 6
    return total + 2 * f0 * 3 + 3


@pytest.mark.parametrize(
    ("params", "exact", "millions"),
    [
        ({"depth": "d6"}, 52_389_446, (51, 54)),
        ({"depth": "d7v1"}, 157_920_070, (156.5, 160.5)),
        ({"depth": "d7v2"}, 162_112_322, (160.5, 164.5)),
        ({"depth": "d6", "head": "cmtsk", "down_kernel": 3}, 58_037_781, (57.95, 58.05)),  # the released code's
        ({"depth": "d7v2", "head": "cmtsk", "down_kernel": 3}, 184_537_873, (184.45, 184.55)),
        ({"depth": "d6", "decoder": "printed"}, 39_420_710, (39, 40)),  # Table 1 as printed misses the paper's 52 M
        ({"depth": "d7v1", "decoder": "printed"}, 143_770_406, (143.5, 150)),
        ({"depth": "d7v2", "decoder": "printed"}, 147_962_658, (143.5, 150)),
    ],
)
def test_parameter_counts_of_the_paper(params: dict, exact: int, millions: tuple[float, float]) -> None:
    assert count(**params) == exact and millions[0] < exact / 1e6 < millions[1]


@pytest.mark.parametrize("depth", ["d6", "d7v1", "d7v2"])
@pytest.mark.parametrize(
    "params",
    [
        {},
        {"head": "mtsk"},
        {"head": "cmtsk", "down": 3},
        {"psp": "end"},
        {"psp": "none", "printed": True},
    ],
)
def test_parameters_counted_layer_by_layer(depth: str, params: dict) -> None:
    names = {"down": "down_kernel", "printed": "decoder"}
    given = {names.get(key, key): "printed" if key == "printed" else value for key, value in params.items()}
    assert count(depth=depth, **given) == counted_by_hand(depth, **params)


def test_the_other_tasks_cost_next_to_nothing() -> None:
    """The paper: the number of parameters remains almost identical for the multi-task models."""
    single, mtsk, cmtsk = (count(head=head) for head in ("single", "mtsk", "cmtsk"))
    assert single < mtsk < cmtsk < 1.002 * single
    assert cmtsk - mtsk == 9 * 32 * (6 + 12)  # what the boundary and the mask read of the predictions before them


# --- ablation switches --------------------------------------------------------------------------------------------


def dilations(network: nn.Module, part: str) -> list[list[int]]:
    convolutions = lambda branch: {m.dilation for m in branch.modules() if isinstance(m, nn.Conv2d)}  # noqa: E731
    found = []
    for block in getattr(network, part):
        of_branches = [convolutions(branch) for branch in block.branches]
        assert all(len(same) == 1 for same in of_branches)
        found.append([d for ((d, _),) in of_branches])
    return found


class TestSwitches:
    @pytest.mark.parametrize(
        ("depth", "encoder", "decoder"),
        [("d6", [4, 4, 3, 3, 1, 1], [3, 3, 4, 4, 4]), ("d7v2", [4, 4, 3, 3, 1, 1, 1], [1, 3, 4, 4, 4, 4])],
    )
    def test_dilations_of_each_block(self, depth: str, encoder: list[int], decoder: list[int]) -> None:
        network, rates = make(depth=depth), [1, 3, 15, 31]
        assert dilations(network, "encoder") == [rates[:n] for n in encoder]
        assert dilations(network, "decoder") == [rates[:n] for n in decoder]
        plain = make(depth=depth, atrous=False)
        assert dilations(plain, "encoder") == [[1] * n for n in encoder]
        assert dilations(plain, "decoder") == [[1] * n for n in decoder]
        printed = make(depth=depth, decoder="printed")
        assert dilations(printed, "encoder") == [rates[:n] for n in encoder]
        assert dilations(printed, "decoder") == [[1]] * len(decoder)

    def test_atrous_changes_nothing_but_dilations(self) -> None:
        atrous, plain = make().state_dict(), make(atrous=False).state_dict()
        assert list(atrous) == list(plain) and all(torch.equal(atrous[key], plain[key]) for key in atrous)

    def test_each_pyramid_costs_its_own_layers(self) -> None:
        counts = {psp: count(psp=psp) for psp in ("both", "middle", "end", "none")}
        middle = 4 * (1024 * 256 + 2 * 256) + 2048 * 1024 + 2 * 1024
        end = 4 * (64 * 8 + 2 * 8) + 4 * 8 * 32
        assert counts["both"] - counts["end"] == middle == counts["middle"] - counts["none"]
        assert counts["both"] - counts["middle"] == end == counts["end"] - counts["none"]

    @pytest.mark.parametrize(
        ("depth", "psp", "scales"),
        [
            ("d6", "both", [4, 4]),
            ("d6", "middle", [4]),
            ("d7v2", "both", [3, 4]),
            ("d7v1", "both", [4]),
            ("d7v1", "none", []),
        ],
    )
    def test_pyramids_stand_where_they_were_asked_for(self, depth: str, psp: str, scales: list[int]) -> None:
        network = make(depth=depth, psp=psp)
        assert [len(m.reduce) for m in network.modules() if isinstance(m, PyramidPooling)] == scales
        assert sum(isinstance(m, PooledMiddle) for m in network.modules()) == (depth == "d7v1")

    @pytest.mark.parametrize("kernel", [1, 3])
    def test_downs_double_the_channels_by_a_strided_convolution(self, kernel: int) -> None:
        for level, down in enumerate(make(down_kernel=kernel).down):
            f, x = 4 * 2**level, torch.rand(1, 4 * 2**level, 8, 10)
            assert down.conv.weight.shape == (2 * f, f, kernel, kernel) and down.conv.bias is None
            expected = functional.conv2d(x, down.conv.weight, stride=2, padding=kernel // 2)
            torch.testing.assert_close(down(x), expected)

    def test_batch_norm_settings_reach_every_layer(self) -> None:
        for params, settings in (({}, (0.1, 1e-5)), ({"bn_momentum": 0.01, "bn_eps": 1e-3}, (0.01, 1e-3))):
            norms = [m for m in make(head="cmtsk", **params).modules() if isinstance(m, nn.BatchNorm2d)]
            assert {(m.momentum, m.eps) for m in norms} == {settings}
            # stem, 2 per branch, 2 per step up, the pyramid's 4 and 1, the heads' 2, 1 and 2
            assert len(norms) == 1 + 2 * (16 + 18) + 2 * 5 + 5 + 5

    def test_branches_together_start_he_normal(self) -> None:
        block = make(width=32, psp="none").encoder[0]
        weights = torch.cat([branch.conv2.weight.flatten() for branch in block.branches])
        assert float(weights.detach().std()) == pytest.approx(math.sqrt(2 / (4 * 9 * 32)), rel=0.02)
        assert float(block.branches[0].conv1.weight.detach().std()) == pytest.approx(math.sqrt(2 / (9 * 32)), rel=0.03)


# --- parts --------------------------------------------------------------------------------------------------------


def identity_norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=0.0).eval()  # running mean 0, variance 1


def seen(module: Callable[[torch.Tensor], torch.Tensor], image: torch.Tensor, row: int, column: int) -> np.ndarray:
    """[H, W] bool: pixels of the image whose values the output's pixel (row, column) depends on."""
    image = image.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(module(image)[0, :, row, column].sum(), image)
    return (gradient[0].abs().sum(0) > 0).numpy()


def test_a_block_is_its_input_and_the_sum_of_its_branches() -> None:
    torch.manual_seed(1)
    block, x = ResBlockA(3, (1, 3), nn.BatchNorm2d).train(), torch.randn(2, 3, 9, 11)

    def normal(x: torch.Tensor) -> torch.Tensor:
        mean, variance = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), correction=0, keepdim=True)
        return ((x - mean) / (variance + 1e-5).sqrt()).relu()

    expected = x.clone()
    for branch, d in zip(block.branches, (1, 3), strict=True):
        inner = functional.conv2d(normal(x), branch.conv1.weight, None, padding=d, dilation=d)
        expected += functional.conv2d(normal(inner), branch.conv2.weight, branch.conv2.bias, padding=d, dilation=d)
    torch.testing.assert_close(block(x), expected, atol=1e-5, rtol=1e-4)


def test_a_block_sees_exactly_what_its_dilations_reach() -> None:
    block, rates = ResBlockA(4, (1, 3, 15, 31), identity_norm), (1, 3, 15, 31)
    for parameter in block.parameters():
        nn.init.constant_(parameter, 0.1)  # positive everywhere: no ReLU hides a pixel
    offsets = {
        (y * d, x * d) for d in rates for y, x in itertools.product(range(-2, 3), repeat=2)
    }  # two 3×3 convolutions of a branch
    field = seen(block, torch.rand(1, 4, 131, 131), 65, 65)
    assert {(int(y) - 65, int(x) - 65) for y, x in np.argwhere(field)} == offsets


def test_atrous_branches_widen_the_field_of_the_whole_network() -> None:
    """Without them a pixel sees 188 px to each side: 2 · (1 + 2 + … + 32) down, 2 · (16 + … + 1) up."""
    image = torch.rand(1, 3, 32, 1024)
    plain, atrous = (
        np.flatnonzero(seen(make(psp="none", atrous=atrous).eval(), image, 16, 512).any(axis=0)) - 512
        for atrous in (False, True)
    )
    assert plain.min() >= -188 - 32 and plain.max() <= 188 + 32  # within its cell of the coarsest map
    assert atrous.min() < -400 and atrous.max() > 400


def test_pyramid_pooling_against_loops() -> None:
    torch.manual_seed(2)
    pooling, x = PyramidPooling(3, 10, 4, identity_norm), torch.randn(2, 3, 16, 24)
    with torch.no_grad():
        stacked = [x.double().numpy()]
        for scale, reduce in enumerate(pooling.reduce):
            n = 2**scale
            wide = np.empty((2, 2, 16, 24))
            for row, column in itertools.product(range(n), repeat=2):
                rows, columns = (slice(i * s // n, (i + 1) * s // n) for i, s in ((row, 16), (column, 24)))
                most = stacked[0][:, :, rows, columns].max(axis=(2, 3))
                wide[:, :, rows, columns] = (most @ reduce.weight[:, :, 0, 0].double().numpy().T)[:, :, None, None]
            stacked.append(wide)
        weights = pooling.merge[0].weight[:, :, 0, 0].double().numpy()
        expected = np.einsum("oc,nchw->nohw", weights, np.concatenate(stacked, axis=1))
        assert np.abs(pooling(x).numpy() - expected).max() < 1e-5


def test_pyramid_pooling_sees_whole_partitions() -> None:
    """The coarsest maximum is seen from everywhere, a maximum of scale 1 from its quadrant alone."""
    pooling = PyramidPooling(1, 4, 4, identity_norm)
    for parameter in pooling.parameters():
        nn.init.ones_(parameter)
    image = torch.zeros(1, 1, 16, 16)
    base = pooling(image)
    image[0, 0, 2, 3] = 1.0
    change = (pooling(image) - base)[0, 0]
    shared = [[sum(max(y, x) < 16 // 2**scale for scale in range(4)) for x in range(16)] for y in range(16)]
    expected = torch.tensor(shared, dtype=torch.float32)
    expected[:2, :] -= (torch.arange(16) < 2) * 1.0  # the finest partitions are 2 × 2: the one of rows and columns 2, 3
    expected[2:4, 2:4] += 1
    expected[2, 3] += 1  # the input itself
    torch.testing.assert_close(change, expected)


def test_pyramid_pooling_norms_the_widened_maps() -> None:
    """One chip trains, and running variances are those of all pixels, as where a library widens first."""
    torch.manual_seed(3)
    pooling, x = PyramidPooling(2, 4, 4, lambda c: nn.BatchNorm2d(c, momentum=1.0)), torch.randn(2, 2, 8, 8)
    pooling.train()(x)
    most = functional.conv2d(x.amax((2, 3), keepdim=True), pooling.reduce[0].weight).expand(-1, -1, 8, 8)
    torch.testing.assert_close(pooling.norms[0].running_var, most.var((0, 2, 3)))
    assert torch.isfinite(pooling(x[:1])).all()


@pytest.mark.parametrize("training", [True, False])
def test_a_step_up_equals_widening_first(training: bool) -> None:
    torch.manual_seed(4)
    step, x, skip = UpCombine(8, 4, nn.BatchNorm2d).train(training), torch.randn(2, 8, 3, 5), torch.randn(2, 4, 6, 10)
    for norm in (step.up[1], step.merge[1]):
        nn.init.uniform_(norm.weight), nn.init.normal_(norm.bias)
    wide = x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    expected = step.merge(torch.cat([step.up(wide).relu(), skip], dim=1))
    torch.testing.assert_close(step(x, skip), expected, atol=1e-5, rtol=1e-4)


def test_the_middle_of_d7v1_reads_its_maxima_and_itself() -> None:
    torch.manual_seed(5)
    middle, x = PooledMiddle(3), torch.randn(1, 3, 4, 6)
    most = torch.stack([x[:, :, i::2, j::2] for i, j in itertools.product(range(2), repeat=2)]).amax(0)
    wide = most.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    torch.testing.assert_close(middle(x), middle.merge(torch.cat([wide, x], dim=1)))


# --- heads --------------------------------------------------------------------------------------------------------


def outputs(head: str, image: torch.Tensor, **params: Any) -> tuple[nn.Module, dict[str, torch.Tensor]]:
    network = make(head=head, **params).train()
    return network, network(image)


class TestHeads:
    @pytest.mark.parametrize("classes", [6, 1])
    @pytest.mark.parametrize("head", ["mtsk", "cmtsk"])
    def test_four_tasks_in_order(self, head: str, classes: int) -> None:
        _, found = outputs(head, torch.rand(2, 5, 64, 32), bands=5, classes=classes)
        assert list(found) == TASKS
        assert [list(x.shape) for x in found.values()] == [[2, n, 64, 32] for n in (classes, classes, classes, 3)]

    def test_a_single_head_gives_the_mask_alone(self) -> None:
        logits = make(bands=5, classes=6)(torch.rand(1, 5, 64, 64))
        assert isinstance(logits, torch.Tensor) and logits.shape == (1, 6, 64, 64)

    @pytest.mark.parametrize(
        ("head", "reached"),
        [
            ("mtsk", {task: {task} for task in TASKS}),
            (
                "cmtsk",
                {
                    "mask": {"mask", "boundary", "distance"},
                    "boundary": {"boundary", "distance"},
                    "distance": {"distance"},
                    "colour": {"colour"},
                },
            ),
        ],
    )
    def test_gradients_reach_what_a_task_is_conditioned_on(self, head: str, reached: dict[str, set]) -> None:
        for task in TASKS:
            network, found = outputs(head, torch.rand(2, 3, 32, 32))
            (found[task] * torch.randn_like(found[task])).sum().backward()
            for other in TASKS:
                gradients = [p.grad for p in getattr(network.head, other).parameters()]
                arrived = all(g is not None and bool(g.abs().sum() > 0) for g in gradients[:1])
                assert arrived == (other in reached[task]), (task, other)
                assert arrived or all(g is None for g in gradients)
            pyramid = [p.grad is not None for p in network.head.shared.parameters()]
            assert set(pyramid) == {task in ("mask", "boundary")}  # distance and colour see no pooling
            assert network.stem[0].weight.grad is not None

    @pytest.mark.parametrize("classes", [4, 1])
    def test_predictions_are_passed_on_activated(self, classes: int) -> None:
        torch.manual_seed(6)
        head = MultiTaskHead(4, classes, nn.Conv2d(8, 4, 1), True, nn.BatchNorm2d).eval()
        given: dict[str, torch.Tensor] = {}
        for task in TASKS:
            getattr(head, task).register_forward_pre_hook(lambda _, x, task=task: given.update({task: x[0]}))
        features = torch.randn(2, 8, 5, 5)
        found = head(features)
        distance = found["distance"].softmax(1) if classes > 1 else found["distance"].sigmoid()
        shared = head.shared(features).relu()
        torch.testing.assert_close(given["boundary"], torch.cat([shared, distance], 1))
        torch.testing.assert_close(given["mask"], torch.cat([shared, found["boundary"].sigmoid(), distance], 1))
        assert given["distance"] is features and given["colour"] is features

    def test_kernels_of_the_heads(self) -> None:
        head = make(head="cmtsk").head
        kernels = {t: [m.kernel_size[0] for m in getattr(head, t).modules() if isinstance(m, nn.Conv2d)] for t in TASKS}
        assert kernels == {"mask": [3, 3, 1], "boundary": [3, 1], "distance": [3, 3, 1], "colour": [1]}
        assert make().head.mask.kernel_size == (1, 1)

    def test_the_stem_comes_first_in_what_the_head_reads(self) -> None:
        """With the stem silenced only the last decoder block's half is alive, behind it."""
        network, given = make(psp="none").eval(), []
        network.head.register_forward_pre_hook(lambda _, x: given.append(x[0]))
        stem: list[torch.Tensor] = []
        network.stem.register_forward_hook(lambda _, __, out: stem.append(out))
        with torch.no_grad():
            network(torch.rand(1, 3, 32, 32))
        assert given[0].shape[1] == 8 and torch.equal(given[0][:, :4], stem[0])


# --- sizes and values ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("params", "multiple", "hint"),
    [
        ({"depth": "d6", "psp": "both"}, 256, "or take psp: end, which needs multiples of 32"),
        ({"depth": "d6", "psp": "middle"}, 256, "or take psp: none, which needs multiples of 32"),
        ({"depth": "d7v2", "psp": "both"}, 256, "or take psp: end, which needs multiples of 64"),
        ({"depth": "d7v1", "psp": "both"}, 128, "or take depth: d6 with psp: end, which needs multiples of 32"),
        ({"depth": "d7v2", "psp": "end"}, 64, "or take depth: d6 with psp: end, which needs multiples of 32"),
        ({"depth": "d6", "psp": "none"}, 32, "change the chip's size"),
    ],
)
def test_sizes_that_fit_and_those_that_do_not(params: dict, multiple: int, hint: str) -> None:
    network = make(**params).eval()
    with torch.no_grad():
        assert network(torch.rand(1, 3, multiple, multiple)).shape == (1, 4, multiple, multiple)
    with pytest.raises(RunError) as caught:
        network(torch.rand(1, 3, multiple, multiple // 2))
    message = str(caught.value)
    assert f"image size {multiple} × {multiple // 2} px is no multiple of {multiple}; " in message
    assert message.endswith(hint)


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"width": 3}, "width 3 must be 4 or more"),
        ({"depth": "d7v1", "psp": "middle"}, "d7v1 has no pyramid pooling in the middle"),
        ({"depth": "d8"}, "depth must be one of d6, d7v1, d7v2"),
        ({"head": "multi"}, "head must be one of single, mtsk, cmtsk"),
        ({"down_kernel": 2}, "down_kernel must be one of 1, 3"),
        ({"bn_eps": 0.0}, "bn_eps 0.0 above 0"),
    ],
)
def test_values_that_cannot_be(params: dict, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        models.create("resunet_a", **params)
    assert "\n" not in str(caught.value)


def test_a_study_is_told_without_torch() -> None:
    """As while the Snakefile is parsed: the place, the reason, and no heavy import."""
    code = (
        "import sys; from pipeline import variants\n"
        "try: variants.check('models', 'resunet_a', {'depth': 'd7v1', 'psp': 'middle'}, 'mine.yaml: models')\n"
        "except Exception as error: print(error)\n"
        "print('torch' in sys.modules)"
    )
    lines = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.splitlines()
    assert (
        lines[0].startswith("mine.yaml: models: model resunet_a: d7v1 has no pyramid pooling") and lines[1] == "False"
    )


def test_the_defaults_are_the_papers() -> None:
    assert variants.parameters("models", "resunet_a") == {
        "depth": "d6",
        "head": "single",
        "width": 32,
        "down_kernel": 1,
        "atrous": True,
        "psp": "both",
        "decoder": "released",
        "bn_momentum": 0.1,
        "bn_eps": 1e-5,
    }


@pytest.mark.parametrize("params", [{"psp": "both"}, {"depth": "d7v1"}, {"depth": "d7v2", "psp": "both"}])
def test_deep_middles_train_in_bfloat16_and_channels_last(params: dict) -> None:
    network = make(head="cmtsk", **params).train().to(memory_format=torch.channels_last)
    image = torch.rand(1, 3, 256, 256).to(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        found = network(image)
    sum(x.float().square().mean() for x in found.values()).backward()
    for key, parameter in network.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), key
