"""CLIP's byte-pair tokenizer.

Source: Radford et al. 2021 (arXiv:2103.00020); the merges are OpenAI's, see assets/licenses.
Text is composed (NFC), lower-cased and its white space made single before it is split.
"""

from __future__ import annotations

import functools
import gzip
import re
import unicodedata
from heapq import heapify, heappop, heappush
from importlib import resources
from itertools import pairwise

START, END = 49406, 49407
START_TEXT, END_TEXT = "<|startoftext|>", "<|endoftext|>"
SPECIAL = {START_TEXT: START, END_TEXT: END}
WORD_END = "</w>"
MOST_MARKS = 256  # in a row; no writing stacks more than thirty (UAX 15, stream-safe text)
MERGES_FILE = "clip_bpe_merges.txt.gz"
CONTRACTION = re.compile("'s|'t|'re|'ve|'m|'ll|'d")
SPECIAL_PATTERN = re.compile("(" + "|".join(re.escape(text) for text in SPECIAL) + ")")


class BpeTokenizer:
    """Turns text into ids 0..49405 and back; knows nothing of chunks, start and end.

    vocabulary: ids of another one than CLIP's; what it has not is its unknown word, the end.
    START and END stand for its own start and end: see `own`.
    """

    def __init__(self, merges: list[tuple[str, str]], vocabulary: dict[str, int] | None = None):
        alphabet = list(byte_symbols().values())
        tokens = alphabet + [symbol + WORD_END for symbol in alphabet]
        tokens += ["".join(pair) for pair in merges] + list(SPECIAL)
        self.ids = {token: i for i, token in enumerate(tokens)}
        self.tokens = tokens
        self.ranks = {pair: rank for rank, pair in enumerate(merges)}
        self._words: dict[str, list[int]] = {}
        self.special: dict[int, int] = {}
        if vocabulary is not None:
            self.ids = vocabulary
            self.tokens = sorted(vocabulary, key=vocabulary.__getitem__)
            self.special = {START: vocabulary[START_TEXT], END: vocabulary[END_TEXT]}

    def own(self, ids: list[int]) -> list[int]:
        """Ids as the vocabulary has them, its start and end too."""
        return [self.special.get(i, i) for i in ids]

    def encode(self, text: str) -> list[int]:
        """Ids of `text`, without start and end (unless the text spells them out)."""
        ids: list[int] = []
        for piece in SPECIAL_PATTERN.split(clean(text)):
            if piece in SPECIAL:
                ids.append(SPECIAL[piece])
            else:
                for word in split_words(piece):
                    ids += self._encode_word(word)
        return ids

    def decode(self, ids: list[int]) -> str:
        symbols = "".join(self.tokens[i] for i in ids if i < START)
        values = {symbol: byte for byte, symbol in byte_symbols().items()}
        raw = symbols.replace(WORD_END, " ")
        return bytes(values.get(c, ord(" ")) for c in raw).decode("utf-8", "replace").rstrip()

    def _encode_word(self, word: str) -> list[int]:
        known = self._words.get(word)
        if known is None:
            symbols = byte_symbols()
            parts = [symbols[byte] for byte in word.encode()]
            parts[-1] += WORD_END
            unknown = self.special.get(END, END)
            known = [self.ids.get(part, unknown) for part in self._merge(parts)]
            self._words[word] = known
        return known

    def _merge(self, parts: list[str]) -> list[str]:
        """Join neighbours, the pair that was learnt first before all others, until none is left.

        In time with the length of a word times its logarithm: a prompt may be one word.
        """
        ranks, count = self.ranks, len(parts)
        before, after = list(range(-1, count - 1)), list(range(1, count + 1))
        waiting = [(ranks[pair], at) for at, pair in enumerate(pairwise(parts)) if pair in ranks]
        heapify(waiting)
        while waiting:
            rank, left = heappop(waiting)
            right = after[left]
            if right == count or ranks.get((parts[left], parts[right])) != rank:
                continue  # one of the two was joined to another since
            parts[left] += parts[right]
            parts[right] = ""
            after[left] = after[right]
            if after[left] < count:
                before[after[left]] = left
            for one in (before[left], left):
                if one >= 0 and after[one] < count:
                    pair = (parts[one], parts[after[one]])
                    if pair in ranks:
                        heappush(waiting, (ranks[pair], one))
        return [part for part in parts if part]


@functools.cache
def clip_tokenizer() -> BpeTokenizer:
    """The tokenizer that every Stable Diffusion text tower shares."""
    packed = resources.files("accel.assets").joinpath(MERGES_FILE).read_bytes()
    lines = gzip.decompress(packed).decode().splitlines()
    return BpeTokenizer([(a, b) for a, b in (line.split(" ") for line in lines)])


@functools.cache
def byte_symbols() -> dict[int, str]:
    """A printable character for each byte: itself where it is one, else one above U+0100.

    Insertion order is that of the vocabulary.
    """
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    symbols = {byte: chr(byte) for byte in printable}
    for byte in range(256):
        if byte not in symbols:
            symbols[byte] = chr(256 + len(symbols) - len(printable))
    return symbols


def clean(text: str) -> str:
    return " ".join(composed(text).split()).lower()


def composed(text: str) -> str:
    """NFC; where marks follow one another without end, in pieces.

    They are sorted in time with the square of their number: a prompt of them took five seconds.
    """
    if text.isascii():
        return text
    pieces, begin, marks = [], 0, 0
    for at, character in enumerate(text):
        marks = marks + 1 if unicodedata.combining(character) else 0
        if marks == MOST_MARKS:
            pieces.append(text[begin:at])
            begin, marks = at, 0
    pieces.append(text[begin:])
    return "".join(unicodedata.normalize("NFC", piece) for piece in pieces)


def split_words(text: str) -> list[str]:
    """Runs of letters, single numerals, runs of anything else that is not white space."""
    words: list[str] = []
    at = 0
    while at < len(text):
        kind = kind_of(text[at])
        contraction = CONTRACTION.match(text, at)
        end = at + 1
        if contraction:
            end = contraction.end()
        elif kind in "L*":
            while end < len(text) and kind_of(text[end]) == kind:
                end += 1
        if kind != " ":
            words.append(text[at:end])
        at = end
    return words


def kind_of(character: str) -> str:
    """`L` letter, `N` numeral, ` ` white space, `*` all else (marks of accents among them)."""
    if character.isspace():
        return " "
    major = unicodedata.category(character)[0]
    return major if major in "LN" else "*"
