"""Shared set-up: idle threads sleep; without a GPU, Triton kernels run in the interpreter."""

from __future__ import annotations

import os
import runpy
from pathlib import Path

import pytest

# Read as torch loads OpenMP. Threads that spin while they wait take the cores from the thread that
# is waited for: on a busy machine of two cores some tests took forty times as long.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # before any accel.kernels module decorates a kernel
elif os.environ.get("ACCEL_TEST_GPU"):
    from accel.kernels import OPS
    from tests.gpu.on_device import send

    send(OPS.values())

# No sockets but to this machine, here and in every Python that a test starts.
OFFLINE = str(Path(__file__).parent / "offline")
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [OFFLINE, os.environ.get("PYTHONPATH")]))
runpy.run_path(f"{OFFLINE}/sitecustomize.py")


@pytest.fixture(scope="session", autouse=True)
def own_home(tmp_path_factory):
    """Keys and ledger of the tests are not the user's."""
    before = os.environ.get("ACCEL_HOME")
    os.environ["ACCEL_HOME"] = str(tmp_path_factory.mktemp("accel_home"))
    yield
    if before is None:
        del os.environ["ACCEL_HOME"]
    else:
        os.environ["ACCEL_HOME"] = before


def pytest_collection_modifyitems(items):
    if torch.cuda.is_available():
        return
    skip = pytest.mark.skip(reason="needs a CUDA device")
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(skip)
