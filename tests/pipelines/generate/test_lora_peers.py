"""A whole run with a LoRA beside diffusers' own pipeline, on equal random weights."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from accel.models import stable_diffusion as sd
from accel.models.diffusers_names import unet_module
from accel.pipelines.generate import load
from tests.pipelines.generate.tiny import CONFIG, write_checkpoint

diffusers = pytest.importorskip("diffusers", exc_type=ImportError)
pytest.importorskip("peft", exc_type=ImportError)

RANK = 4


def test_text_to_picture(tmp_path, monkeypatch):
    from tests.nn.test_peers import diffusers_unet

    monkeypatch.setattr(sd, "CONFIGS", {"sd1": CONFIG})
    model = load(write_checkpoint(tmp_path / "tiny.safetensors"))
    unet = diffusers_unet(CONFIG.unet)
    state = {}
    for name, tensor in model.loaded.model.unet.state_dict().items():
        module, _, last = name.rpartition(".")
        state[f"{unet_module(module, CONFIG.unet)}.{last}"] = tensor.clone()
    unet.load_state_dict(state)

    torch.manual_seed(5)
    tensors = {}
    for name, tensor in state.items():
        if "transformer_blocks" in name and name.endswith(("to_q.weight", "to_v.weight")):
            key = "unet." + name.removesuffix(".weight")
            tensors[f"{key}.lora_A.weight"] = torch.randn(RANK, tensor.shape[1]) * 0.2
            tensors[f"{key}.lora_B.weight"] = torch.randn(tensor.shape[0], RANK) * 0.2
    save_file(tensors, tmp_path / "style.safetensors")

    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    options = {"sampler": "euler", "schedule": "leading", "steps": 6, "cfg": 3.0, "noise": noise,
               "output": "latent"}  # fmt: skip
    plain = model.sample("a", **options)
    got = model.sample("a", loras=[(tmp_path / "style.safetensors", 0.7)], **options)
    pipeline = diffusers.StableDiffusionPipeline(
        vae=diffusers.AutoencoderKL(block_out_channels=(32,) * 4, norm_num_groups=32,
                                    down_block_types=("DownEncoderBlock2D",) * 4,
                                    up_block_types=("UpDecoderBlock2D",) * 4),
        text_encoder=None, tokenizer=None, unet=unet,
        scheduler=diffusers.EulerDiscreteScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear",
            timestep_spacing="leading", steps_offset=1,
        ),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipeline.set_progress_bar_config(disable=True)
    pipeline.load_lora_weights(str(tmp_path / "style.safetensors"), adapter_name="style")
    pipeline.set_adapters(["style"], adapter_weights=[0.7])
    expected = pipeline(
        prompt_embeds=model.encode_text("a").context,
        negative_prompt_embeds=model.encode_text("").context,
        width=64, height=64, num_inference_steps=6, guidance_scale=3.0, latents=noise,
        output_type="latent",
    ).images  # fmt: skip
    assert ((got - expected).norm() / expected.norm()).item() < 1e-3
    assert ((plain - expected).norm() / expected.norm()).item() > 1e-2
