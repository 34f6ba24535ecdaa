"""More attack files: pictures for Pillow's other readers, times beyond 64 bits, words without end,
credentials that unpack, files that change while they are read.

Sources: PostScript; ICO, ICNS, PSD; IVF and Ogg; Matroska; HEIF (ISO 23008-12); C2PA 2.4, 11.3
(compressed manifests).
"""

from __future__ import annotations

import io
import os
import struct
import threading
import time
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from tests.hostile.attacks import TRACK, Words, attack, boxes, film, header, png, swap
from tests.hostile.attacks_media import ANY, END, box, described, ebml, plain_jpeg, verified
from tests.hostile.attacks_prompts import START, repeated

# --- pictures that only Pillow knows --------------------------------------------------------------

POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\n(x) print\n"


def saved(kind: str, side: int = 64) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (side, side)).save(file, kind)
    return file.getvalue()


def icon_of_16k() -> bytes:
    """An icon that says 16 pixels, whose picture has other sides."""
    inner = png(header(13_000, 13_000), (b"IDAT", zlib.compress(bytes(99))), (b"IEND", b""))
    return struct.pack("<HHHBBBBHHII", 0, 1, 1, 16, 16, 0, 0, 1, 32, len(inner), 22) + inner


OTHERS = {
    "eps": lambda: POSTSCRIPT,
    "dos_eps": lambda: struct.pack("<IIIIIIIH", 0xC6D3D0C5, 32, len(POSTSCRIPT), 0, 0, 0, 0, 65535)
    + b"\0\0" + POSTSCRIPT,
    "ico": icon_of_16k,
    "icns": lambda: b"icns\0\0\0\x20ic10" + struct.pack(">I", 24) + b"\0\0\0\x0cjP  \r\n\x87\n",
    "ppm": lambda: saved("PPM"),
    "tga": lambda: saved("TGA"),
    "pcx": lambda: saved("PCX"),
    "sgi": lambda: saved("SGI"),
    "im": lambda: saved("IM"),
    "dds": lambda: saved("DDS"),
    "jp2": lambda: saved("JPEG2000"),
    "avif": lambda: saved("AVIF"),
    "xbm": lambda: b"#define a_width 9\n#define a_height 9\nstatic char a_bits[] = {0x00};\n",
    "fits": lambda: b"SIMPLE  =                    T".ljust(80)
    + b"BITPIX  =                    8".ljust(80) + b"NAXIS   =                    2".ljust(80)
    + b"NAXIS1  =                   99".ljust(80) + b"NAXIS2  =                   99".ljust(80)
    + b"END".ljust(80),
    "wmf": lambda: b"\xd7\xcd\xc6\x9a" + struct.pack("<HhhhhHIH", 0, 0, 0, 64, 64, 96, 0, 0)
    + b"\x01\0\x09\0" + bytes(40),
    "msp": lambda: b"DanM" + bytes(28),
    "psd": lambda: b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 3, 64, 64, 8, 3) + bytes(20),
    "flic": lambda: struct.pack("<IHHHHHHI", 200, 0xAF12, 9, 64, 64, 8, 3, 5) + bytes(200),
    "mpo": lambda: saved("MPO"),
    "qoi": lambda: b"qoif" + struct.pack(">IIBB", 12_000, 12_000, 4, 0) + bytes(8),
}  # fmt: skip


def with_ghostscript(folder: Path) -> None:
    """What a reader of PostScript would call."""
    place = folder / "bin"
    place.mkdir()
    for name in ("gs", "gswin64c", "ghostscript", "magick", "convert"):
        (place / name).write_text("#!/bin/sh\ntouch ../canary ../../canary\nexit 1\n")
        (place / name).chmod(0o755)
    os.environ["PATH"] = f"{place}{os.pathsep}{os.environ.get('PATH', '')}"


for _name in OTHERS:
    for _way in ("init", "mask", "from", "control", "train", "embedding"):
        if (_name, _way) == ("mpo", "train"):  # a JPEG with another behind it, fit to be trained on
            continue

        def _build(folder: Path, url: str, name=_name, way=_way) -> Words:
            with_ghostscript(folder)
            data = OTHERS[name]()
            (folder / "a.png").write_bytes(data)
            words = ["generate", "a cat", "-o", "out.png", "--steps", "1", "--width", "64",
                     "--height", "64"]  # fmt: skip
            if way == "train":
                (folder / "data").mkdir()
                (folder / "data" / "a.png").write_bytes(data)
                return ["train-diffusion", "lora", "data", "out.safetensors", "--steps", "1"]
            if way == "embedding":
                (folder / "models" / "embeddings").mkdir(parents=True)
                (folder / "models" / "embeddings" / "cat.png").write_bytes(data)
                return words
            more = {"init": ["--init", "a.png"], "from": ["--from", "a.png"],
                    "mask": ["--init", "portrait.png", "--mask", "a.png"],
                    "control": ["--control", "x", "--control-image", "a.png"]}  # fmt: skip
            return words + more[way]

        _build.__name__ = f"{_way}_that_is_{_name}"
        attack(statuses=(0, 2) if _name == "mpo" else (2,))(_build)

# --- settings in pictures -------------------------------------------------------------------------

for _key in ("Size", "Seed", "Steps", "Clip skip", "Hires steps", "Mask blur", "Outpaint",
             "Variation seed", "DeepCache", "CFG scale", "Hires upscale"):  # fmt: skip
    for _digits in (4000, 5000):

        def _build(folder: Path, url: str, key=_key, digits=_digits) -> Words:
            number = "9" * digits
            value = f"{number}x{number}" if key == "Size" else number
            told = START + "64x64" if key != "Size" else "Steps: 1, Sampler: Euler, Model: nano"
            return repeated(folder, f"{told}, {key}: {value}")

        _build.__name__ = f"settings_of_{_digits}_digits_{_key.replace(' ', '_').lower()}"
        attack(statuses=(0, 2))(_build)

# --- words of a picture ---------------------------------------------------------------------------


@attack(statuses=ANY)
def words_of_many_kinds(folder: Path, url: str) -> Words:
    """Every packet says something else."""
    kinds = (b"".join(b" DigitalSourceType='%07d'" % (i * 2000 + k) for k in range(2000))
             for i in range(150))  # fmt: skip
    packets = b"".join(b"<x:xmpmeta" + k + b"></x:xmpmeta>" for k in kinds)
    return verified(folder, "a.jpg", plain_jpeg() + packets)


@attack(statuses=ANY)
def words_of_many_kinds_as_json(folder: Path, url: str) -> Words:
    return [*words_of_many_kinds(folder, url), "--json", "-", "--report", "page.html"]


@attack(statuses=ANY)
def words_that_are_no_ascii(folder: Path, url: str) -> Words:
    packet = b"<x:xmpmeta DigitalSourceType='\xff\xfe\x1b[2J\xe2\x80\xae\x07x'></x:xmpmeta>"
    return verified(folder, "a.jpg", plain_jpeg() + packet * 20, "--json", "-")


# --- times ----------------------------------------------------------------------------------------


def ivf(stamps: list[int], rate: tuple[int, int] = (25, 1)) -> bytes:
    """Frames of VP8 at any time."""
    import av

    packets = []
    with av.open(io.BytesIO(), "w", format="ivf") as file:
        stream = file.add_stream("libvpx", rate=25)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        for i in range(len(stamps)):
            frame = av.VideoFrame.from_ndarray(np.full((96, 64), i, np.uint8), "yuv420p")
            packets += [bytes(p) for p in stream.encode(frame)]
        packets += [bytes(p) for p in stream.encode()]
    made = struct.pack("<4sHH4sHHIIII", b"DKIF", 0, 32, b"VP80", 64, 64, *rate, len(packets), 0)
    for stamp, data in zip(stamps, packets):
        made += struct.pack("<Iq", len(data), stamp) + data
    return made


MAX = 2**63 - 1
STAMPS = {
    "at_the_end_of_time": [MAX, MAX, MAX, MAX],
    "to_the_end_of_time": [0, MAX - 1, MAX, 5],
    "from_before_time": [-MAX, 0, 1, 2],
    "of_no_time": [-MAX - 1] * 4,
    "backwards": [MAX, 3, 2, 1],
    "far_apart": [0, 2**40, 2**50, 2**60],
}
for _name, _stamps in STAMPS.items():
    for _way in ("swap", "verify", "frames", "extract"):

        def _build(folder: Path, url: str, stamps=_stamps, way=_way) -> Words:
            if way in ("frames", "extract"):
                (folder / "w").mkdir()
                (folder / "w" / "data_src.ivf").write_bytes(ivf(stamps))
                return ["dfl", way, "w", "--side", "src"]
            (folder / "a.ivf").write_bytes(ivf(stamps))
            return swap("a.ivf") if way == "swap" else ["verify", "a.ivf"]

        _build.__name__ = f"film_{_name}_{_way}"
        attack(statuses=(0, 2, 3, 4))(_build)

for _name, _rate in {"of_a_rate_of_nothing": (0, 0), "of_the_largest_rate": (2**32 - 1, 1),
                     "of_the_smallest_rate": (1, 2**32 - 1)}.items():  # fmt: skip
    for _way in ("swap", "verify"):

        def _build(folder: Path, url: str, rate=_rate, way=_way) -> Words:
            (folder / "a.ivf").write_bytes(ivf([0, 1, 2, 3], rate))
            return swap("a.ivf") if way == "swap" else ["verify", "a.ivf"]

        _build.__name__ = f"film_{_name}_{_way}"
        attack(statuses=(0, 2, 3, 4))(_build)


def late(folder: Path, offset: int, frames: int = 100) -> Path:
    """A Matroska film whose clusters begin late."""
    from tests.video.clips import make_clip

    path = make_clip(folder / "a.mkv", codec="ffv1", stamps=range(frames))
    data, at = bytearray(path.read_bytes()), 0
    while (at := data.find(b"\x1f\x43\xb6\x75", at)) >= 0:
        place = data.index(b"\xe7", at)
        length = data[place + 1] & 0x7F
        grown = b"\xe7\x88" + offset.to_bytes(8, "big")
        size_at = at + 4
        width = 8 - (data[size_at].bit_length() - 1)
        old = int.from_bytes(data[size_at : size_at + width], "big") & ((1 << 7 * width) - 1)
        new = old + len(grown) - 2 - length
        data[size_at : size_at + width] = (new | 1 << 7 * width).to_bytes(width, "big")
        data[place : place + 2 + length] = grown
        at = place + len(grown)
    path.write_bytes(data)
    return path


for _name, _offset in {"late": 1 << 40, "very_late": 1 << 53, "too_late": 1 << 62,
                       "negative": (1 << 64) - 1}.items():  # fmt: skip
    for _way in ("swap", "verify"):

        def _build(folder: Path, url: str, offset=_offset, way=_way) -> Words:
            late(folder, offset, 100 if way == "verify" else 4)
            return swap("a.mkv") if way == "swap" else ["verify", "a.mkv"]

        _build.__name__ = f"film_that_begins_{_name}_{_way}"
        attack(statuses=(0, 2, 3, 4))(_build)


def _segment_begins_with(element: bytes, folder: Path) -> Words:
    path = film(folder, "a.mkv", codec="ffv1")
    data = path.read_bytes()
    at = data.index(b"\x18\x53\x80\x67")
    width = 8 - (data[at + 4].bit_length() - 1)
    path.write_bytes(data[: at + 4] + b"\x01" + b"\xff" * 7 + element + data[at + 4 + width :])
    return swap("a.mkv")


@attack(statuses=(0, 2))
def film_of_many_chapters(folder: Path, url: str) -> Words:
    atom = ebml(b"\x73\xc4", b"\1") + ebml(b"\x91", b"\0") + ebml(b"\x80", ebml(b"\x85", b"x" * 30))
    chapters = ebml(b"\x10\x43\xa7\x70", ebml(b"\x45\xb9", ebml(b"\xb6", atom) * 100_000))
    return _segment_begins_with(chapters, folder)


@attack(statuses=(0, 2))
def film_of_many_tags(folder: Path, url: str) -> Words:
    tag = ebml(b"\x67\xc8", ebml(b"\x45\xa3", b"N%d") + ebml(b"\x44\x87", b"\x1b[2J" * 20))
    tags = b"".join(tag.replace(b"N%d", b"%03d" % (i % 1000)) for i in range(100_000))
    tags = ebml(b"\x12\x54\xc3\x67", ebml(b"\x73\x73", tags))
    return _segment_begins_with(tags, folder)


@attack(statuses=(0, 2))
def film_of_an_endless_pause(folder: Path, url: str) -> Words:
    """An edit that shows nothing for an age before the film begins."""
    path = film(folder)
    edits = struct.pack(">II", 0x01000000, 2) + struct.pack(">QqI", 2**62, -1, 0x10000)
    edits += struct.pack(">QqI", 4, 0, 0x10000)
    path.write_bytes(boxes(path.read_bytes(), (*TRACK[:2], b"edts", b"elst"), lambda old: edits))
    return swap("a.mp4")


@attack(statuses=(0, 2))
def film_of_negative_edits(folder: Path, url: str) -> Words:
    path = film(folder)
    edits = struct.pack(">II", 0x01000000, 1) + struct.pack(">QqI", 2**63, -(2**63), 0x10000)
    path.write_bytes(boxes(path.read_bytes(), (*TRACK[:2], b"edts", b"elst"), lambda old: edits))
    return swap("a.mp4")


# --- pictures in boxes ----------------------------------------------------------------------------


def heif(items: int, side: int, tiles: tuple[int, int]) -> bytes:
    """A grid of pictures that are one and the same."""
    infe = b"".join(
        box(b"infe", struct.pack(">IHH4sB", 0x02000000, i + 1, 0, b"grid" if not i else b"hvc1", 0))
        for i in range(items)
    )
    iinf = box(b"iinf", struct.pack(">IH", 0, items) + infe)
    iloc = b"".join(struct.pack(">HHHII", i + 1, 0, 1, 0, 8 if not i else 64) for i in range(items))
    iloc = box(b"iloc", struct.pack(">IBBH", 0, 0x44, 0, items) + iloc)
    refs = struct.pack(">HH", 1, items - 1) + b"".join(
        struct.pack(">H", i + 2) for i in range(items - 1)
    )
    iref = box(b"iref", struct.pack(">I", 0) + box(b"dimg", refs))
    ispe = box(b"ispe", struct.pack(">III", 0, side, side))
    iprp = box(b"iprp", box(b"ipco", ispe) + box(b"ipma", struct.pack(">II", 0, 0)))
    meta = struct.pack(">I", 0) + box(b"hdlr", struct.pack(">II4s", 0, 0, b"pict") + bytes(13))
    meta = box(b"meta", meta + box(b"pitm", struct.pack(">IH", 0, 1)) + iinf + iloc + iref + iprp)
    grid = struct.pack(">BBBBHH", 0, 0, tiles[0], tiles[1], side, side)
    start = box(b"ftyp", b"heic\0\0\0\0mif1heic")
    return start + meta + box(b"mdat", grid + bytes(64))


for _name, _sizes in {
    "of_many_tiles": (60_000, 65535, (255, 255)),
    "of_one_tile": (2, 65535, (0, 0)),
    "of_no_tile": (1, 8, (9, 9)),
}.items():

    def _build(folder: Path, url: str, sizes=_sizes) -> Words:
        (folder / "a.heic").write_bytes(heif(*sizes))
        return swap("a.heic")

    _build.__name__ = f"heif_{_name}"
    attack(statuses=(0, 2))(_build)

# --- credentials ----------------------------------------------------------------------------------


@attack(statuses=ANY)
def credential_that_unpacks(folder: Path, url: str) -> Words:
    """A manifest may be compressed by Brotli; a meta-block of one byte repeated is a bomb."""
    stream = bytes.fromhex("5f ff ff 7f 00 e0 01 40 22 00".replace(" ", "")) * 50
    packed = box(b"brob", stream)
    part = box(b"jumb", described(b"urn:c2pa:x") + packed)
    store = box(b"jumb", described() + part)
    return verified(folder, "a.png", png(header(8, 8), (b"caBX", store), *END))


@attack(statuses=ANY)
def credential_of_many_statements(folder: Path, url: str) -> Words:
    one = b"".join(
        box(b"jumb", described(b"urn:uuid:%08d" % i) + box(b"cbor", b"\xa0")) for i in range(20_000)
    )
    return verified(folder, "a.png", png(header(8, 8), (b"caBX", box(b"jumb", described() + one)),
                                         *END))  # fmt: skip


@attack(statuses=ANY)
def credential_of_a_sidecar_link(folder: Path, url: str) -> Words:
    (folder / "a.mkv").write_bytes(film(folder, "a.mkv", codec="ffv1").read_bytes())
    (folder / "a.mkv.c2pa").symlink_to("/etc/passwd")
    (folder / "a.c2pa").symlink_to("/dev/zero")
    return ["verify", "a.mkv"]


# --- files that change ----------------------------------------------------------------------------


def elsewhere(path: Path) -> Path:
    """Move a file to where changes of it are not put down to the command; a link stays."""
    place = path.parent.parent / "home"
    place.mkdir(exist_ok=True)
    moved = path.rename(place / f"{path.parent.name}{path.suffix}")
    path.symlink_to(moved)
    return moved


def shortened(path: Path, after_s: float, size: int) -> None:
    """Cut a file while a command is at work on it."""

    def work() -> None:
        time.sleep(after_s)
        os.truncate(path, size)

    threading.Thread(target=work, daemon=True).start()


for _name, _size in {"emptied": 0, "cut": 3000}.items():
    for _after_s in (0.05, 0.5):

        def _build(folder: Path, url: str, size=_size, after_s=_after_s) -> Words:
            from tests.video.clips import make_clip

            path = make_clip(folder / "a.mkv", codec="ffv1", stamps=range(200))
            shortened(elsewhere(path), after_s, size)
            return swap("a.mkv")

        _build.__name__ = f"film_that_is_{_name}_after_{int(_after_s * 1000)}_ms"
        attack(statuses=(0, 2))(_build)


@attack(statuses=(0, 2))
def film_that_grows(folder: Path, url: str) -> Words:
    path = elsewhere(film(folder, "a.ts", codec="mpeg2video"))
    data, over = path.read_bytes(), threading.Event()

    def work() -> None:
        with open(path, "ab") as file:
            for _ in range(2000):
                file.write(data)
                file.flush()
                if over.wait(0.005):
                    return

    threading.Thread(target=work, daemon=True).start()
    return swap("a.ts")


@attack(statuses=(0, 2))
def film_in_a_folder_that_cannot_be_written(folder: Path, url: str) -> Words:
    film(folder)
    (folder / "sub").mkdir()
    (folder / "sub").chmod(0o500)
    return ["swap", "a.mp4", "sub/out.mp4", "--source", "portrait.png"]


@attack(statuses=(2,))
def output_in_a_file(folder: Path, url: str) -> Words:
    film(folder)
    return ["swap", "a.mp4", "a.mp4/out.mp4", "--source", "portrait.png"]


@attack(statuses=(2,))
def output_of_a_long_name(folder: Path, url: str) -> Words:
    film(folder)
    return ["swap", "a.mp4", "x" * 252 + ".mp4", "--source", "portrait.png"]


@attack(statuses=(2,))
def film_that_is_a_folder(folder: Path, url: str) -> Words:
    (folder / "a.mp4").mkdir()
    return swap("a.mp4")


for _name in ("-rf.png", "--help.png", "\U0001f600\u200d\U0001f525.png", "a\nb\x1b[2J.png"):

    def _build(folder: Path, url: str, name=_name) -> Words:
        (folder / name).write_bytes(b"x")
        return ["verify", f"./{name}", f"{folder}/{name}"]

    _build.__name__ = f"verify_of_an_odd_name_{'_'.join(str(ord(c)) for c in _name[:2])}"
    attack(statuses=(3, 4))(_build)
