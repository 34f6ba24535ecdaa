"""Stable Diffusion's networks as ONNX files, one for each, with a page that says what they are.

A folder holds `model.json` and, in a folder of its own each (weights above 2 GB lie beside their
graph), `text_0/model.onnx`, `unet/`, `vae_encoder/`, `vae_decoder/`. Batch, height, width and the
number of prompt tokens are free. accel.models.onnx_model runs such a folder.

Operator set: OPSET, the first with layer normalisation; any ONNX Runtime since 1.12 runs it.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor, nn

from accel.core import ConfigError
from accel.models.load import Loaded
from accel.nn.adapter import Adapter
from accel.nn.control import ControlNet
from accel.nn.conv import computing_dtype, widened
from accel.nn.plain import PlainOps
from accel.nn.text import TextTower
from accel.nn.tiny_vae import TinyDecoder, TinyEncoder
from accel.nn.unet import Unet, UnetConfig
from accel.nn.vae import Vae

OPSET = 17
PAGE, GRAPH = "model.json", "model.onnx"
Axes = Mapping[str, Mapping[int, str]]


def export_model(loaded: Loaded, folder: Path, *, control: bool = False) -> list[Path]:
    """Write all networks of a checkpoint; gives the files. `folder` must not exist.

    control: the UNet also takes what a ControlNet adds (as zeros, where there is none).
    """
    if folder.exists():
        raise ConfigError(f"{folder} exists; choose another name or remove it")
    model = loaded.model
    files = [
        export_text(tower, folder / f"text_{i}" / GRAPH)  # type: ignore[arg-type]
        for i, tower in enumerate(model.towers)
    ]
    files.append(export_unet(model.unet, folder / "unet" / GRAPH, control=control))
    files.append(export_vae_encoder(model.vae, folder / "vae_encoder" / GRAPH))
    files.append(export_vae_decoder(model.vae, folder / "vae_decoder" / GRAPH))
    about = {
        "name": loaded.name,
        "prediction": loaded.prediction,
        "zero_terminal_snr": loaded.zero_terminal_snr,
        "metadata": loaded.metadata,
        "opset": OPSET,
        "control": control,
        "config": asdict(model.config),
    }
    page = folder / PAGE
    page.write_text(json.dumps(about, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return [*files, page]


# ------------------------------------------------------------------ the networks, one by one


class TextGraph(nn.Module):
    def __init__(self, tower: TextTower):
        super().__init__()
        self.tower = tower

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        encoded = self.tower(tokens)
        hidden = torch.stack(encoded.hidden)
        return hidden, self.tower.final_norm(hidden), encoded.pooled


def export_text(tower: TextTower, path: Path) -> Path:
    """tokens [B, T] int64 -> hidden, normed [layers + 1, B, T, width] and pooled [B, width].

    hidden: the embedded tokens, then each layer's result; normed: each after the final norm.
    """
    tokens = torch.full((2, tower.config.length), tower.config.end_token, dtype=torch.int64)
    free = {0: "batch", 1: "tokens"}
    axes: Axes = {
        "tokens": free,
        "hidden": {1: "batch", 2: "tokens"},
        "normed": {1: "batch", 2: "tokens"},
        "pooled": {0: "batch"},
    }
    return write(
        TextGraph(tower), (tokens,), path, ["tokens"], ["hidden", "normed", "pooled"], axes
    )


class UnetGraph(nn.Module):
    """The UNet with its optional arguments in a fixed order: vector, then control."""

    def __init__(self, unet: Unet):
        super().__init__()
        self.unet = unet
        self.has_vector = unet.config.vector_width > 0

    def forward(self, x: Tensor, t: Tensor, context: Tensor, *rest: Tensor) -> Tensor:
        vector = rest[0] if self.has_vector else None
        control = rest[1:] if self.has_vector else rest
        return self.unet(x, t, context, vector, list(control) or None)


def export_unet(unet: Unet, path: Path, *, control: bool = False) -> Path:
    """x, t, context, then vector where the network has one, then control_0... -> prediction."""
    if unet.config.guidance_width:
        raise ConfigError("export: a UNet that is told the guidance scale (LCM) cannot be exported")
    config, (inputs, names, axes) = unet.config, trunk_inputs(unet.config, unet)
    if control:
        added = control_shapes(unet.skip_widths, config, side=inputs[0].shape[2])
        for i, (width, side) in enumerate(added):
            names.append(f"control_{i}")
            inputs.append(torch.zeros(2, width, side, side, dtype=inputs[0].dtype))
            axes[names[-1]] = {0: "batch", 2: f"height_{i}", 3: f"width_{i}"}
    axes["prediction"] = picture_axes("latent")
    return write(UnetGraph(unet), inputs, path, names, ["prediction"], axes)


class ControlGraph(nn.Module):
    def __init__(self, network: ControlNet):
        super().__init__()
        self.network = network

    def forward(
        self, x: Tensor, t: Tensor, context: Tensor, hint: Tensor, *rest: Tensor
    ) -> tuple[Tensor, ...]:
        return tuple(self.network(x, hint, t, context, *rest))


def export_control(network: ControlNet, path: Path) -> Path:
    """x, t, context, hint, and vector where it has one -> control_0... at full strength."""
    inputs, names, axes = trunk_inputs(network.config, network)
    side = 8 * inputs[0].shape[2]
    inputs.insert(3, torch.zeros(2, network.hint_channels, side, side, dtype=inputs[0].dtype))
    names.insert(3, "hint")
    axes["hint"] = picture_axes("hint")
    outputs = [f"control_{i}" for i in range(len(network.skip_widths) + 1)]
    for i, name in enumerate(outputs):
        axes[name] = {0: "batch", 2: f"height_{i}", 3: f"width_{i}"}
    return write(ControlGraph(network), inputs, path, names, outputs, axes)


class VaeGraph(nn.Module):
    def __init__(self, vae: Vae, side: str):
        super().__init__()
        self.vae, self.side = vae, side

    def forward(self, x: Tensor) -> Tensor:
        return self.vae.encode(x) if self.side == "encode" else self.vae.decode(x)


def export_vae_encoder(vae: Vae, path: Path) -> Path:
    """image [B, 3, H, W] in -1..1 -> latent: the mean, shifted and scaled."""
    side = 8 * vae.config.factor
    return one_to_one(VaeGraph(vae, "encode"), vae, (3, side, side), path, "image", "latent")


def export_vae_decoder(vae: Vae, path: Path) -> Path:
    """latent, shifted and scaled -> image [B, 3, H, W] about -1..1."""
    shape = (vae.config.latent_channels, 8, 8)
    return one_to_one(VaeGraph(vae, "decode"), vae, shape, path, "latent", "image")


def export_tiny(network: TinyEncoder | TinyDecoder, path: Path) -> Path:
    """TAESD's one side: image -> latent, or latent -> image."""
    if isinstance(network, TinyEncoder):
        return one_to_one(network, network, (3, 64, 64), path, "image", "latent")
    first = next(network.parameters())  # [64, latent channels, 3, 3]
    return one_to_one(network, network, (first.shape[1], 8, 8), path, "latent", "image")


def export_adapter(network: Adapter, path: Path) -> Path:
    """image [B, C, H, W] in 0..1 -> feature_0..., from the largest to the smallest."""
    config = network.config
    side = config.factor << len(config.channels)
    image = torch.zeros(2, config.in_channels, side, side, dtype=computing_dtype(network))
    names = [f"feature_{i}" for i in range(len(config.channels))]
    axes: dict[str, Mapping[int, str]] = {"image": picture_axes("image")}
    for i, name in enumerate(names):
        axes[name] = {0: "batch", 2: f"height_{i}", 3: f"width_{i}"}
    return write(network, (image,), path, ["image"], names, axes)


# ------------------------------------------------------------------ shared


def trunk_inputs(
    config: UnetConfig, network: nn.Module
) -> tuple[list[Tensor], list[str], dict[str, Mapping[int, str]]]:
    dtype = computing_dtype(network)
    side = 4 << (len(config.channel_mult) - 1)
    inputs = [
        torch.zeros(2, config.in_channels, side, side, dtype=dtype),
        torch.tensor([500.0, 20.0]),
        torch.zeros(2, 7, config.context_width, dtype=dtype),
    ]
    names = ["x", "t", "context"]
    axes: dict[str, Mapping[int, str]] = {
        "x": picture_axes("latent"),
        "t": {0: "batch"},
        "context": {0: "batch", 1: "tokens"},
    }
    if config.vector_width:
        inputs.append(torch.zeros(2, config.vector_width, dtype=dtype))
        names.append("vector")
        axes["vector"] = {0: "batch"}
    return inputs, names, axes


def control_shapes(
    skip_widths: Sequence[int], config: UnetConfig, side: int
) -> list[tuple[int, int]]:
    """(channels, side) of what is added to each skip and to the middle."""
    shapes = []
    for i, width in enumerate(skip_widths):
        if i and i % (config.res_blocks + 1) == 0:
            side //= 2  # a downsampler's result
        shapes.append((width, side))
    return [*shapes, shapes[-1]]


def one_to_one(
    graph: nn.Module,
    network: nn.Module,
    shape: tuple[int, int, int],
    path: Path,
    name: str,
    result: str,
) -> Path:
    x = torch.zeros(2, *shape, dtype=computing_dtype(network))
    axes = {name: picture_axes(name), result: picture_axes(result)}
    return write(graph, (x,), path, [name], [result], axes)


def picture_axes(name: str) -> dict[int, str]:
    return {0: "batch", 2: f"{name}_height", 3: f"{name}_width"}


@torch.no_grad()
def write(
    graph: nn.Module,
    inputs: Sequence[Tensor],
    path: Path,
    names: Sequence[str],
    results: Sequence[str],
    axes: Axes,
) -> Path:
    """Trace and write; the inputs only tell kinds and ranks."""
    path.parent.mkdir(parents=True, exist_ok=True)
    device = next(graph.parameters()).device
    with warnings.catch_warnings(), PlainOps(), widened(graph):
        # Checks of shapes are traced as they came out here: that is meant, they are no part of the
        # arithmetic. The exporter by tracing is the one that needs no further package.
        warnings.simplefilter("ignore", torch.jit.TracerWarning)  # type: ignore[attr-defined]
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.filterwarnings("ignore", category=UserWarning, module="torch.onnx")
        torch.onnx.export(
            graph.eval(),
            tuple(x.to(device) for x in inputs),
            str(path),
            dynamo=False,
            opset_version=OPSET,
            input_names=list(names),
            output_names=list(results),
            dynamic_axes={name: dict(free) for name, free in axes.items()},
        )
    return path
