"""Networks of full size beside diffusers and transformers, on equal random weights, in float32.

    python -m tests.models.full_parity [sd1 sdxl ...] [--folder DIR] [--json FILE]

Each checkpoint (4 to 14 GB, removed afterwards) is written once and mapped by two processes in
turn: theirs builds diffusers' networks from the published configurations and fills them by
diffusers' own reader of single files; ours is `accel.load`. Compared are the text's context and
pooled vector, the UNet's prediction, the latent, the picture, and what a ControlNet adds, as
max |difference| / max |theirs|.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tests.pipelines.generate.full_size import write_full_size, write_random

LIMIT = 1e-4
PROMPT = "a castle at dusk, oil on canvas"
LATENT_SIDES = (16, 24)
TIMESTEPS = (981.0, 3.0)
FAMILIES = ("sd1", "sd1-inpaint", "sd1-edit", "sd2", "sdxl", "sdxl-inpaint", "sdxl-refiner")
CONTROLLED = ("sd1", "sdxl")

DOWN, CROSS_DOWN = "DownBlock2D", "CrossAttnDownBlock2D"
UP, CROSS_UP = "UpBlock2D", "CrossAttnUpBlock2D"
XL: dict[str, Any] = {
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "use_linear_projection": True,
}
# As the published folders' unet/config.json say, where that differs from diffusers' defaults.
UNETS: dict[str, dict[str, Any]] = {
    "sd1": {"cross_attention_dim": 768, "attention_head_dim": 8},
    "sd2": {
        "cross_attention_dim": 1024,
        "attention_head_dim": (5, 10, 20, 20),
        "use_linear_projection": True,
    },
    "sdxl": XL
    | {
        "cross_attention_dim": 2048,
        "attention_head_dim": (5, 10, 20),
        "block_out_channels": (320, 640, 1280),
        "down_block_types": (DOWN, CROSS_DOWN, CROSS_DOWN),
        "up_block_types": (CROSS_UP, CROSS_UP, UP),
        "transformer_layers_per_block": (1, 2, 10),
        "projection_class_embeddings_input_dim": 2816,
    },
    "sdxl-refiner": XL
    | {
        "cross_attention_dim": 1280,
        "attention_head_dim": (6, 12, 24, 24),
        "block_out_channels": (384, 768, 1536, 1536),
        "down_block_types": (DOWN, CROSS_DOWN, CROSS_DOWN, DOWN),
        "up_block_types": (UP, CROSS_UP, CROSS_UP, UP),
        "transformer_layers_per_block": 4,
        "projection_class_embeddings_input_dim": 2560,
    },
}
CHANNELS = {"inpaint": 9, "edit": 8}
CLIP_L = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12}
CLIP_H = {"hidden_size": 1024, "num_hidden_layers": 23, "num_attention_heads": 16}
CLIP_G = {"hidden_size": 1280, "num_hidden_layers": 32, "num_attention_heads": 20}
XL_PREFIX = "conditioner.embedders.{}."


def main() -> None:
    parser = argparse.ArgumentParser(description="parity at full size")
    parser.add_argument(
        "families", nargs="*", default=FAMILIES, metavar="FAMILY", help=", ".join(FAMILIES)
    )
    parser.add_argument("--folder", type=Path, default=None, help="for the weights; 14 GB")
    parser.add_argument("--json", type=Path, default=None)
    parser.add_argument("--side", nargs=3, metavar=("SIDE", "FAMILY", "FOLDER"))
    args = parser.parse_args()
    if args.side:
        side, family, folder = args.side
        torch.save({"theirs": theirs, "ours": ours}[side](family, Path(folder)),
                   Path(folder) / f"{side}.pt")  # fmt: skip
        return
    worst = 0.0
    for family in args.families:
        with tempfile.TemporaryDirectory(dir=args.folder) as folder:
            rows = compare(family, Path(folder))
        worst = max(worst, *(row["error"] for row in rows))
        if args.json:
            write_page(args.json, family, rows)
    if worst > LIMIT:
        sys.exit(f"the largest difference must be at most {LIMIT}, got {worst:.1e}")


def compare(family: str, folder: Path) -> list[dict[str, Any]]:
    """Write the weights, run both sides, one process after the other; a row for each result."""
    write_full_size(folder / "model.safetensors", family)
    if family in CONTROLLED:
        write_control(folder / "control.safetensors", family)
    for side in ("theirs", "ours"):
        command = [sys.executable, "-m", "tests.models.full_parity", "--side", side, family]
        subprocess.run([*command, str(folder)], check=True)
    expected, got = (torch.load(folder / f"{side}.pt") for side in ("theirs", "ours"))
    assert set(expected) == set(got), (sorted(expected), sorted(got))
    rows = []
    for name, wanted in expected.items():
        assert wanted.shape == got[name].shape, (name, wanted.shape, got[name].shape)
        assert wanted.isfinite().all(), name
        error = ((got[name] - wanted).abs().max() / wanted.abs().max()).item()
        row = {"family": family, "result": name, "shape": list(wanted.shape), "error": error}
        print(f"{family:14} {name:22} {tuple(wanted.shape)!s:24} {error:.1e}", flush=True)
        rows.append(row)
    return rows


def page_rows(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Two digits, and one row for all that a ControlNet adds: the worst."""
    control = [row for row in rows if row["result"].startswith("control")]
    kept = [row for row in rows if row not in control]
    if control:
        worst = max(control, key=lambda row: row["error"])
        kept.append(worst | {"result": f"control, worst of {len(control)}"})
    return [row | {"error": float(f"{row['error']:.2g}")} for row in kept]


def write_page(path: Path, family: str, rows: list[dict[str, Any]]) -> None:
    """Put a family's rows in place of those that the page has of it."""
    from benchmarks.harness import conditions

    before = json.loads(path.read_text())["rows"] if path.is_file() else []
    others = [row for row in before if row["family"] != family]
    every = sorted([*others, *page_rows(rows)], key=lambda row: FAMILIES.index(row["family"]))
    about = {
        "what": "largest difference to diffusers and transformers, as a share of their largest"
        " number, on equal random weights at full size, float32",
        "command": "python -m tests.models.full_parity --json benchmarks/results/parity.json",
        "limit": LIMIT,
        "rows": every,
        "versions": versions(),
    }
    unclocked = {k: v for k, v in conditions(torch.get_num_threads()).items() if k != "clock"}
    path.write_text(json.dumps(about | unclocked, indent=1) + "\n")


def versions() -> dict[str, str]:
    import diffusers
    import transformers

    return {"diffusers": diffusers.__version__, "transformers": transformers.__version__}


# ------------------------------------------------------------------ what both are given


def inputs(family: str) -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(1)
    channels = CHANNELS.get(family.partition("-")[2], 4)
    height, width = LATENT_SIDES

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random)

    return {
        "x": draw(2, channels, height, width),
        "t": torch.tensor(TIMESTEPS),
        "latent": draw(1, 4, height, width),
        "image": draw(1, 3, 8 * height, 8 * width).tanh(),
        "hint": torch.rand(2, 3, 8 * height, 8 * width, generator=random),
    }


def tokens(padding: int) -> Tensor:  # [1, 77]
    from accel.text.bpe import END, START, clip_tokenizer

    ids = [START, *clip_tokenizer().encode(PROMPT), END]
    return torch.tensor([ids + [padding] * (77 - len(ids))])


def write_control(path: Path, family: str) -> None:
    from accel.models import stable_diffusion as sd
    from accel.nn.control import ControlNet

    with torch.device("meta"):
        network = ControlNet(sd.CONFIGS[family].unet)
    write_random(
        path, {f"control_model.{k}": tuple(v.shape) for k, v in network.state_dict().items()}
    )


# ------------------------------------------------------------------ ours


@torch.inference_mode()
def ours(family: str, folder: Path) -> dict[str, Tensor]:
    from accel.models.control import load_control
    from accel.models.stable_diffusion import Conditioning
    from accel.pipelines.generate import load

    expected = torch.load(folder / "theirs.pt")
    model, given = load(folder / "model.safetensors"), inputs(family)
    assert model.name == family
    told = model.encode_text(PROMPT)
    results = {"context": told.context}
    if told.pooled is not None:
        results["pooled"] = told.pooled
    # Theirs, so that each network is judged alone.
    told = Conditioning(expected["context"], expected.get("pooled"))
    results["prediction"] = model.denoise(given["x"], given["t"], told)
    results["latent"] = model.encode(given["image"])
    results["picture"] = model.decode(given["latent"])
    if family in CONTROLLED:
        control = load_control(folder / "control.safetensors").network
        context, vector = told.context.expand(2, -1, -1), None
        if told.pooled is not None:
            numbers = model.sizes(*(8 * side for side in LATENT_SIDES)).expand(2, -1)
            vector = model.loaded.model.vector(told.pooled.expand(2, -1), numbers)
        x, t, hint = (given[name] for name in ("x", "t", "hint"))
        added = control(x, hint, t, context, vector)
        results |= {f"control {i}": part for i, part in enumerate(added)}
        added = [expected[f"control {i}"] for i in range(len(added))]
        results["steered prediction"] = model.loaded.model.unet(x, t, context, vector, added)
    return {name: tensor.clone() for name, tensor in results.items()}


# ------------------------------------------------------------------ theirs


@torch.no_grad()
def theirs(family: str, folder: Path) -> dict[str, Tensor]:
    from diffusers import AutoencoderKL
    from diffusers.loaders import single_file_utils as convert
    from safetensors.torch import load_file

    file, given = load_file(folder / "model.safetensors"), inputs(family)
    base = "sdxl-refiner" if family == "sdxl-refiner" else family.partition("-")[0]
    results = text(base, file)
    extra: dict[str, Any] = {}
    if "pooled" in results:
        height, width = (8 * side for side in LATENT_SIDES)
        last = [6.0] if base == "sdxl-refiner" else [height, width]
        ids = torch.tensor([[height, width, 0, 0, *last]]).expand(2, -1)
        embeds = results["pooled"].expand(2, -1)
        extra = {"added_cond_kwargs": {"text_embeds": embeds, "time_ids": ids}}
    unet = filled_unet(base, given["x"].shape[1], file)
    asked = (given["x"], given["t"], results["context"].expand(2, -1, -1))
    results["prediction"] = unet(*asked, **extra).sample

    scale = 0.13025 if base.startswith("sdxl") else 0.18215
    with torch.device("meta"):
        vae = AutoencoderKL(
            block_out_channels=(128, 256, 512, 512),
            layers_per_block=2,
            down_block_types=["DownEncoderBlock2D"] * 4,
            up_block_types=["UpDecoderBlock2D"] * 4,
            scaling_factor=scale,
        )
    fill(vae, convert.convert_ldm_vae_checkpoint(dict(file), vae.config))
    results["latent"] = vae.encode(given["image"]).latent_dist.mean * scale
    results["picture"] = vae.decode(given["latent"] / scale).sample
    if family in CONTROLLED:
        down, middle = filled_control(unet, folder)(
            *asked, given["hint"], return_dict=False, **extra
        )
        results |= {f"control {i}": part for i, part in enumerate([*down, middle])}
        results["steered prediction"] = unet(
            *asked,
            down_block_additional_residuals=down,
            mid_block_additional_residual=middle,
            **extra,
        ).sample
    return results


def filled_unet(base: str, channels: int, file: dict[str, Tensor]) -> nn.Module:
    from diffusers import UNet2DConditionModel
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    with torch.device("meta"):
        unet = UNet2DConditionModel(in_channels=channels, **UNETS[base])
    return fill(unet, convert_ldm_unet_checkpoint(dict(file), unet.config))


def filled_control(unet: nn.Module, folder: Path) -> nn.Module:
    from diffusers import ControlNetModel
    from diffusers.loaders.single_file_utils import convert_controlnet_checkpoint
    from safetensors.torch import load_file

    kept = ("sample_size", "in_channels", "cross_attention_dim", "attention_head_dim",
            "block_out_channels", "down_block_types", "transformer_layers_per_block",
            "use_linear_projection", "addition_embed_type", "addition_time_embed_dim",
            "projection_class_embeddings_input_dim")  # fmt: skip
    settings = {name: unet.config[name] for name in kept if name != "sample_size"}
    with torch.device("meta"):
        control = ControlNetModel(**settings)
    file = load_file(folder / "control.safetensors")
    named = convert_controlnet_checkpoint(dict(file), control.config)
    for ldm, diffusers in (("0.0", "linear_1"), ("0.2", "linear_2")):  # it forgets these two
        for part in ("weight", "bias"):
            key = f"control_model.label_emb.{ldm}.{part}"
            if key in file:
                named[f"add_embedding.{diffusers}.{part}"] = file[key]
    return fill(control, named)


def fill(network: nn.Module, tensors: dict[str, Tensor]) -> nn.Module:
    """Buffers are no part of files; what is left without numbers would not run."""
    network.load_state_dict(tensors, assign=True)
    return network.eval()


def text(base: str, file: dict[str, Tensor]) -> dict[str, Tensor]:
    """Context and pooled vector as diffusers' pipelines make them."""
    if base == "sd1":
        return {"context": clip_l(file, "cond_stage_model.transformer.").last_hidden_state}
    if base == "sd2":
        encoded = open_clip(file, "cond_stage_model.model.", CLIP_H, projected=False)
        return {"context": encoded.last_hidden_state}
    second = open_clip(
        file, XL_PREFIX.format(0 if base == "sdxl-refiner" else 1) + "model.", CLIP_G
    )
    context = second.hidden_states[-2]
    if base == "sdxl":
        first = clip_l(file, XL_PREFIX.format(0) + "transformer.")
        context = torch.cat([first.hidden_states[-2], context], dim=-1)
    return {"context": context, "pooled": second.text_embeds}


def clip_l(file: dict[str, Tensor], prefix: str) -> Any:
    import transformers

    network = transformers.CLIPTextModel(text_config(CLIP_L, "quick_gelu"))
    named = {k.removeprefix(prefix): v for k, v in file.items() if k.startswith(prefix)}
    network.load_state_dict(named, assign=True)
    return network.eval()(tokens(49407), output_hidden_states=True)


def open_clip(
    file: dict[str, Tensor], prefix: str, sizes: dict[str, int], projected: bool = True
) -> Any:
    import transformers
    from diffusers.loaders.single_file_utils import convert_open_clip_checkpoint

    kind = transformers.CLIPTextModelWithProjection if projected else transformers.CLIPTextModel
    network = kind(text_config(sizes, "gelu"))
    named = convert_open_clip_checkpoint(network, dict(file), prefix=prefix)
    unknown = set(named) - set(network.state_dict())
    network.load_state_dict({k: v for k, v in named.items() if k not in unknown}, assign=True)
    assert unknown <= {"text_projection.weight"}, unknown
    return network.eval()(tokens(0), output_hidden_states=True)


def text_config(sizes: dict[str, int], activation: str) -> Any:
    import transformers

    width = sizes["hidden_size"]
    return transformers.CLIPTextConfig(
        vocab_size=49408,
        intermediate_size=4 * width,
        max_position_embeddings=77,
        hidden_act=activation,
        projection_dim=width,
        eos_token_id=49407,
        bos_token_id=49406,
        **sizes,
    )


if __name__ == "__main__":
    began = time.perf_counter()
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    main()
    print(f"{time.perf_counter() - began:.0f} s")
