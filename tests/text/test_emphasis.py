"""Weights on embeddings."""

from __future__ import annotations

import pytest
import torch

from accel.core import ConfigError
from accel.text.emphasis import emphasised, pieces
from accel.text.prompt import Piece

HIDDEN = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(3)) + 0.3
WEIGHTS = [[1, 1.3, 1.3, 0.5, 1], [1, 1, 1, 2.0, 1]]
COLUMN = torch.tensor(WEIGHTS)[..., None]


def test_original_restores_the_one_mean_of_everything():
    got = emphasised(HIDDEN, WEIGHTS)
    torch.testing.assert_close(got.mean(), HIDDEN.mean())
    scaled = HIDDEN * COLUMN
    torch.testing.assert_close(got, scaled * (HIDDEN.mean() / scaled.mean()))


def test_no_norm_multiplies_alone():
    torch.testing.assert_close(emphasised(HIDDEN, WEIGHTS, "no norm"), HIDDEN * COLUMN)


def test_comfy_moves_away_from_the_empty_prompt():
    empty = torch.randn(1, 5, 8)
    got = emphasised(HIDDEN, WEIGHTS, "comfy", empty)
    torch.testing.assert_close(got, empty + COLUMN * (HIDDEN - empty))
    with pytest.raises(ValueError, match="needs what an empty prompt gives"):
        emphasised(HIDDEN, WEIGHTS, "comfy")


@pytest.mark.parametrize("mode", ["ignore", "none"])
def test_two_modes_leave_everything(mode):
    assert emphasised(HIDDEN, WEIGHTS, mode) is HIDDEN


@pytest.mark.parametrize("mode", ["original", "no norm"])
def test_weights_of_one_change_no_bit(mode):
    assert torch.equal(emphasised(HIDDEN, torch.ones(2, 5), mode), HIDDEN)


def test_half_precision_is_weighted_in_float32():
    half = emphasised(HIDDEN.half(), WEIGHTS)
    assert half.dtype == torch.float16
    torch.testing.assert_close(half.float(), emphasised(HIDDEN, WEIGHTS), rtol=2e-3, atol=2e-3)


def test_mode_none_reads_no_syntax():
    assert pieces("a (b:1.3) BREAK", "none") == [Piece("a (b:1.3) BREAK")]
    assert pieces("a (b:1.3)", "ignore") == [Piece("a "), Piece("b", 1.3)]


def test_refuses():
    with pytest.raises(ConfigError, match="emphasis must be one of"):
        pieces("a", "loud")
    with pytest.raises(ValueError, match=r"weights must be \(2, 5\), got \(2, 4\)"):
        emphasised(HIDDEN, torch.ones(2, 4))
