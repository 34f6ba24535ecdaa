"""Pictures out of eight-bit planes: every implementation against the reference."""

from __future__ import annotations

import os
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch

from accel.kernels import _native
from accel.kernels.cut import backward, cut, cut_jpeg, op
from tests.kernels.check import check_kernel

COLOR = np.array([[0.004, 0.001, -0.002, 0.1], [0.003, -0.001, 0.001, 0.2], [0.005, 0, 0.001, 0]])


def planes(height=90, width=120, seed=0):
    rng = np.random.default_rng(seed)
    sizes = (height, width), (-(-height // 2), -(-width // 2)), (-(-height // 2), -(-width // 2))
    return [torch.from_numpy(rng.integers(0, 256, s).astype(np.uint8)) for s in sizes]


def turned(scale, degrees=0.0, x=0.0, y=0.0):
    turn = np.deg2rad(degrees)
    c, s = scale * np.cos(turn), scale * np.sin(turn)
    luma = np.array([[c, -s, x], [s, c, y]])
    chroma = luma.copy()
    chroma[:, :2] *= 2
    return luma, chroma


CASES = {
    "enlarged": turned(1.7, 8, -20, -10),
    "as it is": turned(1.0),
    "shrunk": turned(0.3, 3, 10, 12),
    "upright": turned(1.1, 90, 80, 5),
    "on its head": turned(1.3, 181, 120, 100),
    "partly outside": turned(0.8, 20, 30, -40),
    "outside all around": turned(0.2, 20, 30, 25),
    "a corner of it far off": turned(1.4, 45, 60, -155),
    "one sample under all of it": turned(300, 3, -9000, -9000),
    "all outside": turned(1.0, 0, 5000, 0),
    "enlarged, over two borders": turned(1.6, 5, -125, -85),
    "enlarged, the other way round": turned(1.6, -170, 150, 140),
    "mirrored": tuple(m * [[-1], [1]] + [[0, 0, 70], [0, 0, 0]] for m in turned(1.2)),
}


@pytest.mark.parametrize("step", [1, 2])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_agrees_with_reference(case, step):
    args = op_args(case, 67, step)
    got = check_kernel(op, args, atol=1.01, rtol=0)
    assert "native" in got or "native" not in [i.name for i in op.implementations]
    check_kernel(op, op_args(case, 66, step, as_float=True), atol=2e-5, rtol=0)


def op_args(case, size, step, as_float=False):
    """The arguments of the op as the public function hands them over."""
    back = [backward("luma", case[0], 1), backward("chroma", case[1], step)]
    return [*planes(), *back, size, COLOR.ravel().tolist(), [16.0, 128.0, 128.0], step, as_float]


@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 3), (1, 40), (40, 1), (5, 17)])
def test_small_planes(height, width):
    found = planes(height, width)
    luma, chroma = turned(1.5, 10)
    picture = cut(*found, luma, chroma, 40, COLOR, [0, 0, 0])
    reference = op.reference(*_raw(found, luma, chroma, 40))
    assert (picture.int() - reference.int()).abs().max() <= 1


def _raw(found, luma, chroma, size):
    return (
        *found, backward("luma", luma, 1), backward("chroma", chroma, 1), size,
        COLOR.ravel().tolist(), [0.0, 0.0, 0.0], 1, False,
    )  # fmt: skip


def test_parts_of_larger_planes_are_read_where_they_lie():
    whole = planes(200, 300)
    parts = [whole[0][20:110, 40:160], whole[1][10:55, 20:80], whole[2][10:55, 20:80]]
    case = CASES["enlarged"]
    ours = cut(*parts, *case, 64, COLOR, [0, 0, 0])
    copied = cut(*[p.clone() for p in parts], *case, 64, COLOR, [0, 0, 0])
    assert torch.equal(ours, copied)


def test_interleaved_chroma_is_read_too():
    both = torch.from_numpy(np.random.default_rng(1).integers(0, 256, (45, 60, 2), dtype=np.uint8))
    luma = planes()[0]
    case = CASES["enlarged"]
    apart = cut(luma, both[..., 0], both[..., 1], *case, 64, COLOR, [0, 0, 0])
    copied = [both[..., i].contiguous() for i in (0, 1)]
    assert (apart.int() - cut(luma, *copied, *case, 64, COLOR, [0, 0, 0]).int()).abs().max() <= 1


def test_colour_of_a_square_is_that_of_its_middle():
    """A ramp of chroma: sampled once for 2 x 2 pixels it must not be shifted."""
    ramp = torch.arange(60, dtype=torch.uint8).expand(45, 60) * 4
    flat = torch.zeros(90, 120, dtype=torch.uint8)
    luma, chroma = turned(1.0)
    color = np.array([[0, 1 / 255, 0, 0]] * 3)
    full, half = (
        cut(flat, ramp, ramp, luma, chroma, 80, color, [0, 0, 0], step=s).float() for s in (1, 2)
    )
    assert (full - half)[2:-2, 2:-2].mean().abs() < 0.05
    assert (full - half)[2:-2, 2:-2].abs().max() <= 2


@pytest.mark.parametrize("lanes", [4, 8])
def test_narrower_processors_give_the_same_picture(lanes, tmp_path):
    code = "import sys; from tests.kernels.test_cut import *; torch.save(pictures(), sys.argv[1])"
    path = tmp_path / "pictures.pt"
    environment = dict(os.environ, ACCEL_LANES=str(lanes))
    subprocess.run([sys.executable, "-c", code, str(path)], env=environment, check=True)
    assert all(torch.equal(a, b) for a, b in zip(torch.load(path), pictures()))


def pictures():
    """All cases, as pixels and as bytes of JPEGs."""
    found = []
    for case in CASES.values():
        for step in (1, 2):
            found.append(cut(*planes(), *case, 67, COLOR, [1, 2, 3], step=step))
            if _native.module is not None:
                data = cut_jpeg(*planes(), *case, 67, JFIF, [1, 2, 3], step=step)
                found.append(torch.frombuffer(bytearray(data), dtype=torch.uint8))
    return found


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": 0}, "size must lie in"),
        ({"step": 3}, "step in 1..2"),
        ({"luma": np.zeros((2, 3))}, "luma must be finite and invertible"),
        ({"chroma": np.full((2, 3), np.nan)}, "chroma must be finite and invertible"),
        ({"c2": torch.zeros(3, 3, dtype=torch.uint8)}, "c1 and c2 must have one size"),
    ],
)
def test_refuses(change, message):
    given = dict(zip(("c0", "c1", "c2"), planes()))
    given |= dict(zip(("luma", "chroma"), CASES["enlarged"]))
    given |= {"size": 8, "color": COLOR, "outside": [0, 0, 0]} | change
    with pytest.raises(ValueError, match=message):
        cut(**given)


def test_refuses_deep_planes():
    with pytest.raises(TypeError, match="planes must be"):
        cut(*[p.to(torch.int16) for p in planes()], *CASES["enlarged"], 8, COLOR, [0, 0, 0])


# Codes of luma and chroma of full range are what a JPEG keeps.
JFIF = np.array([[1, 0, 0, -128], [0, 1, 0, -128], [0, 0, 1, -128]], np.float64)
JFIF_TO_BGR = np.array([[1, 1.772, 0, -226.816], [1, -0.344136, -0.714136, 135.458816],
                        [1, 0, 1.402, -179.456]]) / 255  # fmt: skip
native = pytest.mark.skipif(_native.module is None, reason="needs the native module")


def _decoded(data):
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR).astype(float)


def _psnr(one, other):
    return 10 * np.log10(255**2 / max(((one - other) ** 2).mean(), 1e-9))


@native
@pytest.mark.parametrize("size", [1, 7, 16, 17, 33, 250, 256])
@pytest.mark.parametrize("quality", [5, 75, 90, 100])
def test_a_jpeg_shows_what_is_cut_as_well_as_opencvs(size, quality):
    smooth = [
        torch.from_numpy(cv2.GaussianBlur(p.numpy(), (0, 0), s))
        for p, s in zip(planes(), (2, 1, 1))
    ]
    luma, chroma = turned(1.3 * size / 90, 5, -2, -3)
    picture = cut(*smooth, luma, chroma, size, JFIF_TO_BGR, [0, 128, 128], step=2).numpy()
    ours = cut_jpeg(*smooth, luma, chroma, size, JFIF, [0, 128, 128], quality=quality, step=2)
    theirs = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()
    assert _decoded(ours).shape == (size, size, 3)
    assert _psnr(_decoded(ours), picture) > _psnr(_decoded(theirs), picture) - 0.6
    assert len(ours) < 1.08 * len(theirs)


@native
@pytest.mark.parametrize("quality", [1, 50, 100])
@pytest.mark.parametrize("kind", ["noise", "squares", "flat", "fine stripes", "one corner"])
def test_a_jpeg_of_unusual_pictures(kind, quality):
    size = 80
    at = np.arange(size)
    luma = {
        "noise": np.random.default_rng(0).integers(0, 256, (size, size)),
        "squares": ((at[:, None] // 8 + at // 8) % 2) * 255,
        "flat": np.full((size, size), 255),
        "fine stripes": np.broadcast_to(at % 2 * 255, (size, size)),  # long runs of zeros
        "one corner": np.pad([[255]], (0, size - 1)),
    }[kind].astype(np.uint8)  # fmt: skip
    grey = np.full((size // 2, size // 2), 128, np.uint8)
    sources = [torch.from_numpy(p) for p in (luma, grey, grey)]
    data = cut_jpeg(*sources, *turned(1.0), size, JFIF, [0, 128, 128], quality=quality, step=2)
    picture = np.repeat(luma[..., None], 3, 2)
    theirs = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()
    assert np.abs(_decoded(data) - _decoded(theirs)).mean() < 0.5
    assert abs(len(data) - len(theirs)) <= 0.02 * len(theirs) + 2


@native
def test_a_jpeg_of_planes_of_colours_keeps_their_detail():
    rng = np.random.default_rng(2)
    bgr = cv2.GaussianBlur(rng.integers(0, 256, (96, 96, 3)).astype(np.uint8), (0, 0), 1.5)
    blue, green, red = (torch.from_numpy(np.ascontiguousarray(bgr[..., i])) for i in range(3))
    weights = np.array([[0.587, 0.114, 0.299], [-0.331264, 0.5, -0.168736],
                        [-0.418688, -0.081312, 0.5]])  # fmt: skip
    color = np.c_[weights, [-128, 0, 0]]
    still = turned(1.0)[0]
    data = cut_jpeg(green, blue, red, still, still, 96, color, [0, 0, 0], quality=95)
    theirs = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()
    assert _psnr(_decoded(data), bgr) > _psnr(_decoded(theirs), bgr) - 0.1
    assert _psnr(_decoded(data), _decoded(theirs)) > 40


@native
@pytest.mark.parametrize("quality", [0, 101])
def test_refuses_a_quality_that_there_is_not(quality):
    with pytest.raises(ValueError, match=r"quality must lie in 1\.\.100"):
        cut_jpeg(*planes(), *CASES["enlarged"], 8, JFIF, [0, 0, 0], quality=quality)


def test_registration():
    args = tuple(op_args(CASES["enlarged"], 16, 1))
    torch.library.opcheck(torch.ops.accel.cut.default, args, test_utils="test_schema")
