"""The marks of what a run writes from one input: begun, given frame by frame, sealed at the end."""

from __future__ import annotations

from pathlib import Path

from accel.pipelines.provenance import Marker, Marking, earlier_mark
from accel.provenance.c2pa import sidecar_of
from accel.provenance.watermark import luma_of
from accel.video.frame import Frame
from accel.video.read import VideoReader
from accel.video.save_stills import picture_name
from accel.video.stills import FolderReader, ImageReader
from accel.video.write import is_pictures

AnyReader = VideoReader | ImageReader | FolderReader


class MarkedOutput:
    """What one run makes of one input: a film, a picture, or a folder of pictures.

    A film is marked as a whole, since nobody knows its end when it begins; of pictures, those that
    were altered. Give `finish` to `open_writer`.
    """

    def __init__(self, marker: Marker, reader: AnyReader, output: Path) -> None:
        self.marker, self._reader, self._output = marker, reader, output
        self.is_film = not is_pictures(output)
        self._film: Marking | None = None
        self._pictures: dict[int, Marking] = {}
        self._is_altered = False

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
        self._pictures[frame.index] = marking
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

    def finish(self, partial: Path) -> None:
        """Seal what was altered; called with the complete file or folder under another name."""
        if not partial.is_dir():  # an earlier file of this name may have left one
            sidecar_of(self._output).unlink(missing_ok=True)
        if self._film is not None:
            if self._is_altered:
                self._film.seal(partial, self._output)
            return
        for index, marking in self._pictures.items():
            if partial.is_dir():
                marking.seal(partial / picture_name(self._reader, index))
            else:
                marking.seal(partial, self._output)

    def give_up(self) -> None:
        """Take back what was put beside the output."""
        for marking in filter(None, (self._film, *self._pictures.values())):
            marking.unseal()
