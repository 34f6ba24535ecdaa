"""Kernels made for GPUs: odd head sizes, the gated product, detector answers, NV12 out of a VAE."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from accel.faces import align
from accel.faces.detect import NEAR, Detector
from accel.kernels import (
    decode_faces,
    geglu_linear,
    rgb_to_planes,
    similarity,
    to_nv12,
    yuv_layout,
)
from accel.kernels._op import OPS
from tests.kernels.check import check_kernel


def only(name: str):
    return next(i for i in OPS[name].implementations if i.name == "triton")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize(
    ("size", "queries", "keys"), [(40, 130, 70), (40, 1, 1), (80, 20, 77), (160, 9, 33)]
)
def test_attention_of_odd_heads(size, queries, keys, dtype):
    # As the layers have them: heads side by side in a row.
    q, k, v = (torch.randn(1, n, 2, size, dtype=dtype) for n in (queries, keys, keys))
    args = [t.transpose(1, 2) for t in (q, k, v)]
    ran = check_kernel(
        OPS["attention"], [*args, size**-0.5, False], only=["triton"], rtol=2e-3, atol=2e-3
    )
    assert ran == ["triton"]


def test_attention_says_what_it_is_not_for():
    why_not = only("attention").why_not
    wide, odd = torch.zeros(1, 1, 4, 64), torch.zeros(1, 1, 4, 80)[..., :40]
    assert "is for heads of 40, 80, 160, got 64" in why_not(wide, wide, wide, 1.0, False)
    assert why_not(odd, odd, odd, 1.0, True) == "sees all keys"
    shifted = torch.zeros(200)[1:161].view(1, 1, 4, 40)
    assert "multiple of 16 bytes" in why_not(shifted, shifted, shifted, 1.0, False)
    rows = torch.zeros(1, 1, 4, 44)[..., :40]
    assert "multiples of 8" in why_not(rows, rows, rows, 1.0, False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize(("rows", "depth", "width"), [(130, 40, 72), (3, 8, 8), (1, 96, 64)])
def test_the_gated_product(rows, depth, width, dtype):
    x = torch.randn(rows, depth, dtype=dtype)
    weight = (torch.randn(2 * width, depth) * depth**-0.5).to(dtype)
    bias = torch.randn(2 * width, dtype=dtype)
    ran = check_kernel(
        OPS["geglu_linear"], [x, weight, bias], rtol=4e-3, atol=4e-3, only=["triton"]
    )
    assert ran == ["triton"]


def test_the_gated_product_is_the_layers():
    x, weight, bias = torch.randn(2, 5, 16), torch.randn(48, 16), torch.randn(48)
    value, gate = F.linear(x, weight, bias).chunk(2, -1)
    torch.testing.assert_close(geglu_linear(x, weight, bias), value * F.gelu(gate))
    with pytest.raises(ValueError, match="weight \\[2 \\* N, K\\]"):
        geglu_linear(x, weight[:, :8], bias)
    with pytest.raises(ValueError, match="geglu_linear: x must be"):
        geglu_linear(x, weight[:47], bias[:47])


def answers(views=2, faces=3, seed=0):
    """What a detector might say: clusters of sure anchors on a noisy ground."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.from_numpy(NEAR.centres()).float()
    anchors = len(centres)
    boxes = torch.randn(views, anchors, 16, generator=generator)
    boxes[..., 2:4] = 30 + 4 * torch.rand(views, anchors, 2, generator=generator)
    logits = -6 + torch.randn(views, anchors, generator=generator)
    for view in range(views):
        for _ in range(faces):
            middle = 40 + 176 * torch.rand(2, generator=generator)
            near = (centres - middle).norm(dim=1) < 20
            aim = (middle - centres)[:, None].expand(-1, 7, -1).clone()
            aim[:, 1:] += 8 * torch.randn(6, 2, generator=generator)
            boxes[view, near, :2] = aim[near, 0]
            boxes[view, near, 4:] = aim[near, 1:].flatten(1)
            logits[view, near] = 1.5 + torch.randn(int(near.sum()), generator=generator)
    angle = torch.tensor([0.0, 0.4])[:views]
    turn = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], -1).view(-1, 2, 2)
    back = torch.cat([2.5 * turn, torch.tensor([100.0, -30.0]).expand(views, 2)[..., None]], 2)
    return boxes, logits, centres, back


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_faces_are_decoded_grouped_and_placed(dtype):
    boxes, logits, centres, back = answers()
    ran = check_kernel(
        OPS["decode_faces"],
        [boxes.to(dtype), logits.to(dtype), centres, back, 0.5, 0.3, 1.5, 8],
        rtol=2e-3 if dtype == torch.float16 else 1e-4, atol=0.3 if dtype == torch.float16 else 1e-3,
    )  # fmt: skip
    assert ran == ["triton", "reference"]


def test_decoding_is_the_detectors():
    boxes, logits, centres, back = answers()
    detector = object.__new__(Detector)
    detector._size, detector._centres = NEAR.size, centres.double().numpy()
    found = decode_faces(boxes, logits, centres, back).numpy()
    for view in range(2):
        side = 2.5 * NEAR.size
        expected = detector._decode(
            np.array([0, 0, side, 0]), back[view].double().numpy(), boxes[view].numpy(),
            logits[view].numpy(), 0.5,
        )  # fmt: skip
        assert 1 <= len(expected) <= 8
        assert (found[view, len(expected) :] == 0).all()
        for row, face in zip(found[view], expected):
            np.testing.assert_allclose(row[0], face.score, rtol=1e-5)
            np.testing.assert_allclose(row[1:5], face.region, rtol=1e-4, atol=1e-3)
            np.testing.assert_allclose(row[5:].reshape(6, 2), face.keypoints, rtol=1e-4, atol=1e-3)


def test_no_face_is_a_row_of_zeros():
    boxes, logits, centres, back = answers(views=1, faces=0)
    assert not decode_faces(boxes, logits - 20, centres, back).any()
    with pytest.raises(ValueError, match="decode_faces: boxes, logits"):
        decode_faces(boxes, logits[:, 1:], centres, back)
    with pytest.raises(ValueError, match="most must be at least 1"):
        decode_faces(boxes, logits, centres, back, most=0)


def test_similarities_are_the_hosts():
    points = 300 * torch.rand(70, 5, 2)
    template = 100 * torch.rand(5, 2)
    assert check_kernel(OPS["similarity"], [points, template], rtol=1e-4, atol=1e-3) == [
        "triton", "reference"
    ]  # fmt: skip
    expected = align.similarity(points.numpy(), np.broadcast_to(template.numpy(), points.shape))
    np.testing.assert_allclose(similarity(points, template), expected, rtol=1e-4, atol=1e-3)


def test_equal_points_have_no_similarity():
    assert similarity(torch.ones(1, 5, 2), torch.rand(5, 2)).isnan().any()
    with pytest.raises(ValueError, match="similarity: points must be"):
        similarity(torch.ones(5, 2), torch.rand(5, 2))
    with pytest.raises(ValueError, match="two or more points"):
        similarity(torch.ones(3, 1, 2), torch.rand(1, 2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("shape", [(2, 3, 8, 12), (1, 3, 2, 8), (1, 3, 34, 48)], ids=str)
def test_pictures_become_nv12(shape, dtype):
    x = 2.4 * torch.rand(shape).to(dtype) - 1.2
    color = list(yuv_layout().from_rgb)
    ran = check_kernel(OPS["to_nv12"], [x, color], rtol=0, atol=1)
    assert ran == ["triton", "reference"]
    near = (only("to_nv12").run(x, color).float() - to_nv12(x).float()).abs()
    assert (near > 0).float().mean() < 0.02  # ties of rounding alone


def test_nv12_holds_the_planes_of_the_picture():
    x = 2 * torch.rand(1, 3, 16, 24) - 1
    out = to_nv12(x, matrix="bt601", full_range=True)[0]
    layout = yuv_layout(matrix="bt601", full_range=True)
    planes = rgb_to_planes((x[0].permute(1, 2, 0) / 2 + 0.5).contiguous(), layout)
    assert (out[:16].int() - planes.c0.int()).abs().max() <= 1
    pairs = out[16:].view(8, 12, 2).int()
    assert (pairs[..., 0] - planes.c1.int()).abs().max() <= 1
    assert (pairs[..., 1] - planes.c2.int()).abs().max() <= 1
    with pytest.raises(ValueError, match="H and W even"):
        to_nv12(x[..., :-1])
