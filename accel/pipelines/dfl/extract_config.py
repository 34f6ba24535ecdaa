"""Settings of one extraction of faces."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from accel.core import ConfigError
from accel.faces.face_types import FaceType, face_type


@dataclass(frozen=True, kw_only=True)
class ExtractConfig:
    """What is cut out, and how.

    face_type: half, midfull, full, whole or head, or DeepFaceLab's words.
    size: side of the crop in pixels; None takes 512, for heads 768.
    jpeg_quality: 1 to 100.
    max_faces: at most so many a frame, the largest first; 0 takes all.
    min_score: faces that the mesh network is less sure of are dropped (0 to 1).
    min_face_px: faces whose box is smaller than this are dropped.
    landmarks: ONNX file of a 2DFAN-4 network; None takes the mesh network's points.
    debug: also write pictures that show what was found in each frame.
    fps: thin a film out to so many frames a second, when it is read without pictures.
    overwrite: start anew, after other settings or to get deleted faces back; what was extracted
        before goes.
    """

    face_type: str = "whole"
    size: int | None = None
    jpeg_quality: int = 90
    max_faces: int = 0
    min_score: float = 0.5
    min_face_px: int = 24
    landmarks: Path | None = None
    debug: bool = False
    fps: float | None = None
    overwrite: bool = False
    device: str = "cpu"

    def __post_init__(self) -> None:
        kind = face_type(self.face_type)
        if kind is FaceType.MARK_ONLY:
            raise ConfigError(f"face_type must be one that is cut out, got {kind.value}")
        if self.size is not None and not 16 <= self.size <= 4096:
            raise ConfigError(f"size must lie in 16..4096 pixels, got {self.size}")
        if not 1 <= self.jpeg_quality <= 100:
            raise ConfigError(f"jpeg_quality must lie in 1..100, got {self.jpeg_quality}")
        if self.max_faces < 0 or self.min_face_px < 0:
            raise ConfigError("max_faces and min_face_px must be 0 or more")
        if not 0 <= self.min_score <= 1:
            raise ConfigError(f"min_score must lie in 0..1, got {self.min_score}")

    @property
    def kind(self) -> FaceType:
        return face_type(self.face_type)

    @property
    def side_px(self) -> int:
        return self.size or self.kind.default_px

    def settings(self) -> dict[str, Any]:
        """What a run that goes on must have in common with the one that stopped."""
        values = asdict(self)
        for name in ("overwrite", "device", "debug"):
            del values[name]
        values |= {"face_type": self.kind.value, "size": self.side_px}
        values["landmarks"] = self.landmarks and str(self.landmarks)
        return values
