"""What the report reads of a split: in the order that one reads it."""

from __future__ import annotations

from pathlib import Path

from pipeline.files import write_json
from pipeline.report.study import _split_facts


def test_parts_and_classes_come_in_reading_order(tmp_path: Path) -> None:
    counts = {"fields": 2, "forest": 1, "urban": 3, "water": 4}
    write_json(tmp_path / "blocks.json", {"class_pixels": {"test": counts, "train": counts, "val": counts}, "seed": 1})
    facts = _split_facts(tmp_path / "blocks.json", "demo")
    assert list(facts["class_pixels"]) == ["train", "val", "test"]
    assert list(facts["class_pixels"]["val"].items()) == [("forest", 1), ("fields", 2), ("urban", 3), ("water", 4)]
    assert facts["seed"] == 1
