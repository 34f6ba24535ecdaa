"""From prompts to what the network is told at each step.

A prompt is one text or several joined by AND; each may change from step to step. What it says at a
step is cut into chunks, each chunk encoded alone, and the results joined along the tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from accel.core import ConfigError
from accel.models.embedding import EmbeddingSet, Insert
from accel.models.load import Loaded
from accel.models.stable_diffusion import Conditioning
from accel.text.bpe import END, START, clip_tokenizer
from accel.text.chunks import Chunk, chunk, padded
from accel.text.emphasis import emphasised, pieces
from accel.text.prompt import schedule, split_and, take_tags
from accel.text.rows import RowMap
from accel.weights.embedding import Embedding, open_embedding

MAX_CHARACTERS = 100_000
MAX_TOKENS = 75 * 100  # a longer prompt is a mistake, and would take the memory of many


@dataclass(frozen=True)
class Part:
    """One of the texts joined by AND: its weight, and (last step, counted from 1; what it says)."""

    weight: float
    stages: Sequence[tuple[int, Conditioning]]

    def at(self, step: int) -> Conditioning:  # step counts from 0
        for last, conditioning in self.stages:
            if step < last:
                return conditioning
        return self.stages[-1][1]


@dataclass(frozen=True)
class Plan:
    """Everything that one run's prompts say."""

    parts: Sequence[Part]
    negative: Part


class TextEncoder:
    """A model's towers with its tokenizer; remembers what it has encoded.

    Call `forget` when the towers' weights change.
    """

    def __init__(
        self,
        loaded: Loaded,
        rows: RowMap | None,
        device: torch.device,
        embeddings: Mapping[str, Path] | None = None,
    ):
        """embeddings: files of textual inversion, by the word that stands for each."""
        self.loaded, self.rows, self.device = loaded, rows, device
        self.tokenizer = loaded.tokenizer or clip_tokenizer()
        self._files = dict(embeddings or {})
        self._opened: dict[str, Embedding | None] = {}
        self._known: dict[tuple[str, int, str], Conditioning] = {}

    def forget(self) -> None:
        self._known.clear()

    def plan(
        self,
        prompt: str,
        negative: str,
        steps: int,
        *,
        clip_skip: int = 1,
        style: str = "original",  # of emphasis
        first_pass_steps: int | None = None,
    ) -> Plan:
        def part(text: str, weight: float) -> Part:
            stages = schedule(text, steps, first_pass_steps)
            return Part(weight, [(last, self.encode(t, clip_skip, style)) for last, t in stages])

        check_length(prompt)
        check_length(negative)
        parts = [part(text, weight) for text, weight in split_and(take_tags(prompt)[0])]
        return Plan(parts, part(take_tags(negative)[0], 1.0))

    @torch.inference_mode()
    def encode(self, text: str, clip_skip: int = 1, style: str = "original") -> Conditioning:
        """One text, emphasis in it, without changes, AND and tags.

        The context is [1, tokens, width], the tokens of all chunks in a row; the pooled vector is
        the first chunk's. Raises ConfigError for a text of more than MAX_TOKENS tokens.
        """
        key = (text, clip_skip, style)
        if key not in self._known:
            if len(self._known) > 256:  # alternating prompts of many runs
                self._known.clear()
            self._known[key] = self._encode(text, clip_skip, style)
        return self._known[key]

    def _encode(self, text: str, clip_skip: int, style: str) -> Conditioning:
        size = self.loaded.model.config.towers[0].config.length - 2
        known = self.embeddings_for(text)
        chunks = chunk(
            pieces(text, style), self.tokenizer.encode, size=size, embeddings=known.words
        )
        if len(chunks) * size > MAX_TOKENS:
            raise ConfigError(
                f"prompt: must have at most {MAX_TOKENS} tokens, got about {len(chunks) * size}"
            )
        encoded = [self._encode_chunk(one, clip_skip, style, known.insert([one])) for one in chunks]
        return Conditioning(torch.cat([e.context for e in encoded], dim=1), encoded[0].pooled)

    def embeddings_for(self, text: str) -> EmbeddingSet:
        """The embeddings that a text may name; those of other base models are passed over."""
        widths = [tower.config.width for tower in self.loaded.model.config.towers]
        fitting = []
        for word, path in self._files.items():
            if word.lower() not in text.lower():
                continue
            if word not in self._opened:
                opened = open_embedding(path)
                fits = [vectors.shape[1] for vectors in opened.vectors] == widths
                self._opened[word] = opened if fits else None
            embedding = self._opened[word]
            if embedding is not None:
                fitting.append(embedding)
        return EmbeddingSet(self.loaded.model, fitting, self.tokenizer.encode)

    def embeddings_in(self, text: str) -> dict[str, Path]:
        """The files whose words a prompt really holds, by word."""
        known = self.embeddings_for(text)
        encode = self.tokenizer.encode
        chunks = chunk(pieces(take_tags(text)[0]), encode, embeddings=known.words)
        found = {words for one in chunks for _, words in one.inserted}
        return {word: path for word, path in self._files.items() if tuple(encode(word)) in found}

    def _encode_chunk(
        self, one: Chunk, clip_skip: int, style: str, insert: Insert | None
    ) -> Conditioning:
        if all(weight == 1.0 for weight in one.weights):
            return self.loaded.model.encode_text(self.tokens(one.tokens), clip_skip, insert=insert)
        empties = iter(self._empty(len(one.tokens), clip_skip) if style == "comfy" else ())

        def weigh(hidden: Tensor) -> Tensor:  # called once a tower, in their order
            return emphasised(hidden, [one.weights], style, next(empties, None))

        return self.loaded.model.encode_text(self.tokens(one.tokens), clip_skip, weigh, insert)

    def _empty(self, length: int, clip_skip: int) -> list[Tensor]:
        """What each tower makes of a prompt without words."""
        empty: list[Tensor] = []

        def keep(hidden: Tensor) -> Tensor:
            empty.append(hidden)
            return hidden

        tokens = [START, *[END] * (length - 1)]
        self.loaded.model.encode_text(self.tokens(tokens), clip_skip, keep)
        return empty

    def tokens(self, ids: list[int]) -> list[Tensor]:  # per tower [1, length]
        """Ids as each tower wants them: padded with its own token, or as rows of a short table."""
        if self.rows is not None:
            known = {START: 0, END: 1}
            rows = [known[i] if i in known else self.rows.row(i) for i in ids]
            return [torch.tensor([rows], device=self.device)]
        towers = self.loaded.model.config.towers
        every = [self.tokenizer.own(padded(ids, tower.padding)) for tower in towers]
        return [torch.tensor([own], device=self.device) for own in every]


def check_length(prompt: str) -> None:
    if not isinstance(prompt, str):
        raise ConfigError(f"prompt: must be text, got {type(prompt).__name__}")
    if len(prompt) > MAX_CHARACTERS:
        raise ConfigError(
            f"prompt: must have at most {MAX_CHARACTERS} characters, got {len(prompt)}"
        )
    if any("\ud800" <= character <= "\udfff" for character in prompt):
        raise ConfigError("prompt: must be whole characters, got halves or bytes of no encoding")
