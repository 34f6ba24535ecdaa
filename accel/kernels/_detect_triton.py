"""The Triton side of `decode_faces` and `similarity`: no number of theirs has to visit the host."""

from __future__ import annotations

import triton
import triton.language as tl

FACES = 64  # similarities a program works out
WARPS = {1024: 8, 4096: 16}  # by anchors; with fewer a view's boxes do not fit the registers


def decode(boxes, logits, centres, back, out, least, overlap, margin):  # out [V, most, 17] written
    views, anchors = logits.shape
    block = 1024 if anchors <= 1024 else 4096
    _decode_kernel[(views,)](
        boxes, logits, centres, back, out, anchors, least, overlap, margin,
        MOST=out.shape[1], BLOCK=block, num_warps=WARPS[block],
    )  # fmt: skip


def fit(points, template, out):  # [N, P, 2], [P, 2], [N, 2, 3] written
    count, size = points.shape[:2]
    _similarity_kernel[(triton.cdiv(count, FACES),)](
        points, template, out, count, size, BLOCK=FACES, num_warps=2
    )


@triton.jit
def _decode_kernel(
    boxes_ptr, logits_ptr, centres_ptr, back_ptr, out_ptr, anchors, least, overlap, margin,
    MOST: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    view = tl.program_id(0)
    i = tl.arange(0, BLOCK)
    inside = i < anchors
    box = boxes_ptr + (view * anchors + i) * 16
    logit = tl.load(logits_ptr + view * anchors + i, inside, -100.0).to(tl.float32)
    score = 1.0 / (1.0 + tl.exp(-tl.minimum(tl.maximum(logit, -50.0), 50.0)))
    left = tl.where(inside & (score >= least), score, 0.0)
    back = back_ptr + view * 6
    a, b, shift_x = tl.load(back), tl.load(back + 1), tl.load(back + 2)
    c, d, shift_y = tl.load(back + 3), tl.load(back + 4), tl.load(back + 5)
    scale = tl.sqrt(a * a + c * c)
    for n in range(MOST):
        best = tl.max(left, 0)
        # Of equals the first.
        first = tl.min(tl.where(left == best, i, BLOCK), 0)
        at = i == first
        # Read again for every face: kept, they would not fit the registers.
        x = tl.load(centres_ptr + 2 * i, inside, 0.0) + tl.load(box, inside, 0.0).to(tl.float32)
        y = tl.load(centres_ptr + 2 * i + 1, inside, 0.0)
        y += tl.load(box + 1, inside, 0.0).to(tl.float32)
        width = tl.load(box + 2, inside, 0.0).to(tl.float32)
        height = tl.load(box + 3, inside, 0.0).to(tl.float32)
        best_x, best_y = tl.sum(tl.where(at, x, 0.0), 0), tl.sum(tl.where(at, y, 0.0), 0)
        best_w, best_h = tl.sum(tl.where(at, width, 0.0), 0), tl.sum(tl.where(at, height, 0.0), 0)
        shared_w = tl.minimum(x + width / 2, best_x + best_w / 2)
        shared_w -= tl.maximum(x - width / 2, best_x - best_w / 2)
        shared_h = tl.minimum(y + height / 2, best_y + best_h / 2)
        shared_h -= tl.maximum(y - height / 2, best_y - best_h / 2)
        shared = tl.maximum(shared_w, 0.0) * tl.maximum(shared_h, 0.0)
        whole = width * height + best_w * best_h - shared
        # An empty box does not overlap itself.
        together = (left > 0) & ((shared >= overlap * whole) & (whole > 0) | at)
        weight = tl.where(together, left, 0.0)
        left = tl.where(together, 0.0, left)
        total = tl.sum(weight, 0)
        share = weight / tl.maximum(total, 1e-30)
        alive = tl.where(total > 0, 1.0, 0.0)
        out = out_ptr + (view * MOST + n) * 17
        side = tl.maximum(tl.sum(share * width, 0), tl.sum(share * height, 0)) * scale
        # The network counts from the crop's edge, the matrices from its first pixel's centre.
        u, v = tl.sum(share * x, 0) - 0.5, tl.sum(share * y, 0) - 0.5
        tl.store(out, best * alive)
        tl.store(out + 1, (a * u + b * v + shift_x) * alive)
        tl.store(out + 2, (c * u + d * v + shift_y) * alive)
        tl.store(out + 3, side * margin * alive)
        for k in tl.static_range(6):
            near = tl.load(box + 4 + 2 * k, inside, 0.0).to(tl.float32)
            u = tl.sum(share * (near + tl.load(centres_ptr + 2 * i, inside, 0.0)), 0) - 0.5
            near = tl.load(box + 5 + 2 * k, inside, 0.0).to(tl.float32)
            v = tl.sum(share * (near + tl.load(centres_ptr + 2 * i + 1, inside, 0.0)), 0) - 0.5
            tl.store(out + 5 + 2 * k, (a * u + b * v + shift_x) * alive)
            tl.store(out + 6 + 2 * k, (c * u + d * v + shift_y) * alive)


@triton.jit
def _similarity_kernel(points_ptr, template_ptr, out_ptr, count, size, BLOCK: tl.constexpr):
    n = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = n < count
    points = points_ptr + n * size * 2
    mean_x = tl.zeros((BLOCK,), tl.float32)
    mean_y = tl.zeros((BLOCK,), tl.float32)
    to_x = tl.sum(tl.zeros((BLOCK,), tl.float32), 0)
    to_y = to_x
    for k in range(size):
        mean_x += tl.load(points + 2 * k, inside, 0.0)
        mean_y += tl.load(points + 2 * k + 1, inside, 0.0)
        to_x += tl.load(template_ptr + 2 * k)
        to_y += tl.load(template_ptr + 2 * k + 1)
    mean_x, mean_y, to_x, to_y = mean_x / size, mean_y / size, to_x / size, to_y / size
    along = tl.zeros((BLOCK,), tl.float32)
    across = tl.zeros((BLOCK,), tl.float32)
    spread = tl.zeros((BLOCK,), tl.float32)
    for k in range(size):
        x = tl.load(points + 2 * k, inside, 0.0) - mean_x
        y = tl.load(points + 2 * k + 1, inside, 0.0) - mean_y
        u, v = tl.load(template_ptr + 2 * k) - to_x, tl.load(template_ptr + 2 * k + 1) - to_y
        along += x * u + y * v
        across += x * v - y * u
        spread += x * x + y * y
    cos, sin = along / spread, across / spread
    out = out_ptr + n * 6
    tl.store(out, cos, inside)
    tl.store(out + 1, -sin, inside)
    tl.store(out + 2, to_x - cos * mean_x + sin * mean_y, inside)
    tl.store(out + 3, sin, inside)
    tl.store(out + 4, cos, inside)
    tl.store(out + 5, to_y - sin * mean_x - cos * mean_y, inside)


_FLOATS = ("least", "overlap", "margin")


def _kinds(kernel, code: str) -> dict[str, str]:
    """What the network gave is of type `code`, all else float32."""
    given = {"boxes_ptr": f"*{code}", "logits_ptr": f"*{code}"}
    return {
        name: given.get(name, "*fp32")
        if name.endswith("_ptr")
        else "constexpr" if name.isupper() else "fp32" if name in _FLOATS else "i32"
        for name in kernel.arg_names
    }  # fmt: skip


AOT = [
    {
        "name": f"decode_faces_{code}_{block}" + ("" if most == 8 else f"_{most}"),
        "kernel": _decode_kernel,
        "signature": _kinds(_decode_kernel, code),
        "constexprs": {"MOST": most, "BLOCK": block},
        "num_warps": warps,
    }
    for code in ("fp32", "fp16")
    for block, warps in WARPS.items()
    for most in (8, 32)  # by default; what the detector asks for
    if most == 8 or code == "fp32"
]
AOT += [
    {
        "name": "similarity",
        "kernel": _similarity_kernel,
        "signature": _kinds(_similarity_kernel, "fp32"),
        "constexprs": {"BLOCK": FACES},
        "num_warps": 2,
    }
]
