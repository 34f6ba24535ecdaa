"""What a swap needs whatever the film: networks, the faces to put in, and the swapper."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import torch

from accel.faces.find import FaceModels
from accel.faces.swap import SourceFace, Swapper, open_swapper
from accel.pipelines.swap_config import SwapConfig
from accel.pipelines.swap_source import load_source


class SwapTools:
    """Opened once for one set of settings; films take them one after the other or side by side.

    swapper: the caller's own, in place of the one that `config.swapper` names.
    Raises InputError for a network or a source that cannot be used.
    """

    def __init__(
        self, config: SwapConfig, device: torch.device, swapper: Swapper | None = None
    ) -> None:
        self.notes: list[str] = []
        self._models = FaceModels(device=str(device))

        # Sources are read after the networks' files have proved good: a stranger's may not cost
        # more than its own check.
        @cache
        def sources() -> list[list[SourceFace]]:
            return [[self._source(path) for path in config.sources]]

        self._swapper = swapper or open_swapper(
            config.swapper,
            sources,
            device=str(device),
            recogniser=config.recogniser,
            converter=config.converter,
            spec=config.kind,
        )
        sources()  # some networks ask for none, which is no reason to accept what shows no face
        self.reference: np.ndarray | None = None  # the embedding to look for
        if config.select == "reference" and config.reference:
            self.reference = self._source(config.reference).embedding

    def for_a_film(self) -> tuple[FaceModels, Swapper]:
        """The networks with counts of their own, and the swapper with tracks of its own."""
        apart = getattr(self._swapper, "apart", None)
        return self._models.apart(), apart() if apart else self._swapper

    def _source(self, path: Path) -> SourceFace:
        source = load_source(path, models=self._models)
        if source.shown > 1:
            self.notes.append(f"{path}: shows {source.shown} faces; the largest one was taken")
        return source
