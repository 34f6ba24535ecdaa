"""Losses beside an evaluation in NumPy, and what they pull towards."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from accel.faces.autoencoder import AutoencoderConfig
from accel.faces.autoencoder_loss import blur_outside, gaussian_row
from accel.training.style import (
    CodeCritic,
    background_style_loss,
    face_style_loss,
    verdict,
)


def pictures(seed=0, size=32):
    make = torch.Generator().manual_seed(seed)
    return torch.rand(2, 3, size, size, generator=make)


def disc(size=32):
    y, x = torch.meshgrid(*[torch.arange(size) - size / 2] * 2, indexing="ij")
    return ((x * x + y * y) < (size / 3) ** 2).float().expand(2, 1, size, size)


def np_blur(picture, sigma):  # [H, W]
    taps = max(3, int(4 * sigma)) | 1
    row = gaussian_row(taps, sigma, taps // 2).double().numpy()
    padded = np.pad(picture, taps // 2)
    rows = np.stack([np.convolve(line, row, "valid") for line in padded])
    return np.stack([np.convolve(line, row, "valid") for line in rows.T]).T


def test_face_style_is_its_formula():
    face, target, mask = pictures(), pictures(1) * 0.5, disc()
    found = face_style_loss(face, target, mask).numpy()
    for i in range(2):
        terms = []
        for c in range(3):
            a, b = (np_blur((t * mask)[i, c].double().numpy(), 4) for t in (face, target))
            spread = [np.sqrt(v.var() + 1e-5) for v in (a, b)]
            terms.append((a.mean() - b.mean()) ** 2 + (spread[0] - spread[1]) ** 2)
        assert found[i] == pytest.approx(100 * np.mean(terms), rel=1e-4)


def test_styles_look_where_they_should():
    face, target, mask = pictures(), pictures(1), disc()
    elsewhere = face * mask + pictures(2) * (1 - mask)
    torch.testing.assert_close(
        face_style_loss(face, target, mask), face_style_loss(elsewhere, target, mask)
    )
    inside = face * (1 - mask) + pictures(2) * mask
    torch.testing.assert_close(
        background_style_loss(face, target, mask), background_style_loss(inside, target, mask)
    )
    assert background_style_loss(target, target, mask).abs().max() < 1e-5


def test_blur_outside_leaves_the_face_alone():
    picture, mask = pictures(), disc()
    found = blur_outside(picture, mask)
    torch.testing.assert_close(found * mask, picture * mask)
    around = (1 - mask).expand_as(found) > 0
    assert found[around].std() <= picture[around].std()
    flat = blur_outside(torch.full_like(picture, 0.5) * (1 - mask) + mask, mask)
    assert (flat[around] - 0.5).abs().max() < 1e-5  # the face does not bleed out


@pytest.mark.parametrize(("resolution", "archi"), [(64, "df-ud"), (96, "df"), (128, "df-t")])
def test_the_critic_learns_to_tell_codes(resolution, archi):
    config = AutoencoderConfig(resolution=resolution, archi=archi, ae_dims=6, e_dims=4, d_dims=4)
    critic = CodeCritic(config, torch.Generator().manual_seed(0))
    side = config.dense_px * (1 if config.has("t") else 2)
    make = torch.Generator().manual_seed(1)
    source, other = (torch.randn(8, 6, side, side, generator=make) + shift for shift in (0.5, -0.5))
    optimiser = torch.optim.Adam(critic.parameters(), lr=1e-3)
    first = None
    for _ in range(12):
        loss = (verdict(critic(source), True) + verdict(critic(other), False)).sum()
        first = first or loss.item()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert loss.item() < 0.5 * first
