"""ResUNet-a against the tables of its paper, and its parts against plain arithmetic."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from pipeline import losses, models, variants
from pipeline.errors import ConfigError, RunError
from pipeline.models._resunet_a_parts import MultiTaskHead, PooledMiddle, PyramidPooling

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

    @pytest.mark.parametrize(
        ("depth", "psp", "rectified"), [("d6", "both", True), ("d7v1", "both", True), ("d6", "none", False)]
    )
    def test_relu_follows_the_stem_and_the_pooling(self, depth: str, psp: str, rectified: bool) -> None:
        network, least = make(depth=depth, psp=psp).train(), {}
        for key, module in (("stem", network.stem), ("middle", network.middle), ("deepest", network.encoder[-1])):
            module.register_forward_hook(lambda _, __, out, key=key: least.update({key: float(out.detach().min())}))
        network.head.mask.register_forward_pre_hook(lambda _, x: least.update(end=float(x[0].detach().min())))
        network(torch.rand(2, 3, 256, 256))
        assert least["stem"] == 0 and least["end"] == 0 and least["deepest"] < 0
        assert least["middle"] == (0 if rectified else least["deepest"])

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
                if other in reached[task]:
                    assert all(g is not None for g in gradients) and gradients[0].abs().sum() > 0, (task, other)
                else:
                    assert all(g is None for g in gradients), (task, other)
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
        network, given = make(psp="none").eval(), []
        network.head.register_forward_pre_hook(lambda _, x: given.append(x[0]))
        stem: list[torch.Tensor] = []
        network.stem.register_forward_hook(lambda _, __, out: stem.append(out))
        with torch.no_grad():
            network(torch.rand(1, 3, 32, 32))
        assert given[0].shape[1] == 8 and torch.equal(given[0][:, :4], stem[0])


@pytest.mark.parametrize(("classes", "precision"), [(3, "fp32"), (3, "bf16"), (1, "fp32")])
@pytest.mark.parametrize("head", ["mtsk", "cmtsk"])
def test_the_multi_task_loss_trains_all_heads(head: str, classes: int, precision: str) -> None:
    derive = variants.load("losses", "multi_task").DERIVE
    masks = np.zeros((2, 64, 64), np.uint8)
    masks[:, 16:48, 16:40], masks[1, 56:] = 1, min(classes - 1, 2)
    images = np.stack([masks * 60, 200 - masks * 50, masks * 20], axis=1) // np.array([1, 2])[:, None, None, None]
    target = {"mask": torch.from_numpy(masks.astype(np.int64))}
    for task in TASKS[1:]:
        of_chips = [derive[task](i.astype(np.uint8), m, classes) for i, m in zip(images, masks, strict=True)]
        target[task] = torch.from_numpy(np.stack(of_chips))

    network, loss = make(head=head, classes=classes).train(), losses.create("multi_task")
    before = {key: value.clone() for key, value in network.head.named_parameters()}
    optimizer, values = torch.optim.Adam(network.parameters(), lr=3e-3), []
    for _ in range(4):
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            found = network(torch.from_numpy(images / 255).float())
        value = loss(found, target)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        values.append(float(value.detach()))
    assert values[-1] < 0.95 * values[0] and all(map(math.isfinite, values))
    assert all(not torch.equal(before[key], value) for key, value in network.head.named_parameters())


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


@pytest.mark.parametrize(("params", "side"), [({"psp": "end"}, 32), ({"depth": "d7v2", "psp": "none"}, 64)])
def test_one_pixel_on_the_coarsest_map_cannot_train_but_predicts(params: dict, side: int) -> None:
    network = make(**params)
    with pytest.raises(RunError, match=rf"^model resunet_a: a batch of one image of {side} × {side} px cannot train"):
        network.train()(torch.rand(1, 3, side, side))
    assert network(torch.rand(2, 3, side, side)).isfinite().all()
    assert network.eval()(torch.rand(1, 3, side, side)).isfinite().all()


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
    """With strided 1×1 convolutions the process would die of a damaged heap."""
    network = make(head="cmtsk", **params).train().to(memory_format=torch.channels_last)
    image = torch.rand(1, 3, 256, 256).to(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        found = network(image)
    sum(x.float().square().mean() for x in found.values()).backward()
    for key, parameter in network.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), key
