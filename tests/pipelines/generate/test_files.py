"""What `accel generate` and `accel.generate` write, and refuse to write."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from PIL import Image

import accel
from accel.cli import main
from accel.core import ConfigError, InputError, Refused
from accel.pipelines.generate.infotext import parse
from accel.pipelines.generate.output import text_of
from accel.pipelines.provenance import ProvenanceConfig
from accel.pipelines.verify import verify_file

FAST = {"steps": 2, "cfg": 3.0}
PLAIN = ProvenanceConfig(watermark="off", credentials=False, ledger=False)


@pytest.fixture(scope="module")
def sampler(nano) -> accel.Sampler:
    return accel.Sampler(nano)


def run(capsys, *args) -> tuple[int, str, str]:
    status = main(["generate", *map(str, args)])
    out, err = capsys.readouterr()
    return status, out, err


def test_a_picture_is_marked_and_says_how_it_was_made(tmp_path, capsys):
    path = tmp_path / "apple.png"
    status, out, _ = run(
        capsys, 'a "red" apple, (shiny:1.2)', "-o", path, "--steps", 2, "--negative", "a, b: c",
        "--seed", 3, "--json", "-",
    )  # fmt: skip
    report = json.loads(out)
    assert status == 0
    assert report["files"] == [str(path)]
    assert re.fullmatch(r"cpu: \d+ threads|cuda: .+", report["device"])
    assert report["marked"]["credential"] == "embedded"
    info = parse(text_of(path))
    assert (info.prompt, info.negative) == ('a "red" apple, (shiny:1.2)', "a, b: c")
    assert info.pairs["Seed"] == "3"
    assert info.pairs["Version"] == f"accel {accel.__version__}"
    assert verify_file(path).status == 0


def test_from_repeats_a_picture_to_the_bit(tmp_path, capsys):
    first, again, other = (tmp_path / name for name in ("a.png", "b.png", "c.png"))
    options = ["--steps", 2, "--sampler", "euler_a", "--seed", 11, "--clip-skip", 1, "--cfg", 2.5]
    assert run(capsys, "a [red|green] apple", "-o", first, *options)[0] == 0
    status, out, _ = run(capsys, "--from", first, "-o", again)
    assert status == 0
    assert "to the bit" in out
    assert np.array_equal(np.asarray(Image.open(first)), np.asarray(Image.open(again)))
    run(capsys, "--from", first, "-o", other, "--seed", 12)
    assert not np.array_equal(np.asarray(Image.open(first)), np.asarray(Image.open(other)))


@pytest.mark.parametrize(
    "options",
    [
        ["--dtype", "bfloat16"],
        ["--prediction", "v", "--zero-terminal-snr"],
        [
            "--init",
            "START",
            "--strength",
            "0.5",
            "--hires-scale",
            "1.25",
            "--hires-strength",
            "0.3",
        ],
    ],
    ids=lambda o: o[0][2:],
)
def test_is_repeated_with_what_the_model_was_loaded_as(tmp_path, capsys, options):
    Image.new("RGB", (64, 48), (200, 30, 90)).save(tmp_path / "start.png")
    first, again = tmp_path / "a.png", tmp_path / "b.png"
    options = [str(tmp_path / "start.png") if o == "START" else o for o in options]
    init = options[:2] if options[0] == "--init" else []
    assert run(capsys, "a tree", "-o", first, "--steps", 3, "--seed", 1, *options)[0] == 0
    status, out, err = run(capsys, "--from", first, "-o", again, *init)
    assert (status, err) == (0, "")
    assert "to the bit" in out
    run(capsys, "a tree", "-o", tmp_path / "c.png", "--steps", 3, "--seed", 1, *init)
    pictures = [np.asarray(Image.open(tmp_path / f"{name}.png")) for name in "ac"]
    assert not np.array_equal(*pictures)


def test_several_pictures_and_their_sheet(tmp_path, sampler):
    report = accel.generate(
        "a tree", tmp_path / "t.png", model=sampler, count=3, seed=0, provenance=PLAIN, **FAST
    )
    assert [p.split("/")[-1] for p in report["files"]] == [
        "t-1.png", "t-2.png", "t-3.png", "t.png",
    ]  # fmt: skip
    alone = accel.generate(
        "a tree", tmp_path / "s.png", model=sampler, seed=2, provenance=PLAIN, **FAST
    )
    pictures = [np.asarray(Image.open(path)) for path in (report["files"][2], alone["files"][0])]
    assert np.array_equal(*pictures)
    assert text_of(tmp_path / "t-3.png") == text_of(tmp_path / "s.png")


@pytest.mark.parametrize("suffix", ["jpg", "webp"])
def test_other_formats_carry_the_text_too(tmp_path, sampler, suffix):
    path = tmp_path / f"p.{suffix}"
    accel.generate("a tree, 나무", path, model=sampler, seed=0, **FAST)
    assert parse(text_of(path)).prompt == "a tree, 나무"


def test_the_gate_is_asked_and_nothing_is_left(tmp_path, sampler):
    class No:
        def check_picture(self, rgb, what="the picture"):
            assert rgb.shape == (64, 64, 3)
            raise Refused(f"{what}: no")

    with pytest.raises(Refused, match="picture 1: no"):
        accel.generate("a tree", tmp_path / "t.png", model=sampler, gate=No(), **FAST)
    assert not list(tmp_path.iterdir())


def test_an_edited_picture_names_its_origin(tmp_path, sampler):
    accel.generate("a tree", tmp_path / "a.png", model=sampler, seed=0, **FAST)
    accel.generate(
        "an apple", tmp_path / "b.png", model=sampler, seed=0, init=tmp_path / "a.png", **FAST
    )
    report = verify_file(tmp_path / "b.png")
    assert report.status == 0
    assert len(report.history) == 2  # the edited picture, and that which it was made from
    assert "Init image hash" in parse(text_of(tmp_path / "b.png")).pairs


def test_preview_is_a_picture(tmp_path, sampler):
    preview = tmp_path / "now.png"
    accel.generate(
        "a tree", tmp_path / "t.png", model=sampler, preview=preview, provenance=PLAIN, **FAST
    )
    assert Image.open(preview).size == (64, 64)


def test_preview_bears_a_mark_and_goes_with_what_is_refused(tmp_path, sampler):
    preview = tmp_path / "now.png"
    accel.generate("a tree", tmp_path / "t.png", model=sampler, preview=preview, **FAST)
    assert [f.what for f in verify_file(preview).findings if f.level == "INDICATED"] == [
        "mark read"
    ]

    class No:
        def check_picture(self, rgb, what="picture"):
            raise Refused(what)

    with pytest.raises(Refused):
        accel.generate("a", tmp_path / "u.png", model=sampler, preview=preview, gate=No(), **FAST)
    assert not preview.exists()


def test_bad_input_is_one_line_and_leaves_nothing(tmp_path, capsys):
    (tmp_path / "cut.safetensors").write_bytes((1 << 63).to_bytes(8, "little") + b"{}")
    (tmp_path / "plain.png").write_bytes(b"")
    Image.new("RGB", (8, 8)).save(tmp_path / "untold.png")
    before = sorted(p.name for p in tmp_path.iterdir())
    out = tmp_path / "out.png"
    cases = [
        (["a", "-o", out, "--model", tmp_path / "cut.safetensors"], "not a safetensors file"),
        (["a", "-o", out, "--model", "zzz"], "no such file exists; there is nano"),
        (["a", "-o", out, "--lora", "nothere"], "no lora is called 'nothere'"),
        (["a", "-o", out, "--lora", "zzz"], "no such file exists; there is ink"),
        (["a", "-o", out, "--y", "steps=1,2"], "x must be given where y or z are"),
        (["a", "-o", out, "--x", "steps=1,2", "--count", "2"], "count must be left out with x"),
        (["a", "-o", out, "--x", "steps=few"], "axis steps: 'few' is no value of it"),
        (["a", "-o", out, "--sampler", "zzz"], "no sampler is called 'zzz'; there are ddim, "),
        (["a <lora:nothere:1>", "-o", out], "no lora is called 'nothere'"),
        (["a", "-o", out, "--lora", "x=much"], "lora must be NAME or NAME=WEIGHT"),
        (["a", "-o", out, "--sampler", "dpmpp2m"], "near: dpmpp_2m"),
        (["a", "-o", out, "--width", "100"], "width must be a multiple of 8"),
        (["a", "-o", out, "--outpaint", "1,2"], "outpaint must be LEFT,TOP,RIGHT,BOTTOM"),
        (["a", "-o", out, "--dtype", "int3"], "dtype must be one of"),
        (["word " * 10_000, "-o", out], "at most 7500 tokens"),
        (["a", "-o", tmp_path / "out.txt"], "output must end in"),
        (["a", "-o", tmp_path / "no" / "out.png"], "its folder does not exist"),
        (["a", "-o", tmp_path / "plain.png"], "exists"),
        (["a"], "-o must name"),
        (["-o", out], "a prompt must be given"),
        (["--from", tmp_path / "untold.png", "-o", out], "carries no text"),
        (["--from", tmp_path / "plain.png", "-o", out], "must be a picture"),
        (["a", "-o", out, "--models", tmp_path / "none"], "must be a folder"),
    ]
    for args, text in cases:
        status, _, err = run(capsys, *args)
        assert (status, err.count("\n")) == (2, 1), err
        assert text in err
    assert sorted(p.name for p in tmp_path.iterdir()) == before


def test_a_picture_of_another_nano_is_not_repeated_silently(tmp_path, sampler):
    path = tmp_path / "a.png"
    accel.generate("a tree", path, model=sampler, seed=0, provenance=PLAIN, **FAST)
    from PIL.PngImagePlugin import PngInfo

    chunks = PngInfo()
    digits = parse(text_of(path)).pairs["Model hash"]
    chunks.add_text("parameters", text_of(path).replace(digits, "0123456789"))
    Image.open(path).save(path, pnginfo=chunks)
    with pytest.raises(ConfigError, match="another version of nano: 0123456789"):
        accel.generate(None, tmp_path / "b.png", from_picture=path)


def test_a_text_without_settings_is_refused(tmp_path):
    from PIL.PngImagePlugin import PngInfo

    chunks = PngInfo()
    chunks.add_text("parameters", "just a prompt")
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png", pnginfo=chunks)
    with pytest.raises(InputError, match="carries no text"):
        accel.generate(None, tmp_path / "b.png", from_picture=tmp_path / "a.png")


def test_sd_parsers_reads_it(tmp_path, sampler):
    sd_parsers = pytest.importorskip("sd_parsers")
    path = tmp_path / "a.png"
    prompt, negative = 'a tree, "quoted", 10: 30, (x:1.2)', "low, worst: hands"
    accel.generate(prompt, path, negative=negative, model=sampler, seed=5, **FAST)
    info = sd_parsers.ParserManager().parse(path)
    assert info.prompts[0].value == prompt
    assert info.negative_prompts[0].value == negative
    assert info.samplers[0].parameters["seed"] in (5, "5")
    assert {one.name for one in info.models} == {"nano"}


def test_a_seed_of_minus_one_is_drawn_and_all_files_are_named(tmp_path, capsys):
    out = tmp_path / "out.png"
    quick = ("--steps", "1", "--count", "2", "--no-sheet", "--seed", "-1", "--watermark", "off")
    status, told, err = run(capsys, "a", "-o", out, *quick)
    assert status == 0, err
    assert told.startswith(f"{tmp_path / 'out-1.png'}, {tmp_path / 'out-2.png'}: 2 x 64x64 in")
    assert not out.exists()
    quick = ("--steps", "1", "--count", "4", "--watermark", "off", "--overwrite")
    assert (
        f"out-1.png ... {tmp_path / 'out-4.png'} and the sheet {out}: "
        in (run(capsys, "a", "-o", out, *quick)[1])
    )
    assert accel.Sampler("nano")("a", seed=-1, steps=1)[0].seed >= 0
