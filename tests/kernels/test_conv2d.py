"""Convolutions against float64, whatever their shape, layout, batch and instruction set."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

from accel.kernels._native import module as native
from accel.kernels._native import why_not
from accel.kernels.conv2d import conv2d, linear, op, pack
from accel.nn.conv import Conv2d, Linear, choose_packing
from tests.kernels.check import check_kernel

needs_native = pytest.mark.skipif(bool(why_not()), reason=why_not() or "native module is there")
WIDE = ("avx512", "amx")
# Largest error as a share of the largest value, against float64. On tile registers the error of a
# number is 4.4e-6 of the result's spread, so the few results of a small product may lie higher.
MAX_ERROR = 1e-5 if not why_not() and native.conv_isa() == "amx" else 5e-6

# batch, inputs, outputs, height, width, kernel, stride, padding
WINDOWS = [  # what processors without tile registers sum where the pixels lie
    (3, 24, 40, 8, 9, 5, 2, 2),  # rows of several images together
    (2, 41, 33, 13, 11, 2, 3, 0),  # pixels between windows that none reads
    (2, 326, 34, 12, 30, 3, 2, 1),  # two blocks of channels, the last of another length
    (1, 128, 32, 41, 75, 3, 2, 1),  # rows of results longer than what is written at once
    (5, 300, 70, 7, 7, 1, 1, 0),  # few pixels, so turned
    (2, 330, 66, 19, 12, 1, 2, 0),
    (2, 36, 70, 50, 61, 1, 1, 0),  # results beyond the cache, if not those of one image alone
]
SHAPES = [
    (2, 64, 64, 16, 16, 3, 1, 1),
    (1, 320, 96, 17, 13, 3, 1, 1),  # fills neither tile nor panel, three blocks of channels
    (2, 65, 70, 9, 13, 3, 1, 0),
    (3, 5, 3, 6, 7, 3, 1, 1),
    (1, 3, 64, 33, 47, 3, 1, 1),
    (1, 48, 32, 4, 4, 3, 1, 2),
    (2, 7, 9, 1, 1, 3, 1, 1),
    (1, 130, 33, 11, 14, 3, 2, 1),
    (2, 3, 40, 32, 31, 5, 2, 2),
    (1, 64, 96, 20, 30, 1, 1, 0),
    (2, 300, 20, 5, 5, 1, 2, 0),
    (1, 40, 48, 23, 37, 1, 3, 0),
    (1, 3, 16, 31, 30, 7, 1, 3),
    (3, 33, 65, 21, 23, 3, 1, 1),  # one channel and one output more than a tile
    (5, 40, 7, 9, 5, 4, 3, 1),  # rows and columns left over by the stride
    (2, 20, 20, 5, 5, 3, 1, 4),  # more padding than kernel
    (2, 600, 40, 3, 3, 3, 2, 1),  # several chains of products
    (2, 3, 64, 64, 61, 3, 2, 1),  # few inputs, then few outputs
    (1, 4, 70, 40, 35, 3, 1, 1),
    (2, 6, 40, 9, 45, 7, 3, 3),
    (1, 200, 3, 21, 50, 3, 1, 1),
    (2, 70, 8, 19, 37, 5, 2, 2),
    (1, 64, 64, 9, 150, 3, 1, 1),  # rows longer than what is turned at once
    (1, 2, 3, 5, 40, 4, 1, 5),  # more padding than kernel
    (2, 16, 48, 21, 35, 3, 1, 1),  # channels that fill half a tile
    (1, 44, 24, 18, 50, 3, 2, 1),  # a tile and a part of half of one
    (1, 336, 40, 16, 17, 3, 1, 1),  # many of them, and half of one, in two chains
    (2, 64, 64, 20, 30, 1, 1, 0),  # short sums that tile registers leave to vectors
    (2, 96, 48, 23, 37, 1, 1, 0),
    (1, 16, 96, 21, 19, 1, 2, 0),
    *WINDOWS,
]
EMPTY = [(0, 8, 8, 4, 4, 3, 1, 1), (0, 8, 8, 4, 4, 1, 1, 0)]


def inputs(shape, layout=torch.contiguous_format, dtype=torch.float32, seed=0):
    """x, weight, bias, residual, and the rest of the op's arguments."""
    make = torch.Generator().manual_seed(seed)
    batch, ins, outs, height, width, kernel, stride, padding = shape
    h, w = ((s + 2 * padding - kernel) // stride + 1 for s in (height, width))

    def random(*sizes):
        return torch.randn(*sizes, generator=make).to(dtype)

    x = random(batch, ins, height, width).contiguous(memory_format=layout)
    weight = random(outs, ins, kernel, kernel) / (ins * kernel * kernel) ** 0.5
    residual = random(batch, outs, h, w).contiguous(memory_format=layout)
    return [x, weight, random(outs), residual, stride, padding, 1, 0.1]


def in_float64(x, weight, bias, residual, stride, padding, groups, slope):
    out = F.conv2d(x.double(), weight.double(), bias.double(), stride, padding)
    return F.leaky_relu(out + residual.double(), slope)


def error(got, expected):
    return float((got.double() - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_error_against_float64(shape, layout):
    args = inputs(shape, layout)
    got = op.run(*args)
    assert error(got, in_float64(*args)) <= MAX_ERROR
    assert got.is_contiguous(memory_format=layout)


@pytest.mark.parametrize("shape", EMPTY, ids=str)
def test_nothing_to_do(shape):
    assert "reference" in check_kernel(op, inputs(shape))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_other_dtypes_are_torchs(dtype):
    args = inputs((1, 8, 8, 6, 6, 3, 1, 1), dtype=dtype)
    assert check_kernel(op, args, rtol=2e-2, atol=2e-2) == ["reference"]
    assert conv2d(*args[:3], padding=1).dtype == dtype


@needs_native
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_bytes_do_not_depend_on_batch_threads_or_layout(shape):
    x, weight, bias, residual, *rest = inputs((5, *shape[1:]))
    before, results = torch.get_num_threads(), []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        results.append(op.run(x, weight, bias, residual, *rest))
    torch.set_num_threads(before)
    results.append(
        torch.cat(
            [op.run(x[i : i + 1], weight, bias, residual[i : i + 1], *rest) for i in range(5)]
        )
    )
    last = torch.channels_last
    results.append(
        op.run(x.to(memory_format=last), weight, bias, residual.to(memory_format=last), *rest)
    )
    assert all(torch.equal(results[0], other) for other in results[1:])


@needs_native
@pytest.mark.parametrize("shape", [*SHAPES, (1, 320, 260, 12, 12, 3, 1, 1)], ids=str)
def test_bytes_do_not_depend_on_packing(shape):
    for layout in (torch.contiguous_format, torch.channels_last):
        args = inputs(shape, layout)
        assert torch.equal(op.run(*args, pack(args[1], args[4])), op.run(*args))


@needs_native
def test_packed_weights_that_are_not_of_the_call():
    x, weight, *_ = inputs((1, 40, 40, 9, 9, 3, 1, 1))
    packed = pack(weight)
    assert torch.equal(conv2d(x, 2 * weight, packed=packed), conv2d(x, 2 * weight))
    with pytest.raises(ValueError, match="must have the size"):
        conv2d(x, weight[:32], packed=packed)
    with pytest.raises(ValueError, match="must have the size"):
        conv2d(x, weight, stride=2, packed=packed[1:])
    apart = torch.empty(len(packed) + 1)[1:].copy_(packed)
    with pytest.raises(ValueError, match="multiple of 64 bytes"):
        conv2d(x, weight, packed=apart)


def test_packing_refuses():
    with pytest.raises(ValueError, match="weight must be 4-D and stride at least 1"):
        pack(torch.zeros(3, 3))
    assert pack(torch.zeros(0, 3, 3, 3)) is None
    assert pack(torch.zeros(8, 8, 3, 3, dtype=torch.float16)) is None


@needs_native
def test_many_panels_and_few_on_threads():
    """Both ways of sharing the work: whole blocks to a thread, and blocks shared by all."""
    before = torch.get_num_threads()
    for outs in (4, 200):
        x, weight, bias, *_ = inputs((2, 16, outs, 96, 96, 3, 1, 1))
        torch.set_num_threads(1)
        alone = conv2d(x, weight, bias, padding=1)
        torch.set_num_threads(3)
        assert torch.equal(conv2d(x, weight, bias, padding=1), alone)
        torch.set_num_threads(before)


@needs_native
def test_a_bias_for_each_image():
    for kernel, stride in ((1, 1), (3, 1), (3, 2), (1, 2)):
        for layout in (torch.contiguous_format, torch.channels_last):
            x, weight, *_ = inputs((3, 12, 40, 7, 9, kernel, stride, 0), layout)
            bias = torch.randn(3, 40)
            expected = conv2d(x, weight, stride=stride) + bias[:, :, None, None]
            torch.testing.assert_close(conv2d(x, weight, bias, stride=stride), expected)


@needs_native
@pytest.mark.parametrize("depth", [4, 27, 64, 129, 320, 2880])
def test_error_of_plain_sums(depth):
    """No bias or residual to hide behind; also values of one sign, whose errors add up."""
    make = torch.Generator().manual_seed(0)
    for scale, positive in ((1.0, False), (1.0, True), (1e30, False), (1e-30, False)):
        x, weight = torch.randn(300, depth, generator=make), torch.randn(200, depth, generator=make)
        x = (x.abs() if positive else x) * scale
        assert error(linear(x, weight), F.linear(x.double(), weight.double())) < MAX_ERROR


@needs_native
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("kernel", [1, 3])
def test_what_is_not_finite_reaches_what_it_reaches_in_the_reference(kernel, bad):
    x, weight, bias, residual, *rest = inputs((2, 20, 40, 13, 13, kernel, 1, kernel // 2))
    x[1, 3, 5, 6] = bad
    x[0, 0, 0, 0] = bad
    got, expected = (run(x, weight, bias, residual, *rest) for run in (op.run, op.reference))
    torch.testing.assert_close(got, expected, equal_nan=True, rtol=1e-4, atol=1e-4)


@needs_native
def test_large_values_do_not_overflow_inside():
    x, weight = torch.full((1, 4, 8, 8), 2e38), torch.zeros(4, 4, 3, 3)
    weight[:, :, 1, 1] = 0.25
    torch.testing.assert_close(conv2d(x, weight, padding=1), x)


def test_relu_of_infinity():
    x = torch.full((1, 1, 4, 4), float("inf"))
    assert torch.equal(conv2d(x, -torch.ones(1, 1, 1, 1), slope=0.0), torch.zeros(1, 1, 4, 4))


@needs_native
def test_strides_and_offsets_that_no_kernel_takes():
    x, weight, *_ = inputs((2, 8, 8, 12, 12, 3, 1, 1))
    expected = conv2d(x.contiguous(), weight, padding=1)
    apart = torch.zeros(2, 16, 24, 12)[:, ::2, ::2]
    apart.copy_(x)
    assert torch.equal(conv2d(apart, weight, padding=1), expected)
    shifted = torch.zeros(x.numel() + 1)[1:].view_as(x).copy_(x)  # 4 bytes past an even address
    assert torch.equal(conv2d(shifted, weight, padding=1), expected)


@pytest.mark.parametrize("kernel", [1, 3])
def test_groups_are_torchs(kernel):
    x, weight = torch.randn(1, 8, 6, 6), torch.randn(6, 4, kernel, kernel)
    torch.testing.assert_close(conv2d(x, weight, groups=2), F.conv2d(x, weight, groups=2))


@pytest.mark.parametrize(
    "size", [(1, 1, 1), (2, 320, 64), (77, 33, 130), (2, 5, 768, 100)], ids=str
)
def test_linear(size):
    *rows, depth, outs = size
    torch.manual_seed(0)  # of one result, what bias and residual take away grows its error
    x, weight, bias = torch.randn(*rows, depth), torch.randn(outs, depth), torch.randn(outs)
    residual = torch.randn(*rows, outs)
    expected = F.linear(x.double(), weight.double(), bias.double()) + residual
    assert error(linear(x, weight, bias, residual), expected) < MAX_ERROR


@needs_native
def test_bytes_of_linear_do_not_depend_on_the_batch():
    x, weight = torch.randn(50, 300), torch.randn(70, 300)
    rows = torch.cat([linear(row[None], weight) for row in x])
    assert torch.equal(linear(x, weight), rows)


@pytest.mark.parametrize(
    "make", [torch.randn(0, 8), torch.randn(2, 0, 8)], ids=lambda t: str(t.shape)
)
def test_linear_of_nothing(make):
    assert linear(make, torch.randn(5, 8)).shape == (*make.shape[:-1], 5)


@pytest.mark.parametrize("shape", [s for s in SHAPES if s[0] == 2] + [SHAPES[5]], ids=str)
def test_gradients_are_torchs(shape):
    args = inputs(shape)
    grads = []
    for run in (lambda *a: torch.ops.accel.conv2d(*a), op.reference):
        tensors = [t.clone().requires_grad_() for t in args[:4]]
        out = run(*tensors, *args[4:])
        out.backward(torch.sin(torch.arange(out.numel()).float()).view_as(out))
        grads.append([t.grad for t in tensors])
    for ours, theirs in zip(*grads):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_registration():
    args = inputs((1, 4, 6, 5, 5, 3, 1, 1))
    torch.library.opcheck(torch.ops.accel.conv2d.default, args)


def test_modules_are_torchs_modules():
    for ours, theirs, x in [
        (Conv2d(3, 8, 3, padding=1), torch.nn.Conv2d(3, 8, 3, padding=1), torch.randn(1, 3, 9, 9)),
        (Conv2d(4, 8, 3, groups=2), torch.nn.Conv2d(4, 8, 3, groups=2), torch.randn(1, 4, 9, 9)),
        (Conv2d(4, 8, 3, dilation=2), torch.nn.Conv2d(4, 8, 3, dilation=2), torch.randn(4, 9, 9)),
        (Conv2d(4, 4, 3, padding="same"), torch.nn.Conv2d(4, 4, 3, padding="same"),
         torch.randn(1, 4, 9, 9)),
        (Linear(7, 5), torch.nn.Linear(7, 5), torch.randn(2, 3, 7)),
    ]:  # fmt: skip
        ours.load_state_dict(theirs.state_dict())
        torch.testing.assert_close(ours(x), theirs(x))


def test_a_changed_weight_is_used():
    layer, x = Conv2d(4, 4, 3), torch.randn(1, 4, 6, 6)
    before = layer(x)
    with torch.no_grad():
        layer.weight.mul_(2)
        layer.bias.mul_(2)
    torch.testing.assert_close(layer(x), 2 * before)


@needs_native
@pytest.mark.parametrize(
    "make", [lambda: Conv2d(40, 70, 3, padding=1), lambda: Linear(40, 70)], ids=["conv", "linear"]
)
def test_a_layer_packs_once(make):
    layer = make().requires_grad_(False)
    x = torch.randn(2, 40, 9, 9) if isinstance(layer, Conv2d) else torch.randn(5, 40)

    def kept():
        return layer._packed and layer._packed[2]

    alone = layer(x)
    assert kept() is None  # it may be called once only
    assert torch.equal(layer(x), alone)
    first = kept()
    layer(x)
    assert kept() is first is not None
    before = layer.weight  # alive, though no longer the layer's
    for change in (
        lambda: layer.weight.mul_(2),
        lambda: layer.weight.data.mul_(2),  # of which the tensor's version does not tell
        lambda: setattr(layer, "weight", torch.nn.Parameter(layer.weight.clone() * 2)),
        lambda: layer.load_state_dict(make().state_dict()),
    ):
        change()
        fresh = copy.deepcopy(layer)
        assert fresh._packed is None
        results = [layer(x) for _ in range(3)]
        assert layer.weight is before or not torch.equal(layer.weight, before)
        assert all(torch.equal(result, fresh(x)) for result in results)
    assert pickle.loads(pickle.dumps(layer))._packed is None
    assert "_packed" not in layer.state_dict()


def test_layers_that_are_trained_or_large_do_not_pack():
    layer, x = Conv2d(40, 40, 3), torch.randn(1, 40, 5, 5)
    for _ in range(3):
        layer(x).sum().backward()
    assert layer._packed is None
    network = torch.nn.Sequential(layer, Linear(3, 3)).requires_grad_(False)
    assert not choose_packing(network, layer.weight.nbytes)
    for _ in range(3):
        network(x)
    assert layer._packed is None
    assert choose_packing(network)
    assert layer.keeps_packed


def test_layers_compile_as_a_whole_where_nothing_is_recorded():
    layers = torch.nn.Sequential(Conv2d(3, 8, 3, stride=2, padding=1), Conv2d(8, 4, 1))
    compiled = torch.compile(layers, backend="eager", fullgraph=True)
    x = torch.randn(2, 3, 9, 9)
    with torch.no_grad():
        for _ in range(3):
            assert torch.equal(compiled(x), layers(x))


def test_training_lowers_the_loss():
    torch.manual_seed(0)
    layers = torch.nn.Sequential(Conv2d(3, 16, 5, 2, 2), Conv2d(16, 8, 3, padding=1))
    x, wanted = torch.randn(2, 3, 16, 16), torch.randn(2, 8, 8, 8)
    optimizer = torch.optim.Adam(layers.parameters(), 1e-2)
    losses = []
    for _ in range(20):
        loss = F.mse_loss(layers(x), wanted)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


@needs_native
@pytest.mark.skipif("ACCEL_CONV_ISA" in os.environ, reason="one of them is asked for already")
@pytest.mark.parametrize("isa", ["plain", "avx2", "avx512"])
def test_other_processors(isa):
    """The variable asks for less than the processor has; what it has not is never taken."""
    code = f"""
import torch
from tests.kernels import test_conv2d as t
from accel.kernels._native import module
print(module.conv_isa())
for shape in {SHAPES[:4] + SHAPES[7:10]!r}:
    for layout in (torch.contiguous_format, torch.channels_last):
        t.test_error_against_float64(shape, layout)
t.test_what_is_not_finite_reaches_what_it_reaches_in_the_reference(3, float("nan"))
t.test_many_panels_and_few_on_threads()
t.test_a_bias_for_each_image()
for shape in {WINDOWS!r}:
    for layout in (torch.contiguous_format, torch.channels_last):
        t.test_error_against_float64(shape, layout)
    t.test_bytes_do_not_depend_on_batch_threads_or_layout(shape)
    t.test_bytes_do_not_depend_on_packing(shape)
for shape in {SHAPES[:4] + SHAPES[7:11]!r}:
    t.test_bytes_do_not_depend_on_packing(shape)
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"ACCEL_CONV_ISA": isa},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    has = {"plain": True, "avx2": native.has_avx2(), "avx512": native.conv_isa() in WIDE}
    assert done.stdout.strip() == (isa if has[isa] else "plain")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x, w: conv2d(x[0], w), "must be 4-D"),
        (lambda x, w: conv2d(x, w, stride=0), "stride and groups must be at least 1"),
        (lambda x, w: conv2d(x, w[:, :3]), r"weight must be \[O, 4 / groups"),
        (lambda x, w: conv2d(x[:, :, :2], w), "must fit into the padded x"),
        (lambda x, w: conv2d(x, w, torch.zeros(9)), r"bias must be \[6\] or \[1, 6\], got \[9\]"),
        (lambda x, w: conv2d(x, w, residual=x), r"residual must be \[1, 6, 3, 3\]"),
        (lambda x, w: linear(x, w[:, :, 0, 0]), r"x must be \[..., K\]"),
    ],
)
def test_refuses(call, message):
    with pytest.raises(ValueError, match=message):
        call(torch.zeros(1, 4, 5, 5), torch.zeros(6, 4, 3, 3))


@pytest.mark.parametrize("inputs", [16, 17, 128, 129])
@pytest.mark.parametrize("outputs", [64, 65])
@pytest.mark.parametrize(("stride", "padding"), [(1, 0), (2, 0), (1, 1), (2, 1)])
def test_points_on_either_side_of_the_choice(inputs, outputs, stride, padding):
    """Where tile registers are there, short sums with few outputs are not for them."""
    generator = torch.Generator().manual_seed(inputs * outputs)
    x = torch.randn(3, inputs, 13, 11, generator=generator)
    weight = torch.randn(outputs, inputs, 1, 1, generator=generator)
    exact = F.conv2d(x.double(), weight.double(), stride=stride, padding=padding)
    packed = pack(weight, stride)
    for layout in (torch.contiguous_format, torch.channels_last):
        given = x.contiguous(memory_format=layout)
        made = op(given, weight, None, None, stride, padding, 1, 1.0, packed)
        assert error(made, exact) <= MAX_ERROR
        assert torch.equal(made, op(given, weight, None, None, stride, padding, 1, 1.0))
        alone = op(given[1:2], weight, None, None, stride, padding, 1, 1.0, packed)
        assert torch.equal(alone, made[1:2])
