"""Prompts as people paste them, through parser, chunks and the embedded model's text tower."""

from __future__ import annotations

import pytest
import torch

from accel.core import ConfigError
from accel.pipelines.generate.loras import from_tag
from accel.text.bpe import END, START, clip_tokenizer
from accel.text.chunks import chunk
from accel.text.emphasis import pieces
from accel.text.prompt import schedule, split_and, take_tags

LONG = (
    "masterpiece, best quality, (ultra-detailed:1.2), 1girl, solo, ((long hair)), blue eyes, "
    "looking at viewer, [smile], school uniform, \\(series\\), outdoors, cherry blossoms, "
    "depth of field, <lora:add_detail:0.6>, cinematic lighting, (sharp focus, 8k:1.1), "
    "<lora:style_v2:0.8:0.5>, highres, absurdres, official art, beautiful detailed eyes, "
    "detailed background, wind, petals, (sunset:0.9), volumetric light, film grain, bokeh"
)
NEGATIVE = (
    "lowres,bad anatomy,bad hands,text,error,missing fingers,extra digit,fewer digits,cropped,"
    "worst quality,low quality,normal quality,jpeg artifacts,signature,watermark,username,blurry,"
    "artist name,bad feet,mutation,deformed,ugly,disfigured,extra limbs,fused fingers,"
    "too many fingers,long neck,bad proportions,gross proportions,malformed limbs,missing arms,"
    "missing legs,extra arms,extra legs,cloned face,out of frame,duplicate,morbid,mutilated,"
    "poorly drawn face"
).replace(",", ", ")


def test_a_long_prompt_of_tags():
    text, tags = take_tags(LONG)
    assert [from_tag(tag) for tag in tags] == [("add_detail", 0.6), ("style_v2", (0.8, 0.5))]
    found = {piece.text.strip(", "): piece.weight for piece in pieces(text)}
    assert found["ultra-detailed"] == pytest.approx(1.2)
    assert found["long hair"] == pytest.approx(1.21)
    assert found["smile"] == pytest.approx(1 / 1.1)
    assert found["sharp focus, 8k"] == pytest.approx(1.1)
    assert any("(series)" in name and weight == 1 for name, weight in found.items())
    assert split_and(text) == [(text, 1.0)]
    assert schedule("masterpiece, [smile], x", 20) == [(20, "masterpiece, [smile], x")]
    assert_chunks(text, 2)


def test_forty_negative_tags():
    assert len(NEGATIVE.split(", ")) == 40
    assert [piece.weight for piece in pieces(NEGATIVE)] == [1.0]
    assert_chunks(NEGATIVE, 2)


def assert_chunks(text: str, count: int) -> None:
    encode = clip_tokenizer().encode
    chunks = chunk(pieces(text), encode)
    assert len(chunks) == count
    for one in chunks:
        assert len(one.tokens) == len(one.weights) == 77
        assert one.tokens[0] == START
    inner = [[t for t in one.tokens[1:] if t != END] for one in chunks]
    whole = [token for piece in pieces(text) for token in encode(piece.text)]
    assert [token for row in inner for token in row] == whole  # nothing is lost between chunks
    assert inner[0][-1] == encode(",")[0]  # no tag is cut in two


@pytest.mark.parametrize(
    ("tag", "expected"),
    [
        ("<lora:a>", ("a", 1.0)),
        ("<lora:a:0.5>", ("a", 0.5)),
        ("<lora:a:0.5:0.25>", ("a", (0.5, 0.25))),
        ("<lora:a:te=0.5:unet=2>", ("a", (0.5, 2.0))),
        ("<lora:a:0.5:unet=0>", ("a", (0.5, 0.0))),
        ("<lora:a:-1>", ("a", -1.0)),
    ],
)
def test_weights_of_a_lora_tag(tag, expected):
    assert from_tag(take_tags(tag)[1][0]) == expected


def test_a_tag_names_no_file_elsewhere():
    for name in ("../secret", "/etc/passwd", "C:\\x"):
        with pytest.raises(ConfigError):
            from_tag(take_tags(f"<lora:{name}:1>")[1][0])


def test_pasted_prompts_are_taken(nano):
    options = {"steps": 1, "output": "latent"}
    plain = nano.sample(take_tags(LONG)[0], NEGATIVE, **options)
    assert plain.isfinite().all()
    assert not torch.equal(plain, nano.sample(take_tags(LONG)[0], **options))
