"""Our PNG decoder against FFmpeg's: the same samples and tags, or left to it."""

from __future__ import annotations

import contextlib
import struct
import zlib
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from accel.kernels import _native
from accel.video import png, stills
from accel.video.frame import planar
from accel.video.stills import ImageReader

pytestmark = pytest.mark.skipif(bool(_native.reason), reason=_native.reason)
TAGS = ("width", "height", "color_range", "colorspace", "color_primaries", "color_trc")
COLORS = {1: 0, 2: 4, 3: 2, 4: 6}  # channels to PNG's kind


def written(rows: bytes, width: int, height: int, channels: int = 3, **kwargs: Any) -> bytes:
    """A PNG of rows that are filtered already. pieces: IDATs. around: chunks (kind, data)."""
    before, behind = kwargs.get("before", []), kwargs.get("behind", [])
    packed = kwargs.get("packed") or zlib.compress(rows, kwargs.get("level", 6))
    step = -(-len(packed) // kwargs.get("pieces", 1))
    pieces = [packed[i : i + step] for i in range(0, len(packed), step)]
    header = struct.pack(">IIBBBBB", width, height, 8, COLORS[channels], 0, 0, 0)
    chunks = [(b"IHDR", header), *before, *((b"IDAT", piece) for piece in pieces), *behind]
    return png.SIGNATURE + b"".join(png._chunk(*chunk) for chunk in [*chunks, (b"IEND", b"")])


def noise(width: int, height: int, channels: int, filters: Any, seed: int = 0) -> bytes:
    """Rows of any bytes: whatever the filter makes of them, both decoders must say the same."""
    rng = np.random.default_rng(seed)
    rows = rng.integers(0, 256, (height, 1 + width * channels), dtype=np.uint8)
    rows[:, 1:][rng.random((height, width * channels)) < 0.6] = 7  # something to be found again
    rows[:, 0] = np.resize(filters, height)
    return rows.tobytes()


def by_us(path: Path) -> tuple[av.VideoFrame, Any] | None:
    return png.decode_png(stills._packet(path))


def by_ffmpeg(path: Path, monkeypatch: pytest.MonkeyPatch) -> ImageReader:
    with monkeypatch.context() as without:
        without.setattr(stills, "decode_png", lambda packet: None)
        return ImageReader(path)


def samples(picture: av.VideoFrame) -> list[bytes]:
    found = []
    for plane in picture.planes:
        rows = np.frombuffer(plane, np.uint8).reshape(plane.height, -1)
        found.append(rows[:, : plane.width].tobytes())
    return found


def check_same(data: bytes, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.write_bytes(data)
    assert by_us(path) is not None
    ours, theirs = ImageReader(path), by_ffmpeg(path, monkeypatch)
    assert ours.info == theirs.info
    assert ours.layout == theirs.layout
    a, b = ours.frame(0).picture, theirs.frame(0).picture
    assert a.format.name == b.format.name
    assert {tag: getattr(a, tag) for tag in TAGS} == {tag: getattr(b, tag) for tag in TAGS}
    assert samples(a) == samples(b)


@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("filters", [[0], [1], [2], [3], [4], [4, 3, 2, 1, 0, 1, 4, 2]])
def test_every_filter(
    channels: int, filters: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for width, height in [(1, 1), (2, 3), (3, 2), (16, 5), (17, 8), (65, 33), (200, 70)]:
        rows = noise(width, height, channels, filters)
        check_same(written(rows, width, height, channels), tmp_path / "a.png", monkeypatch)


@pytest.mark.parametrize("level", [0, 1, 6, 9])
@pytest.mark.parametrize(
    "strategy", [zlib.Z_DEFAULT_STRATEGY, zlib.Z_FIXED, zlib.Z_RLE, zlib.Z_HUFFMAN_ONLY]
)
def test_every_kind_of_stream(
    level: int, strategy: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ramp = np.add.outer(np.arange(150), np.arange(1 + 3 * 210)).astype(np.uint8)
    rare = np.where(ramp % 251 == 7, ramp, 3).astype(np.uint8)
    # Bytes whose numbers fall by halves get the longest codes.
    long = np.minimum(np.random.default_rng(1).geometric(0.5, ramp.shape), 60).astype(np.uint8)
    for rows in (ramp, rare, long, np.zeros_like(ramp)):
        rows[:, 0] = 1
        data = rows.tobytes()
        for flush in (None, zlib.Z_FULL_FLUSH):  # which puts an empty stored block in between
            packer = zlib.compressobj(level, zlib.DEFLATED, 15, 9, strategy)
            packed = packer.compress(data[: len(data) // 3])
            packed += packer.flush(flush) if flush else b""
            packed += packer.compress(data[len(data) // 3 :]) + packer.flush()
            made = written(data, 210, 150, packed=packed, pieces=7)
            check_same(made, tmp_path / "a.png", monkeypatch)


@pytest.mark.parametrize("distance", [*range(1, 40), 255, 257, 4096, 32000])
def test_repeats_at_every_distance(
    distance: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unit = np.random.default_rng(distance).integers(0, 256, distance, dtype=np.uint8)
    rows = np.resize(unit, (160, 1 + 3 * 150))
    rows[:, 0] = 0  # filters
    check_same(written(rows.tobytes(), 150, 160), tmp_path / "a.png", monkeypatch)


def chunks_beside(kind: str) -> dict[str, Any]:
    def beside(name: bytes, data: bytes) -> dict[str, Any]:
        return {"before": [(name, data)]}

    made: dict[str, dict[str, Any]] = {
        "shape of pixels": beside(b"pHYs", struct.pack(">IIB", 40, 33, 0)),
        "resolution": beside(b"pHYs", struct.pack(">IIB", 2835, 2835, 1)),
        "sRGB": beside(b"sRGB", b"\0"),
        "gamma": beside(b"gAMA", struct.pack(">I", 45455)),
        "chroma": beside(
            b"cHRM",
            struct.pack(">8I", 31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000),
        ),
        "cICP": beside(b"cICP", bytes([9, 16, 0, 1])),
        "text": {"before": [(b"tEXt", b"a\0b")], "behind": [(b"tEXt", b"Title\0more")]},
        "time": {"behind": [(b"tIME", bytes(7))]},
        "unknown": beside(b"prIv", b"any"),
        "palette": beside(b"PLTE", bytes(range(6))),
        "bits": beside(b"sBIT", bytes([5, 6, 5])),
    }
    return made[kind]


@pytest.mark.parametrize(
    "kind",
    ["shape of pixels", "resolution", "sRGB", "gamma", "chroma", "cICP", "text", "time", "unknown",
     "palette", "bits"],
)  # fmt: skip
def test_tags_are_those_of_ffmpeg(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = written(noise(20, 10, 3, [1]), 20, 10, **chunks_beside(kind))
    check_same(made, tmp_path / "a.png", monkeypatch)


def test_files_of_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As OpenCV, Pillow and FFmpeg write them."""
    ramp = np.add.outer(np.arange(120), np.arange(170))
    picture = np.stack([ramp, ramp.T[:120, :1] + ramp, 3 * ramp], -1).astype(np.uint8)
    path = tmp_path / "a.png"
    for level in (0, 1, 9):
        cv2.imwrite(str(path), picture, [cv2.IMWRITE_PNG_COMPRESSION, level])
        check_same(path.read_bytes(), path, monkeypatch)
    exif = Image.Exif()
    exif[0x0112] = 6
    text = PngImagePlugin.PngInfo()
    text.add_text("parameters", "a red apple")
    for mode in ("RGB", "RGBA"):
        image = Image.fromarray(picture).convert(mode)
        image.save(path, optimize=True, exif=exif, pnginfo=text, dpi=(300, 300))
        check_same(path.read_bytes(), path, monkeypatch)
    for method in ("none", "paeth", "mixed"):
        encoder = av.CodecContext.create("png", "w")
        encoder.width, encoder.height, encoder.pix_fmt = 170, 120, "rgb24"
        encoder.time_base, encoder.options = Fraction(1, 25), {"pred": method}
        frame = av.VideoFrame.from_ndarray(picture, "rgb24")
        made = b"".join(bytes(p) for p in [*encoder.encode(frame), *encoder.encode(None)])
        check_same(made, path, monkeypatch)


def test_other_kinds_are_left_to_ffmpeg(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    rows = np.zeros((8, 8, 3), np.uint8)
    for image in (
        Image.new("L", (8, 8)), Image.new("LA", (8, 8)), Image.new("P", (8, 8)),
        Image.new("1", (8, 8)), Image.new("I;16", (8, 8)),
    ):  # fmt: skip
        image.save(path)
        assert by_us(path) is None
        assert ImageReader(path).info.width == 8
    cv2.imwrite(str(path), rows.astype(np.uint16))
    assert by_us(path) is None
    assert ImageReader(path).info.width == 8
    Image.new("RGB", (8, 8)).save(path, transparency=(0, 0, 0))
    assert by_us(path) is None
    assert ImageReader(path).info.pixel_format == "gbrap"
    interlaced = bytearray(written(bytes(25 * 8), 8, 8))
    interlaced[28] = 1
    interlaced[29:33] = struct.pack(">I", zlib.crc32(interlaced[12:29]))
    path.write_bytes(interlaced)
    assert by_us(path) is None


def test_damaged_ones_are_left_to_ffmpeg(tmp_path: Path) -> None:
    rows, path = noise(8, 8, 3, [1]), tmp_path / "a.png"
    packed = zlib.compress(rows)
    for wrong in (
        packed[:-1] + bytes([packed[-1] ^ 1]),  # the sum
        packed[:-9],  # cut short
        zlib.compress(rows[:-1]),
        zlib.compress(rows + b"\0"),
        zlib.compress(b"\x05" + rows[1:]),  # a filter that is none
        b"\x78\x9c\x07" + packed[3:],  # a block of no kind
        b"\x79" + packed[1:],
    ):
        path.write_bytes(written(b"", 8, 8, packed=wrong))
        assert by_us(path) is None
    path.write_bytes(written(rows, 8, 8)[:-30])
    assert by_us(path) is None


def test_a_distance_to_before_the_first_byte_is_refused(tmp_path: Path) -> None:
    # Fixed codes: a literal, then 3 bytes from 2 before.
    bits = "1" + "10" + "00110000" + "0000001" + "00001" + "0000000"
    bits += "0" * (-len(bits) % 8)
    body = bytes(int(bits[i : i + 8][::-1], 2) for i in range(0, len(bits), 8))
    path = tmp_path / "a.png"
    path.write_bytes(written(b"", 1, 1, packed=b"\x78\x9c" + body + bytes(4)))
    assert by_us(path) is None


def test_streams_with_wrong_bits_are_seen_as_ffmpeg_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What one refuses the other may not; where both take it, there is no difference."""
    rng, path = np.random.default_rng(3), tmp_path / "a.png"
    rows, taken = noise(24, 16, 3, [0, 1, 2, 3, 4]), 0
    whole = [zlib.compress(rows, level) for level in (0, 1, 9)]
    for turn in range(1500):
        body = bytearray(whole[turn % 3][2:-4])
        for at in rng.integers(0, len(body), rng.integers(1, 4)):
            body[at] ^= 1 << rng.integers(8)
        # Sums are made good again, or they alone would be what is found wrong.
        stream = zlib.decompressobj(-15)
        with contextlib.suppress(zlib.error):
            body += zlib.adler32(stream.decompress(bytes(body), len(rows) + 1)).to_bytes(4, "big")
        path.write_bytes(written(b"", 24, 16, packed=b"\x78\x01" + bytes(body), pieces=2))
        found = by_us(path)
        if found is None:
            continue
        taken += 1
        theirs = by_ffmpeg(path, monkeypatch)
        assert samples(planar(found[0])) == samples(theirs.frame(0).picture)
    assert taken > 100


def test_files_with_wrong_bits_are_seen_as_ffmpeg_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng, path = np.random.default_rng(4), tmp_path / "a.png"
    whole = written(noise(4, 4, 3, [1, 4]), 4, 4, pieces=6, behind=[(b"tEXt", b"a\0b")])
    taken = 0
    for turn in range(1500):
        data = bytearray(whole)
        for at in rng.integers(8, len(data), rng.integers(1, 3)):
            data[at] = rng.integers(256)
        path.write_bytes(data[: rng.integers(40, len(data))] if turn % 7 == 0 else data)
        found = by_us(path)
        if found is None:
            continue
        taken += 1
        theirs = stills._packet(path)
        decoder = av.CodecContext.create("png", "r")
        decoder.thread_count = 1
        picture = (decoder.decode(theirs) or decoder.decode(None))[0]
        assert samples(planar(found[0])) == samples(planar(picture))
    assert taken > 100


def test_a_stream_that_unpacks_to_far_more_than_the_picture_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(written(b"", 8, 8, packed=zlib.compress(bytes(50 << 20))))
    assert by_us(path) is None


def test_a_stream_that_goes_on_behind_the_picture_is_left_alone(tmp_path):
    """A byte too many ends one block; what the next one copies would lie behind the picture."""
    rows = noise(2, 1, 3, 0)
    squeeze = zlib.compressobj(9)
    packed = squeeze.compress(rows + b"!") + squeeze.flush(zlib.Z_FULL_FLUSH)
    stored = struct.pack("<BHH", 0, 60_000, 60_000 ^ 0xFFFF) + bytes(60_000)
    file = tmp_path / "a.png"
    file.write_bytes(written(rows, 2, 1, packed=packed + stored + b"\1\0\0\xff\xff" + bytes(4)))
    assert by_us(file) is None


def test_without_isal_zlib_serves(tmp_path, monkeypatch):
    file = tmp_path / "a.png"
    file.write_bytes(written(noise(31, 17, 4, range(5)), 31, 17, 4))
    ours = by_us(file)
    assert ours
    monkeypatch.setattr(png, "inflater", zlib)
    again = by_us(file)
    assert again
    assert samples(again[0]) == samples(ours[0])
