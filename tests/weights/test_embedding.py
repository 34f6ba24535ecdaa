"""Embeddings from all the forms in which people keep them."""

from __future__ import annotations

import base64
import json
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, PngImagePlugin
from safetensors.torch import save_file

from accel.core import InputError
from accel.weights.embedding import open_embedding, unscrambled

VECTORS = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))


def as_json():
    tensor = {"TORCHTENSOR": VECTORS.tolist()}
    return json.dumps(
        {"string_to_token": {"*": 265}, "string_to_param": {"*": tensor}, "name": "x"}
    )


def check(path, expected=(VECTORS,)):
    got = open_embedding(path)
    assert got.name == "cat-style"
    assert got.count == 3
    for vectors, wanted in zip(got.vectors, expected, strict=True):
        torch.testing.assert_close(vectors, wanted)


def test_a1111s_file(tmp_path):
    path = tmp_path / "cat-style.pt"
    token = {"*": torch.tensor(265)}
    param = {"*": VECTORS.clone().requires_grad_()}
    torch.save({"string_to_token": token, "string_to_param": param, "name": "x", "step": 9}, path)
    check(path)


def test_the_inventors_file(tmp_path):
    path = tmp_path / "cat-style.pt"
    param = torch.nn.ParameterDict({"*": torch.nn.Parameter(VECTORS)})
    torch.save({"string_to_token": {"*": torch.tensor(265)}, "string_to_param": param}, path)
    check(path)


def test_diffusers_files(tmp_path):
    torch.save({"<cat>": VECTORS}, tmp_path / "cat-style.bin")
    check(tmp_path / "cat-style.bin")
    save_file({"<cat>": VECTORS}, tmp_path / "cat-style.safetensors")
    check(tmp_path / "cat-style.safetensors")
    save_file({"<cat>": VECTORS[0]}, tmp_path / "one.safetensors")
    assert open_embedding(tmp_path / "one.safetensors").vectors[0].shape == (1, 8)


def test_emb_params_in_half_precision(tmp_path):
    save_file({"emb_params": VECTORS.half()}, tmp_path / "cat-style.safetensors")
    check(tmp_path / "cat-style.safetensors", (VECTORS.half().float(),))


def test_sdxl(tmp_path):
    wide = torch.randn(3, 12)
    save_file({"clip_g": wide, "clip_l": VECTORS}, tmp_path / "cat-style.safetensors")
    check(tmp_path / "cat-style.safetensors", (VECTORS, wide))
    save_file({"clip_g": wide[:2], "clip_l": VECTORS}, tmp_path / "bad.safetensors")
    with pytest.raises(InputError, match="must have equally many vectors"):
        open_embedding(tmp_path / "bad.safetensors")


def test_a_pictures_text(tmp_path):
    about = PngImagePlugin.PngInfo()
    about.add_text("sd-ti-embedding", base64.b64encode(as_json().encode()).decode())
    Image.new("RGB", (8, 8), "red").save(tmp_path / "cat-style.png", pnginfo=about)
    check(tmp_path / "cat-style.png")


def test_a_pictures_pixels(tmp_path):
    """Low halves of the bytes left of the picture, high halves right of it, dark lines between."""
    height = 40
    data = np.frombuffer(zlib.compress(as_json().encode(), 9), np.uint8)
    data = np.resize(data, -(-len(data) // (height * 3)) * height * 3).reshape(height, -1, 3)
    style = np.uint8(0x50)  # the high bits make it look like something
    left, right = (unscrambled(half) | style for half in (data & 0x0F, data >> 4))
    line = np.zeros((height, 1, 3), np.uint8)
    picture = np.full((height, 30, 3), 200, np.uint8)
    pixels = np.concatenate([left, line, picture, line, right], axis=1)
    framed = np.pad(pixels, ((5, 4), (3, 2), (0, 0)))  # cut off again: it is black
    Image.fromarray(framed).save(tmp_path / "cat-style.png")
    check(tmp_path / "cat-style.png")


@pytest.mark.parametrize("kind", ["plain", "black", "broken text", "no params", "words"])
def test_refuses_pictures_without(kind, tmp_path):
    path, about = tmp_path / "x.png", PngImagePlugin.PngInfo()
    texts = {
        "broken text": "%%%",
        "no params": base64.b64encode(b'{"name": 1}').decode(),
        "words": base64.b64encode(b'{"string_to_param": {"*": {"TORCHTENSOR": "a"}}}').decode(),
    }
    if kind in texts:
        about.add_text("sd-ti-embedding", texts[kind])
    Image.new("RGB", (8, 8), "black" if kind == "black" else "red").save(path, pnginfo=about)
    with pytest.raises(InputError, match=str(path)):
        open_embedding(path)


def test_refuses_other_files(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        open_embedding(tmp_path / "none.pt")
    path = tmp_path / "x.safetensors"
    save_file({"a": VECTORS, "b": VECTORS.clone()}, path)
    with pytest.raises(InputError, match=r"must hold one embedding, got 2 tensors \(a, b\)"):
        open_embedding(path)
    save_file({"a": VECTORS[None]}, path)
    with pytest.raises(InputError, match=r"a must be \[n, width\], got \(1, 3, 8\)"):
        open_embedding(path)
    save_file({"a": VECTORS / 0}, path)
    with pytest.raises(InputError, match="a must hold finite numbers"):
        open_embedding(path)


def test_a_checkpoint_is_no_embedding(tmp_path):
    """Its tensors are not copied before that is said."""
    path = tmp_path / "large.safetensors"
    told = {"t": {"dtype": "F32", "shape": [1 << 25], "data_offsets": [0, 1 << 27]}}
    text = json.dumps(told).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + (1 << 27))
    with pytest.raises(InputError, match="must hold an embedding of 16777216 numbers at most"):
        open_embedding(path)


def test_noise_is_that_of_a_loop():
    state, noise = 0, []
    for _ in range(1000):
        state = (1664525 * state + 1013904223) % (1 << 32)
        noise.append(state % 255 & 0x0F)
    assert unscrambled(np.zeros((10, 100), np.uint8)).ravel().tolist() == noise
