"""A model that is kept between calls: `accel.Sampler`."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from accel.core import Cancel, ProgressCallback
from accel.pipelines.generate import hashes
from accel.pipelines.generate.controls import described
from accel.pipelines.generate.infotext import Facts, compose, normalised
from accel.pipelines.generate.loras import loras_of, untagged, with_tags
from accel.pipelines.generate.model import Lora, Model, load
from accel.pipelines.generate.options import Options
from accel.pipelines.generate.pictures import to_rgb
from accel.pipelines.generate.run import runs
from accel.weights.assets import manifest

RANDOM_SEEDS = 1 << 32  # as A1111 draws them; fits what its users type


@dataclass(frozen=True)
class Picture:
    """A finished picture: [H, W, 3] uint8, its seeds, and the text by which it can be repeated."""

    rgb: NDArray[np.uint8]
    seed: int
    variation_seed: int | None
    infotext: str

    @property
    def ident(self) -> str:
        """Twelve hexadecimal digits for its mark: the same for the same picture made again."""
        return hashlib.sha256(self.infotext.encode()).hexdigest()[:12]


class Sampler:
    """One model, loaded once, asked any number of times and from any thread.

    Arguments are those of `accel.load`.
    model: "nano", a file, a folder in diffusers' layout, or a name in `models`.
    Two samplers share nothing. Calls on one wait for each other.
    """

    def __init__(
        self,
        model: str | Path | Model = "nano",
        *,
        dtype: torch.dtype = torch.float32,
        device: str | torch.device = "cpu",
        vae: str | Path | None = None,
        models: str | Path | None = None,
        max_memory: float | None = None,
        runtime: str = "torch",
        decoder: str | Path | None = None,
        prediction: str | None = None,
        zero_terminal_snr: bool | None = None,
    ):
        if not isinstance(model, Model):
            model = load(
                model, dtype, device, vae, models=models, max_memory=max_memory, runtime=runtime,
                decoder=decoder, prediction=prediction, zero_terminal_snr=zero_terminal_snr,
            )  # fmt: skip
        self.model = model

    def __call__(self, prompt: str, negative: str = "", **options: Any) -> list[Picture]:
        """All pictures of one request; see `pictures`."""
        return list(self.pictures(prompt, negative, **options))

    def pictures(
        self,
        prompt: str,
        negative: str = "",
        *,
        init: Any = None,
        mask: Any = None,
        callback: Callable[[int, Tensor], None] | None = None,
        progress: ProgressCallback | None = None,
        cancel: Cancel | None = None,
        **settings: Any,
    ) -> Iterator[Picture]:
        """Yield pictures as they are done; arguments are those of `Model.sample`.

        seed None or -1 draws one. White space at the ends of lines of a prompt is taken off, so
        that the picture's text says exactly what was used.
        """
        settings["seed"] = drawn_seed(settings.get("seed", 0))
        prompt, negative = normalised(prompt), normalised(negative)
        options = Options.of({"negative": negative, **settings})
        model = self.model
        loras, others = loras_of(prompt, options, model), untagged(options, model)
        made = runs(
            model, prompt, options, init=init, mask=mask, callback=callback,
            progress=progress, cancel=cancel, loras=loras,
        )  # fmt: skip
        told: Facts | None = None
        init_hash = None if init is None else picture_hash(init)
        with closing(made):
            for one in made:
                told = told or facts_of(model, prompt, options, loras)
                text = compose(
                    with_tags(prompt, others, model.folders),
                    options,
                    told,
                    size=one.first_size,
                    seed=one.seed,
                    variation_seed=one.variation_seed,
                    init_hash=init_hash,
                    has_mask=mask is not None,
                )
                yield Picture(to_rgb(one.image), one.seed, one.variation_seed, text)


def drawn_seed(seed: int | None) -> int:
    """The seed itself, or one drawn by lot for None, and for -1, as A1111 has it."""
    return secrets.randbelow(RANDOM_SEEDS) if seed is None or seed == -1 else seed


def facts_of(model: Model, prompt: str, options: Options, loras: Sequence[Lora]) -> Facts:
    """What a picture's text says of model, files and how they were loaded."""
    vae = model.vae_path
    return Facts(
        model=model.path.stem,
        model_hash=model_sha256(model)[: hashes.MODEL_DIGITS],
        vae=vae.name if vae else "",
        vae_hash=hashes.sha256(vae)[: hashes.MODEL_DIGITS] if vae else "",
        loras={
            Path(path).stem: hashes.data_sha256(Path(path))[: hashes.LORA_DIGITS]
            for path, _ in loras
        },
        embeddings={
            word: hashes.sha256(path)[: hashes.LORA_DIGITS]
            for text in (prompt, options.negative)
            for word, path in model.text.embeddings_in(text).items()
        },
        zero_terminal_snr=model.loaded.zero_terminal_snr,
        prediction=model.prediction_asked,
        precision="" if model.dtype == torch.float32 else str(model.dtype).removeprefix("torch."),
        runtime="" if model.has_weights else "onnx",
        decoder=model.decoder_path.name if model.decoder_path else "",
        controls=[
            described(one, model.folders.find("control", one.file), options.resize)
            for one in options.controls
        ],
    )


def picture_hash(source: Any) -> str:
    """Of a file's bytes, as A1111 has it; "" for what is no file."""
    if isinstance(source, (str, Path)) and Path(source).is_file():
        return hashes.sha256(Path(source))[: hashes.MODEL_DIGITS]
    return ""


def model_sha256(model: Model) -> str:
    """Of the checkpoint's file; "" for a folder, which has no one hash."""
    row = manifest().get(model.path.name)
    if model.name == "nano" and row is not None:
        return str(row["sha256"])
    return hashes.sha256(model.path) if model.path.is_file() else ""
