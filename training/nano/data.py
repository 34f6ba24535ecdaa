"""Build the picture set of `nano`: emoji of four drawing styles with their names and keywords.

    python -m training.nano.data PACKAGES_DIR OUT.npz

PACKAGES_DIR holds the npm packages of README.md, each unpacked into NAME-VERSION/package. The
result: `image` [concepts, styles, 64, 64, 4] uint8, RGB premultiplied with alpha, so that the
background is drawn at training time; `label`, `tags` (JSON lists), `group`, `version`, `style`.

About 1,200 concepts are in all four sets once skin tones, flags, letters, clock faces and the
gendered or mirrored twins of a picture are left out.
"""

from __future__ import annotations

import io
import json
import re
import sys
import unicodedata
from multiprocessing import Pool
from pathlib import Path

import numpy as np
import resvg_py
from PIL import Image

SIDE_PX = 64
STYLES = ("flat", "gradient", "noto", "3d")
SVG_PACKAGES = {
    "flat": "iconify-json-fluent-emoji-flat-1.2.6",
    "gradient": "iconify-json-fluent-emoji-1.2.7",
    "noto": "iconify-json-noto-1.2.9",
}
RENDER_PACKAGE = "lobehub-fluent-emoji-3d-1.1.0"
NAMES_PACKAGE = "emojibase-data-17.0.0"

SYMBOLS, FLAGS, COMPONENTS = 8, 9, 2  # emojibase's group numbers
SKIN_TONE = re.compile(r"(light|medium-light|medium|medium-dark|dark)(-skin-tone)?$|skin-tone")
CLOCK_OR_KEY = re.compile(r"keycap|clock|oclock|thirty")


def build(packages: Path) -> dict[str, np.ndarray]:
    """Draw every concept that all four sets have; raises OSError where a package is missing."""
    named = {slug(e["label"]): e for e in read_json(packages / NAMES_PACKAGE, "en/data.json")}
    icons = {s: read_json(packages / p, "icons.json") for s, p in SVG_PACKAGES.items()}
    folder = packages / RENDER_PACKAGE / "package" / "assets"
    renders = {without_selector(f.stem): f for f in folder.glob("*.webp")}

    names = set(named)
    for pictures in icons.values():
        names &= {n for n in pictures["icons"] if not SKIN_TONE.search(n)}
    names = {n for n in names if without_selector(named[n]["hexcode"]) in renders}
    names = keep_distinct({n for n in names if is_thing(n, named[n].get("group"))})
    chosen = sorted(names, key=lambda n: (named[n]["group"], named[n]["order"]))

    jobs = [
        ([svg_of(icons[s], name) for s in SVG_PACKAGES], renders[without_selector(entry)])
        for name in chosen
        for entry in [named[name]["hexcode"]]
    ]
    with Pool() as pool:
        image = np.stack(pool.starmap(draw, jobs, chunksize=8))
    return {
        "image": image,
        "label": np.array([named[n]["label"] for n in chosen]),
        "tags": np.array([json.dumps(named[n].get("tags", [])) for n in chosen]),
        "group": np.array([named[n]["group"] for n in chosen]),
        "version": np.array([named[n]["version"] for n in chosen], np.float32),
        "style": np.array(STYLES),
    }


def read_json(package: Path, name: str):
    return json.loads((package / "package" / name).read_text())


def slug(label: str) -> str:
    """Iconify's spelling of a Unicode name: "woman’s hat" becomes `womans-hat`."""
    plain = re.sub("[’“”]", "", label.lower().replace("&", "and"))
    ascii_text = unicodedata.normalize("NFKD", plain).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z0-9]+", "-", ascii_text).strip("-")


def without_selector(hexcode: str) -> str:
    """Code points without U+FE0F, which the sets write or leave out as they please."""
    return hexcode.lower().replace("-fe0f", "")


def is_thing(name: str, group: int | None) -> bool:
    return group not in (SYMBOLS, FLAGS, COMPONENTS, None) and not CLOCK_OR_KEY.search(name)


def keep_distinct(names: set[str]) -> set[str]:
    """Drop gendered pictures that have a neutral twin, and the mirrored "facing right" ones."""

    def has_twin(name: str) -> bool:
        neutral = re.sub("^(wo)?man-", "person-", name)
        plural = re.match("(men|women)-", name) is not None
        return (neutral != name and neutral in names) or plural or "facing-right" in name

    return {n for n in names if not has_twin(n)}


def svg_of(pictures: dict, name: str) -> str:
    icon = pictures["icons"][name]
    width = icon.get("width", pictures.get("width", 16))
    height = icon.get("height", pictures.get("height", width))
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
        f' viewBox="0 0 {width} {height}">{icon["body"]}</svg>'
    )


def draw(svgs: list[str], render: Path) -> np.ndarray:  # [styles, 64, 64, 4] premultiplied
    pictures = dict(zip(SVG_PACKAGES, svgs))
    return np.stack(
        [shrink(Image.open(render) if s == "3d" else rasterise(pictures[s])) for s in STYLES]
    )


def rasterise(svg: str) -> Image.Image:
    """Render at four times the size; the box filter of `shrink` then smooths the edges."""
    png = resvg_py.svg_to_bytes(
        svg_string=svg, width=4 * SIDE_PX, height=4 * SIDE_PX, skip_system_fonts=True
    )
    return Image.open(io.BytesIO(bytes(png)))


def shrink(picture: Image.Image) -> np.ndarray:
    """Premultiply before averaging, or transparent pixels would bleed their colour into edges."""
    rgba = np.asarray(picture.convert("RGBA")).astype(np.float32)
    rgba[..., :3] *= rgba[..., 3:] / 255
    size = (SIDE_PX, SIDE_PX)
    box = picture.width % SIDE_PX == 0
    kind = Image.Resampling.BOX if box else Image.Resampling.LANCZOS
    planes = [np.asarray(Image.fromarray(rgba[..., i]).resize(size, kind)) for i in range(4)]
    return np.clip(np.stack(planes, -1) + 0.5, 0, 255).astype(np.uint8)


if __name__ == "__main__":
    arrays = build(Path(sys.argv[1]))
    np.savez(sys.argv[2], **arrays)
    print(f"{len(arrays['label'])} concepts, {arrays['image'].nbytes / 1e6:.0f} MB")
