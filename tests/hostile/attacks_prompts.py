"""More attack files: prompts, numbers of the command line, settings in pictures, files beside
others, photographs as large as is allowed, links in the place of outputs.

Sources: A1111's prompt language and infotext; Unicode TR 9 (directions), TR 15 (marks); EXIF 2.32.
"""

from __future__ import annotations

import io
import json
import os
import random
import sqlite3
import struct
import zlib
from contextlib import closing
from pathlib import Path

from PIL import Image, PngImagePlugin

from tests.hostile.attacks import (
    Words,
    attack,
    bomb,
    entry,
    film,
    header,
    network,
    png,
    prompt,
    still,
)
from tests.hostile.attacks_settings import INDEX, aligned, face
from tests.hostile.attacks_weights import model_folder_nested, tensors

# --- prompts --------------------------------------------------------------------------------------

for _name, _prompt in {
    "of_ten_thousand_tokens": "cat " * 10_000,
    "of_weights": "(a:1e308)" * 9000,
    "of_signs": "\u0338\u0300" * 40_000,
    "of_half_characters": "\ud800\udfff" * 1000,
    "of_joiners": "\U0001f468\u200d" * 20_000,
    "of_zero_bytes": "a\0b" * 1000,
    "of_directions": "\u202e\u2066" * 10_000,
    "of_colons": ":" * 90_000,
    "of_backslashes": "\\" * 90_000,
    "of_commas": "," * 90_000,
    "of_apostrophes": "'s" * 40_000,
    "of_numbers": "9" * 90_000,
    "of_entities": "&amp;" * 18_000,
    "of_alternations": "[a|b|c]" * 12_000,
    "of_loras_elsewhere": "<lora:../../../../etc/passwd:1>",
    "of_endless_weights": "<lora:x:1e999> (a:9e999)",
    "of_odd_places_of_change": "[a:b:1e999] [a:b:nan] [a:b:-5] [a:b:99999999999999999999]",
    "of_changes_in_changes": "[[[[a:b:0.1]:c:0.2]:d:0.3]|[e|f]:0.4]" * 400,
    "of_wild_cards": "__/etc/passwd__ __../../x__ {a|b|c} ${x=!{a|b}} " * 400,
    "of_extra_networks": "<hypernet:../../x:1> <lyco:/etc/passwd:1> <lora:a:b:c:d:e> " * 900,
    "of_templates": "{{config}} ${env:HOME} %(a)s {0.__class__} $(touch ../canary) `id`" * 90,
    "of_blanks": "a" + " " * 90_000 + "b",
    "of_lines": "\n" * 90_000,
    "of_random_letters": "".join(random.Random(0).choices("etaoinshrdlu", k=99_000)),
    "of_terminal_words": "\x1b[2J\x1b]0;owned\x07\u202e cat",
    "of_breaks_in_brackets": "(a BREAK (b AND (c BREAK " * 3000,
    "of_huge_weights_in_and": "a :1e308 AND b :-1e308 AND c :nan",
}.items():

    def _build(folder: Path, url: str, words=_prompt) -> Words:
        return prompt(words)

    _build.__name__ = f"prompt_{_name}"
    attack(statuses=(0, 2))(_build)

# --- numbers --------------------------------------------------------------------------------------

for _name, _options in {
    "width_without_end": "--width 99999999999",
    "width_below_zero": "--width -8",
    "sides_of_8k_with_scale": "--width 8192 --height 8192 --hires-scale 9",
    "cfg_of_nothing": "--cfg nan",
    "cfg_without_end": "--cfg inf",
    "steps_without_end": "--steps 1000000000",
    "steps_of_none": "--steps 0",
    "seed_too_large": "--seed 99999999999999999999999",
    "seed_below_zero": "--seed -5",
    "count_without_end": "--count 1000000000",
    "strength_of_nothing": "--init portrait.png --strength nan",
    "scale_without_end": "--hires-scale 1e308",
    "clip_skip_of_all": "--clip-skip 99999999",
    "eta_of_nothing": "--eta nan",
    "variation_of_nothing": "--variation-strength nan",
    "blur_without_end": "--init portrait.png --mask portrait.png --mask-blur 999999999",
    "outpaint_without_end": "--init portrait.png --outpaint 8192,8192,8192,8192",
    "outpaint_of_huge_numbers": "--init portrait.png --outpaint 99999999999,0,0,0",
    "rescale_of_nothing": "--cfg-rescale nan",
    "savings_of_nothing": "--tgate nan --token-merging nan",
    "lora_of_no_weight": "--lora nano_ink_lora=nan",
    "device_of_words": "--device cuda:../../x",
    "sampler_of_words": "--sampler __import__('os').system('touch\u00a0../canary')",
    "schedule_elsewhere": "--schedule ../../etc/passwd",
    "upscaler_elsewhere": "--hires-scale 2 --hires-upscaler ../../etc/passwd",
    "memory_of_nothing": "--max-memory nan",
    "grid_of_all": "--x steps=1-1000000000",
    "grid_of_many": "--x seed=1-99999 --y cfg=1-99999",
    "grid_of_fractions": "--x cfg=0-1(0.0000001)",
    "grid_of_odd_steps": "--x cfg=1-2(+0) --y steps=1-9[0]",
    "grid_of_many_places": "--x cfg=1-2[999999999]",
    "grid_of_attributes": "--x __class__=1,2",
    "grid_of_files": "--x model=/etc/passwd,/dev/zero",
    "grid_of_words": "--x prompt=" + "a," * 40_000,
    "grid_of_nothing": "--x =",
    "control_that_is_a_device": "--control /dev/zero --control-image portrait.png",
    "preview_elsewhere": "--preview /proc/self/mem/x.png",
}.items():

    def _build(folder: Path, url: str, options=_options) -> Words:
        return ["generate", "a cat", "-o", "out.png", "--steps", "1", *options.split(" ")]

    _build.__name__ = f"generate_{_name}"
    attack()(_build)

for _name, _options in {
    "score_of_nothing": ["--min-score", "nan"],
    "distance_of_nothing": ["--select", "reference", "--max-distance", "nan"],
    "crf_without_end": ["--crf", "99999999999999999999"],
    "codec_of_words": ["--codec", "libx264:file=../canary"],
    "preset_of_words": ["--preset", "fast:stats=../canary"],
}.items():

    def _build(folder: Path, url: str, options=_options) -> Words:
        film(folder)
        return ["swap", "a.mp4", "out.mp4", "--source", "portrait.png", *options]

    _build.__name__ = f"swap_{_name}"
    attack()(_build)

# --- settings in pictures -------------------------------------------------------------------------


def repeated(folder: Path, told: str, *more: str) -> Words:
    text = PngImagePlugin.PngInfo()
    text.add_text("parameters", f"a cat\n{told}")
    Image.new("RGB", (64, 64)).save(folder / "a.png", pnginfo=text)
    return ["generate", "--from", "a.png", "-o", "out.png", *more]


START = "Steps: 1, Sampler: Euler, Model: nano, Size: "
for _name, _settings in {
    "of_size": "Steps: 1, Size: 9999999x9999999, Model: nano",
    "of_largest_size": START + "8192x8192",
    "of_steps": "Steps: 999999999, Sampler: Euler, Size: 64x64, Model: nano",
    "of_numbers": START + "64x64, CFG scale: nan, Seed: 1e999",
    "of_scale": START + "64x64, Denoising strength: 0.5, Hires upscale: 1000",
    "of_largest_scale": START + "2048x2048, Denoising strength: 0.5, Hires upscale: 8",
    "of_no_scale": START + "64x64, Denoising strength: 0.5, Hires upscale: nan",
    "of_upscaler": START + "64x64, Denoising strength: 0.5, Hires upscale: 2,"
    " Hires upscaler: ../../etc/passwd",
    "of_model": "Steps: 1, Size: 64x64, Model: ../../../etc/passwd, Model hash: 0000000000",
    "of_vae": START + "64x64, VAE: /etc/passwd",
    "of_decoder": START + "64x64, VAE Decoder: ../../../etc/passwd",
    "of_sampler": "Steps: 1, Size: 64x64, Model: nano, Sampler: \x1b[2J__import__('os')",
    "of_loras": START + '64x64, Lora hashes: "../../x: 1, /etc/passwd: 2"',
    "of_skips": START + "64x64, Clip skip: 99999999",
    "of_keys": START + "64x64, " + ", ".join(f"Key{i}: {i}" for i in range(20_000)),
    "of_batches": START + "64x64, Batch size: 99999999, Batch pos: 1",
    "of_seeds": START + "64x64, Seed: " + "9" * 5000,
    "of_quotes": START + '64x64, X: "' + "[" * 60_000 + '"',
    "of_controls": START + '64x64, ControlNet 0: "Module: x, Model: /etc/passwd"',
    "of_outpainting": START + "64x64, Outpaint: 8192 8192 8192 8192, Mask blur: 4",
}.items():

    def _build(folder: Path, url: str, told=_settings) -> Words:
        return repeated(folder, told)

    _build.__name__ = f"settings_{_name}"
    attack(statuses=(0, 2))(_build)


@attack(statuses=(2,))
def settings_bomb(folder: Path, url: str) -> Words:
    text = (b"iTXt", b"parameters\0\1\0\0\0" + bomb(1 << 30))
    end = [(b"IDAT", zlib.compress(bytes(200))), (b"IEND", b"")]
    (folder / "a.png").write_bytes(png(header(8, 8), text, *end))
    return ["generate", "--from", "a.png", "-o", "out.png"]


@attack(statuses=(0, 2))
def settings_in_odd_exif(folder: Path, url: str) -> Words:
    exif = Image.Exif()
    told = "a\nSteps: 1, Sampler: Euler, Model: nano, Size: 64x64".encode("utf-16-be")
    exif.get_ifd(0x8769)[0x9286] = b"UNICODE\0" + told + b"\xd8"
    Image.new("RGB", (64, 64)).save(folder / "a.jpg", exif=exif)
    return ["generate", "--from", "a.jpg", "-o", "out.png"]


@attack(statuses=(2,))
def settings_in_nested_exif(folder: Path, url: str) -> Words:
    body = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", 2)
    body += struct.pack("<HHII", 0x8769, 4, 1, 8) + struct.pack("<HHII", 0x9286, 7, 2**31, 8)
    file = io.BytesIO()
    Image.new("RGB", (16, 16)).save(file, "JPEG")
    segment = b"\xff\xe1" + struct.pack(">H", len(body) + 6) + body + bytes(4)
    (folder / "a.jpg").write_bytes(file.getvalue()[:2] + segment + file.getvalue()[2:])
    return ["generate", "--from", "a.jpg", "-o", "out.png"]


# --- pictures that are given beside a prompt ------------------------------------------------------

for _option in ("init", "mask", "control-image", "from"):
    for _kind in ("of_16k", "that_is_a_device", "that_is_a_pipe", "that_is_text", "of_damage"):

        def _build(folder: Path, url: str, option=_option, kind=_kind) -> Words:
            name = "/dev/zero" if kind == "that_is_a_device" else "a.png"
            if kind == "of_16k":
                rows = (b"IDAT", zlib.compress(bytes(999)))
                (folder / "a.png").write_bytes(png(header(16384, 16384), rows, (b"IEND", b"")))
            elif kind == "that_is_a_pipe":
                os.mkfifo(folder / "a.png")
            elif kind == "that_is_text":
                (folder / "a.png").symlink_to("/etc/passwd")
            elif kind == "of_damage":
                (folder / "a.png").write_bytes(png(header(64, 64), (b"IDAT", b"x" * 99)))
            words = ["generate", "a cat", "-o", "out.png", "--steps", "1", f"--{option}", name]
            more = {"mask": ["--init", "portrait.png"], "control-image": ["--control", "x"]}
            return words + more.get(option, [])

        _build.__name__ = f"{_option.replace('-', '_')}_{_kind}"
        attack()(_build)

# --- photographs as large as is allowed -----------------------------------------------------------

MOST = 8192
# Sides of the largest that are let through where that is not 8192; odd, which takes other ways.
SIDES = {
    "jpeg_444": 7093, "png_of_colours": 7093, "tiff": 7093, "tiff_unpacked": 7093, "bmp": 7093,
    "png_of_bits": 7093, "png_of_grey_16": 7093, "jpeg_progressive_444": 5791,
    "jpeg_of_inks": 6143, "tiff_of_inks": 6143, "png_with_alpha": 6143, "png_of_palette": 6143,
    "webp_without_loss": 6143, "png_of_16_bits": 5015, "png_of_16_bits_and_alpha": 4343,
}  # fmt: skip


def photograph(kind: str, side: int = 0) -> tuple[str, bytes]:
    """A name and the bytes of a picture as large as is let through; most take little on a disk."""
    side = side or SIDES.get(kind, MOST)
    file, exif = io.BytesIO(), Image.Exif()
    deep = {"png_of_16_bits": (16, 2, 6), "png_of_16_bits_and_alpha": (16, 6, 8)}
    deep |= {"png_of_grey_16": (16, 0, 2), "png_of_colours": (8, 2, 3), "png_with_alpha": (8, 6, 4)}
    deep |= {"png_of_bits": (1, 0, 0), "png_of_palette": (8, 3, 1)}
    if kind in deep:
        bits, colour, size = deep[kind]
        packer = zlib.compressobj(1)
        row = bytes(1 + (side * size or -(-side // 8)))
        rows = b"".join(packer.compress(row) for _ in range(side)) + packer.flush()
        palette = [(b"PLTE", bytes(768))] if colour == 3 else []
        chunks = (header(side, side, bits, colour), *palette, (b"IDAT", rows), (b"IEND", b""))
        return "a.png", png(*chunks)
    mode = "CMYK" if kind.endswith("of_inks") else "L" if kind == "jpeg_of_grey" else "RGB"
    options: dict[str, object] = {"quality": 50}
    if kind == "jpeg_turned":
        exif[0x112] = 6
        options["exif"] = exif
    if "progressive" in kind:
        options["progressive"] = True
    if "444" in kind:
        options["subsampling"] = 0
    form = kind.partition("_")[0].upper()
    if form == "TIFF":
        options = {} if kind == "tiff_unpacked" else {"compression": "tiff_adobe_deflate"}
    if form == "WEBP":
        options = {"quality": 1, "method": 0, "lossless": kind == "webp_without_loss"}
    Image.new(mode, (side, side)).save(file, form, **options)
    return {"TIFF": "a.tif", "WEBP": "a.webp", "BMP": "a.bmp"}.get(form, "a.jpg"), file.getvalue()


KINDS = ("jpeg", "jpeg_444", "jpeg_turned", "jpeg_progressive", "jpeg_of_grey", "jpeg_of_inks",
         "png_of_colours", "png_with_alpha", "png_of_16_bits", "png_of_16_bits_and_alpha",
         "png_of_grey_16", "png_of_bits", "png_of_palette", "tiff", "tiff_unpacked", "tiff_of_inks",
         "webp", "webp_without_loss", "bmp", "jpeg_progressive_444")  # fmt: skip
READ = {
    "seen": lambda folder, name: ["verify", name],
    "source": lambda folder, name: ["swap", film(folder).name, "out.mp4", "--source", name],
    "target": lambda folder, name: ["swap", name, "out.png", "--source", "portrait.png"],
    "copied": lambda folder, name: ["swap", name, "out" + Path(name).suffix, "--source",
                                    "portrait.png"],
    "init": lambda folder, name: ["generate", "a cat", "-o", "out.png", "--init", name,
                                  "--steps", "1", "--width", "64", "--height", "64"],
}  # fmt: skip

for _kind in KINDS:
    for _way in READ:

        def _build(folder: Path, url: str, kind=_kind, way=_way) -> Words:
            name, data = photograph(kind)
            (folder / name).write_bytes(data)
            return READ[way](folder, name)

        _build.__name__ = f"photograph_{_kind}_{_way}"
        attack(statuses=(0, 2, 3))(_build)


for _kind in SIDES:

    def _build(folder: Path, url: str, kind=_kind) -> Words:
        name, data = photograph(kind, SIDES[kind] + 99)
        (folder / name).write_bytes(data)
        return READ["source"](folder, name)

    _build.__name__ = f"photograph_beyond_{_kind}"
    attack("MB once decoded")(_build)


@attack(statuses=(2,))
def init_that_asks_for_its_own_size(folder: Path, url: str) -> Words:
    name, data = photograph("jpeg")
    (folder / name).write_bytes(data)
    return ["generate", "a cat", "-o", "out.png", "--init", name, "--steps", "1"]


# --- files beside others --------------------------------------------------------------------------

for _name, _text in {
    "that_runs": "model: !!python/object/apply:os.system ['touch ../canary']\n",
    "of_laughs": "a: &a [x]\n" + "".join(f"b{i}: &b{i} [*a, *a, *a]\n" for i in range(9000)),
    "nested": "[" * 100_000,
    "without_end": "x" * (70 << 20),
    "of_directions": "model:\n  params:\n    parameterization: \x1b[2J\u202ev\n",
}.items():

    def _build(folder: Path, url: str, text=_text) -> Words:
        words = tensors(folder, {"a": entry([1], 0, 4)}, bytes(4))
        (folder / "a.yaml").write_text(text)
        return words

    _build.__name__ = f"words_beside_a_model_{_name}"
    attack()(_build)


@attack()
def words_beside_a_model_that_are_a_pipe(folder: Path, url: str) -> Words:
    words = tensors(folder, {"a": entry([1], 0, 4)}, bytes(4))
    os.mkfifo(folder / "a.yaml")
    return words


@attack()
def words_of_a_model_folder_nested(folder: Path, url: str) -> Words:
    return model_folder_nested(folder, url)


for _name, _rows in {
    "of_numbers": [1, 2, 3],
    "of_no_rates": [{"group": "a", "name": "b", "case": "c", "rate": None}],
    "of_a_million": [{"group": "a", "name": str(i), "case": "c"} for i in range(200_000)],
    "of_nested_names": [{"group": [[[]]], "name": {"a": 1}, "case": 1e400}],
}.items():

    def _build(folder: Path, url: str, rows=_rows) -> Words:
        (folder / "a.json").write_text(json.dumps({"schema": "accel-bench/2", "rows": rows}))
        return ["bench", "--compare", "a.json", "a.json"]

    _build.__name__ = f"reports_{_name}"
    attack(statuses=(0, 1, 2))(_build)


for _name, _sql in {
    "of_huge_texts": "insert into entries values(1, 't', zeroblob(900000000), '', '', '', '', '',"
    " '', '')",
    "with_a_trigger": "create trigger t after insert on entries begin select"
    " writefile('../canary', 'x'); end",
    "attached": "create temp view v as select load_extension('../canary')",
}.items():

    def _build(folder: Path, url: str, sql=_sql) -> Words:
        from accel.provenance.ledger import Ledger

        Ledger(folder / "a.sqlite").add(task="swap", sha256="0" * 64)
        with closing(sqlite3.connect(folder / "a.sqlite")) as base:
            try:
                base.execute(sql)
            except sqlite3.Error:  # the functions are not there, which is as well
                base.execute("delete from entries")
            base.commit()
        return ["ledger", "list", "--file", "a.sqlite"]

    _build.__name__ = f"ledger_{_name}"
    attack(statuses=(0, 1, 2))(_build)


@attack(statuses=(2, 3, 4))
def verify_of_a_circle_of_folders(folder: Path, url: str) -> Words:
    place = folder / "many"
    for _ in range(40):
        place.mkdir()
        (place / "back").symlink_to(folder / "many")
        (place / "up").symlink_to("/")
        place = place / "in"
    return ["verify", "many"]


# --- links and pipes in the place of outputs ------------------------------------------------------


def targets(folder: Path) -> Path:
    """A file of somebody else, which must stay as it is."""
    (folder / "theirs").write_text("kept")
    return folder / "theirs"


@attack(statuses=(0, 2))
def frames_that_are_links(folder: Path, url: str) -> Words:
    theirs, place = targets(folder), folder / "w" / "data_src"
    place.mkdir(parents=True)
    film(folder / "w", "data_src.mp4")
    for name in ("00001.png", "00002.png", "frames.json", ".accel-made", ".frames.json.partial",
                 ".00001.png.partial"):  # fmt: skip
        (place / name).symlink_to(theirs)
    return ["dfl", "frames", "w", "--side", "src"]


@attack(statuses=(0, 2))
def faces_that_are_links_elsewhere(folder: Path, url: str) -> Words:
    theirs, place = targets(folder), aligned(folder)
    film(folder / "w", "data_src.mp4")
    for name in ("00001_0.jpg", "00002_0.jpg", ".accel-made", "faceset.pak"):
        (place / name).symlink_to(theirs)
    return ["dfl", "extract", "w", "--side", "src"]


@attack(statuses=(0, 2))
def result_that_is_a_link(folder: Path, url: str) -> Words:
    theirs, place = targets(folder), folder / "w" / "data_dst" / "merged"
    place.mkdir(parents=True)
    for where in (place, place.parent):
        Image.new("RGB", (64, 64)).save(where / "00001.png")
    (place.parent / "frames.json").write_text(json.dumps(INDEX))
    film(folder / "w", "data_dst.mp4")
    for name in ("result.mp4", ".result.mp4.partial", ".accel-made", "result.c2pa"):
        (folder / "w" / name).symlink_to(theirs)
    return ["dfl", "encode", "w"]


for _part in ("data_src", "data_src/aligned", "data_dst/merged", "model"):
    for _words in (["clear", "w", "--yes"], ["pack", "w", "--side", "src"],
                   ["sort", "w", "--side", "src", "--by", "blur"]):  # fmt: skip

        def _build(folder: Path, url: str, part=_part, words=_words) -> Words:
            theirs = folder / "theirs"
            (theirs / "aligned").mkdir(parents=True)
            for place in (theirs, theirs / "aligned"):
                (place / "00001.jpg").write_bytes(face())
                (place / ".accel-made").write_text("00001.jpg\n")
            (folder / "w" / part).parent.mkdir(parents=True)
            (folder / "w" / part).symlink_to(theirs)
            return ["dfl", *words]

        _build.__name__ = f"link_for_{_part.replace('/', '_')}_{_words[0]}"
        attack()(_build)


# --- networks of the workflow ---------------------------------------------------------------------

for _name in ("dense", "endless", "outer_product"):

    def _build(folder: Path, url: str, name=_name) -> Words:
        from tests.weights import test_onnx_hostile as hostile

        network(folder, {"dense": hostile.dense, "endless": hostile.endless,
                         "outer_product": hostile.outer_product}[name]())  # fmt: skip
        (folder / "w" / "data_dst").mkdir(parents=True)
        Image.new("RGB", (64, 64)).save(folder / "w" / "data_dst" / "00001.png")
        return ["dfl", "merge", "w", "--xseg", "a.onnx"]

    _build.__name__ = f"xseg_{_name}"
    attack()(_build)


@attack(statuses=(2,))
def still_with_a_second_picture(folder: Path, url: str) -> Words:
    data = png(header(64, 64), (b"IDAT", zlib.compress(bytes(64 * 193))))
    return still(folder, "a.png", data + data)
