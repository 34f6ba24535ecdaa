"""Every command that the pages and the help show is one that the parser takes."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from accel.cli import _parser
from accel.cli.shared import Parser, take_untrusted

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PLACEHOLDERS = ("...", "COMMAND", "|")


def commands_of(text: str) -> Iterator[list[str]]:
    """The words of each line that begins with `accel`, comments and broken lines understood."""
    for line in text.replace("\\\n", " ").splitlines():
        if re.match(r"\s*accel\s", line) and not any(mark in line for mark in PLACEHOLDERS):
            yield shlex.split(line, comments=True)[1:]


def parsers(parser: Parser) -> Iterator[Parser]:
    yield parser
    for action in parser._actions:
        if isinstance(action.choices, dict):
            for one in action.choices.values():
                yield from parsers(one)


@pytest.fixture(scope="module")
def parser() -> Parser:
    return _parser()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_of_a_page_can_be_called(page, parser):
    for block in re.findall(r"```sh\n(.*?)```", page.read_text("utf-8"), re.DOTALL):
        for words in commands_of(block):
            parser.parse_args(take_untrusted(words)[0])


def test_examples_of_the_help_can_be_called(parser):
    shown = 0
    for one in parsers(parser):
        for words in commands_of(one.epilog or ""):
            parser.parse_args(take_untrusted(words)[0])
            shown += 1
    assert shown > 40
