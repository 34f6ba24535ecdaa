"""accel: swap faces in video and sample images from generative models, fast.

Importing this touches no device, file or network; names are loaded when first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

__version__ = "0.1.0"

_HOMES = {
    "ConfigError": "accel.core",
    "InputError": "accel.core",
    "Cancel": "accel.core",
    "Cancelled": "accel.core",
    "Progress": "accel.core",
    "SwapConfig": "accel.pipelines.swap",
    "swap_video": "accel.pipelines.swap",
}
__all__ = [*sorted(_HOMES), "__version__"]

if TYPE_CHECKING:
    from accel.core import Cancel as Cancel
    from accel.core import Cancelled as Cancelled
    from accel.core import ConfigError as ConfigError
    from accel.core import InputError as InputError
    from accel.core import Progress as Progress
    from accel.pipelines.swap import SwapConfig as SwapConfig
    from accel.pipelines.swap import swap_video as swap_video


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'accel' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
