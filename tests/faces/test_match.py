"""Sharpness and grain."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from accel.faces.match import DetailMatch, enlarge, shrink, soften, texture_level


def face_like(side=160, seed=0):
    """Smooth shapes with a few hard edges, [3, S, S] in 0..1."""
    y, x = torch.meshgrid(*(torch.linspace(-1, 1, side),) * 2, indexing="ij")
    picture = 0.5 + 0.15 * torch.sin(3 * x + seed) * torch.cos(2 * y)
    for cx, cy, r in ((i / 3 - 0.8, j / 3 - 0.8, 0.11) for i in range(6) for j in range(6)):
        picture = torch.where((x - cx) ** 2 + (y - cy) ** 2 < r * r, picture - 0.3, picture)
    return picture.expand(3, -1, -1).contiguous()


def test_a_sharp_source_is_blurred_until_it_is_like_a_soft_target():
    sharp, soft, whole = face_like(), soften(face_like(seed=1), 2.5), torch.ones(160, 160)
    match = DetailMatch(seed=0)
    for _ in range(40):
        result = match(sharp, soft, whole)
    wanted, unmatched, got = (texture_level(p, whole)[0] for p in (soft, sharp, result))
    assert unmatched > 2.5 * wanted
    assert wanted < got < 1.6 * wanted


def test_a_source_as_sharp_as_the_target_is_left_alone():
    match, whole = DetailMatch(seed=0), torch.ones(160, 160)
    for _ in range(10):
        result = match(face_like(), face_like(seed=1), whole)
    assert torch.equal(result, face_like())


def test_missing_grain_is_added_and_differs_from_frame_to_frame():
    noise = 0.03 * torch.randn(1, 160, 160, generator=torch.Generator().manual_seed(3))
    match, whole = DetailMatch(seed=5), torch.ones(160, 160)
    results = [match(face_like(), face_like(seed=1) + noise, whole) for _ in range(30)]
    added = [r - soften(face_like(), match.blur_px) for r in results[-2:]]
    assert float(added[0].std()) == pytest.approx(0.03, rel=0.3)
    assert not torch.allclose(*added)


def test_noise_is_measured_in_spite_of_edges():
    noise = 0.02 * torch.randn(1, 160, 160, generator=torch.Generator().manual_seed(4))
    level = texture_level(face_like() + noise, torch.ones(160, 160))
    assert level is not None
    assert level[1] == pytest.approx(0.02, rel=0.25)
    assert texture_level(face_like(), torch.zeros(160, 160)) is None


@pytest.mark.parametrize("times", [1, 2, 3])
def test_shrinking_averages_and_enlarging_fills_the_side(times):
    picture = torch.rand(3, 50, 50)
    small = shrink(picture, times)
    n = 50 // times
    block = picture[:, :times, :times].mean((1, 2))
    torch.testing.assert_close(small[:, 0, 0], block, rtol=0, atol=1e-5)
    assert small.shape == (3, n, n)
    large = enlarge(small, times, 50)
    assert large.shape == (3, 50, 50)
    ramp = torch.linspace(0, 1, 48).expand(1, 48, 48).contiguous()
    back = enlarge(shrink(ramp, 2), 2, 48)
    np.testing.assert_allclose(back[0, 20, 4:-4], ramp[0, 20, 4:-4], atol=1e-5)
