"""Train the small model, or a LoRA for any: folders in, files and sheets out, resumable."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from accel.core import Cancel, ConfigError, ProgressCallback
from accel.models import nano
from accel.models.stable_diffusion import Conditioning
from accel.pipelines.generate.model import Model, load
from accel.pipelines.run_report import peak_memory_mb
from accel.text.bpe import END, START
from accel.training.diffusion.captioned import captioned, read_square
from accel.training.diffusion.lora import LoraConfig, train_lora
from accel.training.diffusion.nano_file import load as load_nano
from accel.training.diffusion.nano_file import token_rows
from accel.training.diffusion.pictures import open_pictures
from accel.training.diffusion.run import Run, composite
from accel.training.diffusion.unet import train_unet
from accel.training.diffusion.vae import train_vae

VAE_IMAGES, UNET_IMAGES = 26_000, 650_000


def train_diffusion(
    part: str,
    data: Path | str,
    run: Path | str,
    *,
    images: int | None = None,
    vae: Path | None = None,
    start: Path | None = None,
    batch: int | None = None,
    min_psnr_db: float | None = None,
    threads: int = 0,
    progress: ProgressCallback | None = None,
    cancel: Cancel | None = None,
    say: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Train `part` ("vae" or "unet") of a nano on pictures; return what was done.

    data: a .npz of training/nano/data.py, or a folder of captioned pictures.
    run: folder of logs, curves, sheets and saves; a second call with the same goes on.
    images: length of the schedule, in pictures shown. vae, start, batch: see
    `accel.training.diffusion.unet.train_unet`. min_psnr_db: what the autoencoder must reach.
    When `cancel` is set the step in hand ends and the run is saved. Raises InputError, ConfigError.
    """
    if part not in ("vae", "unet"):
        raise ConfigError(f"train-diffusion: part must be vae or unet, got {part!r}")
    started = time.perf_counter()
    _check_counts(images=images, batch=batch)
    _use_threads(threads)
    pictures = open_pictures(Path(data), nano.SIDE_PX)
    name = "vae" if part == "vae" else "diffusion"
    folder = Run(Path(run), name, cancel=cancel, progress=progress, say=say)
    total = images or (VAE_IMAGES if part == "vae" else UNET_IMAGES)
    if part == "vae":
        settings = {} if min_psnr_db is None else {"min_psnr_db": min_psnr_db}
        output = train_vae(pictures, folder, images=total, **settings)
    else:
        output = train_unet(
            pictures,
            folder,
            images=total,
            vae=vae,
            start=load_nano(start) if start else None,
            **({"batch": batch} if batch else {}),
        )
    return _report(part, output, folder, started)


def train_lora_on(
    model: str | Path | Model,
    data: Path | str,
    output: Path | str,
    *,
    run: Path | str | None = None,
    side: int | None = None,
    threads: int = 0,
    progress: ProgressCallback | None = None,
    cancel: Cancel | None = None,
    say: Callable[[str], None] | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """Train a LoRA of `model` on a folder of captioned pictures and write `output`.

    run: where saves and the curve go; default OUTPUT's name without its ending, beside it.
    side: pictures are cut square and sized to this; default the model's own.
    threads: cores to use; 0 is as torch says.
    settings: fields of LoraConfig. Raises as `train_diffusion` does.
    """
    started, target = time.perf_counter(), Path(output)
    if target.suffix != ".safetensors":
        raise ConfigError(f"{target}: a LoRA must be written to a .safetensors file")
    unknown = sorted(set(settings) - set(LoraConfig.__dataclass_fields__))
    if unknown:
        raise ConfigError(f"train-diffusion lora: has no {', '.join(unknown)}")
    config = LoraConfig(**settings)
    _use_threads(threads)
    loaded = model if isinstance(model, Model) else load(model)
    entries = captioned(Path(data))
    edge = side or loaded.side_px
    rgba = torch.stack([read_square(path, edge) for path, _ in entries])
    with torch.no_grad():
        images = composite(rgba, torch.ones(3))
        latents = torch.cat(
            [loaded.loaded.model.vae.encode(part) for part in torch.split(images, 8)]
        )
    folder = Run(
        Path(run) if run else target.with_suffix(""),
        "lora",
        cancel=cancel,
        progress=progress,
        say=say,
    )
    train_lora(
        loaded.loaded.model, loaded.noise, loaded.loaded.prediction, _encoder(loaded), latents,
        [text for _, text in entries], folder, target, config,
        loaded.sizes(edge, edge) if loaded.loaded.model.config.size_numbers else None,
    )  # fmt: skip
    return _report("lora", target, folder, started) | {"pictures": len(entries)}


def _check_counts(**counts: int | None) -> None:
    for name, count in counts.items():
        if count is not None and count < 1:
            raise ConfigError(f"train-diffusion: {name} must be at least 1, got {count}")


def _use_threads(threads: int) -> None:
    if threads < 0:
        raise ConfigError(f"train-diffusion: threads must be 0 or more, got {threads}")
    if threads:
        torch.set_num_threads(threads)


def _encoder(loaded: Model) -> Callable[[Sequence[str]], Conditioning]:
    """Captions through the towers as they are now, with gradients; cut to one chunk."""
    network, text = loaded.loaded.model, loaded.text
    rows = text.rows

    def encode(prompts: Sequence[str]) -> Conditioning:
        tokens = [token_rows(rows, prompts)] if rows else _chunks(loaded, prompts)
        return network.encode_text(tokens)

    return encode


def _chunks(loaded: Model, prompts: Sequence[str]) -> list[Tensor]:  # per tower [B, length]
    length = loaded.loaded.model.config.towers[0].config.length
    lines = []
    for prompt in prompts:
        ids = [START, *loaded.text.tokenizer.encode(prompt)[: length - 2]]
        lines.append(loaded.text.tokens(ids + [END] * (length - len(ids))))
    return [torch.cat(rows) for rows in zip(*lines, strict=True)]


def _report(part: str, output: Path, run: Run, started: float) -> dict[str, Any]:
    return {
        "part": part,
        "output": str(output),
        "run": str(run.folder),
        "finished": not run.stopping,
        "loss": run.curve[-1][1] if run.curve else None,
        "seconds": round(time.perf_counter() - started, 1),
        "peak_memory_mb": peak_memory_mb(),
    }
