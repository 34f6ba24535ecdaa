"""The prompt language on cases with known answers, and the cutting into chunks."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accel.core import ConfigError
from accel.text.bpe import END, START, clip_tokenizer
from accel.text.chunks import CHUNK, COMMA, chunk, padded
from accel.text.prompt import Piece, emphasis, schedule, split_and, take_tags

BREAK = None
EMPHASIS = [
    ("", [("", 1)]),
    ("normal text", [("normal text", 1)]),
    ("an (important) word", [("an ", 1), ("important", 1.1), (" word", 1)]),
    ("(unbalanced", [("unbalanced", 1.1)]),
    ("[unbalanced", [("unbalanced", 1 / 1.1)]),
    ("unbalanced) here]", [("unbalanced) here]", 1)]),
    (r"\(literal\]", [("(literal]", 1)]),
    (r"a \\ b", [("a \\ b", 1)]),
    (r"a \b", [("a b", 1)]),
    ("(unnecessary)(parens)", [("unnecessaryparens", 1.1)]),
    (
        "a (((house:1.3)) [on] a (hill:0.5), sun, (((sky))).",
        [
            ("a ", 1),
            ("house", 1.3 * 1.1**2),
            (" ", 1.1),
            ("on", 1),
            (" a ", 1.1),
            ("hill", 0.5 * 1.1),
            (", sun, ", 1.1),
            ("sky", 1.1**4),
            (".", 1.1),
        ],
    ),
    ("(x:1.2)", [("x", 1.2)]),
    ("(x: 1.2 )", [("x", 1.2)]),
    ("(x:-.5)", [("x", -0.5)]),
    ("(a, (b:2):0.5)", [("a, ", 0.5), ("b", 1.0)]),
    ("[[x]]", [("x", 1.1**-2)]),
    ("[x:1.5]", [("x:1.5", 1 / 1.1)]),
    ("x:1.5)", [("x:1.5)", 1)]),
    ("time: 10:30", [("time: 10:30", 1)]),
    ("a BREAK b", [("a", 1), BREAK, ("b", 1)]),
    ("a BREAKFAST", [("a BREAKFAST", 1)]),
    ("(a BREAK b:1.3)", [("a", 1.3), BREAK, ("b", 1.3)]),
    (
        "masterpiece, (best quality:1.4), \\(official art\\)",
        [("masterpiece, ", 1), ("best quality", 1.4), (", (official art)", 1)],
    ),
]


@pytest.mark.parametrize(("text", "expected"), EMPHASIS)
def test_emphasis(text, expected):
    pieces = emphasis(text)
    assert [BREAK if p.is_break else p.text for p in pieces] == [e and e[0] for e in expected]
    weights = [p.weight for p in pieces if not p.is_break]
    assert weights == pytest.approx([e[1] for e in expected if e])


def test_emphasis_refuses_a_weight_that_is_no_number():
    with pytest.raises(ConfigError, match=r"a weight must be a number, got '1\.2\.3'"):
        emphasis("(x:1.2.3)")


def every(*texts: str) -> list[tuple[int, str]]:
    return [(k + 1, texts[k % len(texts)]) for k in range(10)]


SCHEDULES = [
    ("test", [(10, "test")]),
    ("a [b:3]", [(3, "a "), (10, "a b")]),
    ("a [b: 3]", [(3, "a "), (10, "a b")]),
    ("a [[[b]]:2]", [(2, "a "), (10, "a [[b]]")]),
    ("[(a:2):3]", [(3, ""), (10, "(a:2)")]),
    ("a [b : c : 1] d", [(1, "a b  d"), (10, "a  c  d")]),
    ("a[b:[c:d:2]:1]e", [(1, "abe"), (2, "ace"), (10, "ade")]),
    ("a [unbalanced", [(10, "a [unbalanced")]),
    ("a [b:.5] c", [(5, "a  c"), (10, "a b c")]),
    ("a [{b|d{:.5] c", [(5, "a  c"), (10, "a {b|d{ c")]),
    ("((a][:b:c [d:3]", [(3, "((a][:b:c "), (10, "((a][:b:c d")]),
    ("[a|(b:1.1)]", every("a", "(b:1.1)")),
    ("[fe|]male", every("female", "male")),
    ("[fe|||]male", every("female", "male", "male", "male")),
    ("a [b::3]", [(3, "a b"), (10, "a ")]),
    ("a [b:c:1.5]", [(10, "a b")]),
    ("a [b:c:0]", [(10, "a c")]),
    ("a [b:c:-1]", [(10, "a c")]),
    ("a [b:c:d:3]", [(10, "a [b:c:d:3]")]),
    ("a [b:c]", [(10, "a [b:c]")]),
    ("a [b] (c:1.2)", [(10, "a [b] (c:1.2)")]),
    (r"a \[b:3\]", [(10, r"a \[b:3\]")]),
    ("a | b", [(10, "a | b")]),
    ("(a [b:c:0.2] d:1.3)", [(2, "(a b d:1.3)"), (10, "(a c d:1.3)")]),
    ("[[a|b]:c:2]", [(1, "a"), (2, "b"), *[(k, "c") for k in range(3, 11)]]),
    ("", [(10, "")]),
    ("x | y [a:b:0.5]", [(10, "x | y [a:b:0.5]")]),
    ("(x | y) [a:b:0.5]", [(10, "(x | y) [a:b:0.5]")]),
    (r"x \| y [a:b:0.5]", [(5, r"x \| y a"), (10, r"x \| y b")]),
    ("[a:b:0.5] \\", [(10, "[a:b:0.5] \\")]),
    ("[a:b:1e-1]", [(10, "b")]),
    ("[a:b:+.5]", [(5, "a"), (10, "b")]),
    ("[a:b:99]", [(10, "a")]),
    ("[a:b:1.0]", [(10, "a")]),
    ("[:b:0.5]", [(5, ""), (10, "b")]),
    ("[a::0.5]", [(5, "a"), (10, "")]),
    ("[a, b:c, d:0.3], e", [(3, "a, b, e"), (10, "c, d, e")]),
    ("[a:b:0.5][c:d:0.2]", [(2, "ac"), (5, "ad"), (10, "bd")]),
    ("[(a:1.2):(b:0.8):0.5]", [(5, "(a:1.2)"), (10, "(b:0.8)")]),
    ("[a\nb:c:0.5]", [(5, "a\nb"), (10, "c")]),
]


@pytest.mark.parametrize(("prompt", "expected"), SCHEDULES)
def test_changes_while_sampling(prompt, expected):
    assert schedule(prompt, 10) == expected


def test_changes_in_a_second_pass():
    assert schedule("a [b:.5] c", 10, first_pass_steps=10) == [(10, "a b c")]
    assert schedule("a [b:1.5] c", 10, first_pass_steps=10) == [(5, "a  c"), (10, "a b c")]
    assert schedule("a [b:12] c", 10, first_pass_steps=10) == [(2, "a  c"), (10, "a b c")]


@given(st.text(alphabet="ab:|[]() \\1.", max_size=40))
@settings(max_examples=300, deadline=None)
def test_any_brackets_are_read(text):
    ends = [end for end, _ in schedule(text, 5)]
    assert ends == sorted(set(ends))
    assert ends[-1] == 5


def test_very_long_and_very_deep_prompts():
    assert schedule("([" * 20_000, 5)[0] == (5, "([" * 20_000)
    with pytest.raises(ConfigError, match="must not nest deeper than 100"):
        schedule("(" * 200 + ")" * 200, 5)


def test_and():
    assert split_and("a cat") == [("a cat", 1.0)]
    assert split_and("a cat AND a dog :0.7 AND c:-.5") == [
        ("a cat ", 1.0),
        (" a dog", 0.7),
        (" c", -0.5),
    ]
    assert split_and("SAND castle") == [("SAND castle", 1.0)]
    assert split_and("(a:1.2)") == [("(a:1.2)", 1.0)]


def test_tags():
    text, tags = take_tags("a <lora:add detail:0.8> cat <lora:x:te=0.5:unet=1> <hypernet:y:1>")
    assert text == "a  cat  "
    assert [(t.kind, t.values, t.named) for t in tags] == [
        ("lora", ("add detail", "0.8"), {}),
        ("lora", ("x",), {"te": "0.5", "unet": "1"}),
        ("hypernet", ("y", "1"), {}),
    ]
    assert take_tags("a < b > c")[1] == []


def words(text: str) -> list[int]:
    """A stand-in tokenizer: one token a word, COMMA for a comma."""
    return [COMMA if word == "," else int(word) for word in text.split()]


def bodies(text: str, **options) -> list[list[int]]:
    """What stands between start and the first end of each chunk."""
    chunks = chunk(emphasis(text), words, **options)
    for each in chunks:
        assert len(each.tokens) == len(each.weights) == CHUNK + 2
        assert each.tokens[0] == START
        assert each.tokens[-1] == END
    return [each.tokens[1 : each.tokens.index(END)] for each in chunks]


def test_an_empty_prompt_is_one_chunk():
    assert bodies("") == [[]]


@pytest.mark.parametrize(("count", "lengths"), [(75, [75]), (76, [75, 1]), (200, [75, 75, 50])])
def test_chunks_hold_75_tokens(count, lengths):
    assert [len(body) for body in bodies("7 " * count)] == lengths


def test_a_full_chunk_ends_at_its_last_comma_if_that_is_near():
    near = bodies("1 " * 60 + ", " + "2 " * 20)
    assert [len(body) for body in near] == [61, 20]
    far = bodies("1 " * 50 + ", " + "2 " * 30)
    assert [len(body) for body in far] == [75, 6]
    off = bodies("1 " * 60 + ", " + "2 " * 20, comma_reach=0)
    assert [len(body) for body in off] == [75, 6]


def test_a_comma_that_comes_first_in_the_next_chunk_moves_nothing():
    assert [len(body) for body in bodies("1 " * 75 + ", 2")] == [75, 2]


def test_break_ends_a_chunk():
    assert bodies("1 2 BREAK 3") == [[1, 2], [3]]


def test_weights_stay_with_their_tokens_across_chunks():
    text = "1 " * 70 + "(" + "2 " * 10 + ":1.5)"
    first, second = chunk(emphasis(text), words)
    assert first.weights == [1.0] * 71 + [1.5] * 5 + [1.0]
    assert second.weights == [1.0] + [1.5] * 5 + [1.0] * 71


def test_the_comma_is_clips():
    assert clip_tokenizer().encode(",") == [COMMA]


def test_padding_after_the_end():
    tokens = chunk([Piece("5 6")], words)[0].tokens
    assert padded(tokens, 0) == [START, 5, 6, END] + [0] * 73
    assert padded(tokens, END) == tokens
