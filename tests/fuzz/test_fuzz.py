"""The frozen crash corpus, and a short run of every fuzz target (see tests/fuzz/run.py)."""

from __future__ import annotations

import random
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accel.core import ConfigError
from tests.fuzz.mutate import mutate
from tests.fuzz.run import CRASHES, check
from tests.fuzz.targets import TARGETS

SHORT_S = 0.3  # a target; tests/fuzz/run.py is for longer
ONCE_BROKE = sorted(
    path for path in CRASHES.glob("*/*") if path.is_file() and path.name != "current"
)


@pytest.fixture(autouse=True)
def _home(tmp_path, monkeypatch):
    monkeypatch.setenv("ACCEL_HOME", str(tmp_path / "home"))


@pytest.mark.parametrize("path", ONCE_BROKE, ids=lambda p: f"{p.parent.name}-{p.name}")
def test_what_once_broke_a_parser_does_not_again(path, tmp_path):
    _, fault = check(TARGETS[path.parent.name], path.read_bytes(), tmp_path)
    assert not fault, fault


@pytest.mark.parametrize("name", TARGETS)
def test_mutated_inputs_are_read_or_refused(name, tmp_path):
    target, rng = TARGETS[name], random.Random(0)
    corpus = target.seeds(tmp_path)
    for data in [*corpus, b"", b"\0", b"\xff" * 64]:
        _, fault = check(target, data, tmp_path)
        assert not fault, fault
    end = time.process_time() + SHORT_S
    while time.process_time() < end:
        data = mutate(rng.choice(corpus), corpus, target.words, rng)
        _, fault = check(target, data, tmp_path)
        assert not fault, f"{name}: {data[:2000]!r}\n{fault}"


@settings(max_examples=150, deadline=None)
@given(st.text(st.sampled_from("()[]:|<>\\,. 0123456789abAND\u202e\n") | st.characters()))
def test_any_text_is_a_prompt_or_refused(text):
    from accel.text import prompt

    try:
        prompt.schedule(text, 7)
        prompt.emphasis(prompt.take_tags(text)[0])
    except ConfigError as error:
        assert "\n" not in str(error)  # noqa: PT017


def test_a_fault_is_found(tmp_path):
    """What the other tests would show of a parser that breaks."""
    from tests.fuzz.targets import Target

    def breaks(data, path):
        raise KeyError("x")

    what, fault = check(Target("broken", lambda folder: [], breaks), b"x", tmp_path)
    assert what == "KeyError"
    assert "breaks" in fault


@pytest.fixture
def session(tmp_path, monkeypatch):
    from tests.fuzz import run
    from tests.fuzz.targets import Target

    kept = []

    def keeps(data, path):
        kept.append(bytearray(b"x" * (int(data) << 20)))
        if int(data) > 50:
            kept.clear()  # the peak alone is high

    monkeypatch.setattr(run, "CRASHES", tmp_path / "crashes")
    monkeypatch.setattr(run, "GROWTH_MB", 60)
    monkeypatch.setattr(run, "MEMORY_MB", 300)
    made = run.Session(Target("keeps", lambda folder: [], keeps), tmp_path, tmp_path)
    made.begin([b"1"])
    return made


def test_memory_that_grows_with_many_inputs_is_a_fault(session):
    for _ in range(200):
        session.try_(b"1")
    assert list(session.found) == ["memory that stays "]


def test_memory_of_one_input_is_a_fault(session):
    assert session.try_(b"400") is False
    assert [key.split(" of ")[0] for key in session.found] == ["memory"]
