"""Streams that are not looked at, copied packet for packet beside the one that is."""

from __future__ import annotations

import errno
import io
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import av

from accel.video.sniff import open_demuxer, packets_of, reason

# Written by the muxer itself, or about the file as it was
_OWN_KEYS = ("encoder", "major_brand", "minor_version", "compatible_brands", "duration")


class StreamCopier:
    """Reads a file a second time, everything but its film, and muxes the packets into an output.

    A second pass over the container costs little beside encoding, keeps no packet in memory however
    far the encoder runs behind the decoder, and takes badly interleaved files as they come.

    make_film: called with the film's stream when its turn among the output's streams has come.
    notes: gets a line for each stream that the output's container cannot hold.
    """

    def __init__(
        self,
        path: Path,
        demuxer: str,
        film_index: int,
        output: av.container.OutputContainer,
        make_film: Callable[[av.VideoStream], None],
        notes: list[str],
        max_pixels: int,
    ) -> None:
        self._output = output
        self._notes = notes
        self._input = open_demuxer(path, demuxer, max_pixels)
        self._copies: dict[int, av.stream.Stream] = {}
        try:
            for stream in self._input.streams:
                if stream.index == film_index:
                    stream.discard = av.stream.Discard.all
                    make_film(stream)
                elif not self._is_chapter_text(stream, demuxer):
                    self._add(stream)
            self._move_chapters_and_tags()
        except BaseException:
            self.close()
            raise
        self._packets: Iterator[av.Packet] = self._demux()
        self._next: av.Packet | None = next(self._packets, None)

    def _add(self, stream: av.stream.Stream) -> None:
        why_not = refusal(self._output.format.name, stream)
        if why_not:
            language = stream.metadata.get("language")
            named = f"{stream.type} stream {stream.index}" + (f" ({language})" if language else "")
            self._notes.append(f"{named} is left out: {why_not}")
            stream.discard = av.stream.Discard.all
            return
        copy = self._output.add_stream_from_template(stream, opaque=True)
        copy.metadata.update(keep_tags(stream.metadata))
        copy.disposition = stream.disposition
        self._copies[stream.index] = copy

    def _is_chapter_text(self, stream: av.stream.Stream, demuxer: str) -> bool:
        # MP4 keeps chapter titles in a track that the muxer makes anew from the chapters
        chapters = self._input.chapters()
        is_text = stream.type == "data" and stream.name == "bin_data" and demuxer == "mov"
        return bool(is_text and chapters and stream.frames == len(chapters))

    def _move_chapters_and_tags(self) -> None:
        chapters = self._input.chapters()
        if chapters:
            if self._output.format.name in ("mp4", "mov", "matroska", "webm"):
                self._output.set_chapters(chapters)
            else:
                self._notes.append(f"chapters are left out: {self._output.format.name} has none")
        self._output.metadata.update(keep_tags(self._input.metadata))

    def _demux(self) -> Iterator[av.Packet]:
        streams = [s for s in self._input.streams if s.index in self._copies]
        if not streams:
            return
        try:
            for packet in packets_of(self._input, streams):
                # the packets at the end that only flush decoders have no bytes
                is_flush = not packet.size and packet.dts is None
                # MP4 fills the gaps between subtitles with empty ones; its muxer makes its own
                is_gap = packet.size == 2 and packet.stream.name == "mov_text"
                if not is_flush and not is_gap:
                    yield packet
        except av.error.FFmpegError as error:
            self._notes.append(f"a copied stream is damaged: {reason(error)}")

    def advance(self, time_s: Fraction | None) -> None:
        """Mux every packet due before `time_s`; all that are left if it is None."""
        while self._next is not None:
            packet = self._next
            stamp = packet.dts if packet.dts is not None else packet.pts
            if time_s is not None and stamp is not None and stamp * packet.time_base > time_s:
                return
            self._mux(packet)
            self._next = next(self._packets, None)

    def _mux(self, packet: av.Packet) -> None:
        copy = self._copies[packet.stream_index]
        packet.stream = copy
        try:
            self._output.mux(packet)
        except av.error.FFmpegError as error:
            if error.errno != errno.EINVAL:
                raise
            note = f"{copy.type} stream {copy.index} lost packets that the container refused"
            if note not in self._notes:
                self._notes.append(note)

    def close(self) -> None:
        self._input.close()


def refusal(muxer: str, stream: av.stream.Stream) -> str:
    """Return why a container cannot hold a copy of `stream`; "" if it can.

    Found by writing the header of a file that has only this stream: containers know more rules than
    their list of codecs tells.
    """
    trial = av.open(io.BytesIO(), "w", format=muxer)
    try:
        copy = trial.add_stream_from_template(stream, opaque=True)
        copy.disposition = stream.disposition
        trial.start_encoding()
    except (ValueError, av.error.FFmpegError):
        context = stream.codec_context
        name = context.codec.canonical_name if context else (stream.type or "unknown data")
        return f"{muxer} cannot hold {name}"
    trial.close()
    return ""


def keep_tags(metadata: dict[str, str]) -> dict[str, str]:
    """Return the tags that are still true of a copy."""
    return {
        key: value
        for key, value in metadata.items()
        if key.lower() not in _OWN_KEYS and not key.startswith("_STATISTICS")
    }
