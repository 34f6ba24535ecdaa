"""BCH(127, 64): what it corrects, what it refuses."""

from __future__ import annotations

import numpy as np
import pytest

from accel.provenance.bch import correct, decode_soft, encode


def words(count: int, seed: int = 0):
    draw = np.random.default_rng(seed)
    data = draw.integers(0, 2, (count, 64)).astype(np.uint8)
    return draw, data, np.array([encode(row) for row in data])


@pytest.mark.parametrize("errors", [0, 1, 5, 10])
def test_corrects_up_to_ten_errors(errors):
    draw, _, sent = words(40, errors)
    got = sent.copy()
    for row in got:
        row[draw.permutation(127)[:errors]] ^= 1
    fixed, count = correct(got)
    assert (fixed == sent).all()
    assert (count == errors).all()


def test_code_words_differ_in_21_bits_at_least():
    _, _, sent = words(200)
    apart = (sent[:, None] != sent[None]).sum(2)
    assert apart[apart > 0].min() >= 21


def test_random_words_are_refused():
    draw = np.random.default_rng(3)
    _, count = correct(draw.integers(0, 2, (2000, 127)).astype(np.uint8))
    assert (count >= 0).sum() <= 2  # one in 40,000 lies near a code word


def test_soft_decoding_mends_more_than_hard():
    draw, data, sent = words(30, 7)
    noisy = (sent * 2.0 - 1) + draw.normal(0, 0.78, sent.shape)  # about 10 % wrong bits
    _, hard = correct((noisy > 0).astype(np.uint8))
    soft = [decode_soft(row) for row in noisy]
    mended = sum(bool(found) and (found[0][0] == row).all() for found, row in zip(soft, data))
    assert mended >= (hard >= 0).sum() + 4


def test_refuses_another_length():
    with pytest.raises(ValueError, match="64 bits"):
        encode(np.zeros(63, np.uint8))
