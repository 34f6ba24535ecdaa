"""The IPTC digital source type in a file's XMP: an unsigned word that many programs read.

Sources: XMP specification part 3 (where packets lie in PNG, JPEG, WebP and MP4); IPTC Photo
Metadata Standard 2023.2, property DigitalSourceType; GB 45438-2025 (China's AIGC field).
"""

from __future__ import annotations

import io
import os
import re
import struct
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import BinaryIO

from PIL import Image

from accel.core import InputError, open_file
from accel.provenance.media import media_type
from accel.provenance.statement import SOURCE_TYPES, TASKS
from accel.unfinished import write_whole

_JPEG = b"http://ns.adobe.com/xap/1.0/\0"
_PNG = b"XML:com.adobe.xmp"
_UUID = bytes.fromhex("be7acfcb97a942e89c71999491e3afac")
_BEGIN, _END, _LONGEST = b"<x:xmpmeta", b"</x:xmpmeta>", 1 << 16  # of a packet
_TYPE = re.compile(rb"DigitalSourceType[^<>]{0,40}?[\"'>]\s{0,99}([^\"'<>\s]{1,200})")
# As UTF-16 after the mark of a user comment, in either order of bytes.
_STEPS_IN_EXIF = re.compile(rb"S\0t\0e\0p\0s\0:\0 \0[0-9]")
_PNG_BEGINS = b"\x89PNG\r\n\x1a\n"
_MOST_CHUNKS, _MOST_TEXTS, _LONGEST_TEXT = 100_000, 100, 1 << 18  # of a PNG, that are looked at
_MOST_TYPES = 20  # that are told of; a file has one or two
_LOOKED_AT = 4 << 20  # bytes at each end of a file that are searched


@dataclass(frozen=True, kw_only=True)
class Declared:
    """What a file says of itself without a signature; anyone can write or remove it.

    source_type: last word of the IPTC term, such as trainedAlgorithmicMedia. where: what said so.
    """

    source_type: str
    where: str

    @property
    def involves_ai(self) -> bool:
        return "rainedAlgorithmic" in self.source_type or self.where != "XMP"


def declare(path: Path, task: str) -> bool:
    """Write the source type of a task into a PNG, JPEG, WebP, MP4 or MOV; False for other files.

    Do it before signing: the signature then covers it. Raises InputError for a damaged file.
    """
    kind, known = media_type(path)
    if not known:
        return False
    packet = _packet(TASKS[task][0])
    if kind.startswith("video/"):
        _append_box(path, packet)
        return True
    data = path.read_bytes()
    put = {"image/png": _into_png, "image/jpeg": _into_jpeg, "image/webp": _into_webp}[kind]
    try:
        changed = put(data, packet)
    except (ValueError, IndexError, struct.error, OSError) as error:
        raise InputError(f"{path.name}: must be a whole {kind}, is damaged") from error
    write_whole(path, changed)
    return True


def declared(path: Path) -> list[Declared]:
    """Find what a file of any tool says of itself: XMP, China's AIGC field, generators' notes.

    Raises InputError when the file cannot be read.
    """
    try:
        with open_file(path, "a picture or a film") as file:
            data = file.read(_LOOKED_AT)
            file.seek(0, os.SEEK_END)
            if file.tell() > 2 * _LOOKED_AT:
                file.seek(-_LOOKED_AT, os.SEEK_END)
                data += file.read(_LOOKED_AT)
            else:
                file.seek(len(data))
                data += file.read(_LOOKED_AT)
            texts = list(_png_texts(file)) if data.startswith(_PNG_BEGINS) else []
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error
    packed = (text for keyword, text in texts if keyword == _PNG)  # perhaps compressed
    packets = chain(_packets(data), packed)
    kinds = (one[1].rsplit(b"/", 1)[-1] for p in packets for one in _TYPE.finditer(p))
    found = [
        Declared(source_type=kind.decode("ascii", "replace"), where="XMP")
        for kind in islice(dict.fromkeys(islice(kinds, 10 * _MOST_TYPES)), _MOST_TYPES)
    ]
    if re.search(rb"[<:\"']AIGC[\"':> ]|TC260:AIGC", data) or any(k == b"AIGC" for k, _ in texts):
        found.append(Declared(source_type="", where="AIGC field (China)"))
    if any(key == b"parameters" and re.search(rb"Steps: \d", text) for key, text in texts):
        found.append(Declared(source_type="", where="generation parameters in PNG text"))
    if any(key in (b"prompt", b"workflow") and text.startswith(b"{") for key, text in texts):
        found.append(Declared(source_type="", where="ComfyUI workflow in PNG text"))
    comments = (one.end() for one in islice(re.finditer(rb"UNICODE\0", data), 100))
    if any(_STEPS_IN_EXIF.search(data[at : at + 8000]) for at in comments):
        found.append(Declared(source_type="", where="generation parameters in EXIF"))
    return list(dict.fromkeys(found))


def _packets(data: bytes) -> Iterator[bytes]:
    """XMP packets, wherever they lie; each byte is looked at a few times at most."""
    at = 0
    while (end := data.find(_END, at)) >= 0:
        begin = data.find(_BEGIN, max(at, end - _LONGEST), end)
        if begin >= 0:
            yield data[begin:end]
        at = end + len(_END)


def _png_texts(file: BinaryIO) -> Iterator[tuple[bytes, bytes]]:
    """Keywords and texts of a PNG's text chunks, wherever they lie, compressed or not."""
    at, found = len(_PNG_BEGINS), 0
    for _ in range(_MOST_CHUNKS):
        file.seek(at)
        head = file.read(8)
        size, kind = int.from_bytes(head[:4], "big"), head[4:]
        if len(head) < 8 or kind == b"IEND" or found == _MOST_TEXTS:
            return
        at += 12 + size
        if kind in (b"tEXt", b"zTXt", b"iTXt"):
            found += 1
            content = file.read(min(size, _LONGEST_TEXT))
            keyword, _, text = content.partition(b"\0")
            is_packed = kind == b"zTXt" or (kind == b"iTXt" and text[:1] == b"\1")
            if kind == b"iTXt":  # two flags, language, translated keyword, text
                text = text[2:].partition(b"\0")[2].partition(b"\0")[2]
            elif is_packed:
                text = text[1:]
            if is_packed:
                with suppress(zlib.error):
                    text = zlib.decompressobj().decompress(text, _LONGEST_TEXT)
            yield keyword, text


def _packet(source_type: str) -> bytes:
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
        '<x:xmpmeta xmlns:x="adobe:ns:meta/">'
        '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        '<rdf:Description rdf:about=""'
        ' xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"'
        f' Iptc4xmpExt:DigitalSourceType="{SOURCE_TYPES}{source_type}"/>'
        "</rdf:RDF></x:xmpmeta>"
        '<?xpacket end="r"?>'
    ).encode()


def _into_png(data: bytes, packet: bytes) -> bytes:
    out, done = [data[:8]], False
    for kind, content in _png_chunks(data):
        if kind == b"iTXt" and content.startswith(_PNG + b"\0"):
            continue  # one packet a file
        out.append(_png_chunk(kind, content))
        if kind == b"IHDR":
            out.append(_png_chunk(b"iTXt", _PNG + b"\0\0\0\0\0" + packet))
            done = True
    if not done:
        raise ValueError("no header")
    return b"".join(out)


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = 8
    while at < len(data):
        size, kind = struct.unpack(">I4s", data[at : at + 8])
        if at + 12 + size > len(data):
            raise ValueError("a chunk is cut off")
        yield kind, data[at + 8 : at + 8 + size]
        at += 12 + size
        if kind == b"IEND":
            return


def _png_chunk(kind: bytes, content: bytes) -> bytes:
    body = kind + content
    return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))


def _into_jpeg(data: bytes, packet: bytes) -> bytes:
    content = _JPEG + packet
    segment = b"\xff\xe1" + struct.pack(">H", len(content) + 2) + content
    out, at = [data[:2]], 2
    # APP0 (JFIF) and APP1 (Exif) stay first: some readers look nowhere else.
    while data[at : at + 2] in (b"\xff\xe0", b"\xff\xe1"):
        end = at + 2 + struct.unpack(">H", data[at + 2 : at + 4])[0]
        if not data[at + 4 : end].startswith(_JPEG):
            out.append(data[at:end])
        at = end
    return b"".join([*out, segment, data[at:]])


def _into_webp(data: bytes, packet: bytes) -> bytes:
    chunks, at = [], 12
    while at + 8 <= len(data):
        kind, size = struct.unpack("<4sI", data[at : at + 8])
        if at + 8 + size > len(data):
            raise ValueError("a chunk is cut off")
        if kind != b"XMP ":
            chunks.append((kind, data[at + 8 : at + 8 + size]))
        at += 8 + size + size % 2
    if chunks[0][0] != b"VP8X":
        with Image.open(io.BytesIO(data)) as picture:
            alpha = picture.mode == "RGBA"
            width, height = picture.size
        flags = bytes([0x10 * alpha, 0, 0, 0])
        sizes = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
        chunks.insert(0, (b"VP8X", flags + sizes))
    header = bytearray(chunks[0][1])
    header[0] |= 0x04  # there is XMP
    chunks[0] = (b"VP8X", bytes(header))
    chunks.append((b"XMP ", packet))
    body = b"".join(
        struct.pack("<4sI", kind, len(content)) + content + b"\0" * (len(content) % 2)
        for kind, content in chunks
    )
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def _append_box(path: Path, packet: bytes) -> None:
    """Add a box at the end of an MP4 or MOV: no offset inside moves, whatever the file's size."""
    with open(path, "r+b") as file:
        size, at = file.seek(0, os.SEEK_END), 0
        while at < size:
            file.seek(at)
            head = file.read(16)
            length = int.from_bytes(head[:4], "big")
            if length == 1:
                length = int.from_bytes(head[8:16], "big")
            if length < 8 or at + length > size:  # 0 would mean: to the end of the file
                raise InputError(f"{path.name}: must be a whole MP4, its boxes do not add up")
            at += length
        file.seek(size)
        file.write(struct.pack(">I4s", 24 + len(packet), b"uuid") + _UUID + packet)
