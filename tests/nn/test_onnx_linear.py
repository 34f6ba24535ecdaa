"""What graphs do around products and attention: vectors and norms that a product takes in, numbers
that are added to scores, norms of channels, means of inner dimensions. Against ONNX Runtime."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from onnx import helper, numpy_helper
from torch import nn

from accel.kernels import _native
from accel.models.onnx import load_onnx
from tests.nn.test_onnx_fused import Of, draw, exported, native

pytestmark = pytest.mark.skipif(_native.module is None, reason="needs the native module")


def norm_of(width):
    norm = nn.BatchNorm1d(width)
    norm.running_mean.copy_(draw(width) * 0.3)
    norm.running_var.copy_(draw(width).abs() + 0.5)
    norm.weight.data.copy_(draw(width + 1)[1:])
    return norm


class TestProducts:
    def test_take_in_what_is_added_and_multiplied(self):
        def run(self, x):
            return (self.a(x) * self.scale / 3 - self.shift).tanh()

        layers = {"a": nn.Linear(12, 20), "scale": draw(20), "shift": draw(21)[1:]}
        kinds = native(Of(run, **layers), draw(2, 9, 12))
        assert kinds == ["product"]

    def test_do_not_take_in_what_is_subtracted_from(self):
        native(Of(lambda self, x: self.c - self.a(x), a=nn.Linear(12, 20), c=draw(20)), draw(5, 12))

    def test_whose_sum_is_wanted_too_keep_it(self):
        def run(self, x):
            y = x @ self.w
            return y, y + self.b, (y + self.b) * self.b

        native(Of(run, w=draw(6, 8), b=draw(8)), draw(2, 5, 6))

    def test_take_in_the_batch_norm_of_their_rows(self):
        def run(self, x):
            y = self.a(x)
            y = self.n(y.flatten(0, 1)).reshape_as(y)
            return x + self.m(self.b(F.hardswish(y)).view(-1, 12)).view(2, 9, 12)

        layers = {"a": nn.Linear(12, 20), "n": norm_of(20), "b": nn.Linear(20, 12)}
        kinds = native(Of(run, m=norm_of(12), **layers), draw(2, 9, 12))
        assert set(kinds) == {"product"}

    @pytest.mark.parametrize(("channels", "outputs", "side"), [(512, 512, 14), (64, 1024, 14)])
    def test_of_many_channels_behind_a_depthwise_convolution(self, channels, outputs, side):
        """The depthwise one was left out: its input went straight into the wide product."""
        network = nn.Sequential(
            nn.Conv2d(3, channels, 1), nn.Conv2d(channels, channels, 3, 1, 1, groups=channels),
            nn.ReLU6(), nn.Conv2d(channels, outputs, 1),
        )  # fmt: skip
        native(network, draw(1, 3, side, side))


class Windows(nn.Module):
    """Attention within windows, some of whose pixels do not belong together."""

    def __init__(self, heads=2, width=16, windows=4, pixels=9, masked=-100.0, biased=True):
        super().__init__()
        self.heads, self.qkv = heads, nn.Linear(width, 3 * width)
        self.bias = draw(1, heads, pixels, pixels) if biased else None
        hidden = draw(windows, pixels, pixels) > 0.8
        self.mask = torch.zeros(windows, pixels, pixels).masked_fill(hidden, masked)

    def forward(self, x):
        _, n, c = x.shape
        q, k, v = (
            self.qkv(x)
            .reshape(-1, n, 3, self.heads, c // self.heads)
            .permute(2, 0, 3, 1, 4)
            .unbind(0)
        )
        scores = q * (c // self.heads) ** -0.5 @ k.transpose(-2, -1)
        scores = scores if self.bias is None else scores + self.bias
        each = scores.view(-1, len(self.mask), self.heads, n, n) + self.mask[None, :, None]
        return (each.view(-1, self.heads, n, n).softmax(-1) @ v).transpose(1, 2).reshape(-1, n, c)


class TestScores:
    @pytest.mark.parametrize("biased", [True, False])
    def test_of_windows_have_a_table_for_each(self, biased):
        assert native(Windows(biased=biased), draw(8, 9, 16)).count("call") == 1

    def test_of_windows_behind_each_other(self):
        data, feeds = exported(Windows(), draw(8, 9, 16))
        one = load_onnx(data, runtime="accel").run(feeds)
        two = load_onnx(data, runtime="accel").run({"x0": np.concatenate([feeds["x0"]] * 2)})
        for name, array in one.items():
            assert np.array_equal(two[name], np.concatenate([array] * 2))

    def test_with_values_of_another_width_and_a_table_of_heads(self):
        def run(self, x):
            y = self.qkv(x).view(2, 50, 3, 4 * 8)
            q, k, v = (t.permute(0, 2, 1, 3) for t in y.split([8, 8, 16], 3))
            weights = (q @ k.transpose(-2, -1) * 8**-0.5 + self.bias).softmax(-1)
            return (weights @ v).transpose(1, 2).reshape(2, 50, 48)

        kinds = native(Of(run, qkv=nn.Linear(24, 96), bias=draw(1, 3, 50, 50)), draw(2, 50, 24))
        assert kinds.count("call") == 1

    def test_that_hide_what_an_input_says(self):
        def run(self, x, seen):
            q, k, v = (f(x).view(2, 7, 3, 8).transpose(1, 2) for f in (self.q, self.k, self.v))
            hidden = (1 - seen)[:, None, None] * -10000.0
            scores = q @ k.transpose(-2, -1) / 8**0.5 + hidden
            return (scores.softmax(-1) @ v).transpose(1, 2).reshape(2, 7, 24)

        layers = {name: nn.Linear(24, 24) for name in "qkv"}
        seen = torch.ones(2, 7)
        seen[0, 4:], seen[1, 6:] = 0, 0
        assert native(Of(run, **layers), draw(2, 7, 24), seen).count("call") == 1

    def test_that_add_numbers_which_the_run_computes(self):
        def run(self, x):
            q, k, v = (f(x).view(2, 9, 3, 8).transpose(1, 2) for f in (self.q, self.k, self.v))
            return (q @ k.transpose(-2, -1) + self.b(x).view(2, 1, 9, 9)).softmax(-1) @ v

        layers = {name: nn.Linear(24, 24) for name in "qkv"}
        native(Of(run, b=nn.Linear(24, 9), **layers), draw(2, 9, 24))


def agree_with_torch(shape, keys, values, added, threads=1):
    b, h, n, d = shape
    q, k, v = draw(b, h, n, d), draw(b, h, keys, d), draw(b, h, keys, values)
    out = torch.empty(b, h, n, values)
    _native.module.attention(q, k, v, out, d**-0.5, False, threads, added)
    every = added.repeat(b // len(added), 1, 1, 1).double().expand(b, h, n, keys)
    want = F.scaled_dot_product_attention(q.double(), k.double(), v.double(), attn_mask=every)
    torch.testing.assert_close(out, want.float(), rtol=1e-5, atol=2e-6)
    return out


@pytest.mark.parametrize("of", [(4, 3, 49), (2, 3, 49), (1, 1, 49), (1, 3, 1), (1, 1, 1)])
@pytest.mark.parametrize(("keys", "width", "values"), [(49, 16, 16), (130, 40, 24), (7, 5, 70)])
def test_added_numbers_of_every_shape(of, keys, width, values):
    added = draw(*of, keys)
    one, two = (agree_with_torch((4, 3, 49, width), keys, values, added, t) for t in (1, 2))
    assert torch.equal(one, two)


def test_added_infinity_hides_and_nan_stays():
    added = torch.zeros(1, 1, 20, 33)
    added[..., 5:] = -torch.inf
    agree_with_torch((1, 2, 20, 8), 33, 8, added)
    added[..., 3, 2] = torch.nan
    q, out = draw(1, 2, 20, 8), torch.empty(1, 2, 20, 8)
    k = draw(1, 2, 33, 8)
    _native.module.attention(q, k, k, out, 1.0, False, 1, added)
    assert out[:, :, 3].isnan().all()
    assert not out[:, :, :3].isnan().any()


@pytest.mark.parametrize("shape", [(3, 2, 20, 33), (1, 3, 20, 33), (1, 1, 19, 33), (1, 1, 20, 1)])
def test_added_numbers_must_fit(shape):
    q, k, out = draw(4, 2, 20, 8), draw(4, 2, 33, 8), torch.empty(4, 2, 20, 8)
    with pytest.raises(ValueError, match="added must"):
        _native.module.attention(q, k, k, out, 1.0, False, 1, torch.zeros(shape))


class TestReductions:
    def test_norms_of_channels_that_were_written_out(self):
        def run(self, x):
            u = x.mean(1, keepdim=True)
            v = (x - u).pow(2).mean(1, keepdim=True)
            x = self.w[:, None, None] * ((x - u) / torch.sqrt(v + 1e-6)) + self.b[:, None, None]
            return self.c(x)

        layers = {"w": draw(12), "b": draw(13)[1:], "c": nn.Conv2d(12, 5, 1)}
        assert native(Of(run, **layers), draw(2, 12, 7, 5)).count("call") == 1

    def test_means_and_extremes_of_channels(self):
        def run(self, x):
            y = self.c(x)
            both = torch.cat([y.mean(1, keepdim=True), y.amax(1, keepdim=True)], 1)
            return y * torch.sigmoid(self.d(both)), y.mean(1)

        layers = {"c": nn.Conv2d(3, 12, 3, 1, 1), "d": nn.Conv2d(2, 1, 7, 1, 3)}
        native(Of(run, **layers), draw(2, 3, 9, 11))

    def test_means_of_rows(self):
        def run(self, x):
            y = self.a(x)
            return y.mean(1), y.view(2, 3, 4, 20).mean((1, 2)), y.mean(1, keepdim=True)

        native(Of(run, a=nn.Linear(6, 20)), draw(2, 12, 6))


@pytest.mark.parametrize(("opset", "scales"), [(18, 3), (21, 12)])
def test_group_norms_by_the_operator_of_that_name(opset, scales):
    """They were refused: ONNX says no sizes of them."""
    node = helper.make_node("GroupNormalization", ["x", "s", "b"], ["n"], num_groups=3)
    last = helper.make_node("Relu", ["n"], ["y"])
    values = {"s": draw(scales).numpy(), "b": draw(scales + 1)[1:].numpy()}
    ports = [[helper.make_tensor_value_info(n, 1, [2, 12, 5, 7])] for n in "xy"]
    made = [numpy_helper.from_array(v, n) for n, v in values.items()]
    whole = helper.make_graph([node, last], "g", *ports, made)
    model = helper.make_model(whole, opset_imports=[helper.make_opsetid("", opset)])
    model.ir_version = 10
    x = draw(2, 12, 5, 7)
    want = load_onnx(model.SerializeToString(), runtime="onnxruntime").run({"x": x})["y"]
    got = load_onnx(model.SerializeToString(), runtime="accel").run({"x": x})["y"]
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
    weight, bias = (torch.from_numpy(v).repeat_interleave(12 // scales) for v in values.values())
    torch_says = F.relu(F.group_norm(x, 3, weight, bias)).numpy()
    np.testing.assert_allclose(got, torch_says, rtol=1e-4, atol=1e-5)
