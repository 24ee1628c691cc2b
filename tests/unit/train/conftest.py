"""The tiny region, once for all tests of this folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.tiny import write_region


@pytest.fixture(scope="session")
def region(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_region(tmp_path_factory.mktemp("data"))
