"""From a detector's raw answers to faces in the frame, without a number visiting the host.

Anchors whose boxes overlap the surest one's are averaged, weighted by their scores, as BlazeFace
does in place of throwing them away; the mean is taken to the frame, with the square that the next
network wants to see. As many rows come back as were asked for, those after the last face all zero,
so nobody has to wait to learn how many there are.

Source: Bazarevsky et al. 2019, BlazeFace (arXiv:1907.05047).
"""

from __future__ import annotations

import torch
from torch import Tensor

from accel.kernels._op import Op, triton_kernels
from accel.kernels._why_not import not_contiguous, not_on_gpu

COLUMNS = 17  # score; centre x, y, side and angle of the square; x and y of six points
MOST_ANCHORS = 4096
NOTHING = 1e-30


def decode_faces(
    boxes: Tensor,  # [V, A, 16] x, y, width, height, six points; from the anchor, network pixels
    logits: Tensor,  # [V, A]
    centres: Tensor,  # [A, 2] of the anchors, network pixels, edges at 0 and size
    back: Tensor,  # [V, 2, 3] network pixel centres to frame
    *,
    min_score: float = 0.5,
    overlap: float = 0.3,  # boxes that share more of what they cover show one face
    margin: float = 1.5,  # side of the square over that of the face
    most: int = 8,
) -> Tensor:  # [V, most, 17] score, square, points in frame pixels, the surest first; float32
    """Decode, group and place the faces of some views; everything on the device of `boxes`.

    Points are right eye, left eye, nose tip, mouth, right ear, left ear; the square's angle is
    that of the eyes, in radians. Raises ValueError for shapes that do not fit one another.
    """
    views, anchors = logits.shape if logits.ndim == 2 else (0, 0)
    shapes = [tuple(t.shape) for t in (boxes, logits, centres, back)]
    if shapes != [(views, anchors, 16), (views, anchors), (anchors, 2), (views, 2, 3)]:
        raise ValueError(
            "decode_faces: boxes, logits, centres and back must be [V, A, 16], [V, A], [A, 2] and "
            f"[V, 2, 3], got {shapes}"
        )
    if most < 1:
        raise ValueError(f"decode_faces: most must be at least 1, got {most}")
    found: Tensor = op(boxes, logits, centres, back, min_score, overlap, margin, most)
    eyes = found[..., 7:9] - found[..., 5:7]
    found[..., 4] = torch.atan2(eyes[..., 1], eyes[..., 0])
    return found


def _reference(boxes, logits, centres, back, min_score, overlap, margin, most):
    views, anchors = logits.shape
    out = torch.zeros(views, most, COLUMNS, device=boxes.device)
    if not anchors:
        return out
    boxes, back = boxes.float(), back.float()
    points = boxes.view(views, anchors, 8, 2).clone()
    points[:, :, [0, *range(2, 8)]] += centres[:, None].float()  # row 1 is width and height
    half = points[:, :, 1] / 2
    low, high = points[:, :, 0] - half, points[:, :, 0] + half
    area = points[:, :, 1].prod(-1)
    score = torch.sigmoid(logits.float().clamp(-50, 50))
    left = torch.where(score >= min_score, score, 0.0)
    scale = back[:, :, 0].square().sum(-1).sqrt()
    every = torch.arange(views, device=boxes.device)
    for n in range(most):
        best, at = left.max(1)
        start, stop = low[every, at][:, None], high[every, at][:, None]
        shared = (torch.minimum(high, stop) - torch.maximum(low, start)).clamp(min=0).prod(-1)
        whole = area + area[every, at][:, None] - shared
        together = (shared >= overlap * whole) & (whole > 0)
        together[every, at] = True  # an empty box does not overlap itself
        weight = left * together
        left = torch.where(together, 0.0, left)
        total = weight.sum(1)
        mean = torch.einsum("va,vapc->vpc", weight / total.clamp(min=NOTHING)[:, None], points)
        # The network counts from the crop's edge, the matrices from its first pixel's centre.
        spots = (mean[:, [0, *range(2, 8)]] - 0.5) @ back[:, :, :2].mT + back[:, None, :, 2]
        side = mean[:, 1].amax(-1) * scale * margin
        head = (best[:, None], spots[:, 0], side[:, None], torch.zeros_like(side)[:, None])
        row = torch.cat([*head, spots[:, 1:].flatten(1)], 1)
        out[:, n] = torch.where(total[:, None] > 0, row, 0.0)
    return out


def _empty(boxes, logits, centres, back, min_score, overlap, margin, most):
    return boxes.new_empty(boxes.shape[0], most, COLUMNS, dtype=torch.float32)


op = Op(
    "decode_faces(Tensor boxes, Tensor logits, Tensor centres, Tensor back, float min_score,"
    " float overlap, float margin, int most) -> Tensor",
    _reference,
    fake=_empty,
    gradient=False,  # which anchors belong together is no smooth function
)


def _triton(boxes, logits, centres, back, min_score, overlap, margin, most):
    out = boxes.new_zeros(len(boxes), most, COLUMNS, dtype=torch.float32)
    triton_kernels("detect").decode(boxes, logits, centres, back, out, min_score, overlap, margin)
    return out


def _why_not_triton(boxes, logits, centres, back, *numbers) -> str:
    tensors = (boxes, logits, centres, back)
    if why := not_on_gpu(*tensors) or not_contiguous(*tensors):
        return why
    if centres.dtype != torch.float32 or back.dtype != torch.float32:
        return f"needs float32 centres and matrices, got {centres.dtype}, {back.dtype}"
    if not logits.numel() > 0 or logits.shape[1] > MOST_ANCHORS:
        return f"needs 1 to {MOST_ANCHORS} anchors, got {tuple(logits.shape)}"
    return ""


op.implement("triton", _triton, _why_not_triton)
