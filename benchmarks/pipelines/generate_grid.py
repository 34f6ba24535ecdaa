"""The README's picture of what each control does, by the embedded model: docs/pictures/nano.png.

Rows: prompts, negative prompt, guidance, the strength of a start picture, inpainting, and, where a
file is given, the weight of a LoRA. Every row varies one thing.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

import accel
from benchmarks.harness import Picture

OUTPUT = Path("docs/pictures/nano.png")
BASE = {"steps": 20, "cfg": 5.0, "seed": 1}
PROMPTS = ("red apple", "lemon", "whale", "sun", "strawberry", "balloon")
SCALE, GAP_PX, LETTER_PX, SIDE_PX = 2, 6, 13, 118


def rows_of(
    sampler: accel.Sampler, lora: str | None
) -> list[tuple[str, list[tuple[str, Picture]]]]:
    def made(prompt: str, negative: str = "", **options: Any) -> Picture:
        picture: Picture = sampler(prompt, negative, **(BASE | options))[0].rgb
        return picture

    apple = made("red apple")
    mask = np.zeros(apple.shape[:2], np.uint8)
    mask[:, apple.shape[1] // 2 :] = 255
    edit: dict[str, Any] = {"init": apple, "strength": 1.0, "mask": mask, "mask_blur": 1}
    rows = [
        ("prompt", [(p, made(p)) for p in PROMPTS]),
        ("negative prompt", [(n or "none", made("apple", n)) for n in
                             ("", "red", "green", "flat style", "3d style", "white background")]),
        ("guidance", [(f"cfg {c}", made("green apple", cfg=float(c)))
                      for c in (1, 2, 3, 5, 7, 10)]),
        ("strength", [(f"{s}", made("green apple", init=apple, strength=s)) for s in
                      (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)]),
        ("inpainting", [("start", apple), ("mask", mask[..., None].repeat(3, -1)),
                        *((p, made(p, **edit)) for p in
                          ("green apple", "lemon", "orange", "blue apple"))]),
    ]  # fmt: skip
    if lora:
        weights = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
        cells = [(f"{w}", made("red apple", loras=[(lora, w)])) for w in weights]
        rows.append(("LoRA weight", cells))
    return rows


def drawn(rows: list[tuple[str, list[tuple[str, Picture]]]]) -> Image.Image:
    side = rows[0][1][0][1].shape[0] * SCALE
    step = side + GAP_PX
    columns = max(len(cells) for _, cells in rows)
    height = len(rows) * (step + LETTER_PX + 4)
    sheet = Image.new("RGB", (SIDE_PX + columns * step, height), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(LETTER_PX)
    for j, (title, cells) in enumerate(rows):
        top = j * (step + LETTER_PX + 4)
        pen.text((4, top + LETTER_PX + side // 2 - 6), title, "black", font)
        for i, (label, rgb) in enumerate(cells):
            left = SIDE_PX + i * step
            pen.text((left + (side - font.getlength(label)) / 2, top), label, "black", font)
            large = Image.fromarray(rgb).resize((side, side), Image.Resampling.BICUBIC)
            sheet.paste(large, (left, top + LETTER_PX + 4))
    return sheet


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=OUTPUT)
    parser.add_argument("--lora", help="file of a LoRA for the last row")
    args = parser.parse_args([] if argv is None else argv)
    drawn(rows_of(accel.Sampler("nano"), args.lora)).save(args.output, optimize=True)
    print(args.output)


if __name__ == "__main__":
    import sys

    main(sys.argv[1:])
