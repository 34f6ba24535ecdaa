"""raster beside what a Python program would do: cv2.warpAffine for each triangle, far ones first.

The peer draws each triangle into its bounding box; its seams are those of whole-pixel polygons, it
knows no depth within a triangle and interpolates no weight, so it does less.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch

from accel.kernels.raster import op
from benchmarks.harness import Args, Call, bench_kernel

MODEL = Path(__file__).parents[2] / "accel/assets/canonical_face_model.obj"


def head(size: int, faces: int = 1) -> Args:
    """The face model, 468 vertices and 898 triangles, turned a little, about 0.7 of the crop."""
    lines = [line.split() for line in MODEL.read_text().splitlines()]
    vertices = torch.tensor([[float(c) for c in v[1:]] for v in lines if v[:1] == ["v"]])
    triangles = [[int(c.split("/")[0]) - 1 for c in f[1:]] for f in lines if f[:1] == ["f"]]
    turn = torch.tensor([[0.95, 0.0, 0.31], [0.0, -1.0, 0.0], [0.31, 0.0, -0.95]])
    at_rest = vertices * torch.tensor([1, -1, -1]) * size / 25 + size / 2
    points = vertices @ turn.T * size / 25 + torch.tensor([size / 2 + 0.3, size / 2 + 0.2, 0])
    generator = torch.Generator().manual_seed(0)
    return (
        torch.rand(1, 3, size, size, generator=generator),
        at_rest[None, :, :2].repeat(faces, 1, 1),
        points[None].repeat(faces, 1, 1),
        torch.rand(faces, 468, generator=generator),
        torch.tensor(triangles, dtype=torch.int32),
        torch.zeros(faces, dtype=torch.int32),
        size,
        size,
    )


def warp_each(
    textures: torch.Tensor, texture_points: torch.Tensor, points: torch.Tensor,
    weights: torch.Tensor, triangles: torch.Tensor, which: torch.Tensor,
    height: int, width: int,
) -> dict[str, Call]:  # fmt: skip
    pictures = textures.permute(0, 2, 3, 1).contiguous().numpy()
    corners = triangles.numpy()
    cv2.setNumThreads(1)

    def run() -> object:
        out = np.zeros((len(points), height, width, 4), np.float32)
        for n in range(len(points)):
            to, source = points[n].numpy(), texture_points[n].numpy()
            picture = pictures[int(which[n])]
            for f in np.argsort(-to[corners, 2].mean(1)):
                t, s = to[corners[f], :2], source[corners[f]]
                x0, y0 = np.maximum(np.floor(t.min(0)).astype(int), 0)
                x1, y1 = np.minimum(np.ceil(t.max(0)).astype(int) + 1, (width, height))
                if x0 >= x1 or y0 >= y1:
                    continue
                matrix = cv2.getAffineTransform(s, t - np.array([x0, y0], np.float32))
                box = (int(x1 - x0), int(y1 - y0))
                warped = cv2.warpAffine(picture, matrix, box, borderMode=cv2.BORDER_REPLICATE)
                mask = np.zeros(box[::-1], np.uint8)
                cv2.fillConvexPoly(mask, np.rint(t - (x0, y0)).astype(np.int32), 1)
                region = out[n, y0:y1, x0:x1]
                region[mask > 0, :3] = warped[mask > 0]
                region[mask > 0, 3] = float(weights[n, corners[f]].mean())
        return out

    return {"cv2.warpAffine each": run}


def main() -> None:
    bench_kernel(
        op,
        [(f"{faces} face, {size} px", head(size, faces)) for size, faces in
         ((128, 1), (256, 1), (512, 1))],
        peers=warp_each,
        rounds=7,
        note="468 vertices, 898 triangles",
    )  # fmt: skip


if __name__ == "__main__":
    main()
