"""Tensors on a GPU that is not the current one: Triton launches where torch stands."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from accel.kernels import _op
from accel.kernels._op import OPS, Implementation

SCRIPT = Path(__file__).with_name("first_gpu.sh")


@pytest.mark.parametrize(("index", "switched"), [(0, []), (1, [1])])
def test_a_kernel_is_launched_on_its_tensors_gpu(monkeypatch, index, switched):
    seen = []

    class Switch:
        def __init__(self, device):
            self.index = device.index

        def __enter__(self):
            seen.append(self.index)

        def __exit__(self, *error):
            seen.append("back")

    monkeypatch.setattr(_op, "INTERPRETED", False)
    monkeypatch.setattr(_op, "FORCED", "")
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "device", Switch)
    op = OPS["geglu"]
    monkeypatch.setattr(
        op, "implementations", [Implementation("triton", lambda x: "ran", lambda x: "")]
    )
    there = SimpleNamespace(is_cuda=True, device=torch.device("cuda", index))
    assert op.run(there) == "ran"
    assert seen == [*switched, *(["back"] if switched else [])]


def test_the_script_says_that_there_is_no_gpu_and_runs_from_anywhere(tmp_path):
    """From another folder, and with a variable that would have the interpreter measured."""
    if torch.cuda.is_available():
        pytest.skip("a CUDA device is here")
    done = subprocess.run(
        ["sh", str(SCRIPT), "found"], cwd=tmp_path, capture_output=True, text=True, check=False,
        env={**os.environ, "TRITON_INTERPRET": "1", "PYTHON": sys.executable},
    )  # fmt: skip
    assert done.returncode == 2
    assert "no CUDA device is here" in done.stderr
    assert (tmp_path / "found").is_dir()
