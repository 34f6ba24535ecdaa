"""The marks of what a run writes from one input: begun, given frame by frame, sealed at the end."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from accel.pipelines.provenance import LOOKS, Marker, Marking, earlier_mark
from accel.provenance.c2pa import sidecar_of
from accel.provenance.watermark import luma_of
from accel.video.frame import Frame
from accel.video.read import VideoReader
from accel.video.save_stills import picture_name
from accel.video.stills import FolderReader, ImageReader
from accel.video.write import is_folder, is_pictures

AnyReader = VideoReader | ImageReader | FolderReader

SIGNED = {"mark", "earlier", "credential", "declared", "serial", "sha256", "looks"}
WORD = re.compile(r"[A-Za-z0-9:-]{0,100}")
LOOK = re.compile("[0-9a-f]{16}")


class MarkedOutput:
    """What one run makes of one input: a film, a picture, or a folder of pictures.

    A film is marked as a whole, since nobody knows its end when it begins; of pictures, those that
    were altered. Give `finish` to `open_writer`.
    """

    def __init__(self, marker: Marker, reader: AnyReader, output: Path) -> None:
        self.marker, self._reader, self._output = marker, reader, output
        self.is_film = not is_pictures(output)
        self._film: Marking | None = None
        self._pictures: dict[str, Marking] = {}  # those on their way, by name
        self._signed: list[dict[str, Any]] = []  # those of a folder, to be listed at the end
        self._is_altered = False

    def go_on(self, told: Sequence[dict[str, Any] | None]) -> None:
        """Take over what `finish` returned of pictures that an earlier run made."""
        self._signed += [one for one in told if one is not None]

    def start(self, earlier: str | None) -> None:
        """Before the first frame; earlier: id of the mark that a film carries already."""
        if self.is_film:
            info = self._reader.info
            self._film = self.marker.begin(
                target=self._reader.path, earlier=earlier, rotation=info.rotation,
                mirrored=info.mirrored,
            )  # fmt: skip

    def of(self, frame: Frame) -> Marking:
        """The marking for a frame that is about to be altered, or that belongs to a film."""
        if self._film is not None:
            return self._film
        target, turn = self._reader.path, (self._reader.info.rotation, self._reader.info.mirrored)
        if isinstance(self._reader, FolderReader):
            target = target / self._reader.names[frame.index]
            turn = self._reader.orientation(frame.index)
        earlier = None
        if self.marker.config.watermark != "off":
            luma = luma_of(frame.planes)
            earlier = earlier_mark([(luma, 1.0)], thorough=self._reader.info.is_image)
        marking = self.marker.begin(
            target=target, earlier=earlier, rotation=turn[0], mirrored=turn[1], still=True
        )
        self._pictures[picture_name(self._reader, frame.index)] = marking
        return marking

    def finished(self, frame: Frame, marking: Marking | None, altered: bool) -> None:
        """After a frame got all its faces: label and mark it."""
        self._is_altered |= altered
        if marking is not None and (altered or self.is_film):
            marking.mark_frame(frame.planes)
            if not self.is_film:
                marking.forget()

    @property
    def marks_for_nothing(self) -> bool:
        """A film was labelled or marked although nothing in it was altered: it must be redone."""
        film = self._film
        return film is not None and not self._is_altered and film.touches_frames

    def finish(self, partial: Path) -> dict[str, Any] | None:
        """Seal what was altered; called with the complete file under another name.

        Of a folder called with each picture, and at the end with the folder: then its pictures are
        listed. Returns what was told of a picture in a folder; None where it was not altered.
        """
        if is_folder(self._output):
            return self._finish_picture(partial)
        sidecar_of(self._output).unlink(missing_ok=True)  # an earlier file may have left one
        if self._film is not None and self._is_altered:
            self._film.seal(partial, self._output)
        for marking in self._pictures.values():
            marking.seal(partial, self._output)
        return None

    def _finish_picture(self, path: Path) -> dict[str, Any] | None:
        if path.is_dir():
            for one in self._signed:
                self.marker.enter(one)
            return None
        marking = self._pictures.pop(path.name, None)
        signed = marking.sign(path) if marking else None
        self._signed += [signed] if signed else []
        return signed

    def give_up(self) -> None:
        """Take back what was put beside the output."""
        for marking in filter(None, (self._film, *self._pictures.values())):
            marking.unseal()


class Plan:
    """What a folder of pictures is made of, for `PictureJournal`."""

    def __init__(self, reader: AnyReader) -> None:
        self._reader = reader

    def name(self, index: int) -> str:
        return picture_name(self._reader, index)

    def source(self, index: int) -> Path:
        if isinstance(self._reader, FolderReader):
            return self._reader.path / self._reader.names[index]
        return self._reader.path

    def is_sound(self, told: Any) -> bool:
        """Whether this is something that `MarkedOutput.finish` returns."""
        if told is None:
            return True
        if not isinstance(told, dict) or set(told) != SIGNED:
            return False
        optional = [told[name] for name in ("mark", "earlier") if told[name] is not None]
        words = [*optional, *(told[name] for name in ("credential", "serial", "sha256"))]
        looks = told["looks"]
        return (
            all(isinstance(one, str) and WORD.fullmatch(one) for one in words)
            and isinstance(told["declared"], bool)
            and isinstance(looks, list)
            and len(looks) <= LOOKS
            and all(isinstance(one, str) and LOOK.fullmatch(one) for one in looks)
        )
