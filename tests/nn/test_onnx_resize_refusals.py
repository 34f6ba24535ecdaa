"""Resizes that no runtime can do: each is refused by name, and nothing is printed about it."""

from __future__ import annotations

import warnings

import pytest
import torch

from accel.nn.onnx.ops import Unsupported
from accel.nn.onnx.resize import axes_of

POLICIES = ("stretch", "not_larger", "not_smaller")
SIZES = torch.tensor([1, 2, 4, 4])


@pytest.fixture(autouse=True)
def _warnings_are_errors():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.mark.parametrize("policy", POLICIES)
def test_sizes_of_an_empty_axis(policy):
    attributes = {"opset": 18, "keep_aspect_ratio_policy": policy}
    with pytest.raises(Unsupported, match="Resize to sizes of an axis of 0"):
        axes_of(attributes, (1, 2, 0, 4), [None, None, SIZES])


@pytest.mark.parametrize("policy", POLICIES)
def test_an_empty_axis_that_is_not_asked_for_stays(policy):
    attributes = {"opset": 18, "keep_aspect_ratio_policy": policy, "axes": [1, 3]}
    found = axes_of(attributes, (0, 2, 5, 4), [None, None, torch.tensor([4, 8])])
    assert [axis.target for axis in found] == [0, 4, 5, 8]


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize(("shape", "axes"), [((), [0]), ((), [-1]), ((2, 3), [2]), ((2, 3), [-3])])
def test_axes_that_the_input_has_not(policy, shape, axes):
    attributes = {"opset": 18, "keep_aspect_ratio_policy": policy, "axes": axes}
    with pytest.raises(Unsupported, match="dimensions"):
        axes_of(attributes, shape, [None, None, torch.tensor([4])])


@pytest.mark.parametrize("scale", [float("nan"), float("inf"), -1.0, 0.0])
def test_scales_that_are_none(scale):
    with pytest.raises(Unsupported, match="Resize by"):
        axes_of({"opset": 18}, (1, 2), [None, torch.tensor([1.0, scale])])
