"""From a prompt to chunks of tokens, as long as the text towers take them, with weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from accel.core import ConfigError
from accel.text.bpe import END, START
from accel.text.prompt import Piece

CHUNK = 75  # tokens between start and end
COMMA = 267  # ",</w>"
PLACEHOLDER = 0  # what A1111 takes; any but the end will do
COMMA_REACH = 20  # a chunk that is full ends at its last comma, if that is so near


Words = tuple[int, ...]  # token ids of what stands for an embedding


@dataclass
class Chunk:
    """Tokens and weights; 75 of each, or 77 once `finish` put start and end around them.

    inserted: (place, words) of each embedding; its tokens are PLACEHOLDERs.
    """

    tokens: list[int] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    inserted: list[tuple[int, Words]] = field(default_factory=list)

    def add(self, token: int, weight: float) -> None:
        self.tokens.append(token)
        self.weights.append(weight)

    def insert(self, words: Words, count: int, weight: float) -> None:
        self.inserted.append((len(self.tokens), words))
        self.tokens += [PLACEHOLDER] * count
        self.weights += [weight] * count

    def split(self, at: int) -> Chunk:
        """Cut this chunk short; the rest is the new one."""
        moved = [(place - at, words) for place, words in self.inserted if place >= at]
        rest = Chunk(self.tokens[at:], self.weights[at:], moved)
        del self.tokens[at:], self.weights[at:]
        self.inserted = self.inserted[: len(self.inserted) - len(moved)]
        return rest

    def finish(self, size: int = CHUNK) -> Chunk:
        missing = size - len(self.tokens)
        tokens = [START, *self.tokens, *[END] * (missing + 1)]
        inserted = [(1 + place, words) for place, words in self.inserted]
        return Chunk(tokens, [1.0, *self.weights, *[1.0] * (missing + 1)], inserted)


def chunk(
    pieces: Sequence[Piece],
    encode: Callable[[str], list[int]],
    comma_reach: int = COMMA_REACH,  # 0: words are cut wherever the chunk is full
    size: int = CHUNK,  # tokens a chunk, without start and end
    embeddings: Mapping[Words, int] | None = None,  # words -> vectors that take their place
) -> list[Chunk]:
    """At least one chunk of `size` + 2. Pieces are encoded apart: no token spans two weights.

    An embedding is found by its tokens, the longest first; one that does not fit any more begins a
    chunk. Raises ConfigError for one that fits no chunk.
    """
    chunks: list[Chunk] = []
    current, last_comma = Chunk(), -1
    by_first = sorted_by_first(embeddings or {}, size)
    for piece in pieces:
        if piece.is_break:
            chunks.append(current.finish(size))
            current, last_comma = Chunk(), -1
            continue
        tokens, at = encode(piece.text), 0
        while at < len(tokens):
            token = tokens[at]
            full = len(current.tokens) == size
            if token == COMMA:
                last_comma = len(current.tokens)
            elif full and last_comma >= 0 and size - last_comma <= comma_reach:
                rest = current.split(last_comma + 1)
                chunks.append(current.finish(size))
                current, last_comma = rest, -1
            found = next(
                (w for w in by_first.get(token, ()) if tuple(tokens[at : at + len(w)]) == w), None
            )
            count = 1 if found is None else (embeddings or {})[found]
            if len(current.tokens) + count > size:
                chunks.append(current.finish(size))
                current, last_comma = Chunk(), -1
            if found is None:
                current.add(token, piece.weight)
            else:
                current.insert(found, count, piece.weight)
            at += 1 if found is None else len(found)
    if current.tokens or not chunks:
        chunks.append(current.finish(size))
    return chunks


def sorted_by_first(embeddings: Mapping[Words, int], size: int) -> dict[int, list[Words]]:
    """Embeddings by their first token, the longest first: that one is meant where several fit."""
    by_first: dict[int, list[Words]] = {}
    for words in sorted(embeddings, key=len, reverse=True):
        if not words:
            raise ValueError("chunk: an embedding's words must not be empty")
        if not 0 < embeddings[words] <= size:
            raise ConfigError(
                f"prompt: an embedding must have 1..{size} vectors, got {embeddings[words]}"
            )
        by_first.setdefault(words[0], []).append(words)
    return by_first


def padded(tokens: Sequence[int], padding: int) -> list[int]:
    """OpenCLIP's towers were trained with another token after the end than CLIP-L's end itself."""
    end = tokens.index(END) + 1
    return [*tokens[:end], *[padding] * (len(tokens) - end)]
