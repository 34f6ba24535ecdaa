"""`accel.generate`: pictures from a prompt into files, gated, marked, with a report."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import accel
from accel.core import Cancel, ConfigError, ProgressCallback
from accel.pipelines.gate import ContentGate
from accel.pipelines.generate.grid import Axis, Grid, axis_of, grid
from accel.pipelines.generate.loras import without
from accel.pipelines.generate.model import tiny_decoder
from accel.pipelines.generate.options import Options
from accel.pipelines.generate.output import OutputConfig, PictureGate, write
from accel.pipelines.generate.pictures import check_picture
from accel.pipelines.generate.preview import Preview
from accel.pipelines.generate.prompts import check_length
from accel.pipelines.generate.repeat import equals, settings_from
from accel.pipelines.generate.sampler import Picture, Sampler
from accel.pipelines.provenance import ProvenanceConfig
from accel.pipelines.swap import peak_memory_mb


def generate(
    prompt: str | None,
    output: str | Path,
    *,
    model: str | Path | Sampler | None = None,
    models: str | Path | None = None,
    dtype: torch.dtype | None = None,
    device: str = "auto",
    vae: str | Path | None = None,
    max_memory: float | None = None,
    runtime: str | None = None,
    decoder: str | Path | None = None,
    prediction: str | None = None,
    zero_terminal_snr: bool | None = None,
    tiny_vae: str | Path | None = None,
    from_picture: str | Path | None = None,
    preview: str | Path | None = None,
    x: str | Axis | None = None,
    y: str | Axis | None = None,
    z: str | Axis | None = None,
    overwrite: bool = False,
    sheet: bool = True,
    gate: PictureGate | None = None,
    provenance: ProvenanceConfig | None = None,
    progress: ProgressCallback | None = None,
    cancel: Cancel | None = None,
    callback: Callable[[int, Tensor], None] | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Make pictures and write them; return the report that the command line gives as JSON.

    model, models, dtype, device, vae, max_memory, runtime, decoder, prediction, zero_terminal_snr:
        see `accel.load`. model None is `nano`, or what `from_picture` names; a `Sampler` is reused.
    from_picture: a picture with A1111's text in it: its prompt and settings are taken, and those
        given here go before. preview: a PNG that shows the picture as it comes,
        through the TAESD `tiny_vae` if one is given.
    x, y, z: settings to be varied on one sheet, such as "cfg=1,3,7": see `axis_of`.
    gate: your own content gate, in place of `accel.pipelines.gate.ContentGate`.
    options: those of `Model.sample` (with `init` and `mask`), named as on the command line; a seed
        of None is drawn.
    Raises ConfigError for what cannot be, Refused where the gate says no, Cancelled; nothing
    half-written is left then.
    """
    config = OutputConfig(
        output=Path(output),
        overwrite=overwrite,
        sheet=sheet,
        provenance=provenance or ProvenanceConfig(),
    )
    started = time.perf_counter()
    notes: list[str] = []
    loading: dict[str, Any] = {
        "vae": vae, "decoder": decoder, "dtype": dtype, "runtime": runtime,
        "prediction": prediction, "zero_terminal_snr": zero_terminal_snr,
    }  # fmt: skip
    if from_picture is not None:
        settings = settings_from(
            Path(from_picture),
            models,
            has_model=model is not None,
            has_controls=bool(options.get("controls")),
        )
        prompt = settings.pop("prompt") if prompt is None else prompt
        model = settings.pop("model") if model is None else model
        for name, given in loading.items():
            own = settings.pop(name, None)
            loading[name] = own if given is None else given
        if options.get("loras") and isinstance(prompt, str):
            prompt = without(prompt, options["loras"])  # what is given again goes before
        options = settings | options
    if prompt is None:
        raise ConfigError("generate: a prompt must be given, or a picture to repeat")
    options.setdefault("seed", None)
    check_length(prompt)
    check_given(options)
    config.check_free(int(options.get("count", 1)))
    sampler = model if isinstance(model, Sampler) else Sampler(
        model or "nano", device=device, models=models, max_memory=max_memory,
        **{name: value for name, value in loading.items() if value is not None},
    )  # fmt: skip
    loaded = time.perf_counter()
    watch = callback
    if preview:
        tiny = None
        if tiny_vae is not None:
            path = sampler.model.folders.find("decoder", tiny_vae)
            tiny = tiny_decoder(sampler.model, path)
        watch = Preview(sampler.model, Path(preview), callback, tiny)
    asked: dict[str, Any] = {"progress": progress, "cancel": cancel, "callback": watch}
    table: Grid | None = None
    if x is not None:
        table = grid_of(sampler, prompt, options, (x, y, z), asked)
        pictures = list(table.cells)
    else:
        pictures = list(sampler.pictures(prompt, **asked, **options))
    sampled = time.perf_counter()
    target = options.get("init")
    made_from = Path(target) if isinstance(target, (str, Path)) else None
    files, marked = write(pictures, config, sampler.model, gate or ContentGate(), made_from, table)
    if from_picture is not None and equals(Path(from_picture), files[0]):
        notes.append(f"the same picture as {from_picture}, to the bit")
    done = time.perf_counter()
    return {
        "output": str(config.output),
        "files": [str(path) for path in files],
        "pictures": [described(one) for one in pictures],
        "model": sampler.model.path.stem,
        "family": sampler.model.name,
        "seconds": done - started,
        "stage_seconds": {
            "load": loaded - started,
            "sample": sampled - loaded,
            "write": done - sampled,
        },
        "peak_memory_mb": peak_memory_mb(),
        "device": str(sampler.model.device),
        "versions": {
            "accel": accel.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
        "marked": marked,
        "notes": notes,
    }


def check_given(options: Mapping[str, Any]) -> None:
    """Refuse settings and files that cannot be used before any network is opened."""
    settings = {k: v for k, v in options.items() if k not in ("init", "mask", "noise", "controls")}
    Options.of(settings | {"seed": settings.get("seed") or 0})
    for name in ("init", "mask"):
        if isinstance(options.get(name), (str, Path)):
            check_picture(Path(options[name]))


def grid_of(
    sampler: Sampler,
    prompt: str,
    options: Mapping[str, Any],
    axes: Sequence[str | Axis | None],
    asked: Mapping[str, Any],
) -> Grid:
    settings = dict(options)
    inputs = {name: settings.pop(name) for name in ("init", "mask") if name in settings}
    negative = settings.pop("negative", "")
    x, y, z = (axis_of(axis) if isinstance(axis, str) else axis for axis in axes)
    assert x is not None
    return grid(sampler, prompt, negative, x=x, y=y, z=z, settings=settings, **inputs, **asked)


def described(picture: Picture) -> dict[str, Any]:
    return {
        "seed": picture.seed,
        "width": picture.rgb.shape[1],
        "height": picture.rgb.shape[0],
        "infotext": picture.infotext,
    }
