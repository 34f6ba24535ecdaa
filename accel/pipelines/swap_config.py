"""The settings of one swap run."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from accel.core import ConfigError
from accel.pipelines.provenance import ProvenanceConfig
from accel.pipelines.select import Selection
from accel.video.encode import EncodeConfig
from accel.video.sniff import PICTURE_SUFFIXES


@dataclass(frozen=True, kw_only=True)
class SwapConfig:
    """Settings of one swap run.

    sources: pictures of the face to put in, one or several of the same person; the largest face
        of each is taken, and the best picture for each pose and expression is used. A `.dfm`
        knows its face and needs none.
    swapper: `mesh` (needs no weights), or a file: an ONNX network or a `.dfm`.
    recogniser: ONNX file of the identity network that an inswapper-type swapper was trained with.
    converter: ONNX file that turns the recogniser's embedding into the swapper's (simswap, ghost).
    kind: which family the swapper file is of, when its inputs and outputs do not tell.
    select: which faces: `all`, `largest`, `reference`, or N, the N-th face to appear.
    reference: picture of the person to be replaced, with select `reference`.
    max_distance: how far apart two embeddings of one person may lie (0 to 2).
    min_score: faces that the detector is less sure of are left as they are (0 to 1).
    device: `auto`, `cpu`, `cuda` or `cuda:N`.
    preview: picture to write a contact sheet to.
    overwrite: replace an output that exists.
    encode: codec and quality of the output; the default matches the input.
    provenance: what marks the output gets; all are on by default.
    """

    sources: tuple[Path, ...] = ()
    swapper: str = "mesh"
    recogniser: Path | None = None
    converter: Path | None = None
    kind: str | None = None
    select: str = "all"
    reference: Path | None = None
    max_distance: float = 0.6
    min_score: float = 0.5
    device: str = "auto"
    preview: Path | None = None
    overwrite: bool = False
    encode: EncodeConfig = field(default_factory=EncodeConfig)
    provenance: ProvenanceConfig = field(default_factory=ProvenanceConfig)

    def __post_init__(self) -> None:
        if not self.sources and not str(self.swapper).lower().endswith(".dfm"):
            raise ConfigError(
                "sources must name at least one picture of the face to put in; a .dfm needs none"
            )
        if not 0 < self.max_distance <= 2:
            raise ConfigError(f"max_distance must lie above 0 and up to 2, got {self.max_distance}")
        if not 0 <= self.min_score <= 1:
            raise ConfigError(f"min_score must lie in 0..1, got {self.min_score}")
        if (self.select == "reference") != (self.reference is not None):
            raise ConfigError(
                "a reference picture and select reference must go together, got select"
                f" {self.select} and {self.reference or 'no picture'}"
            )
        if self.preview is not None and self.preview.suffix.lower() not in PICTURE_SUFFIXES:
            raise ConfigError(
                f"preview must end in {', '.join(PICTURE_SUFFIXES)}, got {self.preview}"
            )
        Selection("all" if self.select == "reference" else self.select)  # checks the rule


def swap_config(config: SwapConfig | None, settings: dict[str, Any]) -> SwapConfig:
    """Take a config as it is, or make one of settings that are checked by name."""
    if config is not None and settings:
        raise ConfigError(f"give a config or settings, not both; got {', '.join(settings)} too")
    if config is not None:
        return config
    unknown = set(settings) - set(SwapConfig.__dataclass_fields__)
    if unknown:
        known = ", ".join(SwapConfig.__dataclass_fields__)
        raise ConfigError(f"SwapConfig has no {', '.join(sorted(unknown))}; it has {known}")
    if isinstance(settings.get("sources"), str | Path):
        settings["sources"] = (settings["sources"],)
    settings["sources"] = tuple(Path(p) for p in settings.get("sources", ()))
    return SwapConfig(**settings)
