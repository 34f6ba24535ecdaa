"""Weights that a step is done with are let go, unless somebody changed them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import accel
from accel.models import stable_diffusion as sd
from accel.models.stable_diffusion import Conditioning
from accel.weights import files
from tests.pipelines.generate.tiny import CONFIG, write_checkpoint

pagemap = pytest.mark.skipif(
    not Path("/proc/self/pagemap").exists(), reason="the system does not say what was written to"
)


@pytest.fixture
def model(tmp_path, monkeypatch) -> accel.Model:
    monkeypatch.setattr(files, "WORTH_RELEASING", 1)
    monkeypatch.setitem(sd.CONFIGS, "sd1", CONFIG)
    return accel.load(write_checkpoint(tmp_path / "tiny.safetensors"))


@pagemap
def test_the_deepest_level_is_let_go_after_it_ran(model, monkeypatch):
    released: list[int] = []
    release = files.TensorFile.release

    def watched(self, tensors=None):
        tensors = None if tensors is None else list(tensors)
        released.append(-1 if tensors is None else len(tensors))
        release(self, tensors)

    monkeypatch.setattr(files.TensorFile, "release", watched)
    unet, context = model.loaded.model.unet, Conditioning(torch.randn(1, 77, 16), None)
    small, large = torch.randn(1, 4, 8, 8), torch.randn(1, 4, 16, 16)
    expected = model.denoise(large, torch.tensor(500.0), context)
    stages = [unet.middle_block, *list(unet.output_blocks)[:2]]
    assert released == [len(list(stage.parameters())) for stage in stages]
    assert torch.equal(model.denoise(large, torch.tensor(500.0), context), expected)
    released.clear()
    model.denoise(small, torch.tensor(500.0), context)
    assert released == []


@pagemap
def test_what_was_changed_stays(model):
    weight = model.loaded.model.unet.middle_block[0].in_layers[2].weight
    with torch.no_grad():
        weight.data.mul_(3)  # which torch does not count as a change
    changed = weight.clone()
    context = Conditioning(torch.randn(1, 77, 16), None)
    model.denoise(torch.randn(1, 4, 16, 16), torch.tensor(500.0), context)
    assert torch.equal(weight, changed)
