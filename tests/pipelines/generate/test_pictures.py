"""From pictures: strength, masks, outpainting, the second pass, tiling; and masks themselves."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from accel.core import ConfigError, InputError
from accel.pipelines.generate import canvas, masks, pictures, preview, upscale
from accel.pipelines.generate.options import Options
from accel.pipelines.generate.pictures import fitted, read_mask, read_picture
from accel.pipelines.generate.run import later
from accel.pipelines.generate.sheet import contact_sheet

FAST = {"steps": 4, "cfg": 3.0}
SQUARE = np.zeros((64, 64), np.uint8)
SQUARE[16:48, 16:48] = 255


@pytest.fixture(scope="module")
def start() -> np.ndarray:
    ramp = np.linspace(0, 255, 64, dtype=np.uint8)
    return np.stack([ramp[None].repeat(64, 0), ramp[:, None].repeat(64, 1), SQUARE], axis=-1)


def levels_from(start) -> torch.Tensor:
    return torch.from_numpy(start).float().permute(2, 0, 1)[None] / 127.5 - 1


@pytest.mark.parametrize(
    ("strength", "a1111", "diffusers"),
    [(0.0, 1, 0), (0.5, 6, 5), (0.75, 8, 7), (1.0, 10, 10)],
)
def test_strength_counts_steps_as_each_program_does(strength, a1111, diffusers):
    sigmas = [float(s) for s in range(10, -1, -1)]
    assert len(later(sigmas, 10, strength, Options())) - 1 == a1111
    other = Options(convention="diffusers")
    assert len(later(sigmas, 10, strength, other)) - 1 == diffusers


def test_strength_moves_away_from_the_picture(nano, start):
    begin = levels_from(start)

    def distance(strength):
        made = nano.sample("a tree", init=start, strength=strength, **(FAST | {"steps": 10}))
        return float((made - begin).abs().mean())

    far = [distance(s) for s in (0.0, 0.4, 0.9)]
    assert far[0] < far[1] < far[2]


def test_outside_the_mask_nothing_changes(nano, start):
    options = FAST | {"strength": 0.9, "mask_blur": 0}
    made = nano.sample("a tree", init=start, mask=SQUARE, **options)
    change = (made - levels_from(start)).abs().amax(dim=(0, 1))
    assert change[SQUARE == 0].max() < 1e-6
    assert change[SQUARE > 0].mean() > 0.05
    inverted = nano.sample("a tree", init=start, mask=SQUARE, mask_invert=True, **options)
    change = (inverted - levels_from(start)).abs().amax(dim=(0, 1))
    assert change[SQUARE > 0].max() < 1e-6


@pytest.mark.parametrize("sampler", ["euler_a", "dpmpp_2m", "dpmpp_2m_cfg_pp", "heun"])
@pytest.mark.parametrize("convention", ["a1111", "diffusers"])
def test_latents_outside_the_mask_are_the_pictures(nano, start, sampler, convention):
    made = nano.sample(
        "a tree", init=start, mask=SQUARE, mask_blur=0, strength=1.0, sampler=sampler,
        convention=convention, output="latent", steps=2,
    )  # fmt: skip
    kept = nano.encode(levels_from(start))
    outside = torch.ones(16, 16, dtype=torch.bool)
    outside[4:12, 4:12] = False
    torch.testing.assert_close(made[..., outside], kept[..., outside])
    assert (made - kept)[..., ~outside].abs().mean() > 0.1


@pytest.mark.parametrize("content", ["fill", "latent noise", "latent nothing"])
def test_contents_under_the_mask_differ(nano, start, content):
    options = FAST | {"strength": 0.5, "init": start, "mask": SQUARE, "output": "latent"}
    plain = nano.sample("a tree", **options)
    assert (nano.sample("a tree", mask_content=content, **options) - plain).abs().max() > 1e-2


def test_only_the_masked_part_is_worked_on(nano):
    picture = Image.new("RGB", (160, 96), "white")
    mask = Image.new("L", picture.size)
    mask.paste(255, (100, 40, 120, 60))
    options = FAST | {"only_masked": True, "padding": 6, "mask_blur": 0, "strength": 1.0}
    made = nano.sample("a red apple", init=picture, mask=mask, **options)
    assert made.shape == (1, 3, 96, 160)
    changed = ((made - 1).abs().amax(dim=(0, 1)) > 1e-6).nonzero()
    assert changed.min(0).values.tolist() >= [40, 100]
    assert (changed.max(0).values <= torch.tensor([59, 119])).all()


def test_outpainting_keeps_the_old_and_fits_the_model(nano, start):
    made = nano.sample(
        "a tree", init=start, outpaint=(0, 0, 20, 16), mask_blur=0, mask_content="fill",
        strength=1.0, **FAST,
    )  # fmt: skip
    assert made.shape == (1, 3, 80, 88)  # 84 wide would be no multiple of 8
    torch.testing.assert_close(made[..., :64, :64], levels_from(start), atol=1e-5, rtol=0)


@pytest.mark.parametrize("upscaler", ["latent", "latent (nearest-exact)", "lanczos", "esrgan"])
def test_second_pass_enlarges(nano, upscaler):
    options = FAST | {"hires_upscaler": upscaler, "hires_steps": 2}
    assert nano.sample("a tree", hires_scale=1.5, **options).shape == (1, 3, 96, 96)


def test_second_pass_has_its_part_of_a_prompt(nano):
    """Shares from 1 to 2 of a change mean the second pass."""
    options = FAST | {"hires_scale": 1.5, "hires_strength": 0.9, "output": "latent"}
    plain = nano.sample("green apple", **options)
    later_on = nano.sample("[green:red:1.5] apple", **options)
    assert (later_on - plain).abs().max() > 1e-3
    first = FAST | {"output": "latent"}
    assert torch.equal(
        nano.sample("green apple", **first), nano.sample("[green:red:1.5] apple", **first)
    )


def test_tiles_match_at_their_edges(nano):
    def seam(**options):
        image = nano.sample("a tree", seed=4, **(FAST | options))
        across = (image[..., 0] - image[..., -1]).abs().mean()
        inside = (image[..., 1:] - image[..., :-1]).abs().mean()
        return float(across / inside)

    assert seam(tiling=True) < 3
    # Nothing of it stays behind.
    assert torch.equal(nano.sample("a tree", **FAST), nano.sample("a tree", **FAST))
    modes = {m.padding_mode for m in nano.loaded.model.modules() if hasattr(m, "padding_mode")}
    assert modes == {"zeros"}


def test_perturbed_attention_has_an_effect(nano):
    plain = nano.sample("a tree", output="latent", **FAST)
    assert (nano.sample("a tree", output="latent", pag=30.0, **FAST) - plain).abs().max() > 1e-3


def test_noise_given_by_the_caller_is_used(nano):
    random = torch.Generator().manual_seed(7)
    draws = [torch.randn(2, 4, 16, 16, generator=random) for _ in range(4)]
    options = FAST | {"sampler": "euler_a", "output": "latent"}
    both = nano.sample("a tree", noise=draws, count=2, **options)
    one = nano.sample("a tree", noise=[d[1:] for d in draws], seed=9, **options)
    assert torch.equal(both[1:], one)
    with pytest.raises(ConfigError, match="noise: must be"):
        nano.sample("a tree", noise=torch.zeros(1, 4, 8, 8), **options)


def test_a_list_of_pictures_gives_each_its_own(nano, start):
    other = start[:, ::-1].copy()
    options = FAST | {"strength": 0.3, "output": "latent"}
    both = nano.sample("a tree", init=[start, other], count=2, **options)
    second = nano.sample("a tree", init=other, seed=1, **options)
    assert torch.equal(both[1:], second)


def test_refuses_what_does_not_go_together(nano, start, tmp_path):
    for options, text in [
        ({"mask": SQUARE}, "need init"),
        ({"outpaint": (8, 0, 0, 0)}, "need init"),
        ({"init": start, "mask": np.zeros((2, 3, 4))}, r"mask must be \[H, W\]"),
        ({"init": np.zeros((4, 4))}, r"picture must be uint8 \[H, W, 3\]"),
        ({"init": 3}, "picture must be a file or an array, got int"),
        ({"sampler": "heun", "eta": 0.5}, "takes no eta"),
        ({"hires_upscaler": "latend"}, "no upscaler is called 'latend'; near: latent"),
    ]:
        with pytest.raises(ConfigError, match=text):
            nano.sample("a tree", **options)
    (tmp_path / "no.png").write_bytes(b"not a picture")
    with pytest.raises(InputError, match=r"no\.png: must be a picture"):
        nano.sample("a tree", init=tmp_path / "no.png")
    with pytest.raises(InputError, match="no such file"):
        nano.sample("a tree", init=tmp_path / "missing.png")


# ------------------------------------------------------------------ without the network


def test_masked_box_has_padding_and_aspect():
    mask = Image.new("L", (200, 100))
    mask.paste(255, (90, 40, 110, 50))
    assert masks.masked_box(mask, 5, (64, 64)) == (85, 30, 115, 60)
    assert masks.masked_box(mask, 80, (64, 64)) == (10, 0, 190, 100)
    assert masks.masked_box(Image.new("L", (8, 8)), 0, (1, 1)) is None


def test_flowing_covers_the_mask_with_what_is_around(start):
    picture = Image.new("RGB", (64, 64), (10, 200, 30))
    picture.paste((255, 0, 0), (16, 16, 48, 48))
    filled = np.asarray(masks.flowed(picture, Image.fromarray(SQUARE)))
    assert np.abs(filled.astype(int) - [10, 200, 30]).max() <= 1


def test_fitting_to_another_shape():
    wide = Image.fromarray(np.arange(24, dtype=np.uint8).reshape(4, 6).repeat(3).reshape(4, 6, 3))
    assert fitted(wide, (8, 8), "fill").size == (8, 8)
    assert np.array_equal(np.asarray(fitted(wide, (4, 4), "crop")), np.asarray(wide)[:, 1:5])
    assert fitted(wide, (3, 5), "stretch").size == (3, 5)


def test_transparent_pictures_lie_on_white(tmp_path):
    path = tmp_path / "clear.png"
    Image.new("RGBA", (4, 4), (255, 0, 0, 0)).save(path)
    assert np.asarray(read_picture(path)).min() == 255
    assert np.asarray(read_mask(np.eye(4, dtype=bool))).trace() == 4 * 255


@pytest.mark.parametrize("orientation", [1, 6, 5])
@pytest.mark.parametrize(("name", "mode"), [("a.jpg", "RGB"), ("a.jpg", "CMYK"), ("a.png", "P"),
                                            ("a.png", "RGBA"), ("a.tif", "RGB"),
                                            ("a.webp", "RGB"), ("a.webp", "RGBA")])  # fmt: skip
def test_a_huge_file_is_halved_as_it_is_read(monkeypatch, tmp_path, orientation, name, mode):
    monkeypatch.setattr(pictures, "HALVED_PX", 1000)
    exif = Image.Exif()
    exif[0x0112] = orientation
    noise = np.random.default_rng(3).integers(0, 255, (5, 6, 3), np.uint8)
    photo = Image.fromarray(noise).resize((240, 160), Image.Resampling.BICUBIC).convert(mode)
    photo.save(tmp_path / name, exif=exif)
    small, whole = read_picture(tmp_path / name), read_picture(tmp_path / name, whole=True)
    assert whole.size == ((240, 160) if orientation == 1 else (160, 240))
    assert small.size == (whole.width // 2, whole.height // 2)
    wanted = np.asarray(whole.resize(small.size, Image.Resampling.BOX)).astype(int)
    assert abs(np.asarray(small) - wanted).mean() < 2


def test_a_huge_webp_is_no_animation_to_decode(monkeypatch, tmp_path):
    """Pillow's reader of animations takes four times a picture's memory."""
    monkeypatch.setattr(pictures, "HALVED_PX", 1000)
    Image.new("RGB", (64, 48), (10, 200, 30)).save(tmp_path / "a.webp", lossless=True)
    monkeypatch.setattr("PIL.WebPImagePlugin.WebPImageFile.load", None)
    small = read_picture(tmp_path / "a.webp")
    assert small.size == (32, 24)
    assert np.abs(np.asarray(small).astype(int) - [10, 200, 30]).max() <= 2


def test_a_huge_picture_keeps_no_size_of_its_own(nano, monkeypatch, tmp_path):
    monkeypatch.setattr(canvas, "HALVED_PX", 1000)
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    with pytest.raises(ConfigError, match="init must have 1000 pixels at most"):
        nano.sample("a", init=tmp_path / "a.png", mask=tmp_path / "a.png", only_masked=True)


@pytest.mark.parametrize("factor", [2, 4])
def test_enlarging_by_network_keeps_what_is_there(factor):
    ramp = np.linspace(0, 255, 40, dtype=np.uint8)
    picture = Image.fromarray(np.stack([ramp[None].repeat(24, 0)] * 3, axis=-1))
    larger = upscale.by_network(picture, factor)
    assert larger.size == (40 * factor, 24 * factor)
    back = np.asarray(larger.resize(picture.size, Image.Resampling.BOX)).astype(int)
    assert np.abs(back - np.asarray(picture)).mean() < 4


def test_enlarging_in_tiles_has_no_seams(monkeypatch):
    random = np.random.default_rng(0)
    small = Image.fromarray(random.integers(0, 256, (6, 8, 3), np.uint8))
    picture = small.resize((48, 32), Image.Resampling.BICUBIC)
    whole = np.asarray(upscale.by_network(picture, 2)).astype(int)
    monkeypatch.setattr(upscale, "TILE", 20)
    tiled = np.asarray(upscale.by_network(picture, 2)).astype(int)
    assert np.abs(whole - tiled).max() <= 1


def test_sheet_holds_all_pictures():
    pictures = [np.full((4, 6, 3), i, np.uint8) for i in range(5)]
    sheet = contact_sheet(pictures)
    assert {int(v) for v in np.unique(sheet)} == {0, 1, 2, 3, 4, 255}


def test_rough_preview_looks_like_the_picture(nano, start):
    latent = nano.encode(levels_from(start))
    rough = preview.Viewer(nano).colours(latent)
    small = torch.nn.functional.avg_pool2d(nano.decode(latent), nano.factor)
    seen = torch.stack([rough.flatten(), small.flatten()])
    assert torch.corrcoef(seen)[0, 1] > 0.8
