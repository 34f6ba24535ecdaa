"""Textured triangles drawn into a crop with a depth buffer: how a face mesh is warped.

A pixel belongs to a triangle when its centre lies inside, where a left or top edge owns the centres
on it and a right or bottom edge does not: triangles that share an edge neither leave a crack nor
draw twice. Where an edge crosses a row is computed in float64 and depth in float32, both with the
same operations in every implementation, so all agree on the owner of every pixel.

Sources: Pineda 1988, doi:10.1145/378456.378457 (linear functions over a triangle); the fill rule is
the one of Direct3D 11.3, section 15.
"""

from __future__ import annotations

import torch
from torch import Tensor

from accel.kernels import _native
from accel.kernels._op import Op, in_triton
from accel.kernels._why_not import not_contiguous, not_on_gpu, without_numba


def raster(
    textures: Tensor,  # [T, 3, Ht, Wt] float32 RGB, at about the scale of the crop
    texture_points: Tensor,  # [N, V, 2] float32 place in the texture, (x, y) px, pixel centres
    points: Tensor,  # [N, V, 3] float32 place in the crop, (x, y) px; z, smaller is nearer
    weights: Tensor,  # [N, V] float32 weight of the vertex, 0..1
    triangles: Tensor,  # [F, 3] int32 vertices of each triangle, either winding
    which: Tensor,  # [N] int32 texture of each face
    size: int | tuple[int, int],  # crop: side, or (height, width), px
) -> Tensor:  # [N, 4, H, W] float32 R, G, B, weight; 0 where no triangle covers the pixel centre
    """Draw N textured meshes, the nearest triangle in front.

    Texture and weight are linear over a triangle (no perspective); the texture is read bilinearly
    and its border repeated. Of triangles at equal depth the first is drawn. Triangles without area
    or with a corner that is not finite are left out; vertices may lie anywhere. On a GPU, where
    looking at the values would cost a wait, indices out of range leave a triangle out, too.

    Raises TypeError for other dtypes, ValueError for shapes that do not fit together and, on the
    CPU, for indices out of range.
    """
    height, width = (size, size) if isinstance(size, int) else size
    floats, ints = (textures, texture_points, points, weights), (triangles, which)
    if any(t.dtype != torch.float32 for t in floats) or any(t.dtype != torch.int32 for t in ints):
        raise TypeError(
            "raster: textures, texture_points, points and weights must be float32, triangles and "
            f"which int32, got {', '.join(str(t.dtype) for t in (*floats, *ints))}"
        )
    _check_shapes(textures, texture_points, points, weights, triangles, which, height, width)
    return op(*(t.contiguous() for t in (*floats, *ints)), int(height), int(width))


def _check_shapes(textures, texture_points, points, weights, triangles, which, height, width):
    if textures.ndim != 4 or textures.shape[1] != 3 or 0 in textures.shape[2:]:
        raise ValueError(f"raster: textures must be [T, 3, Ht, Wt], got {tuple(textures.shape)}")
    if points.ndim != 3 or points.shape[2] != 3:
        raise ValueError(f"raster: points must be [N, V, 3], got {tuple(points.shape)}")
    n, v = points.shape[:2]
    for name, tensor, shape in (
        ("texture_points", texture_points, (n, v, 2)),
        ("weights", weights, (n, v)),
        ("which", which, (n,)),
        ("triangles", triangles, (len(triangles), 3)),
    ):
        if tuple(tensor.shape) != shape:
            raise ValueError(f"raster: {name} must be {shape}, got {tuple(tensor.shape)}")
    if height < 1 or width < 1:
        raise ValueError(f"raster: size must be positive, got {(height, width)}")
    for name, tensor, top in (("triangles", triangles, v), ("which", which, len(textures))):
        if tensor.device.type == "cpu" and tensor.numel():
            low, high = (int(x) for x in torch.aminmax(tensor))
            if low < 0 or high >= top:
                raise ValueError(f"raster: {name} must lie in 0..{top - 1}, got {low}..{high}")


def _reference(textures, texture_points, points, weights, triangles, which, height, width):
    faces = [
        _draw_one(
            textures, texture_points[n], points[n], weights[n], triangles, which[n], height, width
        )
        for n in range(len(points))
    ]
    return torch.stack(faces) if faces else points.new_zeros(0, 4, height, width)


def _draw_one(textures, texture_points, points, weights, triangles, which, height, width):
    vertices = torch.cat([points, texture_points, weights[:, None]], 1).double()  # x y z u v weight
    exists = ((triangles >= 0) & (triangles < len(vertices))).all(1)
    corners = vertices[triangles[exists].long()]  # [F, 3, 6]
    area = _area(corners)
    corners = corners[corners.isfinite().all(2).all(1) & (area != 0)]
    if not len(corners) or not 0 <= int(which) < len(textures):
        return points.new_zeros(4, height, width)
    with torch.no_grad():
        owner = _owners(corners, height, width)
    at = corners[owner.clamp(min=0)]  # [H, W, 3, 6]
    y, x = torch.meshgrid(
        *(torch.arange(n, device=owner.device) for n in (height, width)), indexing="ij"
    )
    d_dx, d_dy = _slopes(at)
    value = at[..., 0, :] + (y[..., None] - at[..., 0, 1:2]) * d_dy
    value = value + (x[..., None] - at[..., 0, 0:1]) * d_dx
    value = _keep(value, at.amin(-2), at.amax(-2))
    u, v, weight = value[..., 3:].unbind(-1)
    rgb = _bilinear(textures[int(which)].double(), u, v)
    return (torch.cat([rgb, weight[None]]) * (owner >= 0)).float()


def _area(corners):  # [..., 3, 6] -> [...]
    d = corners[..., 1:, :2] - corners[..., :1, :2]
    return d[..., 0, 0] * d[..., 1, 1] - d[..., 1, 0] * d[..., 0, 1]


def _slopes(corners):  # [..., 3, 6] -> d/dx and d/dy of the six values, [..., 6] each
    d = corners[..., 1:, :] - corners[..., :1, :]
    inverse_area = (1.0 / _area(corners))[..., None]
    first, second = d[..., 0, :], d[..., 1, :]
    d_dx = (first * d[..., 1, 1:2] - second * d[..., 0, 1:2]) * inverse_area
    d_dy = (second * d[..., 0, 0:1] - first * d[..., 1, 0:1]) * inverse_area
    return d_dx, d_dy


def _keep(value, low, high):  # a sliver's slopes are steep and inexact; NaN becomes low
    value = torch.where(value > low, value, low)
    return torch.where(value < high, value, high)


def _owners(corners, height, width):  # [F, 3, 6] -> [H, W] nearest triangle, -1 for none
    d_dx, d_dy = (s[:, 2].float() for s in _slopes(corners))
    x0, y0, z0 = corners[:, 0, :3].float().unbind(1)
    low, high = (b[:, None].float() for b in (corners[..., 2].amin(1), corners[..., 2].amax(1)))
    y, order = corners[..., 1].sort(dim=1, stable=True)
    x = corners[..., 0].gather(1, order)
    (xt, xm, xb), (yt, ym, yb) = x.unbind(1), y.unbind(1)
    column = torch.arange(width, device=x.device)
    owner = torch.full((height, width), -1, device=x.device)
    for row in range(height):
        f = ((yt <= row) & (row < yb)).nonzero().squeeze(1)
        long = xt[f] + (row - yt[f]) * ((xb[f] - xt[f]) / (yb[f] - yt[f]))
        upper = xt[f] + (row - yt[f]) * ((xm[f] - xt[f]) / (ym[f] - yt[f]))
        lower = xm[f] + (row - ym[f]) * ((xb[f] - xm[f]) / (yb[f] - ym[f]))
        short = torch.where(row < ym[f], upper, lower)
        inside = (long.minimum(short)[:, None] <= column) & (column < long.maximum(short)[:, None])
        depth = (z0[f] + (row - y0[f]) * d_dy[f])[:, None]
        depth = depth + (column - x0[f, None]) * d_dx[f, None]
        depth = torch.where(inside, _keep(depth, low[f], high[f]), torch.inf)
        if len(f):
            nearest = depth.amin(0)
            first = torch.where(depth == nearest, f[:, None], len(corners)).amin(0)
            owner[row] = torch.where(nearest < torch.inf, first, -1)
    return owner


def _bilinear(texture, u, v):  # [3, Ht, Wt], [H, W], [H, W] -> [3, H, W]
    height, width = texture.shape[1:]
    u, v = u.clamp(0, width - 1), v.clamp(0, height - 1)
    x0, y0 = u.detach().long(), v.detach().long()
    x1, y1 = (x0 + 1).clamp(max=width - 1), (y0 + 1).clamp(max=height - 1)
    top = torch.lerp(texture[:, y0, x0], texture[:, y0, x1], u - x0)
    bottom = torch.lerp(texture[:, y1, x0], texture[:, y1, x1], u - x0)
    return torch.lerp(top, bottom, v - y0)


def _fake(textures, texture_points, points, weights, triangles, which, height, width):
    return points.new_empty(len(points), 4, height, width)


op = Op(
    "raster(Tensor textures, Tensor texture_points, Tensor points, Tensor weights,"
    " Tensor triangles, Tensor which, int height, int width) -> Tensor",
    _reference,
    fake=_fake,
)


def _numba(textures, texture_points, points, weights, triangles, which, height, width):
    from accel.kernels._raster_numba import draw  # on first use: numba takes half a second

    out = points.new_zeros(len(points), 4, height, width)
    arrays = (textures, texture_points, points, weights, triangles, which, out)
    draw(*(t.detach().numpy() for t in arrays))
    return out


def _native_draw(textures, texture_points, points, weights, triangles, which, height, width):
    out = points.new_empty(len(points), 4, height, width)
    arrays = (textures, texture_points, points, weights, triangles, which, out)
    _native.module.raster(*(t.detach() for t in arrays))
    return out


# The first six arguments are tensors.
op.implement("numba", _numba, lambda *a: without_numba(*a[:6]) or not_contiguous(*a[:6]))
op.implement("native", _native_draw, lambda *a: _native.why_not(*a[:6]) or not_contiguous(*a[:6]))
op.implement(
    "triton",
    in_triton("raster", "draw"),
    lambda *a: not_on_gpu(*a[:6]) or not_contiguous(*a[:6]),
)
