"""How sure the test scores of a study are: intervals over blocks of ground, and the best network against each run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from pipeline.dataset.blocks import Blocks
from pipeline.errors import DataError
from pipeline.metrics.statistics import block_interval, by_block, paired_test
from pipeline.report.results import Array, RunResult, open_run

if TYPE_CHECKING:
    from pipeline.runs import Run, Study

SCORES = ("mean_iou", "mean_f1", "accuracy")
SAME = ("region", "imagery", "recipe", "split")  # runs that differ in one of these are scored on other pixels
PAIRS = ("run", "other", "score", "difference", "low", "high", "p", "blocks")


def score_intervals(study: Study, results: Path, data: Path, best: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """95 % intervals of every run's test scores, and the best network's lead over each other run.

    Args:
        study: the resolved study.
        results: the folder that holds ``runs/<id>``.
        data: folder of the regions' data.
        best: id of the network that the others are compared with.

    Returns:
        Two tables, of which each row has the ``score`` (mean_iou, mean_f1 or accuracy), ``low`` and ``high``, the
        2.5 % and 97.5 % quantiles of 2,000 block bootstraps, and ``blocks``, how many there are. The first has ``run``,
        ``kind`` and ``value``; the second ``run`` (the best), ``other``, ``difference`` and ``p``, two-sided, of a
        permutation test that swaps the runs' blocks, for each run that is scored on the same pixels; it is not
        corrected for how many runs there are. With fewer than two blocks an interval is NaN, with few of them (below
        some 20) it is too narrow.

    Raises:
        RunError, DataError: in one line when a file of a run, a split or a chip store is missing or broken.
    """
    counts = {}
    singles: list[dict[str, Any]] = []
    for run in study.runs:
        counts[run.id] = block_counts(open_run(run, results, study.config.select), data)
        for score in SCORES:
            found = block_interval(counts[run.id], score)
            facts = {"run": run.id, "kind": run.kind, "score": score, "value": found.value}
            singles.append(facts | {"low": found.low, "high": found.high, "blocks": found.blocks})
    first = next(run for run in study.runs if run.id == best)
    rivals = [run for run in study.runs if run.id != best and _same_pixels(run, first, counts)]
    pairs: list[dict[str, Any]] = []
    for rival in rivals:
        for score in SCORES:
            test = paired_test(counts[best], counts[rival.id], score)
            lead = test.difference
            facts = {"run": best, "other": rival.id, "score": score, "difference": lead.value}
            pairs.append(facts | {"low": lead.low, "high": lead.high, "p": test.p, "blocks": lead.blocks})
    return pd.DataFrame(singles), pd.DataFrame(pairs, columns=PAIRS)


def _same_pixels(one: Run, other: Run, counts: Mapping[str, Array]) -> bool:
    """Whether two runs have the same data, and the same pixels of each class in each block: a rule may score fewer."""
    alike = all(one.spec["data"][key] == other.spec["data"][key] for key in SAME)
    return alike and np.array_equal(counts[one.id].sum(axis=2), counts[other.id].sum(axis=2))


def block_counts(result: RunResult, data: Path) -> Array:
    """The test counts of a run by block of ground.

    Neighbouring chips resemble each other, so what is drawn anew is not the chip but the block that the split assigned
    as a whole; a chip belongs to the block of its centre. A random split's blocks are its chips: its intervals are too
    narrow, for the same reason that its scores are too good.

    Returns:
        [B, C, C] int64, rows truth, in the blocks' order on the ground.

    Raises:
        DataError: when the split or the label chips cannot be read or do not know a chip.
    """
    spec = result.run.spec["data"]
    place = data / spec["region"]
    blocks = Blocks.load(place / "splits" / f"{spec['split']}.parquet")
    index = _chip_index(place / "chips" / spec["recipe"])
    cells = result.cells[result.cells["split"] == "test"]
    unknown = cells.loc[~cells["chip_id"].isin(index.index), "chip_id"]
    if len(unknown):
        raise DataError(f"run {result.run.id}: chip {unknown.iloc[0]} is not in data/{spec['region']}; run it again")
    chip, names = pd.factorize(cells["chip_id"])
    counts = np.zeros((len(names), len(result.classes), len(result.classes)), np.int64)
    truth, predicted = cells["truth"].to_numpy(np.int64), cells["predicted"].to_numpy(np.int64)
    np.add.at(counts, (chip, truth, predicted), cells["pixels"].to_numpy(np.int64))
    corner = index.loc[names, ["row_px", "col_px"]].to_numpy(np.int64)
    row, col = ((corner + index.attrs["px"] // 2 - blocks.origin_px) // blocks.size_px).T
    return by_block(counts, row * blocks.codes.shape[1] + col)


def _chip_index(folder: Path) -> pd.DataFrame:
    try:
        index = pd.read_parquet(folder / "index.parquet", columns=["chip_id", "row_px", "col_px"])
        px = np.load(folder / "chips.npy", mmap_mode="r", allow_pickle=False).shape[-1]
    except (OSError, ValueError, KeyError) as error:
        text = " ".join(str(error).split())
        raise DataError(
            f"the chip store {folder} cannot be read ({text}); delete the folder and cut it again"
        ) from None
    index = index.set_index("chip_id")
    index.attrs["px"] = px
    return index
