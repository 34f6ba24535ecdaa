"""What a file is, told from its first bytes.

FFmpeg's own probing would also try playlists, concatenation scripts and device names, which can
make it open other files or the network. The demuxer is therefore pinned to what is found here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import av
from av.codec.hwaccel import HWAccel

from accel.core import InputError, open_file
from accel.video.boxes import check_film

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
FILM_SUFFIXES = (  # of what is taken for a film where a folder is looked through
    ".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".gif", ".ts", ".mts", ".m2ts", ".mpg",
    ".wmv", ".flv",
)  # fmt: skip
MAX_STREAMS = 100  # of one file; each may open a decoder while the file is looked at
_MOV_BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot", b"styp")
_STARTS = (
    (b"\x1a\x45\xdf\xa3", "matroska"),
    (b"GIF87a", "gif"),
    (b"GIF89a", "gif"),
    (b"\x89PNG\r\n\x1a\n", "png_pipe"),
    (b"\xff\xd8\xff", "jpeg_pipe"),
    (b"BM", "bmp_pipe"),
    (b"II*\x00", "tiff_pipe"),
    (b"MM\x00*", "tiff_pipe"),
    (b"FLV\x01", "flv"),
    (b"\x00\x00\x01\xba", "mpeg"),
    (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "asf"),
    (b"OggS", "ogg"),
    (b"YUV4MPEG2 ", "yuv4mpegpipe"),
    (b"DKIF", "ivf"),
)


def sniff(path: Path) -> str:
    """Return the name of the FFmpeg demuxer that fits the first bytes of `path`.

    Names that end in `_pipe` are still pictures. Raises InputError for a file that is missing,
    empty, not a file, or of a kind that is not read here, as playlists and scripts are.
    """
    head = _head(path)
    for start, demuxer in _STARTS:
        if head.startswith(start):
            if demuxer == "png_pipe" and b"acTL" in head.partition(b"IDAT")[0]:
                return "apng"
            return demuxer
    if head[4:8] in _MOV_BOXES:
        return "mov"
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        return "avi"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        if head[12:16] == b"VP8X" and len(head) > 20 and head[20] & 2:
            raise InputError(f"{path}: animated WebP cannot be read; convert it to GIF or MP4")
        return "webp_pipe"
    # Packets of 188 bytes; in recordings of cameras and on discs each follows a time of four.
    for first, step in ((0, 188), (4, 192)):
        if head[first : first + 2 * step + 1 : step] == b"GGG":
            return "mpegts"
    raise InputError(f"{path}: must be a video or a picture, but its first bytes fit neither")


def local(path: Path) -> str:
    """Return the absolute, link-free name of `path`: nothing that FFmpeg could take for a URL."""
    return str(Path(path).resolve())


def reason(error: Exception) -> str:
    """Return what FFmpeg or the system said, without the file name it may repeat."""
    return str(getattr(error, "strerror", None) or error)


def open_demuxer(
    path: Path, demuxer: str, max_pixels: int, hwaccel: HWAccel | None = None
) -> av.container.InputContainer:
    """Open `path` with one demuxer, allowed to read local files only.

    `max_pixels` bounds what the probing decoders may allocate. hwaccel: what decodes, in place of
    the host. Raises InputError.
    """
    if demuxer == "mov":
        check_film(path)
    try:
        return av.open(
            local(path),
            format=demuxer,
            container_options={
                "protocol_whitelist": "file",
                "format_whitelist": demuxer,
                "max_streams": str(MAX_STREAMS),
            },
            options={"max_pixels": str(max_pixels)},
            metadata_errors="replace",
            hwaccel=hwaccel,
        )
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise InputError(
            f"{path}: must be a whole {demuxer} file, cannot be opened: {reason(error)}"
        ) from error


def packets_of(
    container: av.container.InputContainer, streams: Sequence[av.stream.Stream]
) -> Iterator[av.Packet]:
    """The packets of some streams. Those of one that begins later in the file are passed over.

    PyAV (18) knows the streams that were there when it opened the file; at a packet of another it
    raises IndexError, and can be asked for the next.
    """
    while True:
        try:
            yield from container.demux(streams)
            return
        except IndexError:
            continue


def _head(path: Path) -> bytes:
    with open_file(path, "a video or a picture") as file:
        try:
            head = file.read(4096)
        except OSError as error:
            raise InputError(f"{path}: cannot be read: {reason(error)}") from error
    if not head:
        raise InputError(f"{path}: the file is empty")
    return head
