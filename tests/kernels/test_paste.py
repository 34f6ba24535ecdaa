"""paste: every implementation against its definition, written a second time here in numpy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from accel.kernels._native import module as native
from accel.kernels.crop import crop
from accel.kernels.paste import op, paste, paste_rectangle
from accel.kernels.planes import Planes, gbr_layout, yuv_layout

NAMES = [implementation.name for implementation in op.implementations]
FAST = [name for name in NAMES if name != "triton"]  # the interpreter costs a second a launch
WEIGHTS = {"bt601": (0.299, 0.114), "bt709": (0.2126, 0.0722), "bt2020": (0.2627, 0.0593)}


@pytest.fixture(params=NAMES)
def each(request, monkeypatch):
    """Make paste use one implementation, whatever it would choose."""
    (chosen,) = (i for i in op.implementations if i.name == request.param)
    monkeypatch.setattr(op, "implementations", [chosen])
    monkeypatch.setattr("accel.kernels._op.FORCED", request.param)
    if request.param == "triton":  # the interpreter's time goes with the number of programs
        monkeypatch.setattr("accel.kernels._paste_triton.BLOCK", {"BLOCK_X": 64, "BLOCK_Y": 32})
    return request.param


def turn(scale, degrees, center, side):
    """Frame to crop: `scale` crop pixels a frame pixel; `center` comes to the crop's middle."""
    c, s = (scale * f(math.radians(degrees)) for f in (math.cos, math.sin))
    linear = np.array([[c, s], [-s, c]])
    shift = (side - 1) / 2 - linear @ np.array(center, dtype=float)
    return torch.tensor(np.column_stack([linear, shift]), dtype=torch.float32)


def noise_planes(layout, height, width, seed=0):
    rng = torch.Generator().manual_seed(seed)
    small = (-(-height // (1 << layout.shift_y)), -(-width // (1 << layout.shift_x)))
    return Planes(
        *(
            torch.randint(0, layout.max_code + 1, shape, generator=rng).to(layout.dtype)
            for shape in ((height, width), small, small)
        ),
        layout,
    )


def noise_face(side, seed=0):
    rng = torch.Generator().manual_seed(seed)
    crops = torch.rand(1, 3, side, side, generator=rng) * 1.2 - 0.1
    masks = (torch.rand(1, side, side, generator=rng) * 1.4 - 0.2).clamp(0, 1)
    return crops, masks


def edge_face(side):
    """Red left of the middle, blue right of it, a green band below; a soft round mask."""
    crops = torch.zeros(1, 3, side, side)
    crops[:, 0, :, : side // 2] = 1
    crops[:, 2, :, side // 2 :] = 1
    crops[:, 1, side * 3 // 4 :] = 0.8
    line = torch.linspace(-1, 1, side)
    radius = (line[:, None] ** 2 + line**2).sqrt()
    return crops, ((0.95 - radius) / 0.3).clamp(0, 1)[None].contiguous()


def codes_of(rgb, matrix, full_range, bits):
    """H.273, equations for E'Y, E'Cb, E'Cr and their quantisation; rgb [3, ...] in 0..1."""
    red, blue = WEIGHTS[matrix]
    luma = red * rgb[0] + (1 - red - blue) * rgb[1] + blue * rgb[2]
    cb, cr = (rgb[2] - luma) / (2 * (1 - blue)), (rgb[0] - luma) / (2 * (1 - red))
    unit, top = 2 ** (bits - 8), 2**bits - 1
    if full_range:
        return np.stack([top * luma, top * cb + 128 * unit, top * cr + 128 * unit])
    return np.stack([16 + 219 * luma, 128 + 224 * cb, 128 + 224 * cr]) * unit


def defined(planes, crops, masks, matrix, to_codes, shifts, site, gain=(1, 1, 1), bias=(0, 0, 0)):
    """What the definition says the planes become, before rounding: float64, no fast path.

    A bilinear sample is the sum over all pixels of two hat functions; beyond the crop lies a ring
    with the border's colour and mask 0, and coordinates stop there.
    """
    side = masks.shape[-1]
    rgb = np.asarray(crops[0], np.float64)
    rgb = np.clip(rgb * np.reshape(gain, (3, 1, 1)) + np.reshape(bias, (3, 1, 1)), 0, 1)
    picture = np.concatenate(
        [
            np.pad(to_codes(rgb), ((0, 0), (1, 1), (1, 1)), mode="edge"),
            np.pad(np.asarray(masks, np.float64), ((0, 0), (1, 1), (1, 1))),
        ]
    )
    grid = np.arange(-1, side + 1)
    m = matrix.double().numpy()
    out = []
    for k in range(3):
        plane = planes[k].numpy().astype(np.float64)
        step = (1, 1) if k == 0 else (2 ** shifts[0], 2 ** shifts[1])
        start = (0, 0) if k == 0 else site
        x = start[0] + np.arange(plane.shape[1]) * step[0]
        y = start[1] + np.arange(plane.shape[0])[:, None] * step[1]
        counts = [max(1, math.ceil(step[a] * np.hypot(*m[:, a]) - 1e-3)) for a in (0, 1)]
        mean = np.zeros((4, *plane.shape))
        for b in range(counts[1]):
            for a in range(counts[0]):
                px = x + step[0] * ((a + 0.5) / counts[0] - 0.5)
                py = y + step[1] * ((b + 0.5) / counts[1] - 0.5)
                u, v = (
                    np.clip(row[0] * px + row[1] * py + row[2], -1, side)[..., None] for row in m
                )
                hats = [np.maximum(0, 1 - np.abs(at - grid)) for at in (v, u)]
                mean += np.einsum("cyx,jiy,jix->cji", picture, *hats, optimize=True)
        mean /= counts[0] * counts[1]
        out.append(plane + mean[3] * (mean[k] - plane))
    return out


def furthest(planes, expected):
    """How far the planes are from the exact values, in codes; rounding alone gives 0.5."""
    top = planes.layout.max_code
    return max(
        float(np.abs(p.numpy().astype(np.float64) - np.clip(e, 0, top)).max())
        for p, e in zip(planes[:3], expected)
    )


SITES = {"left": (0, 0.5), "center": (0.5, 0.5), "topleft": (0, 0)}
CASES = [  # matrix, full range, bits, shifts, siting, crop side, scale, degrees
    ("bt709", False, 8, (1, 1), "left", 24, 1.3, 20),
    ("bt601", True, 8, (1, 1), "center", 20, 0.7, -75),
    ("bt2020", False, 10, (1, 1), "topleft", 26, 2.2, 200),
]
MORE_CASES = [
    ("bt709", False, 8, (1, 0), "left", 20, 1.0, 0),
    ("bt709", True, 12, (0, 0), "left", 20, 1.6, 10),
    ("bt601", False, 16, (1, 1), "left", 22, 2.6, 45),
]


def case(matrix, full_range, bits, shifts, siting, side, scale, degrees):
    layout = yuv_layout(
        matrix=matrix, full_range=full_range, bits=bits, shift_x=shifts[0], shift_y=shifts[1],
        siting=siting,
    )  # fmt: skip
    site = tuple(s if shift else 0 for s, shift in zip(SITES[siting], shifts))
    planes = noise_planes(layout, 27, 33)
    return planes, turn(scale, degrees, (17.3, 12.6), side), site


@pytest.mark.parametrize("row", CASES + MORE_CASES, ids=str)
@pytest.mark.parametrize("face", [edge_face, noise_face])
def test_agrees_with_the_definition(row, face, each):
    if each == "triton" and (row in MORE_CASES or face is noise_face):
        pytest.skip("the interpreter is slow; three cases show every branch")
    planes, matrix, site = case(*row)
    crops, masks = face(row[5])
    gain, bias = torch.tensor([[1.1, 0.8, 0.95]]), torch.tensor([[0.02, 0.1, -0.05]])

    def to_codes(rgb):
        return codes_of(rgb, *row[:3])

    expected = defined(
        planes, crops, masks, matrix, to_codes, row[3], site, gain[0].numpy(), bias[0].numpy()
    )
    paste(planes, crops, masks, matrix[None], gain=gain, bias=bias)
    assert furthest(planes, expected) < 0.5 + (0.05 if row[2] <= 12 else 0.4)


def test_the_definition_would_notice():
    """Each mistake that the test above is there for moves some sample by many codes."""
    row = CASES[0]
    planes, matrix, site = case(*row)
    crops, masks = edge_face(row[5])
    wrong_turn = matrix * torch.tensor([[1, -1, 1], [-1, 1, 1]])

    def expected(crops=crops, masks=masks, matrix=matrix, site=site, names=row[:3]):
        return defined(
            planes, crops, masks, matrix, lambda rgb: codes_of(rgb, *names), row[3], site
        )

    done = planes.clone()
    paste(done, crops, masks, matrix[None])
    assert furthest(done, expected()) < 0.55
    for wrong in (
        expected(crops=crops.flip(1)),  # BGR
        expected(matrix=wrong_turn),
        expected(site=(0.5, 0.5)),
        expected(site=(0, 0)),
        expected(masks=1 - masks),
        expected(names=("bt601", False, 8)),
        expected(names=("bt709", True, 8)),
    ):
        assert furthest(done, wrong) > 4


RED, BLUE, GRAY = (1.0, 0.0, 0.0), (0.0, 0.0, 1.0), (0.5, 0.5, 0.5)
KNOWN = [  # as the standards' tables give them, rounded to nearest
    ("bt601", False, 8, RED, (81, 90, 240)),
    ("bt601", True, 8, RED, (76, 85, 255)),
    ("bt709", False, 8, RED, (63, 102, 240)),
    ("bt709", False, 8, BLUE, (32, 240, 118)),
    ("bt709", True, 8, BLUE, (18, 255, 116)),
    ("bt709", False, 10, RED, (250, 409, 960)),
    ("bt2020", False, 10, RED, (294, 387, 960)),
    ("bt2020", False, 10, BLUE, (116, 960, 476)),
    ("bt709", False, 8, GRAY, (126, 128, 128)),
]


@pytest.mark.parametrize("row", KNOWN, ids=str)
def test_a_plain_color_becomes_its_code_values(row, each):
    if each == "triton" and row not in KNOWN[:2]:
        pytest.skip("the interpreter is slow")
    matrix, full_range, bits, rgb, expected = row
    layout = yuv_layout(matrix=matrix, full_range=full_range, bits=bits)
    planes = noise_planes(layout, 12, 16)
    crops = torch.tensor(rgb).view(1, 3, 1, 1).expand(1, 3, 30, 30)
    paste(planes, crops, torch.ones(1, 30, 30), turn(1.0, 0, (8, 6), 30)[None])
    for plane, code in zip(planes[:3], expected):
        # An exact half (125.5 for gray) may go either way.
        assert (plane.int() - code).abs().max() <= (1 if rgb == GRAY else 0)


def test_rounds_to_nearest_and_keeps_the_order_of_planar_rgb(each):
    planes = Planes(*(torch.full((4, 6), 10, dtype=torch.uint8) for _ in range(3)), gbr_layout())
    crops = torch.tensor([11.0, 14.0, 254.0]).view(1, 3, 1, 1).expand(1, 3, 20, 20) / 255
    paste(planes, crops, torch.full((1, 20, 20), 0.7), turn(1.0, 0, (3, 2), 20)[None])
    green, blue, red = (int(plane[2, 2]) for plane in planes[:3])
    assert (red, green, blue) == (11, 13, 181)  # from 10.7, 12.8 and 180.8


def test_float16_crops_are_taken(each):
    planes, matrix, site = case(*CASES[0])
    crops, masks = (t.half() for t in noise_face(24))
    expected = defined(
        planes, crops.float(), masks.float(), matrix,
        lambda rgb: codes_of(rgb, *CASES[0][:3]), (1, 1), site,
    )  # fmt: skip
    paste(planes, crops, masks, matrix[None])
    assert furthest(planes, expected) < 0.55


def arguments(planes, crops, masks, matrices, gain=None, bias=None):
    of, n = planes.layout, len(crops)
    return [
        *planes[:3], crops, masks, matrices,
        torch.ones(n, 3) if gain is None else gain, torch.zeros(n, 3) if bias is None else bias,
        list(of.from_rgb), of.shift_x, of.shift_y, of.site_x, of.site_y, of.max_code,
    ]  # fmt: skip


def assert_all_agree(planes, crops, masks, matrices, names=FAST):
    """Run each implementation on its own copy; compare, and look outside the rectangles."""
    height, width = planes.height, planes.width
    inside = torch.zeros(height, width, dtype=torch.bool)
    for matrix in matrices:
        shifts = {"shift_x": planes.layout.shift_x, "shift_y": planes.layout.shift_y}
        x0, y0, x1, y1 = paste_rectangle(matrix, crops.shape[-1], height, width, **shifts)
        inside[y0:y1, x0:x1] = True
    first = None
    for implementation in op.implementations:
        if implementation.name not in names:
            continue
        done = planes.clone()
        args = arguments(done, crops, masks, matrices)
        assert implementation.why_not(*args) == ""
        implementation.run(*args)
        first = first or done
        for k in range(3):
            steps = (1 << planes.layout.shift_y, 1 << planes.layout.shift_x) if k else (1, 1)
            outside = ~inside[:: steps[0], :: steps[1]]
            assert torch.equal(done[k].int()[outside], planes[k].int()[outside])
            assert (done[k].int() - first[k].int()).abs().max() <= 1, implementation.name
    return first


@settings(max_examples=25, deadline=None)
@given(
    bits=st.sampled_from([8, 10, 16]),
    shifts=st.sampled_from([(1, 1), (1, 0), (0, 0), (2, 0), (2, 2)]),
    siting=st.sampled_from(["left", "center", "topleft"]),
    side=st.sampled_from([1, 2, 17, 40]),
    face_px=st.sampled_from([0.3, 2.5, 9.0, 40.0, 700.0]),
    degrees=st.floats(-180, 180),
    x=st.floats(-60, 120),
    y=st.floats(-60, 120),
    mirrored=st.booleans(),
    seed=st.integers(0, 99),
)
def test_implementations_agree_and_stay_in_the_rectangle(
    bits, shifts, siting, side, face_px, degrees, x, y, mirrored, seed
):
    layout = yuv_layout(bits=bits, shift_x=shifts[0], shift_y=shifts[1], siting=siting)
    planes = noise_planes(layout, 45, 61, seed)
    matrix = turn(side / face_px, degrees, (x, y), side)
    if mirrored:
        matrix = matrix * torch.tensor([[-1.0], [1.0]])
        matrix[0, 2] += side - 1
    assert_all_agree(planes, *noise_face(side, seed), matrix[None])


def test_triton_agrees_on_planes_that_share_positions_and_on_many_taps():
    planes = noise_planes(gbr_layout(bits=10), 19, 25)
    assert_all_agree(planes, *noise_face(16), turn(2.7, 33, (11, 9), 16)[None], names=NAMES)


def test_interleaved_and_padded_planes(each):
    """NV12: c1 and c2 share a plane, and every row is longer than the picture."""
    layout = yuv_layout()
    plain = noise_planes(layout, 26, 34)
    luma = torch.full((26, 50), 77, dtype=torch.uint8)
    chroma = torch.full((13, 40), 78, dtype=torch.uint8)
    luma[:, :34], chroma[:, 0:34:2], chroma[:, 1:34:2] = plain[:3]
    views = Planes(luma[:, :34], chroma[:, 0:34:2], chroma[:, 1:34:2], layout)
    face, matrix = noise_face(24), turn(1.1, 15, (20, 12), 24)[None]
    paste(views, *face, matrix)
    paste(plain, *face, matrix)
    for view, plane in zip(views[:3], plain[:3]):
        assert torch.equal(view, plane)
    assert (luma[:, 34:] == 77).all()
    assert (chroma[:, 34:] == 78).all()


def test_later_faces_lie_over_earlier_ones(each):
    layout = yuv_layout()
    crops = torch.stack([torch.full((3, 16, 16), 0.2), torch.full((3, 16, 16), 0.9)])
    matrices = torch.stack([turn(1.0, 0, (10, 10), 16), turn(1.0, 0, (14, 10), 16)])
    masks = torch.full((2, 16, 16), 0.75)
    together, apart = noise_planes(layout, 20, 28), noise_planes(layout, 20, 28)
    paste(together, crops, masks, matrices)
    for n in (0, 1):
        paste(apart, crops[n : n + 1], masks[n : n + 1], matrices[n : n + 1])
    for a, b in zip(together[:3], apart[:3]):
        assert torch.equal(a, b)
    assert together.c0[10, 12] > 160  # 0.9 is on top


def test_what_the_mask_leaves_out_keeps_every_bit(each):
    planes = noise_planes(yuv_layout(), 24, 32)
    before = planes.clone()
    crops, masks = noise_face(24)
    masks[:, :, :12] = 0
    paste(planes, crops, masks, turn(1.0, 0, (15.5, 11.5), 24)[None])
    for now, then, column in zip(planes[:3], before[:3], (14, 6, 6)):
        assert torch.equal(now[:, :column], then[:, :column])
        assert not torch.equal(now[:, column + 2 :], then[:, column + 2 :])


def test_nan_in_crop_or_mask_leaves_samples(each):
    planes = noise_planes(yuv_layout(), 24, 32)
    before = planes.clone()
    crops, masks = noise_face(24)
    masks = masks.clamp(min=0.3)
    crops[:, 1, 4:8, 4:20] = float("nan")
    crops[:, 0, 12, 12] = float("inf")
    masks[:, 14:18, 4:20] = float("nan")
    matrix = turn(1.0, 0, (15.5, 11.5), 24)  # frame pixel (4, 0) is crop pixel (0, 0)
    paste(planes, crops, masks, matrix[None])
    assert torch.equal(planes.c0[4:8, 8:24], before.c0[4:8, 8:24])
    assert torch.equal(planes.c0[14:18, 8:24], before.c0[14:18, 8:24])
    assert torch.equal(planes.c1[7:9, 5:11], before.c1[7:9, 5:11])
    changed = planes.c0[10:13, 6:26] != before.c0[10:13, 6:26]
    assert changed.float().mean() > 0.9


def test_nan_gain_leaves_the_frame(each):
    planes = noise_planes(yuv_layout(), 24, 32)
    before = planes.clone()
    paste(planes, *noise_face(24), turn(1.0, 0, (15, 11), 24)[None],
          gain=torch.full((1, 3), float("nan")))  # fmt: skip
    assert all(torch.equal(a, b) for a, b in zip(planes[:3], before[:3]))


@pytest.mark.parametrize("scale", [1e-6, 1e-3, 50.0, 1e6, 1e30])
def test_extreme_scales_neither_crash_nor_hang(scale, each):
    if each == "triton" and scale > 1:
        pytest.skip("the interpreter is slow")
    planes = noise_planes(yuv_layout(), 20, 24)
    matrix = torch.tensor([[scale, 0, -10 * scale + 8], [0, scale, -10 * scale + 8]])
    paste(planes, *noise_face(16), matrix[None])


@pytest.mark.parametrize("center", [(-50, 5), (80, 5), (10, -50), (10, 90), (1e9, 1e9)])
def test_a_face_off_the_frame_changes_nothing(center, each):
    planes = noise_planes(yuv_layout(), 20, 24)
    before = planes.clone()
    matrix = turn(1.0, 0, center, 16)
    paste(planes, *noise_face(16), matrix[None])
    assert all(torch.equal(a, b) for a, b in zip(planes[:3], before[:3]))
    x0, y0, x1, y1 = paste_rectangle(matrix, 16, 20, 24)
    assert (x1 - x0) * (y1 - y0) == 0


def test_no_faces_is_no_work(each):
    planes = noise_planes(yuv_layout(), 20, 24)
    before = planes.clone()
    paste(planes, torch.zeros(0, 3, 8, 8), torch.zeros(0, 8, 8), torch.zeros(0, 2, 3))
    assert torch.equal(planes.c0, before.c0)


def test_rectangle_is_tight_and_made_of_whole_chroma_cells():
    matrix = turn(1.0, 0, (20, 15), 11)  # crop pixel (0, 0) is frame pixel (15, 10)
    x0, y0, x1, y1 = paste_rectangle(matrix, 11, 100, 100)
    assert [edge % 2 for edge in (x0, y0, x1, y1)] == [0] * 4
    assert (x0, y0) >= (11, 6)
    assert (x1, y1) <= (30, 25)
    assert x0 <= 14
    assert y0 <= 9
    assert x1 >= 27
    assert y1 >= 22
    assert paste_rectangle(matrix, 11, 17, 19)[2:] == (19, 17)  # clipped to an odd frame


def test_crop_and_paste_at_whole_pixels_keep_the_picture():
    """A smooth picture read at scale 1 and written back comes back within a code or two."""
    layout = yuv_layout()
    y, x = torch.meshgrid(torch.arange(64.0), torch.arange(80.0), indexing="ij")
    luma = 120 + 40 * torch.sin(x / 7) * torch.cos(y / 9)
    chroma = (128 + 12 * torch.sin(x / 11) + 9 * torch.cos(y / 13))[::2, ::2]
    planes = Planes(luma.byte(), chroma.byte(), (255 - chroma).byte(), layout)
    before = planes.clone()
    matrix = torch.tensor([[[1.0, 0, -10], [0, 1, -8]]])
    paste(planes, crop(planes, matrix, 48), torch.ones(1, 48, 48), matrix)
    for now, then in zip(planes[:3], before[:3]):
        assert (now.int() - then.int()).abs().max() <= 2
        assert (now.int() - then.int()).float().abs().mean() < 0.3


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        ([[1, 2, 0], [2, 4, 0]], "inverse"),
        ([[0, 0, 5], [0, 0, 5]], "inverse"),
        ([[1, 0, float("nan")], [0, 1, 0]], "finite"),
        ([[float("inf"), 0, 0], [0, 1, 0]], "finite"),
    ],
)
def test_refuses_a_matrix_without_inverse(matrix, message):
    matrix = torch.tensor(matrix, dtype=torch.float32)
    planes = noise_planes(yuv_layout(), 20, 24)
    with pytest.raises(ValueError, match=f"paste: a matrix must .*{message}"):
        paste(planes, *noise_face(8), matrix[None])
    with pytest.raises(ValueError, match=f"paste_rectangle: a matrix must .*{message}"):
        paste_rectangle(matrix, 8, 20, 24)


def test_refuses_shapes_that_do_not_fit():
    planes, matrix = noise_planes(yuv_layout(), 20, 24), turn(1, 0, (9, 9), 8)[None]
    crops, masks = noise_face(8)
    with pytest.raises(ValueError, match="crops must be"):
        paste(planes, crops[:, :2], masks, matrix)
    with pytest.raises(ValueError, match="crops must be"):
        paste(planes, crops[:, :, :7], masks, matrix)
    with pytest.raises(TypeError, match="float32 or float16"):
        paste(planes, crops.double(), masks, matrix)
    with pytest.raises(ValueError, match="masks must be"):
        paste(planes, crops, masks[:, 1:], matrix)
    with pytest.raises(ValueError, match="matrices must be"):
        paste(planes, crops, masks, matrix[0])
    with pytest.raises(ValueError, match="gain must be"):
        paste(planes, crops, masks, matrix, gain=torch.ones(3))


@pytest.mark.skipif(native is None, reason="the native module is not built")
def test_native_without_simd_and_with_threads():
    planes, matrix, _ = case(*CASES[0])
    crops, masks = noise_face(24)
    done = []
    for threads, simd in ((1, True), (4, True), (1, False), (4, False)):
        copy = planes.clone()
        native.paste(*arguments(copy, crops, masks, matrix[None]), threads=threads, simd=simd)
        done.append(copy)
    for a, b in ((0, 1), (2, 3)):  # threads change nothing
        assert all(torch.equal(p, q) for p, q in zip(done[a][:3], done[b][:3]))
    for p, q in zip(done[0][:3], done[2][:3]):
        assert (p.int() - q.int()).abs().max() <= 1


def test_registration():
    planes = noise_planes(yuv_layout(), 20, 24)
    args = arguments(planes, *noise_face(8), turn(1, 0, (9, 9), 8)[None])
    torch.library.opcheck(
        torch.ops.accel.paste.default, tuple(args), test_utils=("test_schema", "test_faketensor")
    )
