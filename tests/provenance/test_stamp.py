"""Label and mark in one call: the same samples as one after the other, whatever the frames are."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from accel.kernels import Planes, _native, gbr_layout, yuv_layout
from accel.provenance.label import Label
from accel.provenance.stamp import Stamp
from accel.provenance.watermark import Mark

needs_native = pytest.mark.skipif(_native.module is None, reason=_native.reason)


def frame(height, width, bits=8, interleaved=False, rgb=False, shift=1) -> Planes:
    draw = torch.Generator().manual_seed(height)
    kind = torch.uint8 if bits == 8 else torch.uint16
    layout = gbr_layout(bits=bits) if rgb else yuv_layout(bits=bits, shift_x=shift, shift_y=shift)
    by = 0 if rgb else shift

    def plane(rows, columns):
        return torch.randint(0, 1 << bits, (rows, columns), generator=draw).to(kind)

    small = tuple(-(-side // (1 << by)) for side in (height, width))
    if interleaved:
        both = plane(small[0], 2 * small[1])
        return Planes(plane(height, width), both[:, ::2], both[:, 1::2], layout)
    return Planes(plane(height, width), plane(*small), plane(*small), layout)


def same(one: Planes, other: Planes) -> bool:
    return all(torch.equal(a.int(), b.int()) for a, b in zip(one[:3], other[:3]))


KINDS = [
    {}, {"bits": 10}, {"interleaved": True}, {"interleaved": True, "bits": 10}, {"rgb": True},
    {"rgb": True, "bits": 12},
]  # fmt: skip


@needs_native
@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("size", [(360, 640), (272, 480), (90, 66), (4, 4)], ids=str)
def test_one_call_writes_what_two_steps_write(size, kind):
    planes = frame(*size, **kind)
    assert planes.c1.stride(1) == 1 + kind.get("interleaved", False)
    for label, mark in (
        (Label("face_swap", language="en"), Mark("c0ffee123456")),
        (None, Mark("c0ffee123456")),
        (Label("edit", language="ko"), None),
    ):
        stamp = Stamp(label, mark, still=True)
        got, expected = frame(*size, **kind), frame(*size, **kind)
        stamp.put(got)
        if label:
            label.draw(expected)
        if mark:
            mark.add(expected, still=True)
        assert same(got, expected)
        assert size == (4, 4) or not same(got, planes)


@needs_native
def test_frames_of_another_kind_get_a_label_and_a_mark_of_their_own():
    stamp, mark = Stamp(None, Mark("c0ffee123456")), Mark("c0ffee123456")
    for planes in (frame(360, 640), frame(180, 320), frame(180, 320, bits=10), frame(360, 640)):
        got, expected = planes.clone(), planes.clone()
        stamp.put(got)
        mark.add(expected)
        assert same(got, expected)


@needs_native
def test_a_stamp_refuses_planes_it_does_not_fit():
    stamp = Stamp(Label("edit", language="en"), Mark("c0ffee123456"))
    planes = frame(360, 640)
    stamp.put(planes)
    assert stamp._at_once is not None
    for c0 in (planes.c0[:20, :20], planes.c0.to(torch.uint16), planes.c0[0], planes.c0.float()):
        with pytest.raises((ValueError, TypeError)):
            stamp._at_once(c0, planes.c1, planes.c2)
    damaged = replace(planes.layout, bits=10)
    with pytest.raises(ValueError, match="bits"):
        Stamp(None, Mark("c0ffee123456")).put(planes._replace(layout=damaged))
