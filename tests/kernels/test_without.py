"""Operators where triton, numba or the native module is missing: other systems, no compiler."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from accel.kernels import OPS, Planes, _native, _why_not, crop, paste, raster, yuv_layout

SERVE_CPU = {"native": "accel._native", "numba": "numba", "reference": "torch"}  # best first
KEEP = {k: v for k, v in os.environ.items() if k not in ("TRITON_INTERPRET", "ACCEL_KERNELS")}


def results() -> dict[str, torch.Tensor]:
    """What the three operators with a numba side make of a small frame."""
    draw = torch.Generator().manual_seed(0)
    codes = [
        torch.randint(16, 236, size, generator=draw).to(torch.uint8)
        for size in ((40, 60), (20, 30), (20, 30))
    ]
    planes = Planes(*codes, yuv_layout())
    matrices = torch.tensor([[[0.6, 0.1, -8.0], [-0.1, 0.6, -2.0]]])
    crops = crop(planes, matrices, 24)
    paste(planes, 1 - crops, torch.rand(1, 24, 24, generator=draw), matrices)
    corners = torch.tensor([[[1.3, 2.1, 0.0], [28.2, 5.4, 0.1], [9.7, 29.6, 0.2]]])
    drawn = raster(
        crops, corners[..., :2] * 0.7, corners, torch.tensor([[0.2, 0.9, 0.5]]),
        torch.tensor([[0, 1, 2]], dtype=torch.int32), torch.zeros(1, dtype=torch.int32), 32,
    )  # fmt: skip
    return {
        "crop": crops,
        "paste": torch.cat([p.flatten() for p in codes]).float(),
        "raster": drawn,
    }


SCRIPT = """
import json, sys
for name in sys.argv[2:]:
    sys.modules[name] = None  # an import of it fails from here on
import torch
from accel.kernels import OPS
from tests.kernels.test_without import results
torch.save(results(), sys.argv[1])
print(json.dumps({n: [sorted(op.used), [i.name for i in op.implementations]]
                  for n, op in OPS.items()}))
"""


@pytest.mark.parametrize(
    "missing",
    [("triton", "numba"), ("accel._native",), ("triton", "numba", "accel._native")],
    ids="+".join,
)
def test_the_next_best_serves_and_says_the_same(missing, tmp_path):
    there = [
        name
        for name, module in SERVE_CPU.items()
        if module not in missing and importlib.util.find_spec(module)
    ]
    file = tmp_path / "results.pt"
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(file), *missing],
        cwd=Path(__file__).parents[2], env=KEEP, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    expected = results()
    for name, result in torch.load(file).items():
        assert said[name][0] == there[:1]
        assert result.any()
        # Codes are rounded: where the average falls on a half, either neighbour is right.
        tolerance = 1 if name == "paste" else 3e-5
        torch.testing.assert_close(result, expected[name], rtol=0, atol=tolerance)
    if "triton" in missing:
        assert not any("triton" in names for _, names in said.values())


def test_refusals_name_what_is_missing(monkeypatch):
    monkeypatch.setattr(_why_not, "NUMBA", False)
    monkeypatch.setattr(_native, "reason", "accel._native is not built")
    for name in ("crop", "paste", "raster"):
        why = {i.name: i.why_not for i in OPS[name].implementations}
        nothing = [torch.zeros(1)] * 8
        assert why["numba"](*nothing) == "numba is not installed"
        assert why["native"](*nothing) == "accel._native is not built"
