"""Graphs as torch writes them become native programs whole: norms, attention and activations that
were written out, convolutions of every kind, changes of shape. Against ONNX Runtime."""

from __future__ import annotations

import io
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from accel.kernels import _native
from accel.models.onnx import load_onnx

pytestmark = pytest.mark.skipif(_native.module is None, reason="needs the native module")


class Of(nn.Module):
    """A network from a function, with the layers that it uses."""

    def __init__(self, run, **layers):
        super().__init__()
        self.run = run
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, *x):
        return self.run(self, *x)


def exported(network, *inputs, opset=17):
    target = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network.eval(), inputs, target, opset_version=opset, dynamo=False,
            input_names=[f"x{i}" for i in range(len(inputs))],
        )  # fmt: skip
    return target.getvalue(), {f"x{i}": x.numpy() for i, x in enumerate(inputs)}


def native(network, *inputs, opset=17, tolerance=2e-5):
    """Compare with ONNX Runtime on one and two threads; return the kinds of the program's nodes."""
    torch.manual_seed(0)
    data, feeds = exported(network, *inputs, opset=opset)
    want = load_onnx(data, runtime="onnxruntime").run(feeds)
    ours = load_onnx(data, runtime="accel")
    got = ours.run(feeds)
    for name, array in want.items():
        assert got[name].shape == array.shape
        np.testing.assert_allclose(got[name], array, rtol=tolerance, atol=tolerance)
    tensors = {name: torch.from_numpy(array) for name, array in feeds.items()}
    program = ours._plan.program(tensors)
    one, two = (program.run(tensors, threads) for threads in (1, 2))
    assert all(torch.equal(a, b) for a, b in zip(one, two))
    kinds = [node.kind for node in program.nodes]
    assert "python" not in kinds
    return kinds


def draw(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


class Heads(nn.Module):
    def __init__(self, width=24, heads=3, mask=None):
        super().__init__()
        self.qkv, self.out, self.heads, self.mask = (
            nn.Linear(width, 3 * width), nn.Linear(width, width), heads, mask,
        )  # fmt: skip

    def forward(self, x):
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=self.mask)
        return self.out(y.transpose(1, 2).reshape(b, n, c))


class TestAttention:
    def test_of_heads_cut_out_of_one_product(self):
        kinds = native(Heads(), draw(2, 37, 24))
        assert kinds.count("call") == 1

    def test_that_sees_earlier_keys_alone(self):
        mask = torch.full((9, 9), float("-inf")).triu(1)
        assert native(Heads(mask=mask), draw(1, 9, 24)).count("call") == 1

    def test_with_numbers_added_for_each_head(self):
        kinds = native(Heads(mask=draw(3, 9, 9)[None]), draw(2, 9, 24))
        assert kinds.count("call") == 1

    def test_over_the_pixels_of_a_picture(self):
        def run(self, x):
            b, c, h, w = x.shape
            q, k, v = (f(x).reshape(b, c, h * w) for f in (self.q, self.k, self.v))
            weights = F.softmax(torch.bmm(q.permute(0, 2, 1), k) * c**-0.5, dim=2)
            return x + torch.bmm(v, weights.permute(0, 2, 1)).reshape(b, c, h, w)

        layers = {name: nn.Conv2d(12, 12, 1) for name in "qkv"}
        native(Of(run, **layers), draw(2, 12, 7, 5))

    def test_whose_factor_is_a_number_for_each_head_is_left_as_it_is(self):
        def run(self, q, k, v):
            scores = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-2, -1)
            return (scores * self.scale).softmax(-1) @ v

        network = Of(run, scale=nn.Parameter(torch.tensor([2.0, 5.0])[:, None, None]))
        data, feeds = exported(network, draw(1, 2, 5, 8), draw(1, 2, 6, 8), draw(1, 2, 6, 4))
        want = load_onnx(data, runtime="onnxruntime").run(feeds)
        got = load_onnx(data, runtime="accel").run(feeds)
        for name, array in want.items():
            np.testing.assert_allclose(got[name], array, rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize(
        ("first", "second"),
        [("bhid,bhjd->bhij", "bhij,bhjd->bhid"), ("bhid,bhjd->bhij", "bhij,bhjd->bihd"),
         ("bhid,bhjd->bhji", "bhji,bhjd->bhid")],
    )  # fmt: skip
    def test_by_sums_over_letters(self, first, second):
        def run(self, q, k, v):
            weights = (torch.einsum(first, q, k) * 0.3).softmax(-1)
            return torch.einsum(second, weights, v)

        kinds = native(Of(run), draw(2, 3, 7, 8), draw(2, 3, 7, 8), draw(2, 3, 7, 8))
        assert kinds.count("call") <= 2


class TestNorms:
    @pytest.mark.parametrize("opset", [11, 17])
    @pytest.mark.parametrize("width", [1, 7, 64])
    def test_of_the_last_dimension(self, opset, width):
        layer = nn.LayerNorm(width, elementwise_affine=width != 7)
        assert "call" in native(Of(lambda m, x: m.f(x), f=layer), draw(3, 5, width), opset=opset)

    @pytest.mark.parametrize("silu", [False, True])
    def test_of_groups(self, silu):
        def run(self, x):
            y = self.norm(self.conv(x))
            return F.silu(y) if silu else y + x

        network = Of(run, conv=nn.Conv2d(12, 12, 3, 1, 1), norm=nn.GroupNorm(3, 12))
        nn.init.normal_(network.norm.weight)
        kinds = native(network, draw(2, 12, 9, 6))
        assert kinds.count("call") == 1
        assert kinds.count("combine") == (0 if silu else 1)

    def test_of_a_batch_that_no_convolution_takes_in(self):
        norm = nn.BatchNorm2d(5)
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
        assert native(Of(lambda m, x: F.relu(m.f(x)), f=norm), draw(2, 5, 4, 3)).count("combine")

    def test_batch_norms_that_share_a_scale_and_no_mean(self):
        def run(self, x):
            return self.a(F.relu(self.b(x)))

        network = Of(run, a=nn.BatchNorm2d(4), b=nn.BatchNorm2d(4))
        network.a.running_mean.fill_(3)
        native(network, draw(1, 4, 3, 3))


POINTWISE = {
    "gelu": F.gelu, "gelu by tanh": lambda x: F.gelu(x, approximate="tanh"), "silu": F.silu,
    "quick gelu": lambda x: x * torch.sigmoid(1.702 * x), "hardswish": F.hardswish, "elu": F.elu,
    "mish": F.mish, "softplus": F.softplus, "abs": torch.abs, "exp": torch.exp, "erf": torch.erf,
    "root": lambda x: x.abs().sqrt(), "log": lambda x: (x * x + 0.1).log(),
    "reciprocal": lambda x: torch.reciprocal(x * x + 1), "negative": lambda x: -x,
    "square": lambda x: x**2, "larger": lambda x: torch.maximum(x, x.flip(0)[:1] * 0 + 0.3),
}  # fmt: skip


@pytest.mark.parametrize("name", POINTWISE)
@pytest.mark.parametrize("opset", [11, 17])
def test_functions_of_single_numbers(name, opset):
    if name == "larger":
        data, feeds = exported(Of(lambda m, x, y: torch.maximum(x, y)), draw(2, 3), draw(1, 3))
        ours, peer = (load_onnx(data, runtime=r).run(feeds) for r in ("accel", "onnxruntime"))
        np.testing.assert_array_equal(*(next(iter(r.values())) for r in (ours, peer)))
        return
    kinds = native(Of(lambda m, x: POINTWISE[name](x * 3)), draw(2, 5, 3, 7), opset=opset)
    assert set(kinds) <= {"combine", "copy"}


def test_an_activation_that_conv2d_has_not_is_applied_to_what_it_made():
    network = Of(lambda m, x: F.silu(m.f(x)), f=nn.Conv2d(64, 64, 3, 1, 1))
    kinds = native(network, draw(1, 64, 16, 16))
    assert kinds.count("conv2d") == 1
    assert kinds.count("combine") == 1


CONVOLUTIONS = {
    "grouped": (nn.Conv2d(12, 18, 3, 1, 1, groups=3), 12),
    "many groups": (nn.Conv2d(32, 64, 3, 2, 1, groups=16), 32),
    "wide groups": (nn.Conv2d(128, 128, 3, 1, 1, groups=2), 128),
    "wide groups, uneven": (
        nn.Sequential(nn.ZeroPad2d((1, 0, 0, 1)), nn.Conv2d(128, 128, 3, groups=2)), 128
    ),
    "two for each channel": (nn.Conv2d(6, 12, 3, 1, 1, groups=6), 6),
    "dilated": (nn.Conv2d(5, 7, 3, 2, 3, dilation=3), 5),
    "depthwise, dilated": (nn.Conv2d(9, 9, 3, 1, 2, dilation=2, groups=9), 9),
    "depthwise, seven": (nn.Conv2d(19, 19, 7, 1, 3, groups=19), 19),
    "one row": (nn.Conv2d(4, 6, (1, 7), 1, (0, 3)), 4),
    "transposed": (nn.ConvTranspose2d(6, 5, 4, 2, 1), 6),
    "transposed, three": (nn.ConvTranspose2d(6, 20, 3, 2, 1, 1), 6),
    "transposed, apart": (nn.ConvTranspose2d(6, 3, 2, 3, 0, 1), 6),
    "transposed, dilated": (nn.ConvTranspose2d(3, 4, 3, 2, 2, dilation=2), 3),
    "transposed, wide": (nn.ConvTranspose2d(256, 64, 4, 2, 1), 256),
}  # fmt: skip


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions(name):
    layer, inputs = CONVOLUTIONS[name]
    network = Of(
        lambda m, x: F.prelu(m.f(x), m.slope), f=layer, slope=nn.Parameter(torch.ones(1) / 5)
    )
    native(network, draw(2, inputs, 17, 13), tolerance=5e-5)


def test_a_transposed_convolution_takes_in_the_batch_norm_behind_it():
    norm = nn.BatchNorm2d(5)
    norm.running_mean.normal_()
    network = Of(lambda m, x: F.relu(m.n(m.f(x))), f=nn.ConvTranspose2d(3, 5, 4, 2, 1), n=norm)
    assert "combine" not in native(network, draw(1, 3, 6, 7))


def test_a_convolution_by_weights_that_the_run_computes():
    def run(self, x, style):
        weight = self.w * self.m(style).view(1, 1, -1, 1, 1)
        rate = torch.rsqrt(weight.pow(2).sum([2, 3, 4]) + 1e-8)
        weight = (weight * rate.view(1, -1, 1, 1, 1)).view(-1, x.shape[1], 3, 3)
        return F.leaky_relu(F.conv2d(x, weight, padding=1), 0.2)

    network = Of(run, w=nn.Parameter(draw(1, 10, 6, 3, 3)), m=nn.Linear(4, 6))
    assert "conv2d" in native(network, draw(1, 6, 9, 11), draw(1, 4))


def shuffled(x, groups=2):
    b, c, h, w = x.shape
    return x.view(b, groups, c // groups, h, w).transpose(1, 2).reshape(b, c, h, w)


SHAPES = {
    "reflected": lambda x: F.pad(x, (2, 1, 3, 0), mode="reflect"),
    "repeated edge": lambda x: F.pad(x, (2, 1, 3, 0), mode="replicate"),
    "pixel shuffle": lambda x: F.pixel_shuffle(x, 2),
    "channel shuffle": shuffled,
    "windows": lambda x: x.view(2, 8, 3, 2, 2, 3).permute(0, 2, 4, 3, 5, 1).reshape(-1, 6, 8),
    "heads of anchors": lambda x: x.view(2, 2, 4, 6, 6).permute(0, 1, 3, 4, 2).reshape(2, -1, 4),
    "one of them": lambda x: x.permute(1, 0, 2, 3)[3] * 2,
    "one pixel": lambda x: x[:, :, 2, 4] + 1,
    "softmax": lambda x: x.softmax(-1), "log softmax": lambda x: x.flatten(1).log_softmax(1),
    "softmax of two": lambda x: x.reshape(-1, 2).softmax(-1),
    "largest": lambda x: x.amax((2, 3)), "smallest": lambda x: x.amin(-1, keepdim=True),
    "sum": lambda x: x.sum((1, 2, 3)), "length": lambda x: x.flatten(2).norm(dim=2),
    "mean of lines": lambda x: x - x.mean(-1, keepdim=True),
    "a number for each pixel": lambda x: x * x[:, :1],
    "both sides repeated": lambda x: x[:, :1] * x[:1, :, :1],
    "widened": lambda x: x[:, :, :1, :1].expand(2, 8, 6, 6) + x,
}  # fmt: skip


@pytest.mark.parametrize("name", SHAPES)
def test_changes_of_shape_and_sums(name):
    network = Of(lambda m, x: SHAPES[name](m.f(x)), f=nn.Conv2d(8, 8, 3, 1, 1))
    native(network, draw(2, 8, 6, 6))


def test_nan_and_infinity_come_through_softmax_and_the_largest():
    network = Of(lambda m, x: (x.softmax(-1), x.amax(-1), x.amin(-1), torch.maximum(x, x * 0 + 1)))
    x = draw(4, 21)
    x[1, 3], x[2, 20], x[3, 0] = float("nan"), float("inf"), float("-inf")
    data, feeds = exported(network, x)
    got = load_onnx(data, runtime="accel").run(feeds)
    want = load_onnx(data, runtime="onnxruntime").run(feeds)
    for name, array in want.items():
        np.testing.assert_allclose(got[name], array, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("layer", ["heads", "transposed", "groups"])
def test_an_item_of_a_batch_has_the_bytes_it_has_alone(layer):
    network, x = {
        "heads": (Heads(), draw(3, 21, 24)),
        "transposed": (nn.ConvTranspose2d(8, 5, 4, 2, 1), draw(3, 8, 9, 7)),
        "groups": (nn.Conv2d(16, 16, 3, 1, 1, groups=4), draw(3, 16, 9, 7)),
    }[layer]
    target = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network, (x,), target, dynamo=False, opset_version=17, input_names=["x"],
            dynamic_axes={"x": {0: "n"}},
        )  # fmt: skip
    ours = load_onnx(target.getvalue(), runtime="accel")
    (together,) = ours.run({"x": x.numpy()}).values()
    (alone,) = ours.run({"x": x[1:2].numpy()}).values()
    np.testing.assert_array_equal(together[1:2], alone)
