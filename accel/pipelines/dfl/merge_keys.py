"""The keys of DeepFaceLab's interactive merger, and what each does to the settings of a frame."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from accel.faces.merge_settings import COLORS, MASKS, MODES, RANGES, SHARPENS, MergeSettings

FASTER = 5  # what shift multiplies a step by
MODE_KEYS = {"`": 0} | {str(i): i for i in range(1, len(MODES))}
STEPS = {  # key that raises a number, key that lowers it
    "hist_match_threshold": ("q", "a"),
    "erode": ("w", "s"),
    "blur": ("e", "d"),
    "motion_blur": ("r", "f"),
    "super_resolution": ("t", "g"),
    "sharpness": ("y", "h"),
    "face_scale": ("u", "j"),
    "denoise": ("i", "k"),
    "bicubic": ("o", "l"),
    "color_degrade": ("p", ";"),
}
RAISING = {up: name for name, (up, _) in STEPS.items()}
LOWERING = {down: name for name, (_, down) in STEPS.items()}
CYCLES = {"x": ("mask", MASKS), "c": ("color", COLORS), "n": ("sharpen", SHARPENS)}
LABELS = {
    "mode": "mode", "mask": "mask", "color": "color transfer", "sharpen": "sharpen mode",
    "masked_hist_match": "masked hist match", "hist_match_threshold": "hist match threshold",
    "erode": "erode mask", "blur": "blur mask", "motion_blur": "motion blur",
    "super_resolution": "super resolution", "sharpness": "blur / sharpen",
    "face_scale": "face scale", "denoise": "denoise image", "bicubic": "bicubic rescale",
    "color_degrade": "degrade color",
}  # fmt: skip
HELP = (
    ("` 1 2 3 4 5 6", "mode: original, overlay, hist-match, seamless, seamless-hist-match,"
     " raw-rgb, raw-predict"),
    ("q a", "histogram threshold"),
    ("w s", "erode the mask"),
    ("e d", "blur the mask"),
    ("r f", "motion blur"),
    ("t g", "super resolution"),
    ("y h", "sharpen, below 0 blur"),
    ("u j", "face scale"),
    ("i k", "denoise the image"),
    ("o l", "bicubic rescale of the image"),
    ("p ;", "reduce the image's colors"),
    ("z", "match histograms under the mask alone, or of the whole crop"),
    ("x c n", "next mask, color transfer, sharpen mode"),
    ("shift + key", "five steps at once"),
    (", .", "previous, next frame"),
    ("shift + ,", "first frame"),
    ("m /", "previous, next frame, and give it this frame's settings"),
    ("shift + m, shift + /", "the same for all frames to the first, to the last"),
    ("shift + .  (>)", "merge all frames; again or esc stops"),
    ("v", "show the mask on a checkerboard"),
    ("- =", "smaller, larger preview"),
    ("tab", "this help"),
    ("esc", "save the settings and leave"),
)  # fmt: skip


def changed(
    settings: MergeSettings, key: str, is_fast: bool, has_xseg: bool
) -> MergeSettings | None:
    """The settings after a key, None for a key that is not about settings.

    has_xseg: whether masks of an XSeg network can be had; else they are passed over.
    """
    if key in MODE_KEYS:
        return replace(settings, mode=MODES[MODE_KEYS[key]])
    if key in RAISING or key in LOWERING:
        name = RAISING.get(key) or LOWERING[key]
        low, high = RANGES[name]
        step = (FASTER if is_fast else 1) * (1 if key in RAISING else -1)
        value = min(max(getattr(settings, name) + step, low), high)
        return settings.with_changes({name: value})
    if key in CYCLES:
        name, words = CYCLES[key]
        if name == "mask" and not has_xseg:
            words = tuple(word for word in words if "XSeg" not in word)
        now = getattr(settings, name)
        place = words.index(now) if now in words else -1
        return settings.with_changes({name: words[(place + 1) % len(words)]})
    if key == "z":
        return replace(settings, masked_hist_match=not settings.masked_hist_match)
    return None


def rows(settings: MergeSettings) -> list[dict[str, Any]]:
    """What the page shows of the settings: name, value, and the keys that change it."""
    told: list[dict[str, Any]] = []
    for name, label in LABELS.items():
        value = getattr(settings, name)
        keys: tuple[str, ...] = STEPS.get(name, ())
        if name == "masked_hist_match":
            value, keys = ("yes" if value else "no"), ("z",)
        for key, (cycled, _) in CYCLES.items():
            if name == cycled:
                keys = (key,)
        if name == "mode":
            keys = tuple(MODE_KEYS)
        told.append({"name": name, "label": label, "value": value, "keys": list(keys)})
    return told
