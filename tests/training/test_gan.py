"""The adversary: its shape, its losses beside NumPy, and colours that vary."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from accel.core import ConfigError, InputError
from accel.faces.autoencoder_loss import soft_mask
from accel.training.augment import Augment, Sampler, hsv_shift, tinted
from accel.training.autoencoder import AutoencoderTrainer, Batches
from accel.training.faces import load_faces
from accel.training.gan import (
    Adversary,
    adversary_loss,
    adversary_own_loss,
    reach,
    strides_for,
    total_variation,
)
from accel.training.model_files import load, save
from accel.training.options import DEFAULTS, from_dfl, to_dfl, with_given
from tests.training.test_losses import disc, pictures

TINY = {"resolution": 64, "ae_dims": 8, "e_dims": 8, "d_dims": 8, "archi": "df-ud", "batch": 2}


def tiny(**given):
    return with_given(DEFAULTS["saehd"], TINY | given)


def faces_of(root, options):
    kind, size = options.network.face_type, options.network.resolution
    return [load_faces(root / f"data_{side}" / "aligned", size, kind) for side in ("src", "dst")]


@pytest.mark.parametrize("patch", [3, 8, 16, 28, 32, 64, 128])
def test_layers_look_at_about_as_many_pixels_as_asked(patch):
    """Counted in the network itself: which pixels of the picture move the middle's answer."""
    strides = strides_for(patch)
    assert strides[-1] == 2
    assert abs(reach(strides) - patch) <= 2
    layers = torch.nn.Sequential(
        *[torch.nn.Conv2d(1, 1, 3, stride=s, padding=1).double() for s in strides]
    )
    for conv in layers:
        torch.nn.init.ones_(conv.weight)
    side = 4 * patch
    picture = torch.zeros(1, 1, side, side, dtype=torch.float64, requires_grad=True)
    out = layers(picture)
    out[0, 0, out.shape[2] // 2, out.shape[3] // 2].backward()
    seen = (picture.grad[0, 0].sum(0) > 0).nonzero().flatten()
    assert seen.max() - seen.min() + 1 == reach(strides)


@pytest.mark.parametrize(("size", "patch"), [(64, 8), (64, 64), (96, 12), (80, 40)])
def test_it_answers_for_the_whole_and_for_every_pixel(size, patch):
    middle, pixels = Adversary(patch, 4)(torch.rand(2, 3, size, size))
    assert pixels.shape == (2, 1, size, size)
    assert middle.shape[:2] == (2, 1)
    assert middle.shape[2] < size


def np_entropy(logits, wanted):  # [B, ...] -> [B]
    p = 1 / (1 + np.exp(-logits.double().numpy()))
    each = -(wanted * np.log(p) + (1 - wanted) * np.log(1 - p))
    return each.reshape(len(each), -1).mean(1)


def test_losses_are_their_formulas():
    face, target, mask = pictures(), pictures(1), disc()
    make = torch.Generator().manual_seed(5)
    true, drawn = (
        tuple(torch.randn(2, 1, s, s, generator=make) for s in (4, 32)) for _ in range(2)
    )
    soft = soft_mask(mask, "saehd")
    found = adversary_loss(drawn, face, target, soft, 0.3).numpy()
    f, t, m = (x.double().numpy() for x in (face, target, soft))
    rough = ((f[..., 1:] - f[..., :-1]) ** 2).sum((1, 2, 3))
    rough += ((f[:, :, 1:] - f[:, :, :-1]) ** 2).sum((1, 2, 3))
    around = ((f * (1 - m) - t * (1 - m)) ** 2).mean((1, 2, 3))
    wanted = 0.3 * sum(np_entropy(d, 1.0) for d in drawn) + 1e-6 * rough + 0.02 * around
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    alone = adversary_loss(drawn, face, target, None, 0.3).numpy()
    np.testing.assert_allclose(alone, 0.3 * sum(np_entropy(d, 1.0) for d in drawn), atol=1e-5)
    own = 0.5 * sum(np_entropy(a, 1.0) + np_entropy(b, 0.0) for a, b in zip(true, drawn))
    np.testing.assert_allclose(adversary_own_loss(true, drawn).numpy(), own, atol=1e-5)
    np.testing.assert_allclose(total_variation(face).numpy(), rough, rtol=1e-5)


def test_it_learns_to_tell_smooth_pictures_from_rough_ones():
    adversary = Adversary(8, 8, torch.Generator().manual_seed(0))
    rough = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    smooth = torch.nn.functional.avg_pool2d(rough, 5, 1, 2)
    optimiser = torch.optim.Adam(adversary.parameters(), lr=2e-3)
    losses = []
    for _ in range(15):
        loss = adversary_own_loss(adversary(rough), adversary(smooth)).sum()
        losses.append(loss.item())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert losses[-1] < 0.5 * losses[0]


def test_going_on_with_an_adversary_is_exact(faces_root, tmp_path):
    options = tiny(gan=0.1, gan_dims=4, color="rct", hsv=0.1)
    src, dst = faces_of(faces_root, options)
    whole = AutoencoderTrainer(options, torch.device("cpu"))
    part = AutoencoderTrainer(options, torch.device("cpu"))
    batches = Batches(options, src, dst, 0)
    for step in range(4):
        whole.step(*batches.at(step))
        if step < 2:
            part.step(*batches.at(step))
    save(part, tmp_path, "new")
    assert {"new_SAEHD_GAN.npy", "new_SAEHD_GAN_opt.npy"} <= {p.name for p in tmp_path.iterdir()}
    again = AutoencoderTrainer(options, torch.device("cpu"))
    assert load(again, tmp_path, "new") == []
    for step in range(2, 4):
        again.step(*batches.at(step))
    batches.close()
    for name, module in whole.parts.items():
        for key, weight in module.state_dict().items():
            assert torch.equal(weight, again.parts[name].state_dict()[key]), (name, key)


def test_an_adversary_may_come_later_but_not_of_another_shape(faces_root, tmp_path):
    save(AutoencoderTrainer(tiny(), torch.device("cpu")), tmp_path, "new")
    later = AutoencoderTrainer(tiny(gan=0.1, gan_dims=4), torch.device("cpu"))
    assert any("gan begins anew" in note for note in load(later, tmp_path, "new"))
    save(later, tmp_path, "new")
    other = AutoencoderTrainer(tiny(gan=0.1, gan_dims=8), torch.device("cpu"))
    with pytest.raises(InputError, match=r"GAN\.npy: weights must fit the model"):
        load(other, tmp_path, "new")


def test_options_are_spelled_as_deepfacelab_does():
    options = tiny(gan=0.1, gan_patch=20, gan_dims=32, color="sot", hsv=0.05)
    spelled = to_dfl(options)
    wanted = {
        "gan_power": 0.1, "gan_patch_size": 20, "gan_dims": 32, "ct_mode": "sot",
        "random_hsv_power": 0.05,
    }  # fmt: skip
    assert wanted.items() <= spelled.items()
    assert from_dfl("saehd", spelled, "file") == options


def test_both_people_are_mirrored_as_deepfacelabs_files_say():
    usual = DEFAULTS["saehd"]
    assert (usual.flip_src, usual.flip_dst) == (False, True)
    spelled = to_dfl(tiny(flip_src=True, flip_dst=False))
    assert (spelled["random_src_flip"], spelled["random_dst_flip"]) == (True, False)
    found = from_dfl("saehd", spelled, "file")
    assert (found.flip_src, found.flip_dst) == (True, False)
    # Files of earlier versions have one word for both.
    del spelled["random_src_flip"], spelled["random_dst_flip"]
    for word in (True, False):
        old = from_dfl("saehd", spelled | {"random_flip": word}, "file")
        assert (old.flip_src, old.flip_dst) == (word, word)


@pytest.mark.parametrize("name", ["flip_src", "flip_dst"])
def test_quick96_never_mirrors(name):
    with pytest.raises(ConfigError, match=f"quick96 has no {name}"):
        with_given(DEFAULTS["quick96"], {name: True})
    assert not getattr(from_dfl("quick96", {f"random_{name[5:]}_flip": True}, "file"), name)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"gan": 6.0}, "gan must lie in 0..5"),
        ({"gan_patch": 2}, "gan_patch must lie in 3..640"),
        ({"gan_dims": 1}, "gan_dims must lie in 4..512"),
        ({"hsv": 0.4}, r"hsv must lie in 0..0.3"),
        ({"color": "fs-aug"}, "color must be one of none, rct"),
        ({"gan": float("nan")}, "gan must lie in"),
    ],
)
def test_refuses(given, message):
    with pytest.raises(ConfigError, match=message):
        tiny(**given)
    name = next(iter(given))
    if name in ("gan", "hsv"):
        with pytest.raises(ConfigError, match=f"quick96 has no {name}"):
            replace(DEFAULTS["quick96"], **{name: 0.1})


# --- colours ----------------------------------------------------------------------------------


def test_hue_is_shifted_as_the_formula_says():
    picture = torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(0))
    found = tinted(picture, 120, 0.0, 0.0)  # a third of the circle: red, green, blue change places
    torch.testing.assert_close(found, picture.roll(-1, 0), atol=2e-3, rtol=0)
    light = tinted(picture, 0, 0.0, 0.1)
    np.testing.assert_allclose(
        light.amax(0).numpy(), np.clip(picture.amax(0).numpy() + 0.1, 0, 1), atol=2e-3
    )
    grey = tinted(picture, 0, -1.0, 0.0)
    np.testing.assert_allclose(grey.numpy(), picture.amax(0).expand(3, -1, -1).numpy(), atol=2e-3)


def test_shifts_stay_in_their_range():
    draws = np.array([hsv_shift(np.random.default_rng(i), 0.1) for i in range(300)])
    assert np.abs(draws[:, 0]).max() == 18
    assert 0.045 < np.abs(draws[:, 1:]).max() <= 0.05


@pytest.mark.parametrize("color", ["rct", "lct", "mkl", "idt", "sot"])
def test_source_faces_take_on_the_targets_colours(faces_root, color):
    options = tiny()
    src, dst = faces_of(faces_root, options)
    # A target of one strong colour cast, so that what is taken over can be seen.
    cast = tuple(
        replace(f, picture=(f.picture * [0.4, 0.9, 0.6]).astype(np.uint8)) for f in dst.faces
    )
    dst = replace(dst, faces=cast)
    plain = Sampler(src, 2, Augment(), 0, 0)(0)
    moved = Sampler(src, 2, Augment(color=color), 0, 0, others=dst)(0)
    wanted = torch.from_numpy(np.stack([f.picture for f in cast])).float().mean((0, 1, 2)) / 255
    before, after = (s.target.mean((0, 2, 3)) for s in (plain, moved))
    assert (after - wanted).abs().max() < 0.5 * (before - wanted).abs().max() + 0.02
    torch.testing.assert_close(plain.mask, moved.mask)
    again = Sampler(src, 2, Augment(color=color), 0, 0, others=dst)(0)
    assert torch.equal(moved.target, again.target)
    assert torch.equal(moved.warped, again.warped)


def test_only_the_sources_input_is_tinted(faces_root):
    plain, varied = tiny(), tiny(hsv=0.2)
    src, dst = faces_of(faces_root, plain)
    a, b = (Batches(o, src, dst, 0) for o in (plain, varied))
    (src_a, dst_a), (src_b, dst_b) = a.at(0), b.at(0)
    a.close()
    b.close()
    assert torch.equal(src_a.target, src_b.target)
    assert torch.equal(dst_a.warped, dst_b.warped)
    assert (src_a.warped - src_b.warped).abs().max() > 0.01
