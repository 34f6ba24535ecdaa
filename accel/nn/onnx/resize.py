"""ONNX's Resize: for each axis, from which places of the source a target is made, by what weights.

Where the nearest source is taken, coordinates are float32 as ONNX Runtime's are: of a target that
lies half-way between two sources, or at a whole number times a scale, rounding decides.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from accel.nn.onnx.ops import Attributes, Unsupported, integers, op

Floats = NDArray[Any]
MOST_WEIGHTS = 1 << 24  # of one dimension


@dataclass(frozen=True)
class Axis:
    """One dimension of a Resize: `size` numbers become `target`."""

    size: int
    target: int
    scale: float  # as the file says it; target / size may differ
    how: str  # coordinates are transformed

    @property
    def is_same(self) -> bool:
        return self.size == self.target and self.scale == 1

    def at(self, kind: Any = np.float64) -> Floats:  # [target] coordinates in the source
        """Raises Unsupported for a transformation that is not known here."""
        i, scale, half = np.arange(self.target, dtype=kind), kind(self.scale), kind(0.5)
        if self.how == "asymmetric":
            return i / scale
        if self.how == "align_corners":
            return i * kind(self.size - 1) / kind(max(self.target - 1, 1))
        if self.how == "tf_half_pixel_for_nn":
            return (i + half) / scale
        if self.how == "pytorch_half_pixel" and self.target == 1:
            return np.zeros(1, kind)
        if self.how == "half_pixel_symmetric":
            shift = kind(self.size) * half * (1 - kind(self.target) / (kind(self.size) * scale))
            return shift + (i + half) / scale - half
        if self.how not in ("half_pixel", "pytorch_half_pixel"):
            raise Unsupported(f"Resize, {self.how}")
        return (i + half) / scale - half

    def nearest(self, rounding: str) -> Tensor:  # [target] int64
        at, half = self.at(np.float32), np.float32(0.5)
        if rounding == "simple":  # before opset 11
            rounding = "ceil" if self.scale < 1 else "floor"
        rounded: dict[str, Any] = {
            "floor": np.floor,
            "ceil": np.ceil,
            "round_prefer_floor": lambda v: np.ceil(v - half),
            "round_prefer_ceil": lambda v: np.floor(v + half),
        }
        if rounding not in rounded:
            raise Unsupported(f"Resize nearest, {rounding}")
        index = rounded[rounding](at).clip(0, self.size - 1)
        return torch.from_numpy(index.astype(np.int64))

    def between(self) -> tuple[Tensor, Tensor, Tensor]:
        """For each target its two sources, int32, and the share of the second."""
        at = self.at().clip(0, self.size - 1)
        first = np.floor(at)
        second = (first + 1).clip(0, self.size - 1)
        left, right = (torch.from_numpy(i.astype(np.int32)) for i in (first, second))
        return left, right, torch.from_numpy((at - first).astype(np.float32))

    def weights(self, a: Attributes, mode: str) -> Tensor:  # [target, size]
        """What each source counts for each target, for the modes that mix."""
        if self.target * self.size > MOST_WEIGHTS:
            raise Unsupported(f"Resize from {self.size} to {self.target}")
        made = torch.zeros(self.target, self.size)
        if mode == "linear":
            first, second, part = self.between()
            made.scatter_add_(1, first.long()[:, None], 1 - part[:, None])
            return made.scatter_add_(1, second.long()[:, None], part[:, None])
        at = self.at()[:, None]
        sources = np.floor(at) + np.arange(-1, 3)
        counts = _cubic(np.abs(sources - at), float(a.get("cubic_coeff_a", -0.75)))
        if a.get("exclude_outside", 0):
            counts = counts * ((sources >= 0) & (sources < self.size))
            counts = counts / counts.sum(1, keepdims=True)
        index = torch.from_numpy(sources.clip(0, self.size - 1).astype(np.int64))
        return made.scatter_add_(1, index, torch.from_numpy(counts.astype(np.float32)))


def _cubic(distance: Floats, a: float) -> Floats:
    """Keys' kernel."""
    near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
    far = ((a * distance - 5 * a) * distance + 8 * a) * distance - 4 * a
    kernel: Floats = np.where(distance < 1, near, np.where(distance < 2, far, 0.0))
    return kernel


def axes_of(a: Attributes, shape: Sequence[int], rest: Sequence[Tensor | None]) -> list[Axis]:
    """One Axis for each dimension. rest: the inputs after the first."""
    opset = a["opset"]
    how = a.get("coordinate_transformation_mode", "half_pixel" if opset > 10 else "asymmetric")
    given = [t for t in rest if t is not None and t.numel()]
    if not given and "scales" not in a:
        raise Unsupported("Resize without scales or sizes")
    last = given[-1] if given else torch.tensor(a["scales"])
    given_axes = a.get("axes") or range(len(shape))
    if not all(-len(shape) <= d < len(shape) for d in given_axes):
        raise Unsupported(f"Resize of axes {list(given_axes)}, got {len(shape)} dimensions")
    chosen = [d % len(shape) for d in given_axes]
    values = last.reshape(-1).tolist()
    if len(values) != len(chosen) or how == "tf_crop_and_resize" or a.get("antialias", 0):
        raise Unsupported(f"Resize, {how}, of {len(values)} axes, or with antialias")
    sizes, scales = list(shape), [1.0] * len(shape)
    if last.is_floating_point():
        if not all(0 < scale < math.inf for scale in values):
            raise Unsupported(f"Resize by {values}")
        for d, scale in zip(chosen, values):
            sizes[d], scales[d] = int(np.float32(shape[d]) * np.float32(scale)), scale
    else:
        policy = a.get("keep_aspect_ratio_policy", "stretch")
        if not all(shape[d] for d in chosen):
            raise Unsupported("Resize to sizes of an axis of 0")
        ratios = [np.float32(v) / np.float32(shape[d]) for d, v in zip(chosen, values)]
        if policy != "stretch":
            one = min(ratios) if policy == "not_larger" else max(ratios)
            ratios = [one] * len(chosen)
            values = [int(np.floor(one * np.float32(shape[d]) + np.float32(0.5))) for d in chosen]
        for d, size, ratio in zip(chosen, integers(values) or [], ratios):
            sizes[d], scales[d] = size, float(ratio)
    return [Axis(s, t, f, how) for s, t, f in zip(shape, sizes, scales)]


def rounding_of(a: Attributes) -> str:
    return str(a.get("nearest_mode", "round_prefer_floor")) if a["opset"] > 10 else "simple"


@op("Resize", "Upsample")
def resize(a: Attributes, x: Tensor, *rest: Tensor | None) -> Tensor:
    axes, mode = axes_of(a, x.shape, rest), a.get("mode", "nearest")
    # What shrinks goes first: nothing in between is larger than the input or the result.
    mixed = [d for d, axis in enumerate(axes) if not axis.is_same]
    mixed.sort(key=lambda d: axes[d].target / max(axes[d].size, 1))
    if mode == "nearest":
        for d in mixed:
            x = x.index_select(d, axes[d].nearest(rounding_of(a)))
        return x
    if mode not in ("linear", "bilinear", "cubic") or not x.is_floating_point():
        raise Unsupported(f"Resize {mode} of {x.dtype}")
    mode = "linear" if mode == "bilinear" else mode
    if set(mixed) <= {2, 3} and x.ndim == 4 and _is_torchs(a, axes):
        return F.interpolate(
            x, [axis.target for axis in axes[2:]], align_corners=axes[2].how == "align_corners",
            mode="bilinear" if mode == "linear" else "bicubic",
        )  # fmt: skip
    for d in mixed:
        x = (x.movedim(d, -1) @ axes[d].weights(a, mode).to(x.dtype).T).movedim(-1, d)
    return x


def _is_torchs(a: Attributes, axes: Sequence[Axis]) -> bool:
    """Whether torch's own enlarging means the same."""
    plain: dict[str, Any] = {"exclude_outside": 0, "cubic_coeff_a": -0.75}
    return (
        axes[2].how in ("half_pixel", "align_corners")
        and all(a.get(name, value) == value for name, value in plain.items())
        and all(axis.size * axis.scale == axis.target for axis in axes[2:])
    )


@op("GridSample")
def grid_sample(a: Attributes, x: Tensor, grid: Tensor) -> Tensor:
    mode = str(a.get("mode", "linear"))
    if x.ndim != 4:
        raise Unsupported("GridSample of other than pictures")
    return F.grid_sample(
        x, grid, {"linear": "bilinear", "cubic": "bicubic"}.get(mode, mode),
        a.get("padding_mode", "zeros"), bool(a.get("align_corners", 0)),
    )  # fmt: skip
