from __future__ import annotations

import pytest

from accel.pipelines.generate import Model, load


@pytest.fixture(scope="session")
def nano() -> Model:
    return load("nano")
