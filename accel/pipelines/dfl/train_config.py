"""Settings of one run of a training, and what it tells after each step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from accel.core import ConfigError, Progress
from accel.training import model_files
from accel.training.options import MODELS


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One run of a training.

    model: quick96 or saehd. name: of the model; its files begin with it. Left empty, the one of
        that kind that was saved last goes on, or one called `new` begins.
    iterations: to reach in total; a run that finds more done does nothing.
    options: what `TrainOptions` and the network's shape have, where they are not to be as saved or
        as usual. The shape of a saved model cannot be changed.
    device: auto, cpu, cuda or cuda:N. precision: fp32; bf16 is several times faster where the
        machine has units for it; fp16 for older GPUs.
    threads: of the networks on a CPU; 0 takes all cores. workers: threads that make samples.
    save_minutes, preview_minutes: how often the model and the preview pictures are written.
    backup_hours: how often a copy of the model is set aside, 0 never; backups: how many are kept.
    preview_port: a local page shows the preview and the curve there; 0 takes a free port, None
        serves none.
    """

    model: str = "quick96"
    name: str = ""
    iterations: int = 100_000
    options: Mapping[str, Any] = field(default_factory=dict)
    device: str = "auto"
    precision: str = "fp32"
    threads: int = 0
    workers: int = 1
    save_minutes: float = 15.0
    preview_minutes: float = 2.0
    backup_hours: float = 0.0
    backups: int = 3
    preview_port: int | None = None

    def __post_init__(self) -> None:
        if self.model not in MODELS:
            raise ConfigError(f"model must be one of {', '.join(MODELS)}, got {self.model!r:.40}")
        if self.name:
            model_files.stem_of(self.name, self.model)
        for name, least in (("iterations", 1), ("threads", 0), ("workers", 1), ("backups", 1)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name} must be {least} or more, got {getattr(self, name)}")
        for name in ("save_minutes", "preview_minutes"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} must be above 0, got {getattr(self, name)}")
        if not self.backup_hours >= 0:
            raise ConfigError(f"backup_hours must be 0 or more, got {self.backup_hours}")


@dataclass(frozen=True, kw_only=True)
class TrainProgress(Progress):
    """What is told after each step, with the step's losses.

    warning: what goes wrong while the training goes on, such as a full disk; empty once it is over.
    """

    loss_src: float = 0.0
    loss_dst: float = 0.0
    page: str | None = None
    warning: str = ""
