"""Verify files: their planes from the decoder, their origin from `accel.provenance.verify`."""

from __future__ import annotations

import math
import os
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing, suppress
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import av
from numpy.typing import NDArray

from accel.core import InputError, files_below
from accel.provenance import keys
from accel.provenance.c2pa_read import media_of
from accel.provenance.detector import weight_of
from accel.provenance.label import local_language as local_language
from accel.provenance.ledger import Ledger as Ledger
from accel.provenance.ledger import as_json as as_json
from accel.provenance.media import media_type
from accel.provenance.verify import BROKEN, UNREADABLE, Frames, examine, nothing_readable
from accel.provenance.verify import Report as Report
from accel.provenance.watermark import luma_of
from accel.provenance.words import EXPLANATION
from accel.video.boxes import check_film
from accel.video.frame import Frame, planar
from accel.video.info import VideoInfo
from accel.video.read import DEFAULT_LIMITS, Limits, VideoReader, main_video, open_video
from accel.video.sniff import open_demuxer

# What is looked at: seconds and frames at least at the start, frames in each other stretch.
FIRST_S, FIRST, LATER, WINDOWS = 3.0, 75, 25, 10
PASSED_OVER = 300  # frames at most that are decoded again to get at new ones
FARTHEST = 1000  # in a film that does not tell its length
# Of large frames fewer, as each holds more of a mark: so many pixels at the start, as many later,
# and as many of frames that are passed over; of 8192x4320 still FEWEST and FEWEST_LATER frames.
MOST_PX = FIRST * 3840 * 2160
FEWEST, FEWEST_LATER = 25, 3


def verify_file(
    path: Path,
    *,
    anchors: Iterable[str] | None = None,
    ledger: Ledger | None = None,
    limits: Limits = DEFAULT_LIMITS,
) -> Report:
    """Say what can be said of a file's origin, offline.

    anchors: PEM certificates of the roots to trust; None trusts this installation's own alone.
    ledger: None uses this machine's.
    """
    trusted = own_anchors() if anchors is None else list(anchors)
    known = Ledger() if ledger is None else ledger
    try:
        if media_type(path)[0] in ("video/mp4", "video/quicktime"):
            check_film(path)  # before c2pa-rs makes a tree of it
    except (InputError, OSError):
        return nothing_readable(path)
    with closing(windows(path, limits)) as stretches:
        return examine(path, stretches, anchors=trusted, ledger=known)


def verify_files(paths: Iterable[Path], **options: Any) -> Iterator[Report]:
    """Verify files, and every file below a folder; what is hidden, and `.c2pa`, is passed over.

    Links inside a folder are not followed; one without files is unreadable. Files of a folder are
    named by their way from it. A `.c2pa` that is named stands for the file that it lies beside.
    """
    for path in dict.fromkeys(map(_meant, paths)):
        if not os.path.isdir(path):  # of a name that is too long `Path` raises an error
            yield verify_file(path, **options)
            continue
        found = [one for one in files_below(path) if _is_looked_at(one, path)]
        if not found:
            yield nothing_readable(path)
        for inside in found:
            yield replace(verify_file(inside, **options), name=str(inside.relative_to(path)))


def _meant(path: Path) -> Path:
    """The file to look at where a user names the credential beside it."""
    if path.suffix == ".c2pa":
        with suppress(OSError, ValueError):
            return media_of(path) or path
    return path


def _is_looked_at(path: Path, folder: Path) -> bool:
    is_hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
    return not (is_hidden or path.is_symlink() or path.suffix == ".c2pa")


def status_of(reports: Iterable[Report]) -> int:
    """One exit status for several files: 1 if it is any file's, else the highest."""
    statuses = {report.status for report in reports}
    return BROKEN if BROKEN in statuses else max(statuses, default=UNREADABLE)


def explanation(language: str) -> str:
    """What the words of a report mean, and what a person can ask; `en` or `ko`."""
    return EXPLANATION[language]


def own_anchors() -> list[str]:
    """The root of this installation, if it has signed yet; looking makes no key.

    Raises ConfigError where what lies there is no certificate.
    """
    root = keys.config_folder() / "identity" / "root.pem"
    return [anchor(root)] if root.is_file() else []


def anchor(path: Path) -> str:
    """The root to trust in a PEM file that a user names; ConfigError where it holds none."""
    return keys.pem_of(keys.certificates_of(path))


def decoded(path: Path, limits: Limits = DEFAULT_LIMITS) -> Generator[tuple[NDArray[Any], float]]:
    """Luma planes in 8-bit codes, and how much each frame counts; InputError when undecodable."""
    with open_video(path, limits=limits) as reader:
        for frame in reader:
            yield _luma(frame)


def windows(path: Path, limits: Limits = DEFAULT_LIMITS) -> Generator[Frames]:
    """Stretches of a film: its start, then others spread over the whole of it.

    Raises InputError when not one frame can be decoded.
    """
    with open_video(path, limits=limits) as reader:
        info = reader.info
        rate = float(info.average_rate or 25)
        fitting = MOST_PX // (info.width * info.height)
        first = max(FIRST, min(4 * FIRST, math.ceil(FIRST_S * rate)))
        first = min(first, max(FEWEST, fitting))
        yield (_luma(frame) for frame in islice(reader, first))
        if not isinstance(reader, VideoReader) or (info.frames or first) <= first:
            return
        length_s, demuxer = info.duration_s, reader.demuxer
    if not length_s:
        with open_video(path, limits=limits) as reader:
            frames = islice(iter(reader), first, max(2 * FEWEST, min(FARTHEST, 2 * fitting)))
            while window := [_luma(frame) for frame in islice(frames, LATER)]:
                yield window
        return
    with closing(open_demuxer(path, demuxer, limits.max_pixels)) as container:
        stream = main_video(container, path)
        stream.codec_context.thread_type = "AUTO"
        start_s = float((stream.start_time or 0) * stream.time_base)
        later = _Later(container, stream, info, start_s + (first - 0.5) / rate, fitting)
        for step in range(1, WINDOWS):
            yield later.stretch(start_s + length_s * step / WINDOWS)


class _Later:
    """Stretches of a film after its start, in order; no frame is given twice.

    seen_s: time of the last frame that was given. fitting: frames that all of them may have
    together, and how many more may be passed over.
    """

    def __init__(
        self, container: Any, stream: Any, info: VideoInfo, seen_s: float, fitting: int
    ) -> None:
        self._container, self._stream, self._info, self._seen_s = container, stream, info, seen_s
        self._each = min(LATER, max(FEWEST_LATER, fitting // (WINDOWS - 1)))
        self._spare = max(FEWEST, fitting)

    def stretch(self, at_s: float) -> Frames:
        """New frames from the last key frame before a time on; none where the file is damaged."""
        with suppress(av.error.FFmpegError, OSError):
            self._container.seek(int(at_s / self._stream.time_base), stream=self._stream)
            for index, picture in enumerate(islice(self._new(), self._each)):
                self._seen_s = picture.time
                flat = planar(picture)
                if flat.format.name == self._info.pixel_format:
                    yield _luma(Frame(self._info.layout, index, self._info.time_base, index, flat))

    def _new(self) -> Iterator[av.VideoFrame]:
        """Decoded frames that were not given yet, while others may be passed over."""
        most = min(PASSED_OVER, self._spare)
        for picture in self._container.decode(self._stream):
            if picture.time is not None and picture.time > self._seen_s:
                yield picture
            elif most > 0:
                self._spare -= 1
                most -= 1
            else:
                return


def _luma(frame: Frame) -> tuple[NDArray[Any], float]:
    return luma_of(frame.view()), weight_of(frame.picture)
