"""From a prompt to chunks of tokens, as long as the text towers take them, with weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from accel.text.bpe import END, START
from accel.text.prompt import Piece

CHUNK = 75  # tokens between start and end
COMMA = 267  # ",</w>"
COMMA_REACH = 20  # a chunk that is full ends at its last comma, if that is so near


@dataclass
class Chunk:
    """Tokens and weights; 75 of each, or 77 once `finish` put start and end around them."""

    tokens: list[int] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)

    def add(self, token: int, weight: float) -> None:
        self.tokens.append(token)
        self.weights.append(weight)

    def split(self, at: int) -> Chunk:
        """Cut this chunk short; the rest is the new one."""
        rest = Chunk(self.tokens[at:], self.weights[at:])
        del self.tokens[at:], self.weights[at:]
        return rest

    def finish(self, size: int = CHUNK) -> Chunk:
        missing = size - len(self.tokens)
        tokens = [START, *self.tokens, *[END] * (missing + 1)]
        return Chunk(tokens, [1.0, *self.weights, *[1.0] * (missing + 1)])


def chunk(
    pieces: Sequence[Piece],
    encode: Callable[[str], list[int]],
    comma_reach: int = COMMA_REACH,  # 0: words are cut wherever the chunk is full
    size: int = CHUNK,  # tokens a chunk, without start and end
) -> list[Chunk]:
    """At least one chunk of `size` + 2. Pieces are encoded apart: no token spans two weights."""
    chunks: list[Chunk] = []
    current, last_comma = Chunk(), -1
    for piece in pieces:
        if piece.is_break:
            chunks.append(current.finish(size))
            current, last_comma = Chunk(), -1
            continue
        for token in encode(piece.text):
            full = len(current.tokens) == size
            if token == COMMA:
                last_comma = len(current.tokens)
            elif full and last_comma >= 0 and size - last_comma <= comma_reach:
                rest = current.split(last_comma + 1)
                chunks.append(current.finish(size))
                current, last_comma = rest, -1
            if len(current.tokens) == size:
                chunks.append(current.finish(size))
                current, last_comma = Chunk(), -1
            current.add(token, piece.weight)
    if current.tokens or not chunks:
        chunks.append(current.finish(size))
    return chunks


def padded(tokens: Sequence[int], padding: int) -> list[int]:
    """OpenCLIP's towers were trained with another token after the end than CLIP-L's end itself."""
    end = tokens.index(END) + 1
    return [*tokens[:end], *[padding] * (len(tokens) - end)]
