"""Whole runs with a ControlNet beside diffusers' own pipelines, on equal random weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from accel.models import stable_diffusion as sd
from accel.models.control import diffusers_name
from accel.models.diffusers_names import unet_module
from accel.pipelines.generate import load
from tests.pipelines.generate.tiny import CONFIG, write_checkpoint, write_control

diffusers = pytest.importorskip("diffusers", exc_type=ImportError)


def renamed(network, rename) -> dict[str, torch.Tensor]:
    return {rename(name): tensor for name, tensor in network.state_dict().items()}


def unet_name(name: str) -> str:
    module, _, last = name.rpartition(".")
    return f"{unet_module(module, CONFIG.unet)}.{last}"


@pytest.mark.parametrize("schedule", ["leading", "trailing"])
@pytest.mark.parametrize(("weight", "start", "end"), [(1.0, 0.0, 1.0), (0.6, 0.2, 0.8)])
def test_text_to_picture(tmp_path, monkeypatch, schedule, weight, start, end):
    from tests.nn.test_peers import diffusers_unet

    monkeypatch.setattr(sd, "CONFIGS", {"sd1": CONFIG})
    model = load(write_checkpoint(tmp_path / "tiny.safetensors"))
    control = write_control(tmp_path / "edges.safetensors")
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    got = model.sample(
        "a", sampler="euler", schedule=schedule, steps=6, cfg=3.0, noise=noise, output="latent",
        controls=[(control, picture, weight, start, end)],
    )  # fmt: skip

    unet = diffusers_unet(CONFIG.unet)
    unet.load_state_dict(renamed(model.loaded.model.unet, unet_name))
    peer = diffusers.ControlNetModel.from_unet(unet).eval()
    model.sample("a", steps=1, cfg=1.0, controls=[(control, picture)])
    ours = model.controls[control]
    peer.load_state_dict(renamed(ours, lambda name: diffusers_name(name, CONFIG.unet)))
    pipeline = diffusers.StableDiffusionControlNetPipeline(
        vae=diffusers.AutoencoderKL(block_out_channels=(32,) * 4, norm_num_groups=32,
                                    down_block_types=("DownEncoderBlock2D",) * 4,
                                    up_block_types=("UpDecoderBlock2D",) * 4),
        text_encoder=None, tokenizer=None, unet=unet, controlnet=peer,
        scheduler=diffusers.EulerDiscreteScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear",
            timestep_spacing=schedule, steps_offset=1 if schedule == "leading" else 0,
        ),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipeline.set_progress_bar_config(disable=True)
    expected = pipeline(
        prompt_embeds=model.encode_text("a").context,
        negative_prompt_embeds=model.encode_text("").context,
        image=picture, width=64, height=64, num_inference_steps=6, guidance_scale=3.0,
        latents=noise, output_type="latent", controlnet_conditioning_scale=weight,
        control_guidance_start=start, control_guidance_end=end,
    ).images  # fmt: skip
    assert ((got - expected).norm() / expected.norm()).item() < 1e-3
    plain = model.sample(
        "a", sampler="euler", schedule=schedule, steps=6, cfg=3.0, noise=noise, output="latent"
    )
    assert ((plain - expected).norm() / expected.norm()).item() > 1e-2
