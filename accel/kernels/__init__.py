"""Operators on tensors. Each has a reference and faster implementations; see `_op.Op`.

Names are loaded when first used, so that importing accel stays light.
"""

from __future__ import annotations

import importlib

_HOMES = {
    "blend_pyramid": "blend",
    "feather": "blend",
    "color_stats": "color",
    "illumination": "color",
    "relight": "color",
    "crop": "crop",
    "paste": "paste",
    "planes_to_rgb": "planes_rgb",
    "rgb_to_planes": "planes_rgb",
    "raster": "raster",
    "Planes": "planes",
    "PlaneLayout": "planes",
    "yuv_layout": "planes",
    "gbr_layout": "planes",
    "OPS": "_op",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'accel.kernels' has no attribute {name!r}")
    return getattr(importlib.import_module(f"accel.kernels.{_HOMES[name]}"), name)
