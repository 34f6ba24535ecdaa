"""The colour of a face, once a face and frame: beside OpenCV's conversion to Lab and numpy."""

from __future__ import annotations

import cv2
import numpy as np
import torch

from accel.kernels.color import (
    color_stats,
    color_stats_op,
    illumination,
    illumination_op,
    relight_op,
)
from benchmarks.harness import Args, Call, Picture, bench_kernel

SIZES = {"256 px": (1, 256), "256 px x4": (4, 256), "512 px": (1, 512)}
GRID = 16


def crops_and_masks(count: int, side: int) -> tuple[torch.Tensor, torch.Tensor]:
    make = torch.Generator().manual_seed(0)
    crops = torch.rand(count, 3, side, side, generator=make)
    y, x = torch.meshgrid(*[torch.linspace(-1, 1, side)] * 2, indexing="ij")
    masks = (4 - 5 * (x * x + y * y)).clamp(0, 1).expand(count, side, side).contiguous()
    return crops, masks


def relight_case(count: int, side: int) -> Args:
    crops, masks = crops_and_masks(count, side)
    stats, light = color_stats(crops, masks), illumination(crops, masks, GRID)
    return crops, stats, stats * 0.9 + 2, light, light * 1.05, 0.75, 1.6


def pictures(crops: torch.Tensor) -> list[Picture]:
    return [np.ascontiguousarray(c.permute(1, 2, 0).numpy()) for c in crops]


def stats_peer(crops: torch.Tensor, masks: torch.Tensor) -> dict[str, Call]:
    def opencv() -> None:
        for picture, mask in zip(given, masks.numpy()):
            lab = cv2.cvtColor(picture, cv2.COLOR_RGB2Lab)
            total = mask.sum()
            mean = np.einsum("hwc,hw->c", lab, mask) / total
            np.sqrt(np.einsum("hwc,hw->c", (lab - mean) ** 2, mask) / total)

    given = pictures(crops)
    return {"opencv + numpy": opencv}


def light_peer(crops: torch.Tensor, masks: torch.Tensor, grid: int) -> dict[str, Call]:
    def opencv() -> None:
        for picture, mask in zip(given, masks.numpy()):
            lab = cv2.cvtColor(picture, cv2.COLOR_RGB2Lab) * mask[..., None]
            cells = cv2.resize(np.dstack([lab, mask]), (grid, grid), interpolation=cv2.INTER_AREA)
            wide = cv2.GaussianBlur(cells, (0, 0), grid / 8)
            wide[..., :3] / np.maximum(wide[..., 3:], 1e-9)

    given = pictures(crops)
    return {"opencv + numpy": opencv}


def relight_peer(
    crops: torch.Tensor, source_stats: torch.Tensor, target_stats: torch.Tensor,
    source_light: torch.Tensor, target_light: torch.Tensor, strength: float, gain: float,
) -> dict[str, Call]:  # fmt: skip
    def opencv() -> None:
        size = crops.shape[3], crops.shape[2]
        for i, picture in enumerate(given):
            lab = cv2.cvtColor(picture, cv2.COLOR_RGB2Lab)
            scale = np.clip(target[i, 1] / source[i, 1], 1 / gain, gain)
            bias = target[i, 0] - source[i, 0] * scale
            add = strength * (light_t[i] - (light_s[i] * scale + bias))
            lab = lab * scale + bias + cv2.resize(add, size)
            np.clip(cv2.cvtColor(lab, cv2.COLOR_Lab2RGB), 0, 1)

    given = pictures(crops)
    source, target = source_stats.numpy(), target_stats.numpy()
    light_s, light_t = (
        np.ascontiguousarray(light[:, :3].permute(0, 2, 3, 1).numpy())
        for light in (source_light, target_light)
    )
    return {"opencv + numpy": opencv}


def main() -> None:
    cv2.setNumThreads(1)
    cases = [(label, crops_and_masks(*size)) for label, size in SIZES.items()]
    bench_kernel(color_stats_op, cases, peers=stats_peer)
    with_grid = [(label, (*args, GRID)) for label, args in cases]
    bench_kernel(illumination_op, with_grid, peers=light_peer)
    lit = [(label, relight_case(*size)) for label, size in SIZES.items()]
    bench_kernel(relight_op, lit, peers=relight_peer)


if __name__ == "__main__":
    main()
