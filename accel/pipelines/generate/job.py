"""`accel.generate`: pictures from a prompt into files, gated, marked, with a report."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from accel.core import Cancel, ConfigError, ProgressCallback
from accel.pipelines.gate import ContentGate
from accel.pipelines.generate.grid import Axis, Grid, axis_of, grid
from accel.pipelines.generate.loras import without
from accel.pipelines.generate.model import Model, tiny_decoder
from accel.pipelines.generate.options import Options
from accel.pipelines.generate.output import OutputConfig, PictureGate, write
from accel.pipelines.generate.pictures import check_picture
from accel.pipelines.generate.preview import Preview
from accel.pipelines.generate.prompts import check_length
from accel.pipelines.generate.repeat import equals, settings_from
from accel.pipelines.generate.sampler import Picture, Sampler, drawn_seed
from accel.pipelines.provenance import Marker, ProvenanceConfig
from accel.pipelines.run_report import device_name, peak_memory_mb, versions

# What `accel.load` takes beside the model.
LOADING = (
    "models", "dtype", "device", "vae", "max_memory", "runtime", "decoder", "prediction",
    "zero_terminal_snr",
)  # fmt: skip


def generate(
    prompt: str | None,
    output: str | Path,
    *,
    model: str | Path | Sampler | None = None,
    from_picture: str | Path | None = None,
    preview: str | Path | None = None,
    tiny_vae: str | Path | None = None,
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

    model: as `accel.load` takes it, or a `Sampler`, which is reused; None is `nano`, or what
        `from_picture` names.
    from_picture: a picture with A1111's text in it: its prompt and settings are taken, and those
        given here go before. preview: a PNG that shows the picture as it comes,
        through the TAESD `tiny_vae` if one is given.
    x, y, z: settings to be varied on one sheet, such as "cfg=1,3,7": see `axis_of`.
    gate: your own content gate, in place of `accel.pipelines.gate.ContentGate`.
    options: those of `accel.load` (`models`, `dtype`, `device`, ...) and of `Model.sample` (with
        `init` and `mask`), named as on the command line; a seed of None or -1 is drawn.
    Raises ConfigError for what cannot be, Refused where the gate says no, Cancelled; nothing
    half-written is left then.
    """
    config = OutputConfig(
        output=Path(output),
        overwrite=overwrite,
        sheet=sheet,
        provenance=provenance or ProvenanceConfig(),
    )
    clock = Clock()
    ask = Ask(prompt, model, {name: options.pop(name, None) for name in LOADING}, options)
    if from_picture is not None:
        ask.take_over(Path(from_picture))
    words = ask.check()
    axes = axes_of(x, y, z)
    if axes and ask.options.get("count", 1) != 1:
        raise ConfigError("count must be left out with x: a sheet has one picture in a place")
    config.check_free(int(ask.options.get("count", 1)))
    sampler = ask.sampler()
    clock.lap("load")
    look = None if preview is None else shown(sampler, Path(preview), callback, tiny_vae)
    asked: dict[str, Any] = {"progress": progress, "cancel": cancel, "callback": look or callback}
    with settled(look, config.provenance):
        table = grid_of(sampler, words, ask.options, axes, asked) if axes else None
        pictures = list(table.cells if table else sampler.pictures(words, **asked, **ask.options))
        clock.lap("sample")
        files, marked = write(
            pictures, config, sampler.model, gate or ContentGate(), ask.made_from, table
        )
    clock.lap("write")
    notes = []
    if from_picture is not None and equals(Path(from_picture), files[0]):
        notes.append(f"the same picture as {from_picture}, to the bit")
    return report(config.output, files, pictures, sampler.model, clock, marked, notes)


@dataclass
class Ask:
    """What is asked for: a prompt, a model and how to load it, and the options of sampling."""

    prompt: str | None
    model: str | Path | Sampler | None
    loading: dict[str, Any]
    options: dict[str, Any]

    def take_over(self, picture: Path) -> None:
        """Fill in what is not given from the text that a picture carries."""
        settings = settings_from(
            picture,
            self.loading["models"],
            has_model=self.model is not None,
            has_controls=bool(self.options.get("controls")),
        )
        told = settings.pop("prompt")
        self.prompt = told if self.prompt is None else self.prompt
        own = settings.pop("model") if self.model is None else None
        self.model = own if self.model is None else self.model
        for name in LOADING:
            value = settings.pop(name, None)
            if self.loading[name] is None:
                self.loading[name] = value
        if self.options.get("loras"):  # what is given again goes before
            self.prompt = without(self.prompt, self.options["loras"])
        self.options = settings | self.options

    def check(self) -> str:
        """Refuse what cannot be before any network is opened; the prompt."""
        if self.prompt is None:
            raise ConfigError("generate: a prompt must be given, or a picture to repeat")
        self.options["seed"] = drawn_seed(self.options.get("seed"))
        check_length(self.prompt)
        check_given(self.options)
        return self.prompt

    def sampler(self) -> Sampler:
        if isinstance(self.model, Sampler):
            return self.model
        given = {name: value for name, value in self.loading.items() if value is not None}
        return Sampler(self.model or "nano", **({"device": "auto"} | given))

    @property
    def made_from(self) -> Path | None:
        """The file of the picture that this one begins with."""
        begun = self.options.get("init")
        return Path(begun) if isinstance(begun, (str, Path)) else None


class Clock:
    """Seconds of each stage, and of all."""

    def __init__(self) -> None:
        self.began = self._last = time.perf_counter()
        self.stages: dict[str, float] = {}

    def lap(self, stage: str) -> None:
        now = time.perf_counter()
        self.stages[stage], self._last = now - self._last, now


def shown(
    sampler: Sampler,
    target: Path,
    callback: Callable[[int, Tensor], None] | None,
    tiny_vae: str | Path | None,
) -> Preview:
    """What writes the picture as it comes, by a small decoder where one is named."""
    model, tiny = sampler.model, None
    if tiny_vae is not None:
        tiny = tiny_decoder(model, model.folders.find("decoder", tiny_vae))
    return Preview(model, target, callback, tiny)


@contextmanager
def settled(look: Preview | None, provenance: ProvenanceConfig) -> Iterator[None]:
    """A preview bears the mark of what was made, and goes with what was refused or broken off."""
    try:
        yield
    except BaseException:
        if look:
            look.give_up()
        raise
    if look:  # its PNG may have any name, so no credential; the run itself is in the ledger
        look.settle(Marker(replace(provenance, credentials=False, ledger=False), task="generate"))


def report(
    output: Path,
    files: Sequence[Path],
    pictures: Sequence[Picture],
    model: Model,
    clock: Clock,
    marked: Mapping[str, Any],
    notes: Sequence[str],
) -> dict[str, Any]:
    """What was made, fit for JSON."""
    return {
        "output": str(output),
        "files": [str(path) for path in files],
        "pictures": [described(one) for one in pictures],
        "model": model.path.stem,
        "family": model.name,
        "seconds": time.perf_counter() - clock.began,
        "stage_seconds": clock.stages,
        "peak_memory_mb": peak_memory_mb(),
        "device": device_name(model.device),
        "versions": versions(),
        "marked": marked,
        "notes": list(notes),
    }


def check_given(options: Mapping[str, Any]) -> None:
    """Refuse settings and files that cannot be used before any network is opened."""
    settings = {k: v for k, v in options.items() if k not in ("init", "mask", "noise", "controls")}
    Options.of(settings)
    for name in ("init", "mask"):
        if isinstance(options.get(name), (str, Path)):
            check_picture(Path(options[name]))


def axes_of(*given: str | Axis | None) -> list[Axis | None]:
    """x, y and z as axes; empty where nothing is to be varied."""
    axes = [axis_of(axis) if isinstance(axis, str) else axis for axis in given]
    if axes[0] is None and any(axes):
        raise ConfigError("x must be given where y or z are")
    return axes if axes[0] else []


def grid_of(
    sampler: Sampler,
    prompt: str,
    options: Mapping[str, Any],
    axes: Sequence[Axis | None],
    asked: Mapping[str, Any],
) -> Grid:
    """Sample a sheet; the pictures among the options go on as inputs."""
    settings = dict(options)
    inputs = {name: settings.pop(name) for name in ("init", "mask") if name in settings}
    negative = settings.pop("negative", "")
    x, y, z = axes
    assert x is not None
    return grid(sampler, prompt, negative, x=x, y=y, z=z, settings=settings, **inputs, **asked)


def described(picture: Picture) -> dict[str, Any]:
    return {
        "seed": picture.seed,
        "width": picture.rgb.shape[1],
        "height": picture.rgb.shape[0],
        "infotext": picture.infotext,
    }
