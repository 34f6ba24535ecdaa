"""docs/embed.md: its examples run as they are written."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from accel.pipelines.demo import PORTRAIT
from accel.weights.assets import asset
from tests.nn.test_onnx import draw, model
from tests.pipelines.clips import write_clip

PAGE = Path(__file__).parents[1] / "docs" / "embed.md"


@pytest.mark.slow
def test_every_example_runs(tmp_path):
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 5
    write_clip(tmp_path / "clip.mp4", 5)
    (tmp_path / "face.jpg").write_bytes(asset(PORTRAIT).read_bytes())
    node = helper.make_node("Conv", ["input", "w"], ["y"], pads=[1, 1, 1, 1])
    given = {"input": np.zeros((1, 3, 128, 128), np.float32)}
    (tmp_path / "face.onnx").write_bytes(model([node], given, {"w": draw(4, 3, 3, 3)}))
    (tmp_path / "program.py").write_text("\n".join(blocks), encoding="utf-8")
    homes = {"ACCEL_HOME": str(tmp_path / "home"), "PYTHONPATH": str(PAGE.parents[1])}
    done = subprocess.run(
        [sys.executable, "program.py"], cwd=tmp_path, capture_output=True, text=True, timeout=300,
        env={**os.environ, **homes}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "input [1, 3, 128, 128] float32" in done.stdout
    assert (tmp_path / "swapped.mp4").is_file()
    assert (tmp_path / "nano_onnx" / "unet" / "model.onnx").is_file()
    assert (tmp_path / "castle.png").is_file()
