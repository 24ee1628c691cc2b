"""The tiny region, and what two processes find out together, once for all tests of this folder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.tiny import write_region

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="session")
def region(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_region(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="session")
def together(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two processes found out, by check (`tests.support.together`)."""
    folder = tmp_path_factory.mktemp("together")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (ROOT / "src", ROOT)))}
    command = [sys.executable, str(ROOT / "tests" / "support" / "together.py")]
    others = [
        subprocess.Popen([*command, str(rank), "2", str(folder)], stderr=subprocess.PIPE, text=True, env=environment)
        for rank in range(2)
    ]
    for other in others:
        assert other.wait(timeout=120) == 0, other.stderr and other.stderr.read()
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]
