"""The embedded model, asked through the public interface; four steps are enough to tell."""

from __future__ import annotations

import threading

import pytest
import torch

import accel
from accel.core import Cancel, Cancelled, ConfigError
from accel.pipelines.generate.passes import Passes

FAST = {"steps": 4, "cfg": 3.0}


def test_a_picture_is_the_same_alone_and_in_a_batch(nano):
    batch = nano.sample("a red apple", count=3, seed=5, sampler="euler_a", **FAST)
    assert batch.shape == (3, 3, 64, 64)
    for i in range(3):
        alone = nano.sample("a red apple", seed=5 + i, sampler="euler_a", **FAST)
        assert torch.equal(alone[0], batch[i])
    assert not torch.equal(batch[0], batch[1])


def test_prompt_negative_and_guidance_have_an_effect(nano):
    def latent(prompt="a red apple", **options):
        return nano.sample(prompt, output="latent", **(FAST | options))

    plain = latent()
    assert torch.equal(plain, latent())
    for other in (
        latent("a tree"),
        latent("a (red:1.5) apple"),
        latent(negative="red"),
        latent(cfg=5.0),
        latent(seed=1),
        latent("a red apple AND a tree :0.5"),
        latent("a [red:green:0.5] apple"),
        latent("a red apple BREAK flat style"),
        latent(variation_seed=3, variation_strength=0.2),
        latent(noise_source="philox"),
    ):
        assert (other - plain).abs().max() > 1e-3


def test_a_change_of_prompt_comes_at_its_step(nano):
    seen = {}

    def watch(name):
        return lambda step, clean: seen.setdefault(name, []).append(clean.clone())

    options = FAST | {"output": "latent"}
    nano.sample("green apple", callback=watch("plain"), **options)
    nano.sample("[green:red:2] apple", callback=watch("changed"), **options)
    same = [torch.equal(a, b) for a, b in zip(seen["plain"], seen["changed"])]
    assert same == [True, True, False, False]


@pytest.mark.parametrize(("width", "height"), [(72, 40), (8, 104), (24, 24)])
def test_sides_are_multiples_of_eight_pixels_and_of_nothing_else(nano, width, height):
    made = nano.sample("a tree", width=width, height=height, token_merging=0.5, **FAST)
    assert made.shape == (1, 3, height, width)
    assert made.isfinite().all()


def test_a_latent_that_stops_above_0_is_as_the_network_sees_it(nano, monkeypatch):
    options = FAST | {"sampler": "ddim", "output": "latent"}
    got = nano.sample("a tree", schedule="leading_to_min", **options)
    to_0 = nano.sample("a tree", schedule="leading", **options)
    monkeypatch.setattr(Passes, "ended", lambda self, x, sigmas: x)
    low = nano.noise.sigma_min
    raw = nano.sample("a tree", schedule="leading_to_min", **options)
    torch.testing.assert_close(got, raw / (1 + low**2) ** 0.5)
    assert torch.equal(to_0, nano.sample("a tree", schedule="leading", **options))


def test_image_is_the_decoded_latent(nano):
    latent = nano.sample("a tree", output="latent", **FAST)
    image = nano.sample("a tree", output="image", **FAST)
    assert torch.equal(nano.decode(latent), image)
    assert nano.encode(image.clamp(-1, 1)).shape == latent.shape


def test_denoise_is_the_networks_own_answer(nano):
    told = nano.encode_text("a red apple")
    assert told.context.shape == (1, 24, 192)
    assert told.pooled is None
    x = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    out = nano.denoise(x, torch.tensor([500, 20]), told)
    assert out.shape == x.shape
    context = told.context.expand(2, -1, -1)
    expected = nano.loaded.model.unet(x, torch.tensor([500.0, 20.0]), context)
    torch.testing.assert_close(out, expected)


def test_long_prompts_take_several_chunks(nano):
    assert nano.encode_text("apple, " * 40).context.shape[1] == 24 * 4
    with pytest.raises(ConfigError, match="at most 7500 tokens"):
        nano.encode_text("apple " * 10_000)
    with pytest.raises(ConfigError, match="AND"):
        nano.encode_text("a AND b")


def test_cancel_stops_within_a_step(nano):
    cancel, steps = Cancel(), []

    def after(step, clean):
        steps.append(step)
        if step == 1:
            cancel.set()

    with pytest.raises(Cancelled):
        nano.sample("a tree", callback=after, cancel=cancel, steps=10)
    assert steps == [0, 1]


def test_threads_share_one_sampler():
    sampler = accel.Sampler("nano")
    wanted = [sampler("a tree", seed=i, **FAST)[0].rgb for i in range(2)]
    got = [None, None]

    def work(i):
        got[i] = sampler("a tree", seed=i, **FAST)[0].rgb

    threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all((a == b).all() for a, b in zip(wanted, got))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"sampler": "dpmp_2m"}, r"no sampler is called 'dpmp_2m'; near: dpmpp_2m"),
        ({"schedule": "karas"}, r"no schedule is called 'karas'; near: karras"),
        ({"stepps": 3}, r"no option is called 'stepps'; near: steps"),
        ({"width": 100}, "width must be a multiple of 8 pixels, got 100; near: 96, 104"),
        ({"steps": 0}, r"steps must lie in 1\.\.500, got 0"),
        ({"cfg": float("nan")}, "cfg must lie in"),
        ({"seed": -1}, "seed must lie in"),
        ({"count": 0}, "count must lie in"),
        ({"emphasis": "loud"}, "emphasis must be one of"),
        ({"output": "video"}, "output must be one of image, latent"),
    ],
)
def test_refuses_what_cannot_be(nano, options, text):
    with pytest.raises(ConfigError, match=text):
        nano.sample("a tree", **options)


@pytest.mark.parametrize("title", ["DPM++ 2M Karras", "dpmpp_2m", "DPM++ 2M", "dpm++_2m"])
def test_titles_of_samplers(nano, title):
    wanted = nano.sample("a tree", output="latent", steps=2)
    options = {"sampler": title, "schedule": "automatic"}
    assert torch.equal(nano.sample("a tree", output="latent", steps=2, **options), wanted)
