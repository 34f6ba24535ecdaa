"""Attack files of every class we know of, made by code, and the command that is given each.

Sources: CVE-2022-25882, CVE-2024-27318 (ONNX external data); CVE-2025-32434 (torch pickles);
FFmpeg's protocols and playlist demuxers; ISO 14496-12 (dref, stsz); the ZIP, PNG, GIF, JPEG, TIFF
and safetensors formats.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, PngImagePlugin

Words = list[str]


@dataclass(frozen=True)
class Attack:
    """statuses: of a command that got it right. says: part of its line on stderr."""

    name: str
    build: Callable[[Path, str], Words]  # folder to work in, URL that must not be asked for
    statuses: tuple[int, ...] = (2,)
    says: str = ""


ATTACKS: dict[str, Attack] = {}


def attack(says: str = "", statuses: tuple[int, ...] = (2,)):
    def register(build: Callable[[Path, str], Words]):
        name = build.__name__.strip("_")
        ATTACKS[name] = Attack(name, build, statuses, says)
        return build

    return register


def swap(name: str, *more: str) -> Words:
    return ["swap", name, "out.mp4", "--source", "portrait.png", *more]


def portrait(folder: Path) -> None:
    from accel.pipelines.demo import PORTRAIT
    from accel.weights.assets import asset

    (folder / "portrait.png").write_bytes(asset(PORTRAIT).read_bytes())


def film(folder: Path, name: str = "a.mp4", **options) -> Path:
    from tests.video.clips import make_clip

    return make_clip(folder / name, stamps=range(4), **options)


class Command:
    """A pickle that would make the canary."""

    def __reduce__(self):
        return os.system, ("touch ../canary",)


class Evaluated:
    def __reduce__(self):
        return eval, ("open('../canary', 'w')",)


# --- playlists, scripts and protocols -------------------------------------------------------------


def _text(folder: Path, name: str, text: str) -> Words:
    (folder / name).write_text(text)
    return swap(name)


def _playlist(url: str) -> str:
    lines = ["#EXTM3U", "#EXT-X-TARGETDURATION:1", f'#EXT-X-KEY:METHOD=AES-128,URI="{url}/key"']
    lines += ["#EXTINF:1,", f"{url}/a.ts", "#EXTINF:1,", "file:///etc/passwd", "#EXT-X-ENDLIST"]
    return "\n".join(lines)


for _suffix in ("m3u8", "mp4", "mkv", "ts"):
    attack("first bytes fit neither")(
        type("", (), {"__name__": f"playlist_{_suffix}", "__call__": lambda self, folder, url,
             suffix=_suffix: _text(folder, f"a.{suffix}", _playlist(url))})()
    )  # fmt: skip


@attack("first bytes fit neither")
def concat_script(folder: Path, url: str) -> Words:
    return _text(folder, "a.ffconcat", f"ffconcat version 1.0\nfile /etc/passwd\nfile {url}/a\n")


@attack("first bytes fit neither")
def session_description(folder: Path, url: str) -> Words:
    return _text(folder, "a.sdp", "v=0\no=- 0 0 IN IP4 127.0.0.1\nm=video 9 RTP/AVP 96\n")


@attack("first bytes fit neither")
def dash_manifest(folder: Path, url: str) -> Words:
    return _text(folder, "a.mpd", f"<?xml version='1.0'?><MPD><BaseURL>{url}/</BaseURL></MPD>")


@attack("first bytes fit neither")
def svg_with_link(folder: Path, url: str) -> Words:
    return _text(folder, "a.svg", f"<svg><image href='{url}/a.png'/></svg>")


@attack("no such file")
def http_url(folder: Path, url: str) -> Words:
    return swap(f"{url}/a.mp4")


@attack("no such file")
def file_url(folder: Path, url: str) -> Words:
    film(folder)
    return swap(f"file://{folder}/a.mp4")


@attack("no such file")
def concat_protocol(folder: Path, url: str) -> Words:
    film(folder)
    return swap("concat:a.mp4|a.mp4")


@attack("no such file")
def subfile_protocol(folder: Path, url: str) -> Words:
    film(folder)
    return swap("subfile,,start,0,end,9,,:a.mp4")


@attack("no such file")
def number_pattern(folder: Path, url: str) -> Words:
    film(folder, "a1.mp4")
    return swap("a%d.mp4")


@attack("no such file")
def smb_url(folder: Path, url: str) -> Words:
    return swap("smb://127.0.0.1/share/a.mp4")


@attack("no such file")
def source_is_url(folder: Path, url: str) -> Words:
    film(folder)
    return ["swap", "a.mp4", "out.mp4", "--source", f"{url}/face.png"]


def boxes(data: bytes, path: tuple[bytes, ...], change: Callable[[bytes], bytes]) -> bytes:
    """An MP4 with the content of the first box at `path` changed; sizes around it follow."""
    made, at = b"", 0
    while at < len(data):
        size, kind = struct.unpack(">I4s", data[at : at + 8])
        content = data[at + 8 : at + size]
        if path and kind == path[0]:
            inner = boxes(content, path[1:], change) if len(path) > 1 else change(content)
            content, path = inner, ()
        made += struct.pack(">I4s", len(content) + 8, kind) + content
        at += size
    return made


TRACK = (b"moov", b"trak", b"mdia", b"minf")


def reference(folder: Path, kind: bytes, target: bytes) -> Words:
    entry = struct.pack(">I4sI", 12 + len(target), kind, 0) + target
    table = struct.pack(">II", 0, 1) + entry
    path = film(folder)
    path.write_bytes(boxes(path.read_bytes(), (*TRACK, b"dinf", b"dref"), lambda old: table))
    return swap("a.mp4")


@attack(statuses=(0, 2))
def reference_to_url(folder: Path, url: str) -> Words:
    return reference(folder, b"url ", f"{url}/media.mp4\0".encode())


@attack(statuses=(0, 2))
def reference_to_file(folder: Path, url: str) -> Words:
    return reference(folder, b"url ", b"file:///etc/passwd\0")


@attack(statuses=(0, 2))
def reference_by_alias(folder: Path, url: str) -> Words:
    path = b"/etc/passwd"
    alias = bytearray(150)
    alias[10:12] = b"\x01\x05"
    alias += struct.pack(">HH", 18, len(path)) + path + b"\0" + struct.pack(">HH", 0xFFFF, 0)
    return reference(folder, b"alis", bytes(alias))


# --- sizes, counts and durations ------------------------------------------------------------------


@attack(statuses=(0, 2))
def two_thousand_million_samples(folder: Path, url: str) -> Words:
    path = film(folder)
    table = struct.pack(">III", 0, 1, 0x7FFFFFFF)
    path.write_bytes(boxes(path.read_bytes(), (*TRACK, b"stbl", b"stsz"), lambda old: table))
    return swap("a.mp4")


@attack(statuses=(0, 2))
def endless_durations(folder: Path, url: str) -> Words:
    path = film(folder)
    table = struct.pack(">III", 0, 1, 0xFFFFFFFF) + struct.pack(">I", 0x7FFFFFFF)
    path.write_bytes(boxes(path.read_bytes(), (*TRACK, b"stbl", b"stts"), lambda old: table))
    return swap("a.mp4")


@attack(statuses=(0, 2))
def lasts_for_ages(folder: Path, url: str) -> Words:
    path = film(folder)

    def change(old: bytes) -> bytes:
        return (
            bytes([1]) + old[1:4] + bytes(16) + old[12:16] + struct.pack(">q", 1 << 52) + old[20:]
        )

    path.write_bytes(boxes(path.read_bytes(), (*TRACK[:3], b"mdhd"), change))
    return swap("a.mp4")


@attack("edits")
def many_edits(folder: Path, url: str) -> Words:
    path = film(folder)
    edits = struct.pack(">II", 0, 60_000) + struct.pack(">IiI", 1, 0, 0x10000) * 60_000
    path.write_bytes(boxes(path.read_bytes(), (*TRACK[:2], b"edts", b"elst"), lambda old: edits))
    return swap("a.mp4")


@attack("tracks")
def thousand_tracks(folder: Path, url: str) -> Words:
    path = film(folder)
    data = path.read_bytes()
    at = data.index(b"trak") - 4
    track = data[at : at + int.from_bytes(data[at : at + 4], "big")]
    path.write_bytes(boxes(data, (b"moov",), lambda old: old + track * 1000))
    return swap("a.mp4")


@attack(statuses=(0, 2))
def nested_boxes(folder: Path, url: str) -> Words:
    content = b""
    for _ in range(20_000):
        content = struct.pack(">I4s", len(content) + 8, b"udta") + content
    start = struct.pack(">I4s4sI", 16, b"ftyp", b"isom", 0)
    (folder / "a.mp4").write_bytes(start + struct.pack(">I4s", len(content) + 8, b"moov") + content)
    return swap("a.mp4")


def png(*chunks: tuple[bytes, bytes]) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


def header(width: int, height: int, bits: int = 8, kind: int = 2) -> tuple[bytes, bytes]:
    return b"IHDR", struct.pack(">2I5B", width, height, bits, kind, 0, 0, 0)


def still(folder: Path, name: str, data: bytes) -> Words:
    (folder / name).write_bytes(data)
    return ["swap", name, "out.png", "--source", "portrait.png"]


@attack("pixels")
def png_of_16k(folder: Path, url: str) -> Words:
    return still(folder, "a.png", png(header(16384, 16384), (b"IDAT", zlib.compress(bytes(999)))))


@attack("pixels")
def png_of_two_thousand_million(folder: Path, url: str) -> Words:
    return still(folder, "a.png", png(header(2**31 - 1, 2**31 - 1), (b"IDAT", b""), (b"IEND", b"")))


@attack()
def png_without_end(folder: Path, url: str) -> Words:
    return still(folder, "a.png", png(header(8000, 8000), (b"IDAT", zlib.compress(bytes(99)))))


def bomb(size: int) -> bytes:
    """What unpacks to `size` zeros, whole megabytes; made from one of them, repeated."""
    packer, mega = zlib.compressobj(9), bytes(1 << 20)
    first, more = (packer.compress(mega) + packer.flush(zlib.Z_FULL_FLUSH) for _ in range(2))
    check = (size % 65521) << 16 | 1  # Adler-32 of zeros
    return first + more * ((size >> 20) - 1) + b"\x03\0" + struct.pack(">I", check)


@attack(statuses=(0, 2))
def png_text_bomb(folder: Path, url: str) -> Words:
    text = (b"zTXt", b"parameters\0\0" + bomb(1 << 30))
    return still(folder, "a.png", png(header(8, 8), text, (b"IDAT", zlib.compress(bytes(200))),
                                      (b"IEND", b"")))  # fmt: skip


@attack(statuses=(0, 2))
def png_profile_bomb(folder: Path, url: str) -> Words:
    profile = (b"iCCP", b"x\0\0" + bomb(1 << 30))
    return still(folder, "a.png", png(header(8, 8), profile, (b"IDAT", zlib.compress(bytes(200))),
                                      (b"IEND", b"")))  # fmt: skip


@attack(statuses=(2, 3, 4))
def verify_of_text_bomb(folder: Path, url: str) -> Words:
    png_text_bomb(folder, url)
    return ["verify", "a.png"]


@attack(statuses=(0, 2))
def animation_of_millions(folder: Path, url: str) -> Words:
    control = (b"acTL", struct.pack(">II", 2**31 - 1, 0))
    return still(folder, "a.png", png(header(8, 8), control, (b"IDAT", zlib.compress(bytes(200))),
                                      (b"IEND", b"")))  # fmt: skip


@attack()
def gif_of_64k(folder: Path, url: str) -> Words:
    frame = b",\0\0\0\0" + struct.pack("<HH", 65535, 65535) + b"\0\x02\x02L\x01\0;"
    return still(folder, "a.gif", b"GIF89a" + struct.pack("<HH", 65535, 65535) + b"\0\0\0" + frame)


@attack(statuses=(0, 2))
def gif_of_many_frames(folder: Path, url: str) -> Words:
    table = b"\x80\0\0" + bytes(3) + b"\xff\xff\xff"
    frame = b"!\xf9\x04\0\0\0\0\0,\0\0\0\0" + struct.pack("<HH", 2, 2) + b"\0\x02\x02D\x01\0"
    start = b"GIF89a" + struct.pack("<HH", 2, 2) + table
    (folder / "a.gif").write_bytes(start + frame * 300 + b";")
    return swap("a.gif")


@attack("pixels")
def jpeg_of_64k(folder: Path, url: str) -> Words:
    file = io.BytesIO()
    Image.new("RGB", (16, 16)).save(file, "JPEG")
    data = bytearray(file.getvalue())
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = struct.pack(">HH", 65500, 65500)
    return still(folder, "a.jpg", bytes(data))


@attack()
def webp_of_16k(folder: Path, url: str) -> Words:
    lossless = b"\x2f" + struct.pack("<I", 16383 | 16383 << 14) + bytes(20)
    chunk = b"VP8L" + struct.pack("<I", len(lossless)) + lossless
    return still(folder, "a.webp", b"RIFF" + struct.pack("<I", len(chunk) + 4) + b"WEBP" + chunk)


@attack()
def tiff_that_points_at_itself(folder: Path, url: str) -> Words:
    return still(
        folder, "a.tif", b"II*\0\x08\0\0\0\x01\0\0\x01\x04\0\x01\0\0\0\x08\0\0\0\x08\0\0\0"
    )


@attack()
def bmp_of_64k(folder: Path, url: str) -> Words:
    head = struct.pack("<IiiHHIIiiII", 40, 60000, 60000, 1, 24, 0, 0, 0, 0, 0, 0)
    return still(folder, "a.bmp", b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + head)


@attack()
def film_of_64k(folder: Path, url: str) -> Words:
    (folder / "a.y4m").write_bytes(b"YUV4MPEG2 W65535 H65535 F25:1 C420\nFRAME\n" + bytes(1000))
    return swap("a.y4m")


# --- names, pipes and devices ---------------------------------------------------------------------


@attack("folder, pipe or device")
def pipe_as_film(folder: Path, url: str) -> Words:
    os.mkfifo(folder / "a.mp4")
    return swap("a.mp4")


@attack("folder, pipe or device")
def device_as_film(folder: Path, url: str) -> Words:
    return swap("/dev/zero")


@attack()
def device_as_source(folder: Path, url: str) -> Words:
    film(folder)
    return ["swap", "a.mp4", "out.mp4", "--source", "/dev/zero"]


@attack("a.onnx")
def device_as_swapper(folder: Path, url: str) -> Words:
    film(folder)
    os.mkfifo(folder / "a.onnx")
    return swap("a.mp4", "--swapper", "a.onnx")


@attack(statuses=(2, 4))
def verify_of_a_pipe(folder: Path, url: str) -> Words:
    os.mkfifo(folder / "a.png")
    return ["verify", "a.png"]


@attack(statuses=(2, 4))
def verify_of_a_device(folder: Path, url: str) -> Words:
    return ["verify", "/dev/zero"]


@attack(statuses=(2, 3, 4))
def verify_of_a_pipe_beside(folder: Path, url: str) -> Words:
    (folder / "a.mkv").write_bytes(film(folder, "a.mkv", codec="ffv1").read_bytes())
    os.mkfifo(folder / "a.mkv.c2pa")
    return ["verify", "a.mkv"]


@attack()
def link_to_itself(folder: Path, url: str) -> Words:
    (folder / "a.mp4").symlink_to("a.mp4")
    return swap("a.mp4")


@attack("first bytes fit neither")
def link_to_a_secret(folder: Path, url: str) -> Words:
    (folder / "a.mp4").symlink_to("/etc/passwd")
    return swap("a.mp4")


@attack("first bytes fit neither")
def name_that_writes_to_the_terminal(folder: Path, url: str) -> Words:
    name = "\x1b]0;owned\x07\x1b[2J\u202egpj\nERROR all fine.mp4"
    (folder / name).write_text("no film")
    return swap(name)


@attack(statuses=(0,))
def metadata_that_writes_to_the_terminal(folder: Path, url: str) -> Words:
    import av

    film(folder, "b.mp4")
    with av.open(str(folder / "b.mp4")) as source, av.open(str(folder / "a.mp4"), "w") as made:
        made.metadata["title"] = "\x1b[2J\x1b]0;owned\x07\nERROR"
        stream = made.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                made.mux(packet)
    return swap("a.mp4")


@attack(statuses=(2,))
def verify_of_words_that_write_to_the_terminal(folder: Path, url: str) -> Words:
    text = PngImagePlugin.PngInfo()
    text.add_itxt("XML:com.adobe.xmp", '<x:xmpmeta Iptc4xmpExt:DigitalSourceType="\x1b[2J\x1b]0;'
                  'owned\x07\u202etrainedAlgorithmicMedia"></x:xmpmeta>')  # fmt: skip
    Image.new("RGB", (64, 64)).save(folder / "a.png", pnginfo=text)
    return ["verify", "a.png"]


@attack(statuses=(0, 2))
def picture_that_is_a_zip(folder: Path, url: str) -> Words:
    file = io.BytesIO()
    Image.new("RGB", (64, 64)).save(file, "PNG")
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("../../canary", "x")
    return still(folder, "a.png", file.getvalue() + packed.getvalue())


# --- weights --------------------------------------------------------------------------------------


def model(name: str) -> Words:
    return ["generate", "a cat", "-o", "out.png", "--model", name, "--steps", "1"]


def archive(folder: Path, program: bytes, *members: tuple[str, bytes], **options) -> Words:
    with zipfile.ZipFile(folder / "a.ckpt", "w", **options) as file:
        file.writestr("archive/data.pkl", program)
        for name, content in members:
            file.writestr(name, content)
    return model("a.ckpt")


@attack("system")
def checkpoint_that_runs(folder: Path, url: str) -> Words:
    return archive(folder, pickle.dumps({"state_dict": {"w": Command()}}, 2))


@attack("eval")
def checkpoint_that_evaluates(folder: Path, url: str) -> Words:
    return archive(folder, pickle.dumps({"a": Evaluated()}, 4))


@attack()
def checkpoint_with_old_opcodes(folder: Path, url: str) -> Words:
    return archive(folder, b"(S'touch ../canary'\nios\nsystem\n.")


@attack("name")
def checkpoint_through_a_known_module(folder: Path, url: str) -> Words:
    """torch's own `load` is a way to run any pickle."""
    return archive(folder, b"\x80\x02ctorch\nload\nX\x05\0\0\0a.pkl\x85R.")


@attack()
def checkpoint_through_getattr(folder: Path, url: str) -> Words:
    return archive(
        folder, b"\x80\x04\x8c\x08builtins\x8c\x07getattr\x93\x8c\x02os\x8c\x06system\x86R."
    )


@attack("stored member")
def checkpoint_bomb(folder: Path, url: str) -> Words:
    return archive(folder, b"\x80\x02" + b"]" * (64 << 20) + b".", compression=zipfile.ZIP_DEFLATED)


@attack("containers at most")
def checkpoint_of_lists(folder: Path, url: str) -> Words:
    return archive(folder, b"\x80\x02" + b"]" * (20 << 20) + b".")


@attack("one data.pkl")
def checkpoint_with_two_programs(folder: Path, url: str) -> Words:
    return archive(folder, pickle.dumps({}), ("other/data.pkl", pickle.dumps(Command())))


@attack()
def checkpoint_that_leaves_its_folder(folder: Path, url: str) -> Words:
    program = (
        b"\x80\x02}X\x01\0\0\0wctorch._utils\n_rebuild_tensor_v2\n((X\x07\0\0\0storagectorch\n"
        b"FloatStorage\nX\x17\0\0\0../../../../etc/passwd0X\x03\0\0\0cpuK\x01tQK\0K\x01\x85K\x01\x85"
        b"\x89}tRs."
    )
    return archive(folder, program, ("archive/../../canary", b"1234"))


@attack("table must take")
def checkpoint_of_many_members(folder: Path, url: str) -> Words:
    entry = struct.pack("<4s4xHH30xII", b"PK\x01\x02", 0, 0, 0, 0)[:42] + b"\0\0\0\0"
    table = entry * 300_000
    end = struct.pack("<4s4xHHIIH", b"PK\x05\x06", 65535, 65535, len(table), 4, 0)
    (folder / "a.ckpt").write_bytes(b"PK\x03\x04" + table + end)
    return model("a.ckpt")


@attack()
def old_checkpoint(folder: Path, url: str) -> Words:
    """A bare pickle, as torch wrote before 1.6, is not even looked into."""
    (folder / "a.ckpt").write_bytes(pickle.dumps(Command()))
    return model("a.ckpt")


def tensors(folder: Path, header: object, data: bytes = b"", length: int | None = None) -> Words:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    length = len(text) if length is None else length
    (folder / "a.safetensors").write_bytes(length.to_bytes(8, "little") + text + data)
    return model("a.safetensors")


def entry(shape: list[int], begin: int, end: int, dtype: str = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


@attack("header of")
def tensors_with_an_endless_header(folder: Path, url: str) -> Words:
    return tensors(folder, {}, length=2**63)


@attack("overlap")
def tensors_that_overlap(folder: Path, url: str) -> Words:
    return tensors(folder, {"a": entry([2], 0, 8), "b": entry([2], 4, 12)}, bytes(12))


@attack("every byte")
def tensors_with_a_hole(folder: Path, url: str) -> Words:
    return tensors(folder, {"a": entry([1], 8, 12)}, bytes(12))


@attack("shape")
def tensors_of_negative_size(folder: Path, url: str) -> Words:
    return tensors(folder, {"a": entry([-1, -4], 0, 16)}, bytes(16))


@attack("shape")
def tensors_whose_size_wraps(folder: Path, url: str) -> Words:
    return tensors(folder, {"a": entry([2**62, 4], 0, 0)})


@attack("twice")
def tensors_named_twice(folder: Path, url: str) -> Words:
    one = json.dumps(entry([1], 0, 4))
    return tensors(folder, f'{{"a": {one}, "a": {one}}}'.encode(), bytes(4))


@attack("must be JSON")
def tensors_nested(folder: Path, url: str) -> Words:
    return tensors(folder, b'{"a":' * 200_000)


@attack("items at most")
def tensors_of_empty_lists(folder: Path, url: str) -> Words:
    return tensors(folder, b"[" + b"[]," * (15 << 20) + b"[]]")


@attack()
def tensors_with_control_characters(folder: Path, url: str) -> Words:
    return tensors(folder, {"\x1b[2J\x1b]0;owned\x07\n": entry([3], 0, 4)}, bytes(4))


def network(folder: Path, made) -> Words:
    film(folder)
    (folder / "a.onnx").write_bytes(made.SerializeToString())
    return swap("a.mp4", "--swapper", "a.onnx")


def _networks() -> None:
    from tests.weights import test_onnx_hostile as hostile

    named = {
        "dense": hostile.dense, "quiet": hostile.quiet_dense, "attribute": hostile.attribute,
        "sparse_values": lambda: hostile.sparse("values"), "subgraph": hostile.subgraph_twice,
        "sparse_indices": lambda: hostile.sparse("indices"), "in_function": hostile.in_function,
        "sparse_attribute": hostile.sparse_attribute, "default": hostile.default_attribute,
        "training": hostile.training, "foreign": hostile.foreign_in_function,
        "recursive": hostile.itself, "doubling": hostile.doubling, "endless": hostile.endless,
        "outer_product": hostile.outer_product, "sparse_bomb": hostile.sparse_bomb,
    }  # fmt: skip
    for name, make in named.items():
        full = f"network_{name}"

        def build(folder: Path, url: str, make=make) -> Words:
            return network(folder, make())

        ATTACKS[full] = Attack(full, build, (2,), "a.onnx: ")


_networks()


@attack("parts at most")
def network_of_empty_nodes(folder: Path, url: str) -> Words:
    from tests.weights.test_onnx_hostile import message

    film(folder)
    (folder / "a.dfm").write_bytes(message(7, message(1, b"") * 20_000_000))
    return swap("a.mp4", "--swapper", "a.dfm")


@attack("ONNX model")
def network_that_is_a_pickle(folder: Path, url: str) -> Words:
    film(folder)
    (folder / "a.onnx").write_bytes(pickle.dumps(Command()))
    return swap("a.mp4", "--swapper", "a.onnx")


# --- facesets -------------------------------------------------------------------------------------


def workspace(folder: Path, table: object, contents: list[bytes], raw: bytes = b"") -> Words:
    from accel.weights.pickle_writer import dump_pickle

    aligned = folder / "w" / "data_src" / "aligned"
    aligned.mkdir(parents=True)
    packed = raw or dump_pickle(table)
    ends = np.cumsum([0, *map(len, contents)], dtype="<u8").tobytes()
    head = struct.pack("<QQ", 1, len(packed))
    (aligned / "faceset.pak").write_bytes(head + packed + ends + b"".join(contents))
    return ["dfl", "unpack", "w", "--side", "src"]


@attack(statuses=(0, 2))
def faceset_that_leaves_its_folder(folder: Path, url: str) -> Words:
    names = ["../../../../canary", "/tmp/../canary", "..\\..\\canary", "a/../../../canary"]
    table = [{"filename": n, "person_name": "../.."} for n in names]
    return workspace(folder, table, [b"x"] * 4)


@attack("must be a name")
def faceset_named_dots(folder: Path, url: str) -> Words:
    return workspace(folder, [{"filename": "..", "person_name": None}], [b"x"])


@attack("system")
def faceset_that_runs(folder: Path, url: str) -> Words:
    return workspace(folder, None, [], pickle.dumps([Command()]))


@attack("itself")
def faceset_in_itself(folder: Path, url: str) -> Words:
    return workspace(folder, None, [], b"\x80\x04]\x94h\0a.")


@attack("at most")
def faceset_of_lists(folder: Path, url: str) -> Words:
    return workspace(folder, None, [], b"\x80\x04" + b"]" * (9 << 20) + b".")


@attack()
def faceset_longer_than_its_file(folder: Path, url: str) -> Words:
    workspace(folder, [], [])
    path = folder / "w" / "data_src" / "aligned" / "faceset.pak"
    path.write_bytes(struct.pack("<QQ", 1, 2**63) + path.read_bytes()[16:])
    return ["dfl", "unpack", "w", "--side", "src"]


@attack()
def face_that_runs(folder: Path, url: str) -> Words:
    aligned = folder / "w" / "data_src" / "aligned"
    aligned.mkdir(parents=True)
    file = io.BytesIO()
    Image.new("RGB", (16, 16)).save(file, "JPEG")
    payload = pickle.dumps(Command(), 4)
    segment = b"\xff\xef" + struct.pack(">H", len(payload) + 2) + payload
    jpeg = file.getvalue()
    (aligned / "00001.jpg").write_bytes(jpeg[:2] + segment + jpeg[2:])
    return ["dfl", "pack", "w", "--side", "src"]


# --- prompts and settings -------------------------------------------------------------------------


def prompt(text: str) -> Words:
    return ["generate", text, "-o", "out.png", "--steps", "1", "--width", "64", "--height", "64"]


@attack("characters")
def prompt_of_a_megabyte(folder: Path, url: str) -> Words:
    return prompt("x" * 120_000)  # the system takes no longer argument


@attack(statuses=(0, 2))
def prompt_of_one_long_word(folder: Path, url: str) -> Words:
    return prompt("x" * 99_000)


@attack(statuses=(0, 2))
def prompt_of_brackets(folder: Path, url: str) -> Words:
    return prompt("([" * 40_000)


@attack(statuses=(0, 2))
def prompt_of_alternatives(folder: Path, url: str) -> Words:
    return prompt("[a|" * 3000 + "b" + "]" * 3000)


@attack(statuses=(0, 2))
def prompt_of_tags(folder: Path, url: str) -> Words:
    return prompt("<lora:../../../etc/passwd:1>" + "<lora:" * 9000)


@attack(statuses=(2,))
def lora_elsewhere(folder: Path, url: str) -> Words:
    return [*prompt("a <lora:/etc/passwd:1>")]


@attack(statuses=(0, 2))
def settings_in_a_picture(folder: Path, url: str) -> Words:
    text = PngImagePlugin.PngInfo()
    text.add_text("parameters", "a" * 60_000 + "\nSteps: 1" + ", a b" * 20_000 + ": 1")
    Image.new("RGB", (64, 64)).save(folder / "a.png", pnginfo=text)
    return ["generate", "--from", "a.png", "-o", "out.png", "--steps", "1"]
