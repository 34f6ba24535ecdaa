"""Draw a style that `nano` does not know, as a folder of captioned pictures for a LoRA.

    python -m training.nano.style PACKAGES_DIR nano.safetensors FOLDER

PACKAGES_DIR holds @iconify-json/fluent-emoji-high-contrast@1.2.6 (MIT), unpacked as data.py says:
black on white. The concepts are those of the model; every tenth is left out, to be judged by.
"""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image

from accel.training.diffusion.nano_file import load
from training.nano.data import rasterise, read_json, slug, svg_of

PACKAGE = "iconify-json-fluent-emoji-high-contrast-1.2.6"
SIDE_PX = 64
CAPTION = "{}, ink style"


def main(packages: Path, model: Path, folder: Path) -> None:
    icons = read_json(packages / PACKAGE, "icons.json")
    folder.mkdir(parents=True, exist_ok=True)
    labels = [label for label in load(model).labels if slug(label) in icons["icons"]]
    for i, label in enumerate(labels):
        if i % 10 == 9:
            continue
        svg = svg_of(icons, slug(label)).replace("currentColor", "#101010")
        drawn = rasterise(svg).convert("RGBA")
        white = Image.new("RGBA", drawn.size, "white")
        white.alpha_composite(drawn)
        name = slug(label)
        white.convert("RGB").resize((SIDE_PX, SIDE_PX), Image.Resampling.BOX).save(
            folder / f"{name}.png"
        )
        (folder / f"{name}.txt").write_text(CAPTION.format(label) + "\n")
    print(f"{len(labels) - len(labels) // 10} of {len(labels)} pictures in {folder}")


if __name__ == "__main__":
    main(*(Path(argument) for argument in sys.argv[1:4]))
