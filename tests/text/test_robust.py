"""Prompts that nobody wrote with care: anything parses, nothing is lost, long ones are quick."""

from __future__ import annotations

import itertools
import random
import time
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accel.core import ConfigError
from accel.text.bpe import byte_symbols, clip_tokenizer, composed
from accel.text.chunks import chunk
from accel.text.prompt import emphasis, schedule, split_and, take_tags

SYNTAX = st.sampled_from(
    ["(", ")", "[", "]", ":", "|", "\\", ",", " ", "AND", "BREAK", "<lora:a:1>", "<", ">", "0.5"]
    + ["1.2", "7", "cat", "é", "猫", "-", "\n", "::", ":1.3)", "a:b:0.5]", "🍎", "\x00"]
)
PROMPTS = st.one_of(st.text(max_size=60), st.lists(SYNTAX, max_size=40).map("".join))
ENCODE = clip_tokenizer().encode


@settings(max_examples=150, deadline=None)
@given(PROMPTS)
def test_anything_parses_but_weights_that_are_no_numbers(prompt):
    for text, _ in split_and(take_tags(prompt)[0]):
        for _, stage in schedule(text, 10):
            try:
                chunks = chunk(emphasis(stage), ENCODE)
            except ConfigError as error:  # a weight that is no number
                message = str(error)
                assert "must be a number" in message
                continue
            assert all(len(one.tokens) == len(one.weights) == 77 for one in chunks)


@settings(max_examples=150, deadline=None)
@given(PROMPTS, st.integers(1, 30))
def test_stages_are_in_order_and_reach_the_end(prompt, steps):
    stages = schedule(prompt, steps)
    ends = [end for end, _ in stages]
    assert ends == sorted(set(ends))
    assert ends[-1] == steps


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from(["cat", "dog", "red", ",", "big"]), max_size=400))
def test_chunks_lose_no_token_and_keep_their_order(words):
    chunks = chunk(emphasis(" ".join(words)), ENCODE)
    kept = [t for one in chunks for t in one.tokens if t < 49406]
    assert kept == ENCODE(" ".join(words))


@pytest.mark.parametrize(
    "prompt",
    [
        "masterpiece, best quality, " * 2000,
        "cat " * 10_000,
        "(" * 90 + "cat " * 10_000 + ")" * 90,
        "a" * 40_000,
        "[" * 5_000 + "(" * 5_000,
        "<lora:" * 8_000,
        ":" * 40_000,
        "(a:1.1) " * 8_000,
        "🍎" * 10_000,
        "AND " * 90,
    ],
    ids=lambda prompt: prompt[:12],
)
def test_long_prompts_are_quick(prompt):
    begin = time.process_time()
    for text, _ in split_and(take_tags(prompt)[0]):
        for _, stage in schedule(text, 20):
            chunk(emphasis(stage), ENCODE)
    assert time.process_time() - begin < 1.0


def test_thousands_of_joined_prompts_are_refused_at_once():
    begin = time.process_time()
    with pytest.raises(ConfigError, match="joins 10001"):
        split_and("AND " * 10_000)
    assert time.process_time() - begin < 1.0


def test_alternation_in_a_long_prompt_is_quick():
    """Each of its steps is another text."""
    prompt = "[cat|dog] " + "big red apple, " * 2500
    begin = time.process_time()
    assert len(schedule(prompt, 20)) == 20
    assert time.process_time() - begin < 1.0


def test_one_word_without_end_takes_no_time():
    """Merging was in time with the square of a word's length: minutes for 99,000 letters."""
    word = "".join(random.Random(0).choices("etaoinshrdlu", k=60_000))
    begin = time.process_time()
    assert len(clip_tokenizer()._encode_word(word)) > 10_000
    assert time.process_time() - begin < 4


def test_marks_without_end_take_no_time():
    begin = time.process_time()
    composed("a" + "\u0338\u0300" * 40_000)
    assert time.process_time() - begin < 2


@given(st.text(alphabet="ae\u0338\u0300\u0301가ㄱ", max_size=200))
def test_composed_is_nfc(text):
    assert composed(text) == unicodedata.normalize("NFC", text)


@given(st.text(alphabet="abehot\u0301 가", min_size=1, max_size=30))
def test_merging_takes_the_pair_learnt_first(word):
    """As the definition has it: the best pair of all, everywhere, then the next best."""
    tokenizer = clip_tokenizer()
    parts = [byte_symbols()[byte] for byte in word.encode()]
    merged = tokenizer._merge(list(parts))
    while len(parts) > 1:
        pairs = [pair for pair in itertools.pairwise(parts) if pair in tokenizer.ranks]
        if not pairs:
            break
        best, joined = min(pairs, key=tokenizer.ranks.__getitem__), []
        for part in parts:
            if joined and (joined[-1], part) == best:
                joined[-1] += part
            else:
                joined.append(part)
        parts = joined
    assert merged == parts


@pytest.mark.parametrize(
    "prompt",
    ["a" + " " * 50_000 + "b", "\n" * 50_000, " : " * 9000 + " " * 20_000 + "x",
     f"[a:b:{'9' * 50_000}x]", "a BREAK" + " " * 50_000 + "BREAK b", "<" + "a" * 50_000 + ">"],
    ids=["blanks", "lines", "colons", "digits", "breaks", "tag"],
)  # fmt: skip
def test_runs_of_anything_take_no_time(prompt):
    """Blanks were looked through from each of them: 90,000 took minutes."""
    begin = time.process_time()
    for text, _ in split_and(take_tags(prompt)[0]):
        for _, stage in schedule(text, 10):
            emphasis(stage)
    assert time.process_time() - begin < 2


def test_breaks_in_a_row_all_count():
    pieces = emphasis("a  BREAK BREAK\n BREAK b")
    assert sum(piece.is_break for piece in pieces) == 3
    assert [piece.text for piece in pieces if not piece.is_break and piece.text] == ["a", "b"]
