from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from accel.kernels.raster import op, raster
from tests.kernels.check import check_kernel

MODEL = Path(__file__).parents[2] / "accel/assets/canonical_face_model.obj"
NAMES = ("reference", "numba", "native", "triton")
# The interpreter computes with numpy, which warns of what a bad corner leads to.
pytestmark = pytest.mark.filterwarnings("ignore:(invalid value|overflow) encountered")


def canonical():
    """Vertices [468, 3], texture places in 0..1 [468, 2], triangles [898, 3] of the face model."""
    lines = [line.split() for line in MODEL.read_text().splitlines()]
    vertices = np.array([line[1:] for line in lines if line[:1] == ["v"]], np.float32)
    corners = [[c.split("/") for c in line[1:]] for line in lines if line[:1] == ["f"]]
    triangles = np.array([[int(c[0]) - 1 for c in line] for line in corners], np.int32)
    listed = np.array([line[1:3] for line in lines if line[:1] == ["vt"]], np.float32)
    places = np.zeros((len(vertices), 2), np.float32)
    for line in corners:
        for c in line:
            places[int(c[0]) - 1] = listed[int(c[1]) - 1]
    return torch.from_numpy(vertices), torch.from_numpy(places), torch.from_numpy(triangles)


def head(size, faces=1, seed=0):
    """The face model, one view a face, jittered so that no vertex lies on a pixel centre."""
    generator = torch.Generator().manual_seed(seed)
    vertices, _, triangles = canonical()
    flat = vertices * torch.tensor([1, -1, -1]) * size / 22 + torch.tensor([size / 2, size / 2, 0])
    points = flat + torch.rand(faces, 468, 3, generator=generator)
    places = flat[:, :2] + torch.rand(faces, 468, 2, generator=generator)
    return (
        torch.rand(2, 3, size, size + 3, generator=generator),
        places,
        points,
        torch.rand(faces, 468, generator=generator),
        triangles,
        torch.arange(faces, dtype=torch.int32) % 2,
    )


def square(left, top, right, bottom, z=0.0, weight=1.0, shift=(0.0, 0.0), texture=None, flip=False):
    """Arguments for two triangles that copy a texture, moved by `shift`."""
    corners = torch.tensor([[left, top], [right, top], [left, bottom], [right, bottom]])
    depth = torch.full((4, 1), float(z))
    points = torch.cat([corners + torch.tensor(shift), depth], 1)[None].float()
    triangles = torch.tensor([[0, 1, 2], [3, 2, 1]], dtype=torch.int32)
    texture = torch.rand(1, 3, 12, 14) if texture is None else texture
    return [
        texture,
        corners[None].float(),
        points,
        torch.full((1, 4), float(weight)),
        triangles.flip(1).contiguous() if flip else triangles,
        torch.zeros(1, dtype=torch.int32),
    ]


def both(a, b):
    """One mesh of two; the texture of the first."""
    offset = a[2].shape[1]
    joined = [torch.cat([x, y], 1) for x, y in zip(a[1:4], b[1:4])]
    return [a[0], *joined, torch.cat([a[4], b[4] + offset]), a[5]]


def draw(name, args, height, width):
    implementation = next(i for i in op.implementations if i.name == name)
    if reason := implementation.why_not(*args, height, width):
        pytest.skip(reason)
    return implementation.run(*args, height, width)


@pytest.fixture(params=NAMES)
def name(request):
    return request.param


def test_whole_face_agrees_with_reference():
    # 1e-4: texture places are float32, and this texture changes by up to 1 a pixel.
    ran = check_kernel(op, [*head(96, faces=2), 96, 90], ("native", "numba"), atol=1e-4, rtol=0)
    assert ran, "no fast implementation ran"


def test_few_triangles_agree_with_reference():
    generator = torch.Generator().manual_seed(1)
    args = (
        torch.rand(2, 3, 9, 11, generator=generator),
        torch.rand(2, 6, 2, generator=generator) * 14 - 2,
        torch.rand(2, 6, 3, generator=generator) * 30 - 5,
        torch.rand(2, 6, generator=generator),
        torch.tensor([[0, 1, 2], [3, 4, 5], [0, 4, 2], [1, 1, 2]], dtype=torch.int32),
        torch.tensor([1, 0], dtype=torch.int32),
    )
    ran = check_kernel(op, [*args, 18, 21], atol=1e-4, rtol=0)
    assert {"triton", "reference"} <= set(ran)
    assert op.reference(*args, 18, 21)[:, 3].gt(0).float().mean() > 0.1


def test_square_copies_the_texture(name):
    texture = torch.rand(1, 3, 12, 14)
    out = draw(name, square(0, 0, 13, 11, texture=texture), 12, 14)
    torch.testing.assert_close(out[:, :3, :11, :13], texture[:, :, :11, :13], atol=1e-6, rtol=0)
    assert not out[:, :, 11:].any()
    assert not out[:, :, :, 13:].any()


def test_square_moved_by_part_of_a_pixel_reads_between_texels(name):
    texture = torch.rand(1, 3, 12, 14)
    out = draw(name, square(0, 0, 13, 11, shift=(2.25, 0.5), texture=texture), 12, 14)
    t = texture[0]
    rows = 0.5 * t[:, 0:10] + 0.5 * t[:, 1:11]  # crop row 1 reads texture row 0.5
    expected = 0.25 * rows[:, :, 0:10] + 0.75 * rows[:, :, 1:11]  # crop column 3 reads 0.75
    torch.testing.assert_close(out[0, :3, 1:11, 3:13], expected, atol=1e-5, rtol=0)
    assert not out[0, 3, 0].any()
    assert not out[0, 3, :, :3].any()


def test_texture_border_is_repeated(name):
    texture = torch.rand(1, 3, 4, 5)
    args = square(-3, -2, 12, 10, texture=texture)
    args[2][..., :2] += torch.tensor([3.0, 2.0])
    out = draw(name, args, 12, 14)
    torch.testing.assert_close(out[0, :3, 0, 0], texture[0, :, 0, 0])
    torch.testing.assert_close(out[0, :3, 11, 12], texture[0, :, 3, 4])
    torch.testing.assert_close(out[0, :3, 3, 13], texture[0, :, 1, 4])


def test_triangles_that_barely_reach_into_a_tile_are_drawn_there(name):
    out = draw(name, square(14.5, 14.5, 16.5, 16.5), 18, 18)
    expected = torch.zeros(18, 18)
    expected[15:17, 15:17] = 1  # one pixel in each of four tiles of 16
    assert torch.equal(out[0, 3], expected)


@pytest.mark.parametrize("near_first", [True, False])
def test_nearer_triangle_hides_the_other(name, near_first):
    near, far = square(2, 2, 9, 9, z=-1, weight=0.25), square(0, 0, 13, 11, z=1, weight=0.75)
    out = draw(name, both(near, far) if near_first else both(far, near), 12, 14)
    assert out[0, 3, 5, 5] == 0.25
    assert out[0, 3, 10, 11] == 0.75


def test_depth_is_compared_at_the_pixel_not_at_the_corners(name):
    tilted, level = square(0, 0, 12, 11, weight=0.25), square(0, 0, 12, 11, z=0, weight=0.75)
    tilted[2][0, :, 2] = torch.tensor([-6.5, 5.5, -6.5, 5.5])  # z = x - 6.5
    out = draw(name, both(level, tilted), 11, 12)
    assert (out[0, 3, :, :7] == 0.25).all()
    assert (out[0, 3, :, 7:] == 0.75).all()


def test_at_equal_depth_the_first_triangle_is_drawn(name):
    out = draw(name, both(square(0, 0, 8, 8, weight=0.25), square(0, 0, 8, 8, weight=0.5)), 8, 8)
    assert (out[0, 3] == 0.25).all()


def test_both_windings_are_drawn_alike(name):
    texture = torch.rand(1, 3, 12, 14)
    box = (0.3, 1.2, 11.7, 10.1)
    one, other = (square(*box, texture=texture, flip=f) for f in (False, True))
    torch.testing.assert_close(
        draw(name, one, 12, 14), draw(name, other, 12, 14), atol=1e-5, rtol=0
    )


def test_mirrored_mesh_is_drawn(name):
    texture = torch.rand(1, 3, 12, 14)
    args = square(0, 0, 13, 11, texture=texture)
    args[2][..., 0] = 13 - args[2][..., 0]
    out = draw(name, args, 11, 13)
    torch.testing.assert_close(out[:, :3], texture[:, :, :11, 1:].flip(3), atol=1e-5, rtol=0)


def test_weight_is_linear_over_the_triangle(name):
    args = square(0, 0, 10, 10)
    args[3] = torch.tensor([[0.0, 0.5, 0.25, 0.75]])
    out = draw(name, args, 10, 10)
    y, x = torch.meshgrid(torch.arange(10.0), torch.arange(10.0), indexing="ij")
    torch.testing.assert_close(out[0, 3], 0.05 * x + 0.025 * y, atol=1e-6, rtol=0)


def test_each_face_has_its_texture(name):
    args = square(0, 0, 4, 4)
    args = [
        torch.stack([torch.full((3, 4, 4), v) for v in (0.1, 0.2, 0.3)]),
        *(t.expand(3, *t.shape[1:]).contiguous() for t in args[1:4]),
        args[4],
        torch.tensor([2, 0, 1], dtype=torch.int32),
    ]
    out = draw(name, args, 4, 4)
    torch.testing.assert_close(out[:, 0, 2, 2], torch.tensor([0.3, 0.1, 0.2]))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("where", ["x", "z", "texture", "weight"])
def test_triangle_with_a_corner_that_is_not_finite_is_left_out(name, bad, where):
    args = square(0, 0, 8, 8)
    tensor, index = {"x": (2, (0, 3, 0)), "z": (2, (0, 3, 2)), "texture": (1, (0, 3, 1)),
                     "weight": (3, (0, 3))}[where]  # fmt: skip
    args[tensor][index] = bad
    out = draw(name, args, 8, 8)
    assert out.isfinite().all()
    assert out[0, 3, 1, 1] == 1
    assert out[0, 3, 6, 6] == 0


def test_triangles_without_area_are_left_out(name):
    args = square(0, 0, 8, 8)
    args[2][0] = torch.tensor([[0.0, 0, 0], [4, 4, 0], [8, 8, 0], [2, 2, 0]])
    assert not draw(name, args, 8, 8).any()


def test_triangle_that_names_no_vertex_is_left_out(name):
    args = square(0, 0, 8, 8)
    args[4] = torch.tensor([[0, 1, 2], [3, 2, 4], [3, -1, 1]], dtype=torch.int32)
    out = draw(name, args, 8, 8)
    assert out[0, 3, 1, 1] == 1
    assert out[0, 3, 6, 6] == 0


def test_huge_and_distant_triangles(name):
    args = both(square(-1e30, -1e30, 1e30, 1e30, z=5, weight=0.5), square(1e9, 1e9, 2e9, 2e9))
    out = draw(name, args, 8, 8)
    assert out.isfinite().all()
    assert (out[0, 3] == 0.5).all()
    args = square(-3e38, -3e38, 3e38, 3e38, z=3e38)
    args[2][0, 1] = torch.tensor([3e38, 1e-40, -3e38])
    assert draw(name, args, 8, 8).isfinite().all()


def test_nothing_to_draw(name):
    args = square(0, 0, 8, 8)
    args[4] = args[4][:0]
    assert not draw(name, args, 8, 8).any()
    none = [args[0], args[1][:0], args[2][:0], args[3][:0], args[4], args[5][:0]]
    assert draw(name, none, 8, 8).shape == (0, 4, 8, 8)


def coverage(points, triangles, size):
    """How many triangles cover each pixel: each is drawn alone, as a face of three vertices."""
    run = next(i.run for i in op.implementations if i.name not in ("triton", "reference"))
    only = torch.tensor([[0, 1, 2]], dtype=torch.int32)
    count = torch.zeros(size, size)
    for corners in points[0, triangles.long()].split(128):
        n = len(corners)
        places, weights = corners[..., :2].contiguous(), torch.ones(n, 3)
        which = torch.zeros(n, dtype=torch.int32)
        out = run(torch.zeros(1, 3, 1, 1), places, corners, weights, only, which, size, size)
        count += out[:, 3].sum(0)
    return count


def test_mesh_on_pixel_centres_covers_each_pixel_once():
    side, n = 12, 5  # vertices at whole and half pixels, where ties are the rule
    y, x = torch.meshgrid(torch.arange(n) * 2.5, torch.arange(n) * 2.5, indexing="ij")
    points = torch.stack([x, y, torch.zeros_like(x)], -1).reshape(1, -1, 3) + torch.tensor(
        [1.0, 1, 0]
    )
    corner = [(r * n + c) for r in range(n - 1) for c in range(n - 1)]
    triangles = [
        t for i, a in enumerate(corner)
        for t in ([[a, a + 1, a + n], [a + 1, a + n + 1, a + n]] if i % 2
                  else [[a, a + n + 1, a + n], [a, a + 1, a + n + 1]])
    ]  # fmt: skip
    count = coverage(points, torch.tensor(triangles, dtype=torch.int32), side)
    expected = torch.zeros(side, side)
    expected[1:11, 1:11] = 1
    assert torch.equal(count, expected)


@pytest.mark.parametrize("seed", range(2))
def test_face_mesh_has_no_crack_and_no_double_cover(seed):
    size = 96
    _, places, triangles = canonical()  # the texture layout lies flat: nothing overlaps
    jitter = torch.rand(468, 2, generator=torch.Generator().manual_seed(seed)) * 0.2
    flat = places * size + jitter
    points = torch.cat([flat, torch.zeros(468, 1)], 1)[None]
    count = coverage(points, triangles, size)
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    inside, near = torch.zeros(2, size, size, dtype=torch.long)
    for t in flat[triangles.long()].double():  # half planes in float64, an own way to count
        a, b = t, t.roll(-1, 0)
        edge = b - a
        side = edge[:, 0, None, None] * (y - a[:, 1, None, None])
        side = side - edge[:, 1, None, None] * (x - a[:, 0, None, None])
        side = side * side.sum(0).sign()
        inside += (side > 1e-9).all(0)
        near += (side.abs() <= 1e-9).any(0) & (side > -1e-9).all(0)
    assert inside.max() == 1
    assert torch.equal(count[near == 0].long(), inside[near == 0])
    assert (count[near > 0] <= 1).all()
    assert count.sum() > 0.4 * size * size


def test_result_does_not_depend_on_threads():
    args = (*head(96), 96, 96)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = raster(*args[:6], 96)
        torch.set_num_threads(3)
        assert torch.equal(raster(*args[:6], 96), alone)
    finally:
        torch.set_num_threads(before)


def test_size_is_height_and_width():
    assert raster(*square(0, 0, 8, 8), (5, 9)).shape == (1, 4, 5, 9)
    assert raster(*square(0, 0, 8, 8), 7).shape == (1, 4, 7, 7)


def test_takes_any_strides():
    args = square(0, 0, 8, 8)
    other = list(args)
    other[0] = args[0].permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    other[2] = args[2].repeat_interleave(2, 1)[:, ::2]
    assert torch.equal(raster(*other, 8), raster(*args, 8))


@pytest.mark.parametrize(
    ("position", "value", "message"),
    [
        (0, torch.rand(1, 4, 8, 8), r"textures must be \[T, 3, Ht, Wt\]"),
        (1, torch.rand(1, 5, 2), r"texture_points must be \(1, 4, 2\)"),
        (2, torch.rand(4, 3), r"points must be \[N, V, 3\]"),
        (3, torch.rand(2, 4), r"weights must be \(1, 4\)"),
        (4, torch.tensor([[0, 1, 4]], dtype=torch.int32), r"triangles must lie in 0..3, got 0..4"),
        (5, torch.tensor([1], dtype=torch.int32), r"which must lie in 0..0, got 1..1"),
        (6, 0, "size must be positive"),
    ],
)
def test_refuses_what_does_not_fit(position, value, message):
    args = [*square(0, 0, 8, 8), 8]
    args[position] = value
    with pytest.raises(ValueError, match=message):
        raster(*args)


def test_refuses_other_dtypes():
    args = square(0, 0, 8, 8)
    with pytest.raises(TypeError, match=r"must be float32.*torch\.float64"):
        raster(args[0].double(), *args[1:], 8)


def test_gradient_reaches_the_texture():
    texture = torch.rand(1, 3, 12, 14, requires_grad=True)
    raster(*square(0, 0, 13, 11, texture=texture), (12, 14))[:, :3].sum().backward()
    expected = torch.zeros(3, 12, 14)
    expected[:, :11, :13] = 1
    torch.testing.assert_close(texture.grad[0], expected)


def test_registration():
    args = (*square(0, 0, 8, 8), 8, 9)
    torch.library.opcheck(torch.ops.accel.raster.default, args)
