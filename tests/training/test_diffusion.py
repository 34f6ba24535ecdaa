"""accel train-diffusion: every part trains, resumes to the bit, and its files are used."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from accel.cli import main
from accel.core import Cancel, ConfigError, InputError
from accel.nn.text import TextConfig
from accel.pipelines.generate.model import load
from accel.pipelines.train_diffusion import train_diffusion, train_lora_on
from accel.training.diffusion.captioned import captioned, read_square
from accel.training.diffusion.emoji import STYLES, Emoji, load_data
from accel.training.diffusion.muon import Muon, orthogonalise
from accel.training.diffusion.retrieval import score
from accel.training.diffusion.run import composite, cosine, psnr, save_curve

OPEN_CLIP = TextConfig(width=24, layers=3, heads=2, quick_gelu=False, projection=24)
COLOURS = {"red": (220, 40, 40), "green": (40, 180, 60), "blue": (50, 80, 220)}


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i, (name, colour) in enumerate(COLOURS.items()):
        canvas = Image.new("RGB", (80 + 8 * i, 70), "white")
        canvas.paste(colour, (20, 20, 60, 60))
        canvas.save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text(f"a {name} square\n")
    return folder


def stop_after(steps):
    """A cancel that is set once `steps` steps were told."""
    cancel, told = Cancel(), []

    def progress(event):
        told.append(event)
        if len(told) == steps:
            cancel.set()

    return {"cancel": cancel, "progress": progress}


def same(a, b):
    assert a.keys() == b.keys()
    return all(torch.equal(a[k], b[k]) for k in a)


def train_autoencoder(pictures, run, **more):
    return train_diffusion("vae", pictures, run, images=32, min_psnr_db=0.0, threads=1, **more)


def test_autoencoder_resumes_to_the_bit(pictures, tmp_path):
    assert train_autoencoder(pictures, tmp_path / "whole")["finished"]
    stopped = train_autoencoder(pictures, tmp_path / "parts", **stop_after(2))
    assert not stopped["finished"]
    assert not (tmp_path / "parts" / "vae.safetensors").exists()
    assert train_autoencoder(pictures, tmp_path / "parts")["finished"]
    whole, parts = (load_file(tmp_path / f / "vae.safetensors") for f in ("whole", "parts"))
    assert same(whole, parts)
    assert (tmp_path / "whole" / "vae.png").stat().st_size > 100
    assert (tmp_path / "whole" / "vae-loss.png").exists()


def test_an_autoencoder_that_blurs_is_refused(pictures, tmp_path):
    with pytest.raises(ConfigError, match="psnr must reach 99"):
        train_diffusion("vae", pictures, tmp_path, images=8, min_psnr_db=99.0, threads=1)


@pytest.mark.slow
def test_unet_resumes_to_the_bit_and_its_file_makes_pictures(pictures, tmp_path):
    train_autoencoder(pictures, tmp_path / "whole")
    vae = tmp_path / "whole" / "vae.safetensors"
    settings = {"images": 16, "batch": 4, "vae": vae, "threads": 1}
    report = train_diffusion("unet", pictures, tmp_path / "whole", **settings)
    stopped = train_diffusion("unet", pictures, tmp_path / "parts", **settings, **stop_after(2))
    assert (report["finished"], stopped["finished"]) == (True, False)
    train_diffusion("unet", pictures, tmp_path / "parts", **settings)
    files = [tmp_path / f / "nano.safetensors" for f in ("whole", "parts")]
    assert same(*(load_file(f) for f in files))
    image = load(files[0]).sample("a red square", steps=2, seed=1)
    assert image.shape == (1, 3, 64, 64)
    assert image.isfinite().all()
    assert list((tmp_path / "whole").glob("sheet-*.png"))
    with pytest.raises(InputError, match="must be trained first"):
        train_diffusion("unet", pictures, tmp_path / "none", images=8)


def test_lora_learns_resumes_and_is_loaded(pictures, tmp_path):
    settings = {"steps": 12, "batch": 3, "rank": 4, "alpha": 4.0, "rate": 4e-3}
    whole, parts = tmp_path / "whole.safetensors", tmp_path / "parts.safetensors"
    assert train_lora_on("nano", pictures, whole, **settings)["finished"]
    assert not train_lora_on("nano", pictures, parts, **settings, **stop_after(5))["finished"]
    assert train_lora_on("nano", pictures, parts, **settings)["finished"]
    assert same(load_file(whole), load_file(parts))

    model = load("nano")
    tower = model.encode_text("a red square").context
    latents = composite(read_square(pictures / "0.png", 64)[None], torch.ones(3))
    latents = model.encode(latents)
    draw = torch.Generator().manual_seed(5)
    noise = torch.randn(8, *latents.shape[1:], generator=draw)
    t = torch.linspace(50, 950, 8)
    signal = 1 / (1 + torch.from_numpy(model.noise.sigmas)[t.long()].square()).float()
    signal = signal.view(-1, 1, 1, 1)
    x = signal.sqrt() * latents + (1 - signal).sqrt() * noise
    target = signal.sqrt() * noise - (1 - signal).sqrt() * latents

    def error():
        context = model.encode_text("a red square")
        return (model.denoise(x, t, context) - target).square().mean().item()

    before = error()
    model.load_lora(whole, 1.0)
    assert error() < 0.95 * before  # what it was trained for
    model.unload_loras()
    assert error() == before
    assert torch.equal(model.encode_text("a red square").context, tower)


def test_lora_settings_that_cannot_be(pictures, tmp_path):
    out = tmp_path / "x.safetensors"
    for settings, text in [({"rank": 0}, "rank must be above 0"), ({"ranks": 3}, "has no ranks")]:
        with pytest.raises(ConfigError, match=text):
            train_lora_on("nano", pictures, out, **settings)
    with pytest.raises(ConfigError, match="safetensors"):
        train_lora_on("nano", pictures, tmp_path / "x.ckpt")
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(InputError, match="must hold pictures"):
        train_lora_on("nano", empty, out)


def test_a_damaged_save_is_named(pictures, tmp_path, capsys):
    run = tmp_path / "run"
    run.mkdir()
    (run / "vae.ckpt").write_bytes(b"not a checkpoint")
    assert main(["train-diffusion", "vae", str(pictures), str(run), "--images", "8"]) == 2
    assert "vae.ckpt: is damaged" in capsys.readouterr().err


def test_the_command_reports(pictures, tmp_path, capsys):
    out = tmp_path / "style.safetensors"
    args = ["--steps", "1", "--batch", "1", "--rank", "2", "--json", "-"]
    assert main(["train-diffusion", "lora", str(pictures), str(out), *args]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["finished"], report["pictures"]) == (True, 3)
    (tmp_path / "usual").touch()
    assert out.stat().st_mode == (tmp_path / "usual").stat().st_mode  # others may read it too


def test_captions_come_from_text_files_or_names(pictures, tmp_path):
    (pictures / "a_blue-dot.png").write_bytes((pictures / "0.png").read_bytes())
    assert {p.name: c for p, c in captioned(pictures)}["a_blue-dot.png"] == "a blue dot"
    (pictures / "broken.png").write_text("no picture")
    with pytest.raises(InputError, match=r"broken\.png"):
        read_square(pictures / "broken.png", 64)


def test_a_picture_of_very_many_parts_is_refused_before_it_is_read(pictures, tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "plain.jpg")
    jpeg = (tmp_path / "plain.jpg").read_bytes()
    many = pictures / "many.jpg"
    many.write_bytes(jpeg[:2] + b"\xff\xfe\x00\x02" * 20_000 + jpeg[2:])
    with pytest.raises(InputError, match=r"many\.jpg: must be a picture of fewer parts"):
        read_square(many, 64)


def test_a_photo_taken_sideways_is_learned_upright(tmp_path):
    canvas = Image.new("RGB", (64, 64), "white")
    canvas.paste((220, 0, 0), (0, 0, 64, 32))
    turned = Image.Exif()
    turned[0x0112] = 6  # stored a quarter turn to the left of how it is to be seen
    for name in ("photo.png", "photo.jpg"):
        canvas.rotate(90).save(tmp_path / name, exif=turned)
        seen = read_square(tmp_path / name, 64)
        assert (seen[4, :, 1] < 60).all(), name
        assert (seen[-4, :, 1] > 200).all(), name


def emoji(concepts=6):
    draw = np.random.default_rng(0)
    image = np.zeros((concepts, 4, 64, 64, 4), np.uint8)
    image[..., 16:48, 16:48, :3] = draw.integers(0, 255, (concepts, 4, 1, 1, 3))
    image[..., 16:48, 16:48, 3] = 255
    return {
        "image": image, "label": np.array([f"Thing{i}" for i in range(concepts)]),
        "tags": np.array([json.dumps(["small", f"tag{i}"]) for i in range(concepts)]),
        "group": np.full(concepts, 3), "version": np.ones(concepts, np.float32),
        "style": np.array(["flat", "gradient", "noto", "3d"]),
    }  # fmt: skip


def test_emoji_are_captioned_and_retrieved(tmp_path):
    np.savez(tmp_path / "data.npz", **emoji())
    pictures = Emoji(load_data(tmp_path / "data.npz"), list(range(6)))
    assert len(pictures) == 6 * len(STYLES)
    assert pictures.plain(4) == "thing1, noto style, white background"
    assert "small" in pictures.words()  # twice and more
    assert "tag1" not in pictures.words()
    drawn = {pictures.caption(4, "red", torch.Generator().manual_seed(i)) for i in range(20)}
    assert len(drawn) > 5
    assert all("thing1" in text and "red background" in text for text in drawn)
    white = composite(pictures.rgba, torch.ones(3))
    perfect = score(white, list(range(18)), pictures)
    assert (perfect.concept, perfect.style) == (1.0, 1.0)
    assert score(white, [(i + 3) % 18 for i in range(18)], pictures).concept == 0.0
    with pytest.raises(InputError, match="no such file"):
        load_data(tmp_path / "missing.npz")
    (tmp_path / "text.npz").write_text("evil")
    with pytest.raises(InputError, match=r"must be a \.npz"):
        load_data(tmp_path / "text.npz")


def test_muon_makes_directions_orthogonal_and_fits_a_line():
    wide = orthogonalise(torch.randn(8, 20, generator=torch.Generator().manual_seed(0)))
    values = torch.linalg.svdvals(wide)
    assert values.min() > 0.6
    assert values.max() < 1.3
    torch.manual_seed(0)
    layer, target = torch.nn.Linear(4, 3), torch.randn(3, 4)
    optimiser = Muon(layer, 0.3, 0.1)
    x = torch.randn(64, 4)
    losses = []
    for step in range(60):
        loss = (layer(x) - x @ target.T).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step(cosine(step, 60, 5, 0.05))
        losses.append(loss.item())
    assert losses[-1] < 0.05 * losses[0]


def test_pictures_of_a_run(tmp_path):
    save_curve(tmp_path / "curve.png", [(0, 1.0), (10, 0.1), (20, float("nan"))], "loss")
    assert np.asarray(Image.open(tmp_path / "curve.png")).std() > 5
    assert psnr(torch.zeros(1, 3, 4, 4), torch.full((1, 3, 4, 4), 0.2)).item() == pytest.approx(20)


@pytest.mark.parametrize("kind", ["sd2", "sdxl"])
def test_loras_of_other_members(pictures, tmp_path, monkeypatch, kind):
    """Towers of OpenCLIP's kind, two of them and a second vector: the file is one that we read."""
    from accel.models import stable_diffusion as sd
    from tests.pipelines.generate.tiny import CONFIG, write_checkpoint

    tower = replace(sd.SD2.towers[0], config=OPEN_CLIP)
    config = replace(CONFIG, towers=(tower,), unet=replace(CONFIG.unet, context_width=24))
    if kind == "sdxl":
        unet = replace(CONFIG.unet, context_width=40, vector_width=24 + 6 * sd.SIZE_WIDTH)
        first = replace(CONFIG.towers[0], prefix="conditioner.embedders.0.transformer.")
        second = replace(tower, prefix="conditioner.embedders.1.model.")
        config = replace(config, unet=unet, towers=(first, second), size_numbers=6)
    monkeypatch.setattr(sd, "CONFIGS", {kind: config})
    model = load(write_checkpoint(tmp_path / "tiny.safetensors", config=config))
    output = tmp_path / "lora.safetensors"
    settings = {"steps": 2, "batch": 2, "rank": 2, "alpha": 2.0}
    train_lora_on(model, pictures, output, **settings)
    names = {name.split(".")[0] for name in load_file(output)}
    prefix = "lora_te2_" if kind == "sdxl" else "lora_te_"
    assert prefix + "text_model_encoder_layers_0_mlp_fc1" in names
    unet = "input_blocks_1_1" if kind == "sdxl" else "down_blocks_0_attentions_0"
    assert f"lora_unet_{unet}_transformer_blocks_0_attn1_to_q" in names
    before = model.encode_text("a red square").context
    model.load_lora(output, 1.0)
    assert not torch.equal(model.encode_text("a red square").context, before)


def test_a_run_begun_with_other_settings_or_pictures_is_not_gone_on_with(pictures, tmp_path):
    output, settings = tmp_path / "style.safetensors", {"steps": 2, "batch": 2}
    train_lora_on("nano", pictures, output, **settings)
    with pytest.raises(ConfigError, match="was begun with rank 8, got 4; begin another run"):
        train_lora_on("nano", pictures, output, rank=4, **settings)
    fewer = tmp_path / "fewer"
    fewer.mkdir()
    Image.new("RGB", (64, 64), "red").save(fewer / "red.png")
    with pytest.raises(ConfigError, match=r"was begun with pictures \d+, got 1"):
        train_lora_on("nano", fewer, output, **settings)


def test_an_option_of_another_part_is_refused_not_passed_over(tmp_path, capsys):
    for words, told in (
        ("vae --steps 3", "--steps must go with lora, got vae"),
        ("lora --min-psnr 20", "--min-psnr must go with vae, got lora"),
        ("unet --batch 0", "batch must be at least 1, got 0"),
        ("vae --threads -2", "threads must be 0 or more, got -2"),
        ("lora --rate nan", "rate must be above 0, got nan"),
    ):
        part, *options = words.split()
        assert main(["train-diffusion", part, "pictures", "style.safetensors", *options]) == 2
        assert told in capsys.readouterr().err
