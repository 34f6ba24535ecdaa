"""The tokenizer against published ids and, where it is installed, against transformers."""

from __future__ import annotations

import json
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accel.text.bpe import END, START, clip_tokenizer, split_words
from accel.text.rows import RowMap

KNOWN = [
    ("", []),
    ("a photo of a cat", [320, 1125, 539, 320, 2368]),
    ("A  Photo\tof a\nCAT ", [320, 1125, 539, 320, 2368]),
    ("hello world!", [3306, 1002, 256]),
    ("<|startoftext|>cat<|endoftext|>", [START, 2368, END]),
]
HARD = [
    "masterpiece, best quality, (1girl:1.2), 8k, hdr!!!",
    "it's the dog's, they'll've we're I'm",
    "snake_case __init__ ___ a_b",
    "naïve café — “quotes” … ½ ² Ⅷ ٣",
    "cafe\u0301 e\u0302 \u0301alone",
    "日本語のテキスト 한국어 русский עברית",
    "😀👍🏽 👩‍👩‍👧 🇩🇪",
    "a1b22c333 3.14 1,000",
    "zero\u200bwidth \xa0nbsp \u3000wide",
    "supercalifragilisticexpialidocious antidisestablishmentarianism",
]


@pytest.mark.parametrize(("text", "ids"), KNOWN)
def test_known_ids(text, ids):
    assert clip_tokenizer().encode(text) == ids


def test_vocabulary_is_clips():
    tokenizer = clip_tokenizer()
    assert len(tokenizer.tokens) == 49408
    assert tokenizer.ids["<|endoftext|>"] == END == 49407
    assert tokenizer.tokens[320] == "a</w>"


def test_words_split_at_numerals_marks_and_contractions():
    assert split_words("it's 42!? a_b") == ["it", "'s", "4", "2", "!?", "a", "_", "b"]


@given(st.text(max_size=30))
@settings(max_examples=60, deadline=None)
def test_every_text_has_tokens_and_plain_words_come_back(text):
    tokenizer = clip_tokenizer()
    assert all(0 <= i <= END for i in tokenizer.encode(text))
    words = " ".join(w for w in split_words(text.lower()) if w.isascii() and w.isalpha())
    assert tokenizer.decode(tokenizer.encode(words)) == words


@pytest.fixture(scope="module")
def peer(tmp_path_factory):
    """transformers' tokenizer on a vocabulary written from ours."""
    transformers = pytest.importorskip("transformers", exc_type=ImportError)
    folder = tmp_path_factory.mktemp("clip")
    tokenizer = clip_tokenizer()
    (folder / "vocab.json").write_text(json.dumps(tokenizer.ids))
    merges = [f"{a} {b}" for a, b in tokenizer.ranks]
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]))
    return transformers.CLIPTokenizerFast(str(folder / "vocab.json"), str(folder / "merges.txt"))


@pytest.mark.parametrize("text", HARD)
def test_agrees_with_transformers(peer, text):
    assert clip_tokenizer().encode(text) == peer(text, add_special_tokens=False).input_ids


def test_rows_of_a_small_table():
    rows = RowMap((5, 9), hashed=4)
    assert (rows.row(5), rows.row(9)) == (2, 3)
    assert rows.row(1234) == 4 + zlib.crc32(b"1234") % 4
    assert {rows.row(token) for token in range(100, 200)} == {4, 5, 6, 7}
    assert rows.chunk([9, 5], 5) == [0, 3, 2, 1, 1]
    assert rows.chunk([9] * 9, 5) == [0, 3, 3, 3, 1]


def test_rows_refuse_what_cannot_be_a_table():
    with pytest.raises(ValueError, match="ascending"):
        RowMap((9, 5), hashed=4)
    with pytest.raises(ValueError, match="hashed must be above 0"):
        RowMap((5,), hashed=0)
