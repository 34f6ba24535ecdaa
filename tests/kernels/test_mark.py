"""mark: implementations agree, saturation, strided planes, samples left alone."""

from __future__ import annotations

import pytest
import torch

from accel.kernels._op import INTERPRETED
from accel.kernels.mark import mark, op

SHAPES = [(7, 33), (16, 64), (1, 1), (3, 1031)]  # fills no vector, fills them, one, over a block


def inputs(shape, bits=8, strided=False):
    draw = torch.Generator().manual_seed(shape[0] * 1000 + shape[1])
    top = (1 << bits) - 1
    dtype = torch.uint8 if bits == 8 else torch.uint16
    wide = (shape[0], shape[1] * 2) if strided else shape
    codes = torch.randint(0, top + 1, wide, generator=draw).to(dtype)
    codes = codes[:, ::2] if strided else codes
    pattern = torch.randint(-128, 128, shape, generator=draw).to(torch.int8)
    kept = torch.randint(0, 2, shape, generator=draw).bool()
    before = torch.where(kept, codes.int(), codes.int() ^ 1).to(dtype)
    return codes, pattern, before


def runs(codes, pattern, before, bits, begins=(0, 0)) -> list[str]:
    """Run each implementation on a copy with the strides of `codes`; compare with the reference."""
    args = (pattern, before, bits, *begins)

    def copy():
        spread = torch.empty(codes.shape[0], codes.shape[1] * codes.stride(1), dtype=codes.dtype)
        view = spread[:, :: codes.stride(1)]
        view.copy_(codes)
        return view

    expected = copy()
    op.reference(expected, *args)
    ran = []
    for implementation in op.implementations:
        if implementation.why_not(codes, *args):
            continue
        got = copy()
        implementation.run(got, *args)
        assert torch.equal(got.int(), expected.int()), implementation.name
        ran.append(implementation.name)
    return ran


@pytest.mark.parametrize("strided", [False, True], ids=["packed", "strided"])
@pytest.mark.parametrize("bits", [8, 10, 16])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_agrees_with_reference(shape, bits, strided):
    codes, pattern, before = inputs(shape, bits, strided)
    for was in (None, before):
        ran = runs(codes, pattern, was, bits)
        assert "reference" in ran
        assert "triton" in ran or not INTERPRETED


@pytest.mark.parametrize("bits", [8, 10])
@pytest.mark.parametrize("part", [(3, 16), (5, 11), (1, 1), (40, 90)], ids=str)
def test_a_pattern_is_repeated_from_any_of_its_samples(part, bits):
    codes, pattern, before = inputs((13, 75), bits)
    part = pattern[:1, :1].repeat(part) if part == (1, 1) else inputs(part, bits)[1]
    for begins in ((0, 0), (part.shape[0] - 1, part.shape[1] // 2)):
        times = [-(-(begin + size) // own)
                 for begin, size, own in zip(begins, codes.shape, part.shape)]  # fmt: skip
        spread = part.repeat(times)[begins[0] :, begins[1] :][:13, :75]
        expected = codes.clone()
        op.reference(expected, spread.contiguous(), None, bits, 0, 0)
        got = codes.clone()
        mark(got, part, bits=bits, top=begins[0], left=begins[1])
        assert torch.equal(got.int(), expected.int())
        for was in (None, before):
            ran = runs(codes, part, was, bits, begins)
            assert "triton" in ran or not INTERPRETED


def test_native_agrees_on_a_picture_of_many_rows():
    codes, pattern, before = inputs((540, 961))
    assert "native" in runs(codes, pattern, before, 8) or not op.implementations[1:]


def test_saturates_at_both_ends():
    plane = torch.tensor([[0, 3, 250, 255]], dtype=torch.uint8)
    mark(plane, torch.tensor([[-5, -3, 5, 100]], dtype=torch.int8))
    assert plane.tolist() == [[0, 0, 255, 255]]


def test_ten_bits_move_four_codes_at_a_time():
    plane = torch.tensor([[512, 1022, 1]], dtype=torch.uint16)
    mark(plane, torch.tensor([[1, 1, -1]], dtype=torch.int8), bits=10)
    assert plane.int().tolist() == [[516, 1023, 0]]


def test_samples_that_did_not_change_stay():
    plane = torch.full((4, 40), 100, dtype=torch.uint8)
    before = plane.clone()
    plane[1, 3:30] = 110
    mark(plane, torch.ones(4, 40, dtype=torch.int8), before=before)
    changed = plane != before
    assert int(changed.sum()) == 27
    assert plane[1, 3:30].eq(111).all()


@pytest.mark.parametrize(
    ("plane", "pattern", "bits", "kind", "text"),
    [
        ((4, 4), (0, 5), 8, ValueError, "must lie in the pattern"),
        ((4, 4), (4, 4, 1), 8, ValueError, "pattern \\[P, Q\\]"),
        ((4, 4), (4, 4), 7, ValueError, "bits must lie"),
        ((4, 4), (4, 4), 10, TypeError, "uint8 for 8 bits"),
    ],
)
def test_refuses(plane, pattern, bits, kind, text):
    with pytest.raises(kind, match=text):
        mark(
            torch.zeros(plane, dtype=torch.uint8),
            torch.zeros(pattern, dtype=torch.int8),
            bits=bits,
        )


def test_nothing_to_do():
    mark(torch.zeros(0, 8, dtype=torch.uint8), torch.zeros(0, 8, dtype=torch.int8))


@pytest.mark.parametrize(("top", "left"), [(-1, 0), (0, -1), (2, 0), (0, 3)])
def test_refuses_to_begin_beside_the_pattern(top, left):
    with pytest.raises(ValueError, match="must lie in the pattern"):
        mark(
            torch.zeros(4, 4, dtype=torch.uint8),
            torch.zeros(2, 3, dtype=torch.int8),
            top=top,
            left=left,
        )
