"""X/Y/Z grids: the same request with one, two or three settings varied, on one labelled sheet."""

from __future__ import annotations

import csv
import itertools
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, get_args, get_type_hints

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from accel.core import ConfigError
from accel.pipelines.generate.options import Options
from accel.pipelines.generate.sampler import Picture, Sampler, drawn_seed
from accel.sampling.names import unknown
from accel.text.prompt import TAG

REPLACE, LORA_WEIGHT = "prompt", "lora_weight"  # axes that are no field of Options
ALIASES = {"prompt_s/r": REPLACE, "prompt_sr": REPLACE, "cfg_scale": "cfg", "scheduler": "schedule",
           "denoising": "strength", "denoising_strength": "strength"}  # fmt: skip
RANGE = re.compile(
    r"\s*(-?[\d.]+)\s*-\s*(-?[\d.]+)\s*(?:\(\s*([+-][\d.]+)\s*\)|\[\s*(\d+)\s*\])?\s*"
)
MAX_CELLS = 400
GAP_PX, PAD_PX, LETTER_PX = 4, 6, 14
WHITE, BLACK = (255, 255, 255), (0, 0, 0)


@dataclass(frozen=True)
class Axis:
    """name: a field of Options, "prompt" (the first value is searched for and replaced by each), or
    "lora_weight" (of every LoRA that is asked for)."""

    name: str
    values: tuple[Any, ...]

    def label(self, value: Any) -> str:
        told = f"{value:g}" if isinstance(value, float) else value
        return str(value) if self.name == REPLACE else f"{self.name}: {told}"


def axis_of(text: str) -> Axis:
    """Read `steps=4,8,12`, `cfg=1-5`, `seed=1-10 (+3)`, `cfg=1-7 [4]`, `prompt=cat,"a dog, old"`.

    A range counts by 1, by what stands in round brackets, or has as many values as square brackets
    say, as A1111 has it. Raises ConfigError for an axis or value that cannot be.
    """
    name, separator, rest = text.partition("=")
    name = name.strip().lower().replace(" ", "_").replace("-", "_")
    name = ALIASES.get(name, name)
    if not separator or not rest.strip():
        raise ConfigError(f"an axis must be NAME=VALUE,VALUE,..., got {text!r}")
    kinds = axis_kinds()
    if name not in kinds:
        raise unknown("axis", name, kinds)
    values: list[Any] = []
    for part in next(csv.reader([rest], skipinitialspace=True)):
        values += spread(name, kinds[name], part.strip())
    return Axis(name, tuple(values))


def axis_kinds() -> dict[str, Callable[[str], Any]]:
    """What values each axis has; fields that hold several are left out."""
    kinds: dict[str, Callable[[str], Any]] = {REPLACE: str, LORA_WEIGHT: float}
    hints = get_type_hints(Options)
    for field in fields(Options):
        hint = hints[field.name]
        choices = [kind for kind in (get_args(hint) or (hint,)) if kind in (int, float, str)]
        if choices and "tuple" not in str(hint):
            kinds[field.name] = choices[0]
        elif hint is bool:
            kinds[field.name] = lambda text: text.lower() in ("true", "yes", "on", "1")
    del kinds["count"]
    return kinds


def spread(name: str, kind: Callable[[str], Any], text: str) -> list[Any]:
    """The values of one part of an axis: a single one, or those of a range."""
    match = RANGE.fullmatch(text) if kind in (int, float) else None
    try:
        if match is None:
            return [kind(text)]
        low, high = float(match[1]), float(match[2])
        if match[4]:
            points = np.linspace(low, high, min(int(match[4]), MAX_CELLS + 1)).tolist()
        else:
            step = float(match[3] or (1 if high >= low else -1))
            count = int((high - low) / step + 1e-9) + 1 if step else 0
            points = [low + i * step for i in range(min(max(count, 0), MAX_CELLS + 1))]
    except (ValueError, OverflowError):
        raise ConfigError(f"axis {name}: {text!r} is no value of it") from None
    if not points:
        raise ConfigError(f"axis {name}: {text!r} leads to no value")
    return [round(p) if kind is int else round(p, 6) for p in points]


@dataclass(frozen=True)
class Grid:
    """rgb: the sheet, [H, W, 3]. cells: all pictures, x fastest, z slowest."""

    rgb: NDArray[np.uint8]
    cells: tuple[Picture, ...]
    infotext: str


def grid(
    sampler: Sampler,
    prompt: str,
    negative: str = "",
    *,
    x: Axis,
    y: Axis | None = None,
    z: Axis | None = None,
    settings: Mapping[str, Any] | None = None,
    **rest: Any,
) -> Grid:
    """Sample every combination; settings and rest are those of `Sampler.pictures`."""
    axes = [x, y or Axis("", ("",)), z or Axis("", ("",))]
    total = int(np.prod([len(axis.values) for axis in axes]))
    if total > MAX_CELLS:
        raise ConfigError(f"a grid must have at most {MAX_CELLS} pictures, got {total}")
    base = dict(settings or {}) | {"count": 1}
    base["seed"] = drawn_seed(base.get("seed", 0))  # all cells share what is not varied
    jobs = list(combined(prompt, negative, base, axes))
    for _, other, options in jobs:  # a value that cannot be is found before any work is done
        Options.of({"negative": other, **options})
    cells = [sampler(text, other, **options, **rest)[0] for text, other, options in jobs]
    sheet = drawn(cells, axes)
    told = [(title, axis) for title, axis in zip("XYZ", axes) if axis.name]
    script = "".join(
        f", {title} Type: {axis.name}, {title} Values: {listed(axis.values)}"
        for title, axis in told
    )
    head, separator, tail = cells[0].infotext.rpartition(", Version:")
    infotext = f"{head}, Script: X/Y/Z plot{script}{separator}{tail}"
    return Grid(sheet, tuple(cells), infotext)


def listed(values: Sequence[Any]) -> str:
    return json.dumps(",".join(map(str, values)), ensure_ascii=False)


def combined(
    prompt: str, negative: str, base: Mapping[str, Any], axes: Sequence[Axis]
) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Prompt, negative prompt and options of each cell, x fastest."""
    for z, y, x in itertools.product(*(axis.values for axis in reversed(axes))):
        text, other, options = prompt, negative, dict(base)
        for axis, value in zip(axes, (x, y, z)):
            if axis.name == REPLACE:
                searched = str(axis.values[0])
                if searched not in prompt and searched not in negative:
                    raise ConfigError(f"axis prompt: {searched!r} is not in the prompt")
                text, other = text.replace(searched, value), other.replace(searched, value)
            elif axis.name == LORA_WEIGHT:
                text, options = weighted(text, options, value)
            elif axis.name == "negative":
                other = value
            elif axis.name:
                options[axis.name] = value
        yield text, other, options


def weighted(text: str, options: dict[str, Any], weight: float) -> tuple[str, dict[str, Any]]:
    """Every LoRA of the options and of tags in the prompt at this weight."""

    def replaced(match: re.Match[str]) -> str:
        kind, inside = match[1], match[2].split(":")
        return f"<{kind}:{inside[0]}:{weight}>" if kind in ("lora", "lyco") else match[0]

    loras = tuple((name, weight) for name, _ in options.get("loras", ()))
    changed = TAG.sub(replaced, text)
    if not loras and changed == text and f":{weight}>" not in text:
        raise ConfigError("axis lora_weight: no LoRA is asked for")
    return changed, options | ({"loras": loras} if loras else {})


# ------------------------------------------------------------------ the sheet


def drawn(cells: Sequence[Picture], axes: Sequence[Axis]) -> NDArray[np.uint8]:
    """Cells with x labels above the columns, y labels before the rows, z labels above each part."""
    x, y, z = axes
    width = max(cell.rgb.shape[1] for cell in cells)
    height = max(cell.rgb.shape[0] for cell in cells)
    font = ImageFont.load_default(LETTER_PX)
    across = [wrapped(font, x.label(v) if x.name else "", width) for v in x.values]
    down = [y.label(v) if y.name else "" for v in y.values]
    side = max((text_width(font, line) for line in down), default=0)
    side = side + 2 * PAD_PX if any(down) else 0
    line_px = LETTER_PX + 4
    top = max(len(lines) for lines in across) * line_px + PAD_PX if x.name else 0
    title = line_px + PAD_PX if z.name else 0
    part = title + top + len(y.values) * (height + GAP_PX)
    size = (side + len(x.values) * (width + GAP_PX), len(z.values) * part)
    sheet = Image.new("RGB", size, WHITE)
    pen = ImageDraw.Draw(sheet)
    remaining = iter(cells)
    for k, z_value in enumerate(z.values):
        if z.name:
            pen.text((PAD_PX, k * part + PAD_PX // 2), z.label(z_value), BLACK, font)
        for i, lines in enumerate(across):
            middle = side + i * (width + GAP_PX) + width // 2
            for row, line in enumerate(lines):
                at = (middle - text_width(font, line) // 2, k * part + title + row * line_px)
                pen.text(at, line, BLACK, font)
        for j, label in enumerate(down):
            above = k * part + title + top + j * (height + GAP_PX)
            pen.text((PAD_PX, above + (height - LETTER_PX) // 2), label, BLACK, font)
            for i in range(len(x.values)):
                cell = Image.fromarray(next(remaining).rgb)
                sheet.paste(cell, (side + i * (width + GAP_PX), above))
    return np.ascontiguousarray(np.asarray(sheet))


def wrapped(font: Any, text: str, width: int) -> list[str]:
    """Lines that fit the width, broken at spaces."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and text_width(font, longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def text_width(font: Any, text: str) -> int:
    return int(font.getlength(text)) + 1
