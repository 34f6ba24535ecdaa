"""BCH(127, 64): its words lie far apart, and what soft decoding mends."""

from __future__ import annotations

import numpy as np
import pytest

from accel.provenance.bch import decode_soft, encode


def words(count: int, seed: int = 0):
    draw = np.random.default_rng(seed)
    data = draw.integers(0, 2, (count, 64)).astype(np.uint8)
    return draw, data, np.array([encode(row) for row in data])


@pytest.mark.parametrize("errors", [0, 1, 3])
def test_mends_three_wrong_bits_wherever_they_are(errors):
    draw, _, sent = words(20, errors)
    for row in sent:
        got = row.copy()
        got[draw.permutation(127)[:errors]] ^= 1
        found = decode_soft((got * 2.0 - 1) * (1 + 1e-3 * draw.random(127)))
        assert (found[0][0] == row).all()
        assert all((encode(word[:64]) == word).all() for word, _ in found)


def test_code_words_differ_in_21_bits_at_least():
    _, _, sent = words(200)
    apart = (sent[:, None] != sent[None]).sum(2)
    assert apart[apart > 0].min() >= 21


def test_mends_twenty_wrong_bits_where_the_signal_is_weak():
    """At this noise 15 % of the bits are wrong; a decoder of hard bits mends 8 %."""
    draw, _, sent = words(40, 7)
    noisy = (sent * 2.0 - 1) + draw.normal(0, 0.8, sent.shape)
    wrong = ((noisy > 0) != sent).sum(1)
    mended = [(decode_soft(row)[0][0] == word).all() for row, word in zip(noisy, sent)]
    assert wrong.max() > 15
    assert sum(mended) >= 36


def test_agreement_is_sorted_and_tells_words_from_noise():
    draw, _, sent = words(10, 3)
    for word in sent:
        found = decode_soft(word * 2.0 - 1 + draw.normal(0, 0.5, 127), most=8)
        agreements = [one for _, one in found]
        assert agreements == sorted(agreements, reverse=True)
        assert len({one.tobytes() for one, _ in found}) == 8
        assert agreements[0] > 9.5
    noise = [decode_soft(draw.normal(0, 1, 127))[0][1] for _ in range(60)]
    assert max(noise) < 8.4
    assert np.median(noise) > 7.4


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf])
def test_what_says_nothing_is_no_word(value):
    assert decode_soft(np.full(127, value)) == []


def test_refuses_another_length():
    with pytest.raises(ValueError, match="64 bits"):
        encode(np.zeros(63, np.uint8))
