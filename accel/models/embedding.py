"""Textual inversion on a loaded model: words found in prompts, vectors put into text towers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from accel.core import InputError
from accel.models.stable_diffusion import StableDiffusion
from accel.nn.text import ClipText, OpenClipText, TextTower
from accel.text.chunks import Chunk, Words
from accel.weights.embedding import Embedding

Insert = Callable[[int, Tensor], Tensor]  # for StableDiffusion.encode_text


class EmbeddingSet:
    """Embeddings that prompts may name.

    `words` goes to chunks.chunk, what `insert` gives to StableDiffusion.encode_text:

        chunks = chunk(pieces(text), encode, embeddings=embeddings.words)
        for one in chunks:
            model.encode_text(tokens(one), insert=embeddings.insert([one]))
    """

    def __init__(
        self,
        model: StableDiffusion,
        embeddings: Iterable[Embedding],
        encode: Callable[[str], list[int]],
    ):
        """Raises InputError, with the name, for an embedding of another base model."""
        self.model = model
        self._known: dict[Words, Embedding] = {}
        widths = [tower.config.width for tower in model.config.towers]
        for embedding in embeddings:
            got = [vectors.shape[1] for vectors in embedding.vectors]
            if got != widths:
                raise InputError(
                    f"{embedding.name}: is an embedding for another base model: its vectors are"
                    f" {got} long, the text towers' {widths}"
                )
            words = tuple(encode(embedding.name))
            if words:
                self._known[words] = embedding

    @property
    def words(self) -> dict[Words, int]:
        return {words: embedding.count for words, embedding in self._known.items()}

    def insert(self, chunks: Sequence[Chunk]) -> Insert | None:
        """For chunks that are encoded in one batch; None where no embedding is in them."""
        if not any(chunk.inserted for chunk in chunks):
            return None

        def put(tower: int, embedded: Tensor) -> Tensor:  # [B, length, width] with positions
            positions = positions_of(self.model.towers[tower])
            out = embedded.clone()
            for row, chunk in enumerate(chunks):
                for place, words in chunk.inserted:
                    vectors = self._known[words].vectors[tower].to(out)
                    where = slice(place, place + len(vectors))
                    out[row, where] = vectors + positions[where].to(out.dtype)
            return out

        return put


def positions_of(tower: torch.nn.Module) -> Tensor:  # [length, width]
    if isinstance(tower, ClipText):
        return tower.text_model.embeddings.position_embedding.weight
    if isinstance(tower, OpenClipText):
        return tower.positional_embedding
    raise TypeError(f"positions_of: takes a {TextTower.__name__}, got {type(tower).__name__}")
