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
    "Model": "accel.pipelines.generate.model",
    "Sampler": "accel.pipelines.generate.sampler",
    "generate": "accel.pipelines.generate.job",
    "load": "accel.pipelines.generate.model",
    "load_onnx": "accel.models.onnx",
    "SAMPLERS": "accel.sampling.samplers",
    "run_sampler": "accel.sampling.samplers",
    "SCHEDULES": "accel.sampling.schedules",
    "schedule": "accel.sampling.names",
    "SwapConfig": "accel.pipelines.swap",
    "swap_films": "accel.pipelines.swap_films",
    "swap_video": "accel.pipelines.swap",
}
__all__ = [*sorted(_HOMES), "__version__"]

if TYPE_CHECKING:
    from accel.core import Cancel as Cancel
    from accel.core import Cancelled as Cancelled
    from accel.core import ConfigError as ConfigError
    from accel.core import InputError as InputError
    from accel.core import Progress as Progress
    from accel.models.onnx import load_onnx as load_onnx
    from accel.pipelines.generate.job import generate as generate
    from accel.pipelines.generate.model import Model as Model
    from accel.pipelines.generate.model import load as load
    from accel.pipelines.generate.sampler import Sampler as Sampler
    from accel.pipelines.swap import SwapConfig as SwapConfig
    from accel.pipelines.swap import swap_video as swap_video
    from accel.pipelines.swap_films import swap_films as swap_films
    from accel.sampling.names import schedule as schedule
    from accel.sampling.samplers import SAMPLERS as SAMPLERS
    from accel.sampling.samplers import run_sampler as run_sampler
    from accel.sampling.schedules import SCHEDULES as SCHEDULES


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'accel' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
