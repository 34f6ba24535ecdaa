"""Pictures from prompts: one engine behind `accel generate`, `accel.generate` and the server.

Names are loaded when first used: who asks a network alone needs no video reader nor detector.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from accel.pipelines.generate.controls import Control as Control
    from accel.pipelines.generate.job import generate as generate
    from accel.pipelines.generate.model import Model as Model
    from accel.pipelines.generate.model import load as load
    from accel.pipelines.generate.options import Options as Options
    from accel.pipelines.generate.sampler import Picture as Picture
    from accel.pipelines.generate.sampler import Sampler as Sampler

_HOMES = {
    "Control": "controls",
    "generate": "job",
    "Model": "model",
    "load": "model",
    "Options": "options",
    "Picture": "sampler",
    "Sampler": "sampler",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'accel.pipelines.generate' has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
