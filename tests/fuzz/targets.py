"""What is fuzzed: for every parser of ours, seeds made by code and how it is called.

A target raises nothing but ConfigError and InputError, whatever bytes it is given. Where a parser
reads a path, the bytes are in a file of that suffix.
"""

from __future__ import annotations

import io
import json
import math
import struct
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image, PngImagePlugin

from accel.core import ConfigError
from tests.fuzz import structure
from tests.fuzz.structure import Structure

MAX_TOUCHED = 1 << 22  # elements of a tensor that are looked at
MAX_LETTERS = 4000  # of a prompt: long ones are among the attack files


@dataclass(frozen=True)
class Target:
    """suffix: of the file that the bytes are written to."""

    name: str
    seeds: Callable[[Path], list[bytes]]
    run: Callable[[bytes, Path], object]
    suffix: str = ""
    words: tuple[bytes, ...] = ()  # that mutations may put in
    structure: Structure | None = None  # mutations that keep lengths and sums right


TARGETS: dict[str, Target] = {}


def target(
    name: str,
    seeds: Callable[[Path], list[bytes]],
    suffix: str = "",
    words=(),
    structure: Structure | None = None,
):
    def register(run: Callable[[bytes, Path], object]):
        TARGETS[name] = Target(name, seeds, run, suffix, tuple(words), structure)
        return run

    return register


# --- seeds ----------------------------------------------------------------------------------------


def _record():
    from accel.faces.face_types import FaceType
    from accel.faces.faceset import FaceRecord, Polygon

    points = np.stack([np.linspace(10, 90, 68), np.linspace(20, 80, 68)], 1)
    return FaceRecord(
        face_type=FaceType("whole_face"),
        landmarks=points,
        source_filename="00001.png",
        source_rect=(1, 2, 30, 40),
        source_landmarks=points + 5,
        matrix=np.arange(6.0).reshape(2, 3),
        eyebrows_expand_mod=1.0,
        polygons=[Polygon(True, points[:5].astype(np.float32))],
        xseg_mask=b"\x89PNG",
        extra={"more": [1, "two", None]},
    )


def _picture(kind: str, side: int = 24, **options: object) -> bytes:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 255, (side, side, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


def _face_seeds(folder: Path) -> list[bytes]:
    from accel.faces.faceset import PNG_CHUNK, dict_from, with_face
    from accel.provenance.xmp import _png_chunk
    from accel.weights.pickle_writer import dump_pickle

    png, payload = _picture("PNG"), dump_pickle(dict_from(_record()))
    chunk = _png_chunk(PNG_CHUNK, payload)
    return [
        with_face(_picture("JPEG"), _record()),
        with_face(
            _picture("JPEG", progressive=True, exif=b"Exif\0\0MM\0*\0\0\0\x08\0\0"), _record()
        ),
        png[:33] + chunk + png[33:],
        png,
    ]


def _pickle_seeds(folder: Path) -> list[bytes]:
    import pickle

    from accel.faces.faceset import dict_from
    from accel.weights.pickle_writer import dump_pickle
    from accel.weights.pickles import FaceTypeCode, SampleType

    values = [
        dict_from(_record()),
        {"a/b/weight:0": np.ones((3, 3, 2, 4), np.float32), "a/b/bias:0": np.zeros(4, np.float32)},
        [SampleType.FACE, FaceTypeCode.HEAD, np.float32(2), 2**70, b"bytes", (1, (2, 3, 4, 5))],
    ]
    plain = {"iter": 5, "loss_history": [[0.5, 0.25]] * 4, "options": {"resolution": 96}}
    return [dump_pickle(v) for v in values] + [pickle.dumps(plain, n) for n in (2, 3, 4, 5)]


def _pak_seeds(folder: Path) -> list[bytes]:
    from accel.faces.faceset_pak import entry_of, write_pak

    path, jpeg = folder / "seed.pak", _face_seeds(folder)[0]
    found = []
    for compatible in (True, False):
        entries = [(entry_of(_record(), f"{i}.jpg", (24, 24, 3), "her"), jpeg) for i in range(3)]
        write_pak(path, entries, byte_compatible=compatible)
        found.append(path.read_bytes())
    return found


def _tensors() -> dict[str, torch.Tensor]:
    return {
        "a": torch.arange(6.0).view(2, 3),
        "half": torch.ones(4).half(),
        "flag": torch.tensor([True, False]),
        "empty": torch.zeros(0, 4),
    }


def _safetensors_seeds(folder: Path) -> list[bytes]:
    from safetensors.torch import save

    return [save(_tensors(), {"format": "pt"}), save(_lora_tensors(), {"ss_rank": "4"}), save({})]


def _ckpt_seeds(folder: Path) -> list[bytes]:
    file, more = io.BytesIO(), io.BytesIO()
    torch.save({"state_dict": _tensors(), "epoch": 3, "seen": {1}}, file)
    torch.save({"w": torch.nn.Parameter(torch.ones(3, 4)).t(), "v": np.float64(2)}, more)
    return [file.getvalue(), more.getvalue()]


def _lora_tensors() -> dict[str, torch.Tensor]:
    made = {}
    for part, shape in {"lora_up.weight": (6, 2), "lora_down.weight": (2, 5), "alpha": ()}.items():
        made[f"lora_unet_a.{part}"] = torch.ones(shape)
    for part, shape in {"hada_w1_a": (6, 2), "hada_w1_b": (2, 5), "hada_w2_a": (6, 2),
                        "hada_w2_b": (2, 5)}.items():  # fmt: skip
        made[f"lora_unet_b.{part}"] = torch.ones(shape)
    made |= {"c.lokr_w1": torch.ones(2, 1), "c.lokr_w2": torch.ones(3, 5)}
    made |= {"d.weight": torch.ones(6), "d.on_input": torch.tensor(0), "e.diff": torch.ones(6, 5)}
    made["lora_unet_a.dora_scale"] = torch.ones(6, 1)
    return made


def _lora_seeds(folder: Path) -> list[bytes]:
    from safetensors.torch import save

    return [save(_lora_tensors()), save({k: v for k, v in _lora_tensors().items() if "a." in k})]


def _onnx_seeds(folder: Path) -> list[bytes]:
    from tests.weights import test_onnx_hostile as hostile

    made = [hostile.add({"w": np.ones(4, np.float32)}), hostile.endless(), hostile.in_function(),
            hostile.subgraph(), hostile.sparse("values"), hostile.bounded(),
            hostile.calling([hostile.relu()]), hostile.branches()]  # fmt: skip
    return [m.SerializeToString() for m in made]


PROMPTS = [
    "a photo of (a cat:1.3), [dog], <lora:name:0.8> BREAK [red:blue:0.5] [a|b|c] AND sky :1.2",
    "((((deep)))) [[[x]]] \\(escaped\\) [from:to:0.3] <hypernet:h:1> (a:b:c:1.1) ,,, 딥페이크",
    "(a:1e3) (b:-0.5) (c:nan) (d:inf) [x:5] [::2] [|] () [] <> <lora:> \u202e\u0000",
]


def _prompt_seeds(folder: Path) -> list[bytes]:
    return [text.encode() for text in PROMPTS]


def _still_seeds(folder: Path) -> list[bytes]:
    exif = Image.Exif()
    exif[0x0112] = 6
    return [
        _picture("PNG"), _picture("JPEG", exif=exif), _picture("WEBP", lossless=True),
        _picture("WEBP"), _picture("GIF"), _picture("BMP"), _picture("TIFF"),
        _picture("TIFF", compression="tiff_lzw"), _picture("JPEG", progressive=True),
        _picture("PNG", icc_profile=b"\0" * 200),
    ]  # fmt: skip


FILMS = {"a.mp4": "libx264", "a.mkv": "ffv1", "a.avi": "mpeg4", "a.webm": "libvpx",
         "a.mov": "mjpeg", "a.ts": "mpeg2video"}  # fmt: skip


@cache
def _films() -> tuple[bytes, ...]:
    import tempfile

    from tests.video.clips import make_clip

    found = []
    with tempfile.TemporaryDirectory() as folder:
        for name, codec in FILMS.items():
            try:
                path = make_clip(Path(folder, name), codec=codec, stamps=range(3))
            except (ValueError, OSError):
                continue
            found.append(path.read_bytes())
    frames = [Image.new("P", (16, 16), i) for i in range(3)]
    gif = io.BytesIO()
    frames[0].save(gif, "GIF", save_all=True, append_images=frames[1:], loop=2)
    return (*found, gif.getvalue())


def _film_seeds(folder: Path) -> list[bytes]:
    return list(_films())


def _declared_seeds(folder: Path) -> list[bytes]:
    from accel.provenance import xmp

    found = []
    for kind, suffix in (("PNG", ".png"), ("JPEG", ".jpg"), ("WEBP", ".webp")):
        path = folder / f"seed{suffix}"
        path.write_bytes(_picture(kind))
        xmp.declare(path, "generate")
        found.append(path.read_bytes())
    text = PngImagePlugin.PngInfo()
    text.add_text("parameters", "a cat\nSteps: 20, Sampler: Euler")
    text.add_text("workflow", '{"nodes": []}')
    return [*found, _picture("PNG", pnginfo=text), b"<x:xmpmeta><a TC260:AIGC='{}'/></x:xmpmeta>"]


@cache
def _signed() -> bytes:
    import tempfile

    from accel.provenance.c2pa import Statement, sign
    from accel.provenance.keys import local_identity

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a.png")
        path.write_bytes(_picture("PNG"))
        sign(path, Statement(task="generate"), local_identity(Path(folder, "home")))
        return path.read_bytes()


def _signed_seeds(folder: Path) -> list[bytes]:
    return [_signed()]


def _ledger_seeds(folder: Path) -> list[bytes]:
    from accel.provenance.ledger import Ledger

    path = folder / "seed.sqlite"
    path.unlink(missing_ok=True)
    ledger = Ledger(path)
    for i in range(3):
        ledger.add(
            task="swap", sha256=f"{i:064x}", mark="c0ffee123456", looks=("0123456789abcdef",)
        )
    return [path.read_bytes()]


def _infotext_seeds(folder: Path) -> list[bytes]:
    text = (
        'a cat (sat:1.2)\nNegative prompt: dog, "x"\nSteps: 20, Sampler: Euler a, CFG scale: 7,'
        ' Seed: 1, Size: 512x512, Model: m, Lora hashes: "a: 1234, b: 5678", Version: v1'
    )
    return [text.encode(), b"just a prompt", text.replace("\n", "\r\n").encode()]


def _journal_seeds(folder: Path) -> list[bytes]:
    told = {"settings": {"side": "src", "size": 512}, "done": 3, "complete": False,
            "counts": {"faces": 2, "frames_with_faces": 2}, "dropped": {"small": 1}}  # fmt: skip
    return [json.dumps(one).encode() for one in (told, {"00001": "a" * 40, "00002": "b" * 40}, [])]


def _session_seeds(folder: Path) -> list[bytes]:
    from accel.faces.merge_settings import MergeSettings
    from accel.pipelines.dfl.merge_session import MergeSession

    session = MergeSession(NAMES)
    session.change(1, MergeSettings(erode=7))
    told = session.described()
    more = told | {"cursor": "00002", "default": {"mode": "seamless", "blur": 12}}
    return [json.dumps(one).encode() for one in (told, more)]


def _index_seeds(folder: Path) -> list[bytes]:
    told = {"version": 1, "video": "data_dst.mp4", "time_base": "1/12800", "fps": None,
            "suffix": ".png", "complete": True,
            "pts": {"00001": 0, "00002": 512, "00003": 1024}}  # fmt: skip
    return [json.dumps(told).encode(), json.dumps(told | {"fps": 12.5, "video": None}).encode()]


NAMES = ["00001", "00002", "00003"]

# --- targets --------------------------------------------------------------------------------------


@target("pickle", _pickle_seeds, structure=structure.pickle)
def _pickle(data: bytes, path: Path) -> None:
    from accel.weights.pickle_writer import dump_pickle
    from accel.weights.pickles import METADATA_LIMITS, load_pickle

    dump_pickle(load_pickle(data, "fuzz", METADATA_LIMITS))


@target("dfl_weights", _pickle_seeds, ".npy", structure=structure.pickle)
def _dfl_weights(data: bytes, path: Path) -> None:
    from accel.weights.dfl import read_weights

    read_weights(path)


@target("dfl_data", _pickle_seeds, ".dat", structure=structure.pickle)
def _dfl_data(data: bytes, path: Path) -> None:
    from accel.weights.dfl import read_data

    read_data(path)


@target(
    "face",
    _face_seeds,
    words=[b"\xff\xef", b"\xff\xda", b"fcWp", b"IEND", b"\xff\xff"],
    structure=structure.picture,
)
def _face(data: bytes, path: Path) -> None:
    from accel.faces.faceset import dict_from, face_in, picture_shape, with_face
    from accel.weights.pickle_writer import dump_pickle

    with suppress(ConfigError):
        picture_shape(data, "fuzz")
    record = face_in(data, "fuzz")
    dump_pickle(dict_from(record))
    if data[:2] == b"\xff\xd8":
        assert face_in(with_face(data, record), "again").face_type == record.face_type


@target(
    "pak",
    _pak_seeds,
    ".pak",
    [b"filename", b"person_name", b"../../x", b"/etc/x", b"C:\\x"],
    structure=structure.pak,
)
def _pak(data: bytes, path: Path) -> None:
    from accel.faces.faceset_pak import open_pak

    opened = open_pak(path)
    for face, content in opened.pictures():
        assert "/" not in face.name + (face.person or "")
        assert len(content) <= len(data)


def _touch(path: Path) -> dict[str, torch.Tensor]:
    from accel.weights.files import first_not_finite, open_tensors

    found = open_tensors(path)
    tensors = {name: found[name] for name in found}
    first_not_finite({k: v for k, v in tensors.items() if v.numel() < MAX_TOUCHED})
    return tensors


@target(
    "safetensors",
    _safetensors_seeds,
    ".safetensors",
    [b'"dtype"', b'"data_offsets"', b"[0,-1]", b"1e400", b"BF16", b"9" * 30],
    structure=structure.safetensors,
)
def _safetensors(data: bytes, path: Path) -> None:
    _touch(path)


@target(
    "ckpt",
    _ckpt_seeds,
    ".ckpt",
    [b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06", b"PK\x06\x06"],
    structure=structure.archive,
)
def _ckpt(data: bytes, path: Path) -> None:
    _touch(path)


@target(
    "lora",
    _lora_seeds,
    ".safetensors",
    [b"lora_up.weight", b"lokr_w2_a", b"on_input", b"F16"],
    structure=structure.safetensors,
)
def _lora(data: bytes, path: Path) -> None:
    from accel.weights.lora import merged, parse

    for adapter in parse(_touch(path), "fuzz").values():
        merged(torch.ones(6, 5), adapter, 0.5)


@target("onnx", _onnx_seeds, ".onnx", structure=structure.protobuf)
def _onnx(data: bytes, path: Path) -> None:
    from accel.weights import onnx_graph

    model = onnx_graph.parse(data, "fuzz")
    onnx_graph.tidy(model)
    onnx_graph.fold_storage(model)
    onnx_graph.free_batch(model)


@target("onnx_session", _onnx_seeds, ".onnx", structure=structure.protobuf)
def _onnx_session(data: bytes, path: Path) -> None:
    from accel.weights.onnx import open_onnx

    open_onnx(data)


@target("graph", lambda folder: [bytes([i]) for i in range(60)])
def _graph(data: bytes, path: Path) -> None:
    """Our own kernels, whatever a graph asks of them."""
    from accel.models.onnx import load_onnx
    from accel.nn.onnx.load import samples
    from accel.weights import onnx_graph
    from accel.weights.onnx_sizes import value_shapes
    from tests.fuzz.graphs import drawn

    content = drawn(data)
    model = onnx_graph.parse(content, "fuzz")
    feeds = samples(model)
    largest = max((math.prod(shape) for shape in value_shapes(model).values()), default=0)
    if feeds is None or largest > MAX_TOUCHED:
        return
    loaded = load_onnx(content, runtime="accel")
    with suppress(ValueError):  # inputs do not fit the graph
        loaded.run(feeds)


@target(
    "prompt", _prompt_seeds, words=[b"(", b")", b"[", b"]", b":", b"|", b"<lora:", b"AND", b"\\"]
)
def _prompt(data: bytes, path: Path) -> None:
    from accel.text import prompt

    text = data.decode("utf-8", "replace")[:MAX_LETTERS]
    rest, _ = prompt.take_tags(text)
    prompt.split_and(rest)
    for piece in prompt.emphasis(rest):
        assert isinstance(piece.text, str)
    for steps in (1, 20):
        prompt.schedule(text, steps)


@target("chunks", _prompt_seeds)
def _chunks(data: bytes, path: Path) -> None:
    from accel.text.bpe import clip_tokenizer
    from accel.text.chunks import chunk
    from accel.text.prompt import emphasis

    tokenizer = _tokenizer(clip_tokenizer)
    text = data.decode("utf-8", "replace")[:MAX_LETTERS]
    for one in chunk(emphasis(text), tokenizer.encode):
        assert len(one.tokens) == len(one.weights) == 77
    tokenizer.decode(tokenizer.encode(text))


@cache
def _tokenizer(make: Callable):
    return make()


@target("infotext", _infotext_seeds, words=[b"Steps: ", b"Negative prompt:", b'"', b"\\", b", "])
def _infotext(data: bytes, path: Path) -> None:
    from accel.pipelines.generate.infotext import parse, settings_of

    settings_of(parse(data.decode("utf-8", "replace")))


@target(
    "sniff", lambda folder: _still_seeds(folder) + _film_seeds(folder), structure=structure.boxes
)
def _sniff(data: bytes, path: Path) -> None:
    from accel.video.gif import gif_loops
    from accel.video.sniff import sniff

    gif_loops(path)
    sniff(path)


@target("still", _still_seeds, structure=structure.picture)
def _still(data: bytes, path: Path) -> None:
    _read_media(path)


@target("film", _film_seeds, structure=structure.boxes)
def _film(data: bytes, path: Path) -> None:
    _read_media(path)


def _read_media(path: Path) -> None:
    from accel.video.read import Limits, open_video

    limits = Limits(max_pixels=1 << 20, max_frames=50, max_duration_s=3600)
    with open_video(path, threads=1, limits=limits) as reader:
        for frame in reader:
            frame.planes.c0.numpy().sum()


@target(
    "xmp",
    _declared_seeds,
    ".png",
    [b"DigitalSourceType", b"<x:xmpmeta", b"</x:xmpmeta>"],
    structure=structure.picture,
)
def _xmp(data: bytes, path: Path) -> None:
    from accel.provenance import xmp

    xmp.declared(path)
    xmp.declare(path, "generate")


@target(
    "c2pa",
    _signed_seeds,
    ".png",
    [b"jumb", b"jumd", b"caBX", b"c2pa", b"cbor"],
    structure=structure.picture,
)
def _c2pa(data: bytes, path: Path) -> None:
    from accel.provenance.c2pa import read

    read(path)


@target("ledger", _ledger_seeds, ".sqlite", structure=structure.database)
def _ledger(data: bytes, path: Path) -> None:
    from accel.provenance.ledger import Ledger

    ledger = Ledger(path)
    json.loads(json.dumps([vars(entry) for entry in ledger.entries()]))
    ledger.faults()
    ledger.export()
    ledger.looking_like(("0123456789abcdef",))


@target("bch", lambda folder: [bytes(508), struct.pack("<127f", *np.linspace(-1, 1, 127))])
def _bch(data: bytes, path: Path) -> None:
    from accel.provenance.bch import decode_soft, encode

    values = np.frombuffer(data[:508].ljust(508, b"\0"), "<f4").astype(np.float64)
    assert decode_soft(values) == [] or np.isfinite(values).all()
    for word, _ in decode_soft(np.clip(np.nan_to_num(values), -1e6, 1e6)):
        assert (encode(word[:64]) == word).all()


@target(
    "arguments", lambda folder: [b"swap\0a\0--untrusted\0--untrusted-seconds=9", b"--\0--untrusted"]
)
def _arguments(data: bytes, path: Path) -> None:
    from accel.cli.shared import take_untrusted
    from accel.core import one_line

    words = data.decode("utf-8", "surrogateescape").split("\0")
    take_untrusted(words)
    assert one_line(" ".join(words)).isprintable()


@target("journal", _journal_seeds, ".json", structure=structure.words)
def _journal(data: bytes, path: Path) -> None:
    from accel.pipelines.dfl.extract_journal import JOURNAL, Journal
    from accel.pipelines.dfl.merge import Journal as Merged

    place = path.parent / "faces"
    place.mkdir(exist_ok=True)
    (place / JOURNAL).write_bytes(data)
    extracted = Journal(place, {"side": "src", "size": 512})
    extracted.begin(overwrite=False)
    extracted.add(1, ["small"])
    extracted.save()
    merged = Merged(path)
    merged.add("00001", "x")
    merged.save()


@target("merge_settings", _session_seeds, ".json", structure=structure.words)
def _merge_settings(data: bytes, path: Path) -> None:
    from accel.pipelines.dfl.merge_session import load_session

    session = load_session(path, [f"{name}.png" for name in NAMES])
    session.every()
    session.save(path)
    assert load_session(path, NAMES).every() == session.every()


@target("frames_index", _index_seeds, ".json", structure=structure.words)
def _frames_index(data: bytes, path: Path) -> None:
    from accel.pipelines.dfl.frames import load_index

    index = load_index(path)
    assert index is not None
    index.save(path)
    assert load_index(path) == index


@target("tags", _prompt_seeds, words=[b"<lora:", b"<lyco:", b">", b":te=", b"../", b"/", b"0"])
def _tags(data: bytes, path: Path) -> None:
    """What a prompt's tags find is a file of the models."""
    from accel.pipelines.generate.loras import tagged
    from accel.pipelines.generate.model_folders import ModelFolders
    from accel.weights.assets import asset

    root = path.parent / "models"
    (root / "Lora").mkdir(parents=True, exist_ok=True)
    (root / "Lora" / "name.safetensors").write_bytes(_lora_seeds(root)[0])
    folders = ModelFolders(root)
    for name, _ in tagged(data.decode("utf-8", "surrogateescape")):
        found = folders.find("lora", name, anywhere=False)
        assert root in found.parents or found.parent == asset("nano_ink_lora.safetensors").parent
