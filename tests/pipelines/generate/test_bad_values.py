"""What no run can be made of is answered with one line that says what must hold."""

from __future__ import annotations

import pytest
import torch

from accel.core import ConfigError
from accel.pipelines.generate import load

WRONG = [
    ({"steps": "3"}, "steps must be a whole number, got '3'"),
    ({"steps": 3.0}, r"steps must be a whole number, got 3\.0"),
    ({"seed": None}, "seed must be a whole number, got None"),
    ({"cfg": "7"}, "cfg must be a number, got '7'"),
    ({"cfg": float("nan")}, "cfg must lie in -100..100, got nan"),
    ({"strength": True}, "strength must be a number, got True"),
    ({"width": "64"}, "width must be a whole number, got '64'"),
    ({"init": torch.full((3, 64, 64), float("nan"))}, "picture must hold finite numbers"),
]


@pytest.mark.parametrize(("options", "message"), WRONG)
def test_options(nano, options, message):
    with pytest.raises(ConfigError, match=message):
        nano.sample("a", **{"steps": 2, **options})


@pytest.mark.parametrize("prompt", [None, 3, ["a"]])
def test_a_prompt_that_is_no_text(nano, prompt):
    with pytest.raises(ConfigError, match="prompt: must be text, got"):
        nano.sample(prompt, steps=2)
    with pytest.raises(ConfigError, match="prompt: must be text, got"):
        nano.encode_text(prompt)


@pytest.mark.parametrize("dtype", ["float16", torch.int8, None])
def test_a_kind_of_numbers_that_networks_cannot_have(dtype):
    with pytest.raises(ConfigError, match=r"dtype must be one of torch\.float32"):
        load("nano", dtype=dtype)


def test_pictures_and_latents_of_another_shape(nano):
    with pytest.raises(ValueError, match=r"encode: image must be \[B, 3, H, W\]"):
        nano.encode(torch.zeros(3, 64, 64))
    with pytest.raises(ValueError, match=r"decode: latent must be \[B, 4, H, W\]"):
        nano.decode(torch.zeros(4, 8, 8))
