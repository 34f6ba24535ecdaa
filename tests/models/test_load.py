"""Whole checkpoints, made up and small, through the loader."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from accel.core import InputError
from accel.kernels.conv2d import HALVES, reads_halves
from accel.models import nano
from accel.models import stable_diffusion as sd
from accel.models.load import load
from accel.nn.conv import kept_in_halves
from accel.nn.text import TextConfig
from accel.nn.vae import VaeConfig
from tests.models.small import UNET, file_tensors

TINY = sd.Config(
    unet=UNET,
    towers=(
        sd.Tower(
            prefix="cond_stage_model.transformer.",
            config=TextConfig(vocabulary=20, length=9, width=16, layers=1, heads=2, end_token=19),
        ),
    ),
    vae=VaeConfig(base_channels=32, channel_mult=(1, 2), res_blocks=1),
)
VAE_NAME = "first_stage_model.quant_conv.weight"


@pytest.fixture
def checkpoint(monkeypatch):
    """Tensors of a tiny member, which the table of members is made to know."""
    monkeypatch.setitem(sd.CONFIGS, "tiny", TINY)
    torch.manual_seed(0)
    return file_tensors(sd.build(TINY))


@pytest.mark.parametrize(
    "stored",
    [torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2],
    ids=str,
)
@pytest.mark.parametrize("ending", ["safetensors", "ckpt"])
def test_loads_every_storage(tmp_path, checkpoint, stored, ending):
    path = tmp_path / f"model.{ending}"
    tensors = {name: t.to(stored) for name, t in checkpoint.items()}
    extra = {"model_ema.decay": torch.ones(()), "alphas_cumprod": torch.ones(9)}
    if ending == "ckpt":
        torch.save({"state_dict": tensors | extra}, path)
    else:
        save_file(tensors | extra, path)
    loaded = load(path)
    assert (loaded.name, loaded.prediction, loaded.zero_terminal_snr) == ("tiny", "eps", False)
    for name, tensor in file_tensors(loaded.model).items():
        assert torch.equal(tensor.float(), checkpoint[name].to(stored).float())
    stay = kept_in_halves(loaded.model) if stored in HALVES and reads_halves() else set()
    for name, tensor in loaded.model.named_parameters():
        assert tensor.dtype == (stored if name in stay else torch.float32)


def test_marks_tell_velocity_and_zero_snr(tmp_path, checkpoint):
    path = tmp_path / "v.safetensors"
    save_file(checkpoint | {"v_pred": torch.zeros(0), "ztsnr": torch.zeros(0)}, path)
    loaded = load(path)
    assert (loaded.prediction, loaded.zero_terminal_snr) == ("v", True)


@pytest.mark.parametrize(
    ("yaml", "prediction"),
    [
        ('model:\n  params:\n    parameterization: "v"\n', "v"),
        ("  target: sgm.modules.diffusionmodules.denoiser_scaling.VScaling\n", "v"),
        ("    parameterization: velocity_of_nothing\n", "eps"),
    ],
)
def test_a_yaml_beside_the_file_tells_velocity(tmp_path, checkpoint, yaml, prediction):
    save_file(checkpoint, tmp_path / "a.safetensors")
    (tmp_path / "a.yaml").write_text(yaml)
    assert load(tmp_path / "a.safetensors").prediction == prediction
    assert load(tmp_path / "a.safetensors", prediction="eps").prediction == "eps"


@pytest.mark.parametrize("prefix", ["", sd.VAE_PREFIX])
def test_takes_the_autoencoder_from_another_file(tmp_path, checkpoint, prefix):
    path, vae = tmp_path / "model.safetensors", tmp_path / "vae.safetensors"
    save_file(checkpoint, path)
    own = {k: t + 1 for k, t in checkpoint.items() if k.startswith(sd.VAE_PREFIX)}
    save_file({prefix + k.removeprefix(sd.VAE_PREFIX): t for k, t in own.items()}, vae)
    loaded = load(path, vae=vae)
    got = loaded.model.vae.quant_conv.weight
    torch.testing.assert_close(got, checkpoint[VAE_NAME] + 1)


def test_attention_stored_as_linear_layers_is_read(tmp_path, checkpoint):
    name = "first_stage_model.encoder.mid.attn_1.q.weight"
    save_file(checkpoint | {name: checkpoint[name][:, :, 0, 0].contiguous()}, tmp_path / "a")
    got = load(tmp_path / "a").model.vae.encoder.mid.attn_1.q.weight
    assert torch.equal(got, checkpoint[name])


def test_names_what_is_missing(tmp_path, checkpoint):
    del checkpoint[VAE_NAME]
    save_file(checkpoint, tmp_path / "a")
    with pytest.raises(InputError, match=r"1 tensors must not be missing: vae\.quant_conv\.weight"):
        load(tmp_path / "a")


def test_names_a_wrong_shape(tmp_path, checkpoint):
    save_file(checkpoint | {VAE_NAME: torch.zeros(4, 8, 1, 1)}, tmp_path / "a")
    with pytest.raises(
        InputError, match=r"vae\.quant_conv\.weight must be of shape \(8, 8, 1, 1\)"
    ):
        load(tmp_path / "a")


def test_names_what_is_not_finite(tmp_path, checkpoint):
    checkpoint[VAE_NAME][0, 0] = float("nan")
    save_file(checkpoint, tmp_path / "a")
    with pytest.raises(InputError, match=r"vae\.quant_conv\.weight must hold finite numbers"):
        load(tmp_path / "a")


def test_refuses_another_family(tmp_path):
    save_file({"double_blocks.0.img_attn.norm.key_norm.scale": torch.ones(3)}, tmp_path / "a")
    with pytest.raises(InputError, match="must be a checkpoint of Stable Diffusion 1, 2 or XL"):
        load(tmp_path / "a")


def test_same_weights_stay_mapped_to_the_file(tmp_path, checkpoint):
    path = tmp_path / "a.safetensors"
    save_file(checkpoint, path)
    loaded = load(path)
    before = path.read_bytes()
    loaded.model.unet.out[2].weight.add_(1)
    assert path.read_bytes() == before


def test_nano_goes_through_the_same_loader(tmp_path):
    kept = (320, 539, 2368)
    tower = sd.Tower(prefix="cond_stage_model.transformer.", config=nano.text_config(len(kept)))
    model = sd.build(sd.Config(unet=nano.UNET, towers=(tower,), vae=nano.VAE))
    tensors = {name: t.half() for name, t in file_tensors(model).items()}
    about = json.dumps({"kept_tokens": kept, "hashed_rows": nano.HASHED_ROWS})
    path = tmp_path / "nano.safetensors"
    save_file(tensors | {"v_pred": torch.zeros(0)}, path, {"family": "nano", "nano": about})
    loaded = load(path)
    assert (loaded.name, loaded.prediction) == ("nano", "v")
    rows = nano.row_map(loaded.metadata).chunk([320, 2368, 777], 24)
    assert rows[:3] == [0, 2, 4]
    context = loaded.model.encode_text([torch.tensor([rows])]).context
    latent = loaded.model.unet(torch.randn(1, 4, 16, 16), torch.tensor([500.0]), context)
    assert loaded.model.vae.decode(latent).shape == (1, 3, 64, 64)


def test_nano_needs_a_table_of_tokens():
    with pytest.raises(InputError, match="more than 258 rows, got 0"):
        nano.config({})


def test_config_of_a_member_is_not_changed_by_its_kin():
    assert sd.config_of("sd1") == replace(sd.SD1)
