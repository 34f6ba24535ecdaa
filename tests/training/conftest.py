from __future__ import annotations

import pytest
import torch

from tests.training.facesets import workspace


@pytest.fixture(scope="session")
def faces_root(tmp_path_factory):
    """A workspace with six faces a side; only to be read."""
    return workspace(tmp_path_factory.mktemp("faces") / "workspace")


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
