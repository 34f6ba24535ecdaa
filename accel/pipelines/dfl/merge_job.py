"""What a merge is told, and all that it needs, opened: frames, faces, networks, settings."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from accel.core import ConfigError, choose_device
from accel.faces.merge_settings import MergeSettings
from accel.pipelines.dfl.frames import FrameSource, open_frames
from accel.pipelines.dfl.merge_faces import FaceTable, read_faces
from accel.pipelines.dfl.merge_frame import MergedFrame, merge_frame, predict_faces
from accel.pipelines.dfl.merge_model import FaceModel, Predictor, open_model
from accel.pipelines.dfl.merge_session import MergeSession, load_session
from accel.pipelines.dfl.workspace import Workspace
from accel.pipelines.provenance import ProvenanceConfig
from accel.video.encode import EncodeConfig
from accel.video.frame import Frame


@dataclass(frozen=True, kw_only=True)
class MergeConfig:
    """Settings of one merge.

    settings: of every frame that `config` has none for.
    config: file with settings frame by frame, as the interactive merger saves it.
    model: name of the model, where there are several; the one saved last by default.
    xseg: ONNX file of an XSeg network, which masks named XSeg need.
    to: film to write instead of pictures.
    seed: of colour transfers that draw lots; None takes the one in `config`, or 0.
    color_variant: `dfl` does as DeepFaceLab, `exact` looks at pixels under the mask alone.
    device: `auto`, `cpu`, `cuda` or `cuda:N`, for the networks.
    overwrite: merge again what was merged before; replace the film.
    encode: codec and quality of the film. provenance: its marks.
    """

    settings: MergeSettings = field(default_factory=MergeSettings)
    config: Path | None = None
    model: str | None = None
    xseg: Path | None = None
    to: Path | None = None
    seed: int | None = None
    color_variant: str | None = None
    device: str = "auto"
    overwrite: bool = False
    encode: EncodeConfig = field(default_factory=EncodeConfig)
    provenance: ProvenanceConfig = field(default_factory=ProvenanceConfig)

    def __post_init__(self) -> None:
        if self.color_variant not in (None, "dfl", "exact"):
            raise ConfigError(f"color_variant must be dfl or exact, got {self.color_variant!r:.40}")
        if self.seed is not None and not 0 <= self.seed < 1 << 62:
            raise ConfigError(f"seed must be a whole number from 0 on, got {self.seed}")
        if self.to is not None and self.provenance.watermark == "face":
            raise ConfigError("merge: watermark must be frame or off, got face")


class MergeJob:
    """All that a merge of one workspace needs, opened: frames, faces, model, settings."""

    def __init__(self, workspace: Workspace, config: MergeConfig) -> None:
        self.workspace, self.config = workspace, config
        self.notes: list[str] = []
        device = choose_device(config.device)
        self.source: FrameSource = open_frames(workspace, "dst")
        try:
            self.session = self._session()  # first, for a file that is no settings is told at once
            self.model: FaceModel = open_model(workspace.model, config.model)
            self.predictor = Predictor(self.model, config.xseg, device=str(device))
            self._xseg = config.xseg and hashlib.sha256(config.xseg.read_bytes()).hexdigest()
            folder = workspace.need_faces("dst")
            self.table: FaceTable = read_faces(
                folder, self.source.names, self.model.config.face_type
            )
        except BaseException:
            self.source.close()
            raise

    def _session(self) -> MergeSession:
        config, stems = self.config, [Path(name).stem for name in self.source.names]
        session = MergeSession(stems, config.settings)
        if config.config is not None:
            session = load_session(config.config, stems, config.settings)
            given = config.settings.differences(MergeSettings())
            for name in sorted(session.default.differences(config.settings).keys() & given.keys()):
                says = f"{name} {getattr(session.default, name)}"
                self.notes.append(f"{config.config} says {says}; {given[name]} is not used")
        if config.seed is not None:
            session.seed = config.seed
        if config.color_variant is not None:
            session.color_variant = config.color_variant
        return session

    def check(self) -> None:
        """Raise ConfigError for settings that some frame cannot be merged with."""
        for settings in set(self.session.every()):
            self.predictor.check(settings)
            if settings.mode == "raw-predict" and self.config.to is not None:
                raise ConfigError("mode raw-predict gives faces, not frames; leave out `to`")

    def merge(self, number: int, frame: Frame) -> MergedFrame:
        """Merge frame `number` in its own planes."""
        faces, settings = self.table.by_frame[number], self.session.settings(number)
        predictions = predict_faces(frame.planes, faces, self.predictor, settings)
        return merge_frame(
            frame.planes, faces, predictions, settings,
            seed=self.session.seed, variant=self.session.color_variant,
        )  # fmt: skip

    def recipe(self, number: int) -> str:
        """A digest of all that decides what a merged frame looks like, beside the frame."""
        faces = self.table.by_frame[number]
        told = [
            asdict(self.session.settings(number)),
            self.session.seed,
            self.session.color_variant,
            self.model.fingerprint,
            self._xseg,
            [place.landmarks.tolist() for place in faces.places],
            [(motion.length, motion.degrees) for motion in faces.motions],
            faces.tracks,
        ]
        return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16]

    def close(self) -> None:
        self.source.close()
