"""Networks that a file is to fill are made without weights, and without torch's compiler."""

from __future__ import annotations

import subprocess
import sys

import torch

from accel.models.stable_diffusion import SD1, build
from accel.models.unfilled import unfilled

SCRIPT = """
import sys
import accel
accel.load
from accel.models.stable_diffusion import SD1, build
from accel.models.unfilled import unfilled
with unfilled():
    build(SD1)
heavy = ("torch._dynamo", "sympy", "triton", "av", "cv2", "onnx", "onnxruntime", "cryptography")
print(*[name for name in heavy if name in sys.modules])
"""


def test_tensors_are_described_alone():
    with unfilled():
        model = build(SD1)
        plain = torch.nn.Linear(3, 2)
    assert all(p.is_meta for p in model.parameters())
    assert plain.weight.shape == (2, 3)
    drawn = torch.nn.Linear(3, 2)  # outside all is as it was
    assert not drawn.weight.is_meta
    assert drawn.weight.any()


def test_who_loads_a_network_waits_for_nothing_else():
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == []
