"""The page of a verification: what holds is told apart, strangers' words stay words."""

from __future__ import annotations

import re

import pytest

from accel.pipelines.report_page import page
from accel.provenance.verify import BROKEN, NOTHING, PROVEN, Finding, Report
from accel.provenance.words import PAGE

CHAPTER = {
    "label": "a", "generator": "Darkroom <b>9</b>", "signer": "someone", "issuer": "",
    "actions": ["created"], "sourceTypes": ["digitalCapture"], "holds": True,
    "inputs": [{"title": "<script>", "relationship": "parentOf", "label": ""}],
}  # fmt: skip


def report(status: int, conclusion: str, **more) -> Report:
    return Report(name="<i>.png", status=status, conclusion=conclusion, findings=(), **more)


@pytest.mark.parametrize("language", ["en", "ko"])
@pytest.mark.parametrize(
    ("status", "conclusion", "holds"),
    [
        (PROVEN, "proven AI", True), (BROKEN, "contradictory", True), (BROKEN, "broken", False),
        (BROKEN, "expired", False),
    ],
)  # fmt: skip
def test_a_history_that_does_not_hold_is_told_apart(status, conclusion, holds, language):
    html = page([report(status, conclusion, history=(CHAPTER,))], language)
    assert (PAGE["history broken"][language] in html) != holds
    assert ('<div class="drawn broken">' in html) != holds
    assert html.count("<rect") == 2


def test_words_of_strangers_are_escaped_and_nothing_is_loaded():
    finding = Finding(level="PROVEN", what="declared type", facts={"where": "<a>", "type": "&"})
    one = Report(
        name="<i>.png", status=PROVEN, conclusion="proven AI", findings=(finding,),
        history=(CHAPTER,),
    )  # fmt: skip
    html = page([one, report(NOTHING, "unknown")])
    assert not re.search(r"<(script|i|a|b)>", html)
    assert "default-src 'none'" in html
    assert not re.search(r"(src|href)=", html)


def test_a_history_in_a_circle_and_a_long_one_are_drawn():
    circle = CHAPTER | {"inputs": [{"title": "", "relationship": "parentOf", "label": "a"}]}
    assert page([report(PROVEN, "proven AI", history=(circle,))]).count("<rect") == 1
    chain = tuple(
        CHAPTER | {"label": str(k), "inputs": [CHAPTER["inputs"][0] | {"label": str(k + 1)}]}
        for k in range(40)
    )
    html = page([report(PROVEN, "proven AI", history=chain)])
    assert "28 earlier statements" in html
    # The thirteenth is signed as well.
    assert html.count(PAGE["left out"]["en"]) == 1
    assert PAGE["unsigned"]["en"] not in html


def test_a_statement_that_did_not_hold_is_drawn_as_one():
    doubtful = CHAPTER | {"label": "b", "holds": False, "faults": ["x"], "inputs": []}
    latest = CHAPTER | {"inputs": [CHAPTER["inputs"][0] | {"label": "b"}]}
    for language in ("en", "ko"):
        html = page([report(PROVEN, "proven in part", history=(latest, doubtful))], language)
        assert html.count(PAGE["doubtful"][language]) == 1
        assert html.count("stroke-dasharray") == 1
