"""Embeddings in prompts: where they go, and that they do what their vectors say."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from accel.core import ConfigError, InputError
from accel.models import stable_diffusion as sd
from accel.models.embedding import EmbeddingSet
from accel.nn.text import TextConfig
from accel.nn.unet import UnetConfig
from accel.nn.vae import VaeConfig
from accel.text.bpe import clip_tokenizer
from accel.text.chunks import PLACEHOLDER, chunk
from accel.text.prompt import emphasis
from accel.weights.embedding import Embedding

ENCODE = clip_tokenizer().encode
SMALL = TextConfig(width=16, layers=2, heads=2)


@pytest.fixture(scope="module", params=["sd1", "sdxl"])
def model(request):
    torch.manual_seed(0)
    base = sd.CONFIGS[request.param]
    widths = (16, 24)[: len(base.towers)]
    towers = tuple(
        replace(t, config=replace(SMALL, width=w, projection=w if t.open_clip else 0), from_last=1)
        for t, w in zip(base.towers, widths, strict=True)
    )
    unet = UnetConfig(channels=32, channel_mult=(1,), transformer_depth=(1,), res_blocks=1,
                      context_width=sum(widths), heads=2)  # fmt: skip
    config = replace(base, towers=towers, unet=unet, vae=VaeConfig(base_channels=32))
    return sd.build(config).eval().requires_grad_(False)


def tokens_of(model, one):
    return [torch.tensor([one.tokens]) for _ in model.towers]


def test_vectors_of_known_words_are_those_words(model):
    """An embedding made of two words' own vectors says exactly what the words say."""
    words = ENCODE("red apple")
    vectors = tuple(
        (t.text_model.embeddings.token_embedding if hasattr(t, "text_model") else t.token_embedding)
        .weight[words]
        .clone()
        for t in model.towers
    )
    embeddings = EmbeddingSet(model, [Embedding("zyx", vectors)], ENCODE)
    (one,) = chunk(emphasis("a photo of (zyx:1.3) , big"), ENCODE, embeddings=embeddings.words)
    (plain,) = chunk(emphasis("a photo of (red apple:1.3) , big"), ENCODE)
    assert one.weights == plain.weights
    assert one.inserted == [(4, tuple(ENCODE("zyx")))]
    got = model.encode_text(tokens_of(model, one), insert=embeddings.insert([one]))
    expected = model.encode_text(tokens_of(model, plain))
    torch.testing.assert_close(got.context, expected.context)
    assert embeddings.insert([plain]) is None


def test_refuses_embeddings_of_another_base(model):
    with pytest.raises(InputError, match="zyx: is an embedding for another base model"):
        EmbeddingSet(model, [Embedding("zyx", (torch.ones(1, 7),))], ENCODE)


A, AB = tuple(ENCODE("easynegative")), tuple(ENCODE("easynegative v2"))


def test_the_longest_name_is_found_first():
    (one,) = chunk(emphasis("easynegative v2, easynegative"), ENCODE, embeddings={A: 2, AB: 3})
    assert [words for _, words in one.inserted] == [AB, A]
    assert one.tokens[1:4] == [PLACEHOLDER] * 3
    assert one.tokens[5:7] == [PLACEHOLDER] * 2


def test_one_that_does_not_fit_begins_a_chunk():
    first, second = chunk(emphasis("cat " * 70 + "easynegative"), ENCODE, embeddings={A: 8})
    assert not first.inserted
    assert second.inserted == [(1, A)]
    assert second.tokens[1:10] == [PLACEHOLDER] * 8 + [second.tokens[-1]]


def test_the_comma_rule_takes_them_along():
    text = "cat " * 70 + ", easynegative dog dog dog"
    first, second = chunk(emphasis(text), ENCODE, embeddings={A: 3})
    assert not first.inserted
    assert second.inserted == [(1, A)]
    assert len(second.tokens) == len(second.weights) == 77


def test_refuses_one_longer_than_a_chunk():
    with pytest.raises(ConfigError, match=r"an embedding must have 1\.\.75 vectors, got 76"):
        chunk(emphasis("easynegative"), ENCODE, embeddings={A: 76})
