"""A1111's picture text: its order, its quoting, and the way back."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import accel
from accel.core import ConfigError
from accel.pipelines.generate.infotext import Facts, compose, normalised, parse, settings_of
from accel.pipelines.generate.options import Options

FACTS = Facts(model="some model, v1", model_hash="0123456789")
A1111 = """masterpiece, (best quality:1.2), a "quoted" cat
second line
Negative prompt: lowres, bad: hands
more of it
Steps: 28, Sampler: DPM++ 2M Karras, CFG scale: 6.5, Seed: 4294967295, Size: 512x768, Model hash: \
6ce0161689, Model: v1-5-pruned-emaonly, Denoising strength: 0.55, Clip skip: 2, Hires upscale: 2, \
Hires steps: 10, Hires upscaler: Latent, Lora hashes: "first: 0123456789ab, b: c0ffee000000", \
Version: v1.10.1"""


def test_text_as_a1111_writes_it():
    options = Options(negative="blurry", cfg=7.0, clip_skip=2, seed=3)
    text = compose("a cat, (red:1.2)", options, FACTS, size=(64, 48), seed=3)
    assert text == (
        "a cat, (red:1.2)\n"
        "Negative prompt: blurry\n"
        "Steps: 20, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 7, Seed: 3, Size: 64x48,"
        " Model hash: 0123456789, Model: some model v1, Clip skip: 2, RNG: CPU,"
        f" Version: accel {accel.__version__}"
    )


def test_reads_what_a1111_wrote():
    info = parse(A1111)
    assert info.prompt == 'masterpiece, (best quality:1.2), a "quoted" cat\nsecond line'
    assert info.negative == "lowres, bad: hands\nmore of it"
    assert info.pairs["Lora hashes"] == "first: 0123456789ab, b: c0ffee000000"
    options = Options.of(settings_of(info))
    assert (options.sampler, options.schedule) == ("dpmpp_2m", "karras")
    assert (options.steps, options.cfg, options.seed) == (28, 6.5, 4294967295)
    assert (options.width, options.height, options.clip_skip) == (512, 768, 2)
    assert (options.hires_scale, options.hires_steps, options.hires_strength) == (2, 10, 0.55)
    assert options.noise_source == "philox"  # what a text without RNG means


def test_both_strengths_of_a_run_from_a_picture_with_a_second_pass():
    options = Options(strength=0.4, hires_scale=2.0, hires_strength=0.6)
    text = compose("a", options, FACTS, size=(64, 64), seed=0, init_hash="")
    back = Options.of(settings_of(parse(text)))
    assert (back.strength, back.hires_strength) == (0.4, 0.6)
    text = compose("a", options, FACTS, size=(64, 64), seed=0)
    assert Options.of(settings_of(parse(text))).hires_strength == 0.6


def test_a_text_without_settings_is_all_prompt():
    info = parse("a cat, 10: 30, sitting")
    assert (info.prompt, info.negative, info.pairs) == ("a cat, 10: 30, sitting", "", {})


def test_a_value_that_cannot_be_read_is_named():
    with pytest.raises(ConfigError, match="Steps cannot be read: 'many'"):
        settings_of(parse("a\nSteps: many, Sampler: Euler, Seed: 1"))


TEXT = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), max_size=60)
LINES = st.lists(TEXT, max_size=3).map("\n".join).map(normalised)


@given(
    prompt=LINES,
    negative=LINES,
    cfg=st.floats(-30, 30),
    seed=st.integers(0, 2**64 - 1),
    name=TEXT,
)
@settings(max_examples=150, deadline=None)
def test_comes_back_as_it_was(prompt, negative, cfg, seed, name):
    if any(line.startswith("Negative prompt:") for line in (prompt + "\n" + negative).split("\n")):
        return  # the one thing that the format cannot say
    options = Options(negative=negative, cfg=cfg, seed=seed)
    facts = Facts(model="m", model_hash="0" * 10, vae=name, loras={"a": "b"})
    info = parse(compose(prompt, options, facts, size=(64, 64), seed=seed))
    assert (info.prompt, info.negative) == (prompt, normalised(negative))
    back = Options.of(settings_of(info))
    assert (back.cfg, back.seed, back.sampler) == (cfg, seed, options.sampler)
