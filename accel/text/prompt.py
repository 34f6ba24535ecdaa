"""The prompt language of AUTOMATIC1111's web interface, as a library.

(word), (word:1.3), [word]      emphasis; \\( \\) \\[ \\] \\\\ are the characters themselves
[from:to:0.5] [to:10] [from::3] a change while sampling: at a share of the steps, or a step
[one|other]                     alternation, step by step
one prompt AND another :0.7     predictions of several prompts, added with weights
BREAK                           ends a chunk of tokens (in emphasis too, unlike there)
<lora:name:0.8>                 a tag that is taken out of the text
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from accel.core import ConfigError

STRONGER, WEAKER = 1.1, 1 / 1.1
MAX_DEPTH = 100  # of brackets in each other
MAX_PARTS = 100  # prompts joined by AND

# Each of these begins at one place of a run of blanks or digits only: tried at every one, the time
# grew with the square of the run's length.
SPACE = r"(?:(?<!\s)\s+)?"
NUMBER = r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?"
WHEN = re.compile(rf"\s*({NUMBER})\s*")
AND = re.compile(r"\bAND\b")
AND_WEIGHT = re.compile(SPACE + r":\s*([-+]?(?:\d+\.?|\d*\.\d+))\s*$")
BREAK = re.compile(SPACE + r"\bBREAK\b\s*")
TAG = re.compile(r"<(\w+):([^>]+)>")
EMPHASIS = re.compile(
    r"\\(?P<escaped>[()\[\]\\])|:\s*(?P<weight>[+-]?[.\d]+)\s*\)|(?P<bracket>[()\[\]])"
    r"|\\|(?P<text>[^\\()\[\]:]+|:)"  # a backslash before anything else vanishes
)


@dataclass(frozen=True)
class Piece:
    """Text with its weight; or, where `is_break`, the place where a chunk ends."""

    text: str
    weight: float = 1.0
    is_break: bool = False


@dataclass(frozen=True)
class Tag:
    """`<kind:name:1:te=0.5>`: what stands between the colons, plain and named."""

    kind: str
    values: tuple[str, ...]
    named: dict[str, str]


def take_tags(text: str) -> tuple[str, list[Tag]]:
    """The text without its `<...>` tags, and the tags in order."""
    tags = []
    # What is never closed is not searched: each "<" would be followed to the end of the text.
    end = text.rfind(">") + 1
    text, rest = text[:end], text[end:]
    for kind, inside in TAG.findall(text):
        values = inside.split(":")
        named = dict(value.split("=", 1) for value in values if "=" in value)
        tags.append(Tag(kind, tuple(v for v in values if "=" not in v), named))
    return TAG.sub("", text) + rest, tags


def split_and(text: str) -> list[tuple[str, float]]:
    """Prompts joined by AND, each with its weight, 1 where none is given.

    Raises ConfigError above MAX_PARTS: each is a prediction more in every step.
    """
    parts = []
    pieces = AND.split(text)
    if len(pieces) > MAX_PARTS:
        raise ConfigError(f"prompt: AND may join {MAX_PARTS} prompts, joins {len(pieces)}")
    for part in pieces:
        weight = AND_WEIGHT.search(part)
        bare = part[: weight.start()] if weight else part
        parts.append((bare, float(weight.group(1)) if weight else 1.0))
    return parts


# ------------------------------------------------------------------ emphasis


def emphasis(text: str) -> list[Piece]:
    """Pieces of equal weight, neighbours joined; a bracket never closed reaches to the end."""
    texts: list[str] = []
    weights = np.ones(2 * len(text) + 8)  # each character adds two pieces at most
    is_break: list[bool] = []
    opened: dict[str, list[int]] = {"(": [], "[": []}

    def add(text: str, marks_break: bool = False) -> None:
        texts.append(text)
        is_break.append(marks_break)

    def weigh(first: int, factor: float) -> None:
        with np.errstate(all="ignore"):
            weights[first : len(texts)] *= factor

    for match in EMPHASIS.finditer(text):
        bracket, weight = match["bracket"], match["weight"]
        if match["escaped"]:
            add(match["escaped"])
        elif bracket and bracket in "([":
            opened[bracket].append(len(texts))
        elif weight is not None and opened["("]:
            weigh(opened["("].pop(), number(weight))
        elif bracket == ")" and opened["("]:
            weigh(opened["("].pop(), STRONGER)
        elif bracket == "]" and opened["["]:
            weigh(opened["["].pop(), WEAKER)
        elif match.group() != "\\":
            for i, part in enumerate(BREAK.split(match.group())):
                if i > 0:
                    add("", marks_break=True)
                add(part)
    for first in opened["("]:
        weigh(first, STRONGER)
    for first in opened["["]:
        weigh(first, WEAKER)
    return joined(zip(texts, weights[: len(texts)].tolist(), is_break, strict=True))


def joined(parts: Iterator[tuple[str, float, bool]]) -> list[Piece]:
    """Neighbours of one weight as one piece."""
    pieces: list[Piece] = []
    for text, weight, marks_break in parts:
        if marks_break:
            pieces.append(Piece("", is_break=True))
        elif pieces and not pieces[-1].is_break and pieces[-1].weight == weight:
            pieces[-1] = Piece(pieces[-1].text + text, weight)
        else:
            pieces.append(Piece(text, weight))
    return pieces or [Piece("")]


def number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ConfigError(f"prompt: a weight must be a number, got {text!r}") from None


# ------------------------------------------------------------------ changes while sampling


@dataclass
class Change:
    """[before:after:when]; `when` is the last step (from 1) that still shows `before`."""

    before: list[Node]
    after: list[Node]
    when: str


@dataclass
class Alternation:
    options: list[list[Node]]


Node = str | Change | Alternation


def schedule(prompt: str, steps: int, first_pass_steps: int | None = None) -> list[tuple[int, str]]:
    """(last step, text) in order: step k, counted from 1, uses the first entry with last >= k.

    `first_pass_steps`: given in a second pass (hires fix), in which the shares 1.0 to 2.0 and the
    steps after those of the first pass are meant.
    A prompt with a "|" outside square brackets, or with a lone backslash at its end, is taken as it
    stands: A1111's parser gives up there.
    """
    nodes = parse(prompt)
    if nodes is None:
        return [(steps, prompt)]
    ends = {steps}
    for node in walk(nodes):
        if isinstance(node, Change):
            end = end_of(node, steps, first_pass_steps)
            if end >= 1:
                ends.add(end)
        else:
            ends.update(range(1, steps + 1))
    return [(end, at_step(nodes, end, steps, first_pass_steps)) for end in sorted(ends)]


def end_of(change: Change, steps: int, first_pass_steps: int | None) -> int:
    value = float(change.when)
    if "." in change.when:
        value = (value - (0.0 if first_pass_steps is None else 1.0)) * steps
    else:
        value -= first_pass_steps or 0
    return int(min(float(steps), value))


def at_step(nodes: list[Node], step: int, steps: int, first_pass_steps: int | None) -> str:
    """The text that holds at a step, from 1."""
    texts = []
    for node in nodes:
        if isinstance(node, str):
            texts.append(node)
            continue
        if isinstance(node, Change):
            early = step <= end_of(node, steps, first_pass_steps)
            shown = node.before if early else node.after
        else:
            shown = node.options[(step - 1) % len(node.options)]
        texts.append(at_step(shown, step, steps, first_pass_steps))
    return "".join(texts)


def walk(nodes: list[Node]) -> Iterator[Change | Alternation]:
    for node in nodes:
        if isinstance(node, str):
            continue
        yield node
        inner = [node.before, node.after] if isinstance(node, Change) else node.options
        for part in inner:
            yield from walk(part)


@dataclass
class Frame:
    """A bracket that is open while the text is read: its parts, and what parted them."""

    opening: str = ""
    parts: list[list[Node]] = field(default_factory=lambda: [[]])
    separators: list[str] = field(default_factory=list)

    def close(self, closing: str) -> list[Node]:
        if self.opening == "[":
            special = self._change() or self._alternation()
            if special:
                return [special]
        return [self.opening, *self._plain(0, len(self.parts)), closing]

    def _change(self) -> Change | None:
        colons = [i for i, separator in enumerate(self.separators) if separator == ":"]
        last = self.parts[-1]
        when = WHEN.fullmatch("".join(map(str, last))) if self._is_text(last) else None
        if when is None or len(colons) not in (1, 2) or self.separators[-1] != ":":
            return None
        middle = colons[0] + 1 if len(colons) == 2 else 0
        before = self._plain(0, middle) if middle else []
        return Change(before, self._plain(middle, len(self.parts) - 1), when.group(1))

    def _alternation(self) -> Alternation | None:
        if not self.separators or ":" in self.separators:
            return None
        return Alternation(self.parts)

    def _plain(self, first: int, end: int) -> list[Node]:
        """Parts first..end with the separators between them back in place."""
        nodes = list(self.parts[first])
        for i in range(first + 1, end):
            nodes += [self.separators[i - 1], *self.parts[i]]
        return nodes

    @staticmethod
    def _is_text(part: list[Node]) -> bool:
        return all(isinstance(node, str) for node in part)


def parse(prompt: str) -> list[Node] | None:
    """Text, changes and alternations; brackets without a partner are text.

    None for a prompt that cannot be read: see `schedule`.
    """
    partners = matched(prompt)
    frames = [Frame()]
    at = 0
    while at < len(prompt):
        character = prompt[at]
        width = 2 if character == "\\" else 1
        top = frames[-1]
        if at in partners and character in "([":
            frames.append(Frame(character))
            if len(frames) > MAX_DEPTH:
                raise ConfigError(f"prompt: brackets must not nest deeper than {MAX_DEPTH}")
        elif at in partners:
            frames.pop()
            frames[-1].parts[-1] += top.close(character)
        elif character in ":|" and top.opening == "[":
            top.separators.append(character)
            top.parts.append([])
        elif character == "|" or at + width > len(prompt):
            return None
        else:
            top.parts[-1].append(prompt[at : at + width])
        at += width
    return frames[0].parts[0]


def matched(prompt: str) -> set[int]:
    """Places of the brackets that have partners.

    A closing bracket of the wrong kind leaves every bracket that is open without one.
    """
    places: set[int] = set()
    opened: list[int] = []
    at = 0
    while at < len(prompt):
        character = prompt[at]
        if character == "\\":
            at += 1
        elif character in "([":
            opened.append(at)
        elif character in ")]":
            if opened and prompt[opened[-1]] + character in ("()", "[]"):
                places |= {opened.pop(), at}
            else:
                opened.clear()
        at += 1
    return places
