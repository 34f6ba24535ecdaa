"""Models by name and hash, in the folders in which people keep them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import accel
from accel.cli import main
from accel.core import ConfigError, InputError
from accel.pipelines.generate import hashes
from accel.pipelines.generate.infotext import parse
from accel.pipelines.generate.model_folders import ModelFolders
from accel.pipelines.generate.output import text_of
from accel.text.prompt import take_tags
from accel.weights.assets import asset

TARGET = "lora_unet_input_blocks_5_1_transformer_blocks_0_attn2_to_v"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("work") / "models"
    (root / "Stable-diffusion" / "old").mkdir(parents=True)
    (root / "Lora").mkdir()
    (root / "embeddings").mkdir()
    nano = asset("nano.safetensors").read_bytes()
    (root / "Stable-diffusion" / "old" / "small.safetensors").write_bytes(nano)
    random = torch.Generator().manual_seed(0)
    down, up = torch.randn(4, 192, generator=random), torch.randn(144, 4, generator=random)
    lora = {f"{TARGET}.lora_down.weight": down, f"{TARGET}.lora_up.weight": up}
    save_file(lora, root / "Lora" / "Style v1.safetensors", {"ss_output_name": "first_style"})
    other = {f"lora_unet_nowhere.{name.split('.', 1)[1]}": 2 * t for name, t in lora.items()}
    save_file(other, root / "Lora" / "foreign.safetensors")
    save_file({"emb_params": torch.randn(2, 192, generator=random)},
              root / "embeddings" / "glowing.safetensors")  # fmt: skip
    save_file({"emb_params": torch.randn(2, 768)}, root / "embeddings" / "large.safetensors")
    return root


def test_finds_by_name_and_hash(root):
    folders = ModelFolders(root)
    model = root / "Stable-diffusion" / "old" / "small.safetensors"
    digits = hashlib.sha256(model.read_bytes()).hexdigest()
    for name in ("small", "small.safetensors", "old/small", "SMALL", digits, digits[:10], model):
        assert folders.find("checkpoint", name) == model
    lora = root / "Lora" / "Style v1.safetensors"
    data = lora.read_bytes()
    tensors = data[8 + int.from_bytes(data[:8], "little") :]
    for name in ("Style v1", "first_style", hashlib.sha256(tensors).hexdigest()[:12]):
        assert folders.find("lora", name) == lora


def test_says_what_is_near(root):
    folders = ModelFolders(root)
    with pytest.raises(ConfigError, match=r"no lora is called 'Stile v1'.*near: Style v1"):
        folders.find("lora", "Stile v1")
    (root / "Lora" / "sub").mkdir(exist_ok=True)
    twin = root / "Lora" / "sub" / "foreign.safetensors"
    twin.write_bytes((root / "Lora" / "foreign.safetensors").read_bytes())
    try:
        with pytest.raises(ConfigError, match="must mean one lora, but 2 fit"):
            ModelFolders(root).find("lora", "foreign")
    finally:
        twin.unlink()


def test_words_mean_models_before_files_and_tags_mean_nothing_else(root, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("Style v1", "ink", "own"):
        (tmp_path / name).write_text("no model")
    folders = ModelFolders(root)
    assert folders.find("lora", "Style v1").parent.name == "Lora"
    assert folders.find("lora", "ink").name == "nano_ink_lora.safetensors"
    assert folders.find("lora", "own") == Path("own")
    with pytest.raises(ConfigError, match="no lora is called 'own'"):
        folders.find("lora", "own", anywhere=False)


def test_a_tag_says_a_hash_where_it_cannot_say_the_name(tmp_path):
    (tmp_path / "Lora" / "other").mkdir(parents=True)
    for name in ("a=b:c", "twin", "other/twin", "plain"):
        torch.manual_seed(len(name))
        key = "lora_unet_middle_block_1_transformer_blocks_0_attn1_to_q"
        nano = accel.load("nano").loaded.model.unet
        width = nano.middle_block[1].transformer_blocks[0].attn1.to_q.weight.shape[0]
        tensors = {f"{key}.lora_up.weight": torch.randn(width, 1)}
        tensors |= {f"{key}.lora_down.weight": torch.randn(1, width)}
        save_file(tensors, tmp_path / "Lora" / f"{name}.safetensors")
    sampler = accel.Sampler("nano", models=tmp_path)
    files = [tmp_path / "Lora" / f"{n}.safetensors" for n in ("a=b:c", "other/twin", "plain")]
    asked = tuple((file, 0.5 + i) for i, file in enumerate(files))
    options = {"steps": 2, "seed": 0}
    first = sampler("a tree <lora:plain:0.2>", loras=asked, **options)[0]
    info = parse(first.infotext)
    words = [tag.values[0] for tag in take_tags(info.prompt)[1]]
    odd, twin = (hashes.data_sha256(file)[:12] for file in files[:2])
    assert words == ["plain", odd, twin, "plain"]
    assert (sampler(info.prompt, **options)[0].rgb == first.rgb).all()


def test_hashes_are_kept_until_the_file_changes(tmp_path, monkeypatch):
    path = tmp_path / "a.bin"
    path.write_bytes(b"one")
    first = hashes.sha256(path)
    monkeypatch.setattr(hashes, "of_file", lambda *args: pytest.fail("hashed again"))
    assert hashes.sha256(path) == first
    monkeypatch.undo()
    path.write_bytes(b"other")
    assert hashes.sha256(path) == hashlib.sha256(b"other").hexdigest()


def test_lists_what_is_there(root, capsys):
    assert main(["generate", "--list", "--models", str(root), "--json", "-"]) == 0
    report = json.loads(capsys.readouterr().out)
    found = {(one["kind"], one["name"]): one for one in report["models"]}
    assert set(found) == {
        ("checkpoint", "old/small"),
        ("lora", "Style v1"),
        ("lora", "foreign"),
        ("embedding", "glowing"),
        ("embedding", "large"),
    }
    assert len(found["lora", "Style v1"]["autov3"]) == 12


def test_loras_and_embeddings_of_a_prompt(root):
    model = accel.load("small", models=root)
    sampler = accel.Sampler(model)
    options = {"steps": 2, "cfg": 3.0, "seed": 0}
    plain = sampler("a tree", **options)[0]
    with_lora = sampler("a tree <lora:first_style:0.8>", **options)[0]
    assert (plain.rgb != with_lora.rgb).any()
    assert parse(with_lora.infotext).pairs["Lora hashes"].startswith("Style v1: ")
    assert (sampler("a tree", **options)[0].rgb == plain.rgb).all()  # taken out again
    named = sampler("a tree", loras=[("Style v1", 0.8)], **options)[0]
    assert (named.rgb == with_lora.rgb).all()
    model.load_lora("Style v1", 0.8)
    assert (sampler("a tree", **options)[0].rgb == with_lora.rgb).all()
    model.unload_loras()
    assert (sampler("a tree", **options)[0].rgb == plain.rgb).all()
    with_words = sampler("a glowing tree", **options)[0]
    assert (with_words.rgb != plain.rgb).any()
    assert parse(with_words.infotext).pairs["TI hashes"].startswith("glowing: ")
    assert "TI hashes" not in parse(sampler("a large tree", **options)[0].infotext).pairs


def test_a_lora_of_another_base_is_named_and_changes_nothing(root):
    model = accel.load("small", models=root)
    before = {name: tensor.clone() for name, tensor in model.loaded.model.state_dict().items()}
    with pytest.raises(InputError, match=r"foreign.*another base.*lora_unet_nowhere"):
        model.sample("a tree <lora:foreign:1>", steps=1)
    with pytest.raises(InputError, match="another base"):
        model.load_lora("foreign")
    after = model.loaded.model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert model.standing_loras == []


def test_repeats_with_the_model_that_has_the_hash(root, tmp_path):
    path = tmp_path / "a.png"
    options = {"steps": 2, "seed": 0}
    loras = [("first_style", 0.5)]
    accel.generate("a tree", path, model="small", models=root, loras=loras, **options)
    assert parse(text_of(path)).prompt == "a tree <lora:first_style:0.5>"
    report = accel.generate(None, tmp_path / "b.png", models=root, from_picture=path)
    assert report["model"] == "small"
    assert "to the bit" in report["notes"][0]


def test_the_embedded_lora_is_found_by_name_and_draws_black_on_white(tmp_path):
    model = accel.load("nano", models=tmp_path)
    options = {"steps": 10, "seed": 1, "cfg": 5.0}
    plain = model.sample("red apple", **options)
    ink = model.sample("red apple", loras=[("ink", 1.0)], **options)

    def colour(image):  # how far from grey, on the whole
        return (image.amax(1) - image.amin(1)).mean().item()

    assert colour(ink) < 0.6 * colour(plain)
    assert colour(model.sample("red apple", **options)) == colour(plain)
