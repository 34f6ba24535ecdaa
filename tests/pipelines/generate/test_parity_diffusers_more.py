"""Whole runs beside diffusers' other pipelines: prompts through its own tokenizer and towers, SDXL
from pictures and its refiner, ControlNets, T2I-Adapters, edits, LoRA files as diffusers reads them.
"""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from accel.models import stable_diffusion as sd
from accel.models.control import diffusers_name
from accel.nn.adapter import AdapterConfig
from accel.pipelines.generate import load
from accel.text.bpe import clip_tokenizer
from tests.pipelines.generate.tiny import ADAPTER, CONFIG, write_adapter, write_control

diffusers = pytest.importorskip("diffusers", exc_type=ImportError)
transformers = pytest.importorskip("transformers", exc_type=ImportError)

from tests.pipelines.generate.peers import (  # noqa: E402
    DDIM,
    LEADING,
    SD2,
    SDXL,
    STEPS,
    asked,
    draws_of,
    error,
    make_with,
    pipeline_of,
)

pytestmark = pytest.mark.slow
LIMIT = 1e-3
SCHEDULERS = {
    "euler": ("EulerDiscreteScheduler", LEADING, "leading"),
    "euler_a": ("EulerAncestralDiscreteScheduler", LEADING, "leading"),
    "ddim": ("DDIMScheduler", DDIM, "leading_to_min"),
    "dpmpp_2m": ("DPMSolverMultistepScheduler", LEADING, "dpm_leading"),
}
REFINER = replace(
    SDXL,
    unet=replace(SDXL.unet, context_width=24, vector_width=24 + 5 * sd.SIZE_WIDTH),
    towers=(replace(SDXL.towers[1], prefix="conditioner.embedders.0.model."),),
    size_numbers=5,
)
SD2_WHOLE = replace(
    SD2,
    unet=replace(SD2.unet, context_width=24),
    towers=(
        replace(
            sd.SD2.towers[0],
            config=replace(SDXL.towers[1].config, layers=4),
        ),
    ),
)


@pytest.fixture
def make(tmp_path, monkeypatch):
    from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

    # diffusers draws from the posterior; the mean is what both can have.
    monkeypatch.setattr(DiagonalGaussianDistribution, "sample", lambda self, *a, **k: self.mode())
    return make_with(tmp_path, monkeypatch)


@pytest.fixture
def picture():
    return picture_of(0)


def picture_of(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (64, 64, 3), np.uint8))


def mask() -> Image.Image:
    white = Image.new("L", (64, 64))
    white.paste(255, (16, 8, 48, 40))
    return white


def scheduler_of(name: str):
    kind, settings, _ = SCHEDULERS[name]
    betas = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    return getattr(diffusers, kind)(**betas, **settings)


def both(model, parts, monkeypatch, kind: str, name: str, theirs: dict, ours: dict, **more):
    """diffusers' latents and ours; `theirs` is what its call takes beside what all take."""
    scheduler = scheduler_of(name)
    noise = draws_of(monkeypatch, scheduler, getattr(diffusers, kind).__module__)
    pipeline = pipeline_of(kind, scheduler, parts, **more)
    told = asked(model) | theirs
    expected = pipeline(**{k: v for k, v in told.items() if v is not None}).images
    options = {
        "negative": "b", "sampler": name, "schedule": SCHEDULERS[name][2], "steps": STEPS,
        "cfg": 3.0, "noise": noise, "convention": "diffusers", "width": 64, "height": 64,
    }  # fmt: skip
    got = model.sample(ours.pop("prompt", "a"), output="latent", **options | ours)
    return expected, got


FROM_PICTURE = {"width": None, "height": None}  # its size is taken


# ------------------------------------------------------------------ prompts


def tokenizer(folder, padding: str):
    bpe = clip_tokenizer()
    (folder / "vocab.json").write_text(json.dumps(bpe.ids))
    pairs = sorted(bpe.ranks, key=bpe.ranks.get)
    lines = ["#version: 0.2", *(" ".join(pair) for pair in pairs)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n")
    return transformers.CLIPTokenizer(
        folder / "vocab.json", folder / "merges.txt", pad_token=padding, model_max_length=77
    )


def text_encoder(model, index: int, layers: int | None = None):
    """A tower of ours as transformers has it; diffusers leaves out SD 2.x's last layer."""
    from diffusers.loaders.single_file_utils import convert_open_clip_checkpoint

    from tests.nn.test_peers import transformers_config

    tower, network = model.loaded.model.config.towers[index], model.loaded.model.towers[index]
    config = replace(tower.config, layers=layers or tower.config.layers)
    projected = tower.open_clip and layers is None
    kind = transformers.CLIPTextModelWithProjection if projected else transformers.CLIPTextModel
    peer = kind(transformers_config(config)).eval()
    tensors = network.state_dict()
    if tower.open_clip:
        named = {"tower." + k: v for k, v in tensors.items()}
        tensors = convert_open_clip_checkpoint(peer, named, prefix="tower.")
    wanted = peer.state_dict()
    peer.load_state_dict({k: v for k, v in tensors.items() if k in wanted})
    return peer


@pytest.mark.parametrize(("family", "clip_skip"), [("sd1", 1), ("sd1", 2), ("sd2", 1), ("sdxl", 1)])
def test_prompts(make, tmp_path, monkeypatch, family, clip_skip):
    """Nothing of ours but the weights: tokens, padding, layers, the pooled vector, sizes."""
    config = {"sd1": CONFIG, "sd2": SD2_WHOLE, "sdxl": SDXL}[family]
    model, parts = make(family, config)
    end = "<|endoftext|>"
    if family == "sdxl":
        more = {
            "text_encoder": text_encoder(model, 0),
            "tokenizer": tokenizer(tmp_path, end),
            "text_encoder_2": text_encoder(model, 1),
            "tokenizer_2": tokenizer(tmp_path, "!"),
        }
    else:
        layers = 3 if family == "sd2" else None
        more = {
            "text_encoder": text_encoder(model, 0, layers),
            "tokenizer": tokenizer(tmp_path, "!" if family == "sd2" else end),
        }
    prompt = "A photo of a CAT's café, 8k; don't blur"
    theirs = dict.fromkeys(asked(model))
    theirs |= {
        "prompt": prompt, "negative_prompt": "ugly, bad", "width": 64, "height": 64,
        "num_inference_steps": STEPS, "output_type": "latent", "clip_skip": clip_skip - 1 or None,
        # It skips layers for the prompt alone, A1111 and ours for the negative one too.
        "guidance_scale": 3.0 if clip_skip == 1 else 1.0,
    }  # fmt: skip
    kind = "StableDiffusionXLPipeline" if family == "sdxl" else "StableDiffusionPipeline"
    ours = {"prompt": prompt, "negative": "ugly, bad", "clip_skip": clip_skip}
    ours["cfg"] = theirs["guidance_scale"]
    expected, got = both(model, parts, monkeypatch, kind, "euler", theirs, ours, **more)
    assert error(got, expected) < LIMIT
    _, other = both(model, parts, monkeypatch, kind, "euler", theirs, {"prompt": "b"}, **more)
    assert error(other, expected) > 1e-2


# ------------------------------------------------------------------ SDXL


@pytest.mark.parametrize("name", SCHEDULERS)
def test_sdxl_from_a_picture(make, monkeypatch, picture, name):
    model, parts = make("sdxl", SDXL)
    theirs = {"image": picture, "strength": 0.6, **FROM_PICTURE}
    ours = {"init": picture, "strength": 0.6}
    kind = "StableDiffusionXLImg2ImgPipeline"
    expected, got = both(model, parts, monkeypatch, kind, name, theirs, ours)
    assert error(got, expected) < LIMIT


@pytest.mark.parametrize("strength", [0.3, 0.9])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_refiner(make, monkeypatch, picture, name, strength):
    """Told scores of 6 and, for the negative prompt, 2.5."""
    model, parts = make("sdxl-refiner", REFINER)
    theirs = {"image": picture, "strength": strength, **FROM_PICTURE}
    ours = {"init": picture, "strength": strength}
    kind = "StableDiffusionXLImg2ImgPipeline"
    expected, got = both(
        model, parts, monkeypatch, kind, name, theirs, ours, requires_aesthetics_score=True
    )
    assert error(got, expected) < LIMIT


@pytest.mark.parametrize("channels", [4, 9])
@pytest.mark.parametrize("strength", [0.6, 1.0])
@pytest.mark.parametrize("name", ["euler", "ddim"])
def test_sdxl_inpaint(make, monkeypatch, picture, name, strength, channels):
    model, parts = make("sdxl", SDXL, channels)
    theirs = {"image": picture, "mask_image": mask(), "strength": strength}
    ours = {"init": picture, "mask": mask(), "strength": strength}
    kind = "StableDiffusionXLInpaintPipeline"
    expected, got = both(model, parts, monkeypatch, kind, name, theirs, ours)
    assert error(got, expected) < LIMIT


# ------------------------------------------------------------------ steered by pictures


def control_of(model, parts, tmp_path, config):
    """A ControlNet's file, and diffusers' network with the same weights."""
    file = write_control(tmp_path / "edges.safetensors", config.unet)
    model.sample("a", steps=1, cfg=1.0, width=64, height=64, controls=[(file, picture_of(1))])
    peer = diffusers.ControlNetModel.from_unet(parts["unet"]).eval()
    own = model.controls[file].state_dict()
    peer.load_state_dict({diffusers_name(k, config.unet): v for k, v in own.items()})
    return file, peer


CONTROLLED = {  # diffusers' pipeline, what it is told of pictures, what we are
    "t2i": ("StableDiffusion{}ControlNetPipeline", {"image": 1}, {}),
    "i2i": (
        "StableDiffusion{}ControlNetImg2ImgPipeline",
        {"image": 0, "control_image": 1, "strength": 0.6},
        {"init": 0, "strength": 0.6},
    ),
    "inpaint": (
        "StableDiffusion{}ControlNetInpaintPipeline",
        {"image": 0, "control_image": 1, "mask_image": "mask", "strength": 0.6},
        {"init": 0, "mask": "mask", "strength": 0.6},
    ),
}


def given(told: dict) -> dict:
    pictures = {0: picture_of(0), 1: picture_of(1), "mask": mask()}
    return {k: pictures.get(v, v) if k != "strength" else v for k, v in told.items()}


@pytest.mark.parametrize("name", ["euler", "euler_a", "ddim"])
@pytest.mark.parametrize("job", CONTROLLED)
@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_control_net(make, tmp_path, monkeypatch, family, job, name):
    config = {"sd1": CONFIG, "sdxl": SDXL}[family]
    model, parts = make(family, config)
    file, peer = control_of(model, parts, tmp_path, config)
    kind, theirs, ours = CONTROLLED[job]
    kind = kind.format("XL" if family == "sdxl" else "")
    theirs = given(theirs) | {"controlnet_conditioning_scale": 0.7}
    ours = given(ours)
    more = {"controlnet": peer}
    expected, plain = both(model, parts, monkeypatch, kind, name, theirs, dict(ours), **more)
    ours["controls"] = [(file, picture_of(1), 0.7)]
    expected, got = both(model, parts, monkeypatch, kind, name, theirs, ours, **more)
    assert error(got, expected) < LIMIT
    assert error(plain, expected) > 1e-2


def test_two_control_nets(make, tmp_path, monkeypatch):
    model, parts = make("sd1", CONFIG)
    file, peer = control_of(model, parts, tmp_path, CONFIG)
    kind, pictures = "StableDiffusionControlNetPipeline", [picture_of(1), picture_of(2)]
    theirs = {"image": pictures, "controlnet_conditioning_scale": [0.7, 0.4]}
    ours = {"controls": [(file, pictures[0], 0.7), (file, pictures[1], 0.4)]}
    expected, got = both(
        model, parts, monkeypatch, kind, "euler", theirs, ours, controlnet=[peer, peer]
    )
    assert error(got, expected) < LIMIT


@pytest.mark.parametrize("name", ["euler", "ddim"])
@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_adapter(make, tmp_path, monkeypatch, family, name):
    config, sizes, kind = CONFIG, ADAPTER, "full_adapter"
    if family == "sdxl":
        # As the published ones: four features, of which SDXL's last two are of one size.
        unet = replace(
            SDXL.unet, channel_mult=(1, 2, 4), transformer_depth=(0, 1, 2), middle_depth=2
        )
        config, kind = replace(SDXL, unet=unet), "full_adapter_xl"
        sizes = AdapterConfig(kind="full-xl", channels=(32, 64, 128, 128), blocks=1, factor=16)
    model, parts = make(family, config)
    file = write_adapter(tmp_path / "sketch.safetensors", sizes)
    peer = diffusers.T2IAdapter(
        in_channels=3, channels=list(sizes.channels), num_res_blocks=1,
        downscale_factor=sizes.factor, adapter_type=kind,
    ).eval()  # fmt: skip
    from safetensors.torch import load_file

    peer.load_state_dict(load_file(file))
    pipeline = f"StableDiffusion{'XL' if family == 'sdxl' else ''}AdapterPipeline"
    theirs = {"image": picture_of(1), "adapter_conditioning_scale": 0.8}
    expected, plain = both(model, parts, monkeypatch, pipeline, name, theirs, {}, adapter=peer)
    ours = {"controls": [(file, picture_of(1), 0.8)]}
    expected, got = both(model, parts, monkeypatch, pipeline, name, theirs, ours, adapter=peer)
    assert error(got, expected) < LIMIT
    assert error(plain, expected) > 1e-2


@pytest.mark.parametrize("name", SCHEDULERS)
def test_edit(make, monkeypatch, picture, name):
    """InstructPix2Pix: two scales, the picture's latent beside x."""
    model, parts = make("sd1", CONFIG, 8)
    theirs = {"image": picture, "image_guidance_scale": 1.4, **FROM_PICTURE}
    ours = {"init": picture, "image_cfg": 1.4}
    kind = "StableDiffusionInstructPix2PixPipeline"
    expected, got = both(model, parts, monkeypatch, kind, name, theirs, ours)
    assert error(got, expected) < LIMIT


# ------------------------------------------------------------------ distilled networks


@pytest.mark.parametrize("layout", ["file", "folder"])
@pytest.mark.parametrize("job", ["t2i", "i2i"])
def test_told_the_guidance_scale(make, tmp_path, monkeypatch, picture, job, layout):
    """LCM's own pipelines: the scale goes into the network, one prompt a step."""
    config = replace(CONFIG, unet=replace(CONFIG.unet, guidance_width=32))
    betas = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    model, parts = make("sd1", config)
    assert model.loaded.model.config.unet.guidance_width == 32
    if layout == "folder":
        parts["unet"].save_pretrained(tmp_path / "lcm" / "unet")
        parts["vae"].save_pretrained(tmp_path / "lcm" / "vae")
        text_encoder(model, 0).save_pretrained(tmp_path / "lcm" / "text_encoder")
        model = load(tmp_path / "lcm")
    scheduler = diffusers.LCMScheduler(**betas)
    kind = f"LatentConsistencyModel{'Img2Img' if job == 'i2i' else ''}Pipeline"
    told = {"num_inference_steps": STEPS, "guidance_scale": 8.0, "output_type": "latent",
            "prompt_embeds": model.encode_text("a").context}  # fmt: skip
    ours = {}
    if job == "i2i":
        # Its strength also chooses among fewer of the distillation's timesteps; at 1 it does not.
        told |= {"image": picture, "strength": 1.0}
        ours = {"init": picture, "strength": 1.0}
    else:
        told |= {"width": 64, "height": 64}
    noise = draws_of(monkeypatch, scheduler, getattr(diffusers, kind).__module__)
    expected = pipeline_of(kind, scheduler, parts)(**told).images
    options = {
        "sampler": "lcm", "schedule": "lcm", "steps": STEPS, "noise": noise, "output": "latent",
        "convention": "diffusers", "width": 64, "height": 64,
    }  # fmt: skip
    assert error(model.sample("a", cfg=8.0, **options | ours), expected) < LIMIT
    assert error(model.sample("a", cfg=4.0, **options | ours), expected) > 1e-2


def test_one_call_for_each_step_of_a_distilled_network(make):
    config = replace(CONFIG, unet=replace(CONFIG.unet, guidance_width=32))
    model, _ = make("sd1", config)
    rows = []
    first = model.loaded.model.unet.input_blocks[0][0]
    handle = first.register_forward_hook(lambda module, given, out: rows.append(len(out)))
    model.sample("a", "b", sampler="lcm", steps=3, cfg=8.0, width=64, height=64, output="latent")
    handle.remove()
    assert rows == [1, 1, 1]


# ------------------------------------------------------------------ LoRA


def lora(model, unet, prefix: str, ldm: bool) -> dict[str, torch.Tensor]:
    """A kohya file: `prefix` and underscores, with alpha; convolutions too."""
    torch.manual_seed(5)
    tensors = {}
    names = model.loaded.model.unet.named_modules() if ldm else unet.named_modules()
    for name, module in names:
        weight = getattr(module, "weight", None)
        if weight is None or weight.ndim < 2 or "transformer_blocks" not in name:
            continue
        if not name.endswith(("to_q", "to_v", "to_out.0", "net.0.proj")):
            continue
        key = prefix + name.replace(".", "_")
        tensors[f"{key}.lora_down.weight"] = torch.randn(4, weight.shape[1]) * 0.2
        tensors[f"{key}.lora_up.weight"] = torch.randn(weight.shape[0], 4) * 0.2
        tensors[f"{key}.alpha"] = torch.tensor(2.0)
    assert len(tensors) > 20
    return tensors


@pytest.mark.parametrize("job", ["t2i", "i2i"])
@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_kohya_lora(make, tmp_path, monkeypatch, picture, family, job):
    """diffusers' own reader of kohya's files: SD 1.x with its names, SDXL with the original's."""
    pytest.importorskip("peft", exc_type=ImportError)
    config = {"sd1": CONFIG, "sdxl": SDXL}[family]
    model, parts = make(family, config)
    file = tmp_path / "style.safetensors"
    save_file(lora(model, parts["unet"], "lora_unet_", ldm=family == "sdxl"), file)
    kind = f"StableDiffusion{'XL' if family == 'sdxl' else ''}{'Img2Img' if job == 'i2i' else ''}"
    kind += "Pipeline"
    theirs, ours = {}, {}
    if job == "i2i":
        theirs = {"image": picture, "strength": 0.6, **FROM_PICTURE}
        ours = {"init": picture, "strength": 0.6}
    scheduler = scheduler_of("euler")
    loader = pipeline_of(kind, scheduler, parts)
    if family == "sdxl":  # whose reader wants two levels of blocks more than this has
        from diffusers.loaders import lora_conversion_utils as utils

        monkeypatch.setattr(
            utils, "_maybe_map_sgm_blocks_to_diffusers", lambda tensors, *a, **k: tensors
        )
        renamed = {}
        for key, tensor in lora(model, parts["unet"], "lora_unet_", ldm=True).items():
            renamed[diffusers_key(key, config)] = tensor
        loader.load_lora_weights(renamed, adapter_name="style")
    else:
        loader.load_lora_weights(str(file), adapter_name="style")
    loader.set_adapters(["style"], adapter_weights=[0.7])
    parts = parts | {"unet": loader.unet}
    expected, plain = both(model, parts, monkeypatch, kind, "euler", theirs, dict(ours))
    ours["loras"] = [(file, 0.7)]
    expected, got = both(model, parts, monkeypatch, kind, "euler", theirs, ours)
    assert error(got, expected) < LIMIT
    assert error(plain, expected) > 1e-2


def diffusers_key(key: str, config: sd.Config) -> str:
    from accel.models.diffusers_names import unet_module
    from accel.nn.unet import Unet

    stem, _, last = key.removeprefix("lora_unet_").partition(".")
    with torch.device("meta"):
        known = {name.replace(".", "_"): name for name, _ in Unet(config.unet).named_modules()}
    return f"lora_unet_{unet_module(known[stem], config.unet).replace('.', '_')}.{last}"
