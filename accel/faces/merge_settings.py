"""What a merge can be told: modes, masks, colour transfers and ranges, by DeepFaceLab's words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from accel.core import ConfigError

# In DeepFaceLab's order: a number, there and here, is a place in these.
MODES = (
    "original", "overlay", "hist-match", "seamless", "seamless-hist-match", "raw-rgb",
    "raw-predict",
)  # fmt: skip
MASKS = (
    "full", "dst", "learned-prd", "learned-dst", "learned-prd*learned-dst",
    "learned-prd+learned-dst", "XSeg-prd", "XSeg-dst", "XSeg-prd*XSeg-dst",
    "learned-prd*learned-dst*XSeg-prd*XSeg-dst",
)  # fmt: skip
COLORS = ("none", "rct", "lct", "mkl", "mkl-m", "idt", "idt-m", "sot-m", "mix-m")
SHARPENS = ("none", "box", "gaussian")
WORDS = {"mode": MODES, "mask": MASKS, "color": COLORS, "sharpen": SHARPENS}
RANGES = {
    "hist_match_threshold": (0, 255),
    "erode": (-400, 400),
    "blur": (0, 400),
    "motion_blur": (0, 100),
    "face_scale": (-50, 50),
    "super_resolution": (0, 100),
    "sharpness": (-100, 100),
    "denoise": (0, 500),
    "bicubic": (0, 100),
    "color_degrade": (0, 100),
}
# Shells take the star for a file name, so masks have names without one too.
SHORT_MASKS = {
    "prd": "learned-prd",
    "learned-prd*dst": "learned-prd*learned-dst",
    "prd*dst": "learned-prd*learned-dst",
    "prdxdst": "learned-prd*learned-dst",
    "learned-prd+dst": "learned-prd+learned-dst",
    "prd+dst": "learned-prd+learned-dst",
    "xseg-prdxdst": "XSeg-prd*XSeg-dst",
    "xseg-prd*dst": "XSeg-prd*XSeg-dst",
    "all": MASKS[9],
}


@dataclass(frozen=True, kw_only=True)
class MergeSettings:
    """How one frame is merged.

    mode: how the face gets into the frame, one of MODES.
    mask: which part of the face is taken, one of MASKS.
    color: how the face gets the frame's colours, one of COLORS.
    masked_hist_match: hist-match looks at pixels under the mask alone.
    hist_match_threshold: how far up the frame's values it goes.
    erode: pixels, of a face four times the model's resolution, that the mask's edge moves inwards.
    blur: width of its soft edge, in the same pixels.
    motion_blur: per cent of the way that the face moves from the frame before to the one after.
    face_scale: per cent that the pasted square is zoomed into: above 0 the face gets smaller.
    super_resolution: per cent of the four times enlarged face that a network drew.
    sharpen, sharpness: filter and strength; below 0 the face is blurred instead.
    denoise: passes of a median filter over the frame, a tenth of its number.
    bicubic: per cent that the frame is made smaller and large again.
    color_degrade: per cent of the picture reduced to 256 colours.
    """

    mode: str = "overlay"
    mask: str = MASKS[4]
    color: str = "rct"
    masked_hist_match: bool = True
    hist_match_threshold: int = 238
    erode: int = 0
    blur: int = 0
    motion_blur: int = 0
    face_scale: int = 0
    super_resolution: int = 0
    sharpen: str = "none"
    sharpness: int = 0
    denoise: int = 0
    bicubic: int = 0
    color_degrade: int = 0

    def __post_init__(self) -> None:
        for name, words in WORDS.items():
            object.__setattr__(self, name, _word(name, getattr(self, name), words))
        for name, (low, high) in RANGES.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
                raise ConfigError(f"{name} must be a whole number {low}..{high}, got {value!r:.40}")
        if not isinstance(self.masked_hist_match, bool):
            raise ConfigError(
                f"masked_hist_match must be true or false, got {self.masked_hist_match!r:.40}"
            )

    @property
    def is_seamless(self) -> bool:
        return self.mode.startswith("seamless")

    @property
    def needs_prediction(self) -> bool:
        return self.mode != "original" or "prd" in self.mask or "learned" in self.mask

    @property
    def needs_xseg(self) -> bool:
        return "XSeg" in self.mask

    @property
    def changes_background(self) -> bool:
        """Whether pixels outside the mask change too."""
        return self.roughens_background or (self._blends and bool(self.color_degrade))

    @property
    def roughens_background(self) -> bool:
        """Whether they change before a face is put among them."""
        return self._blends and bool(self.denoise or self.bicubic)

    @property
    def _blends(self) -> bool:
        return self.mode not in ("original", "raw-rgb", "raw-predict")

    def with_changes(self, changes: Mapping[str, Any]) -> MergeSettings:
        """These settings with some changed. Raises ConfigError for a name there is not."""
        check_names(changes)
        return replace(self, **changes)

    def differences(self, other: MergeSettings) -> dict[str, Any]:
        """What must be changed in `other` to get these."""
        mine, theirs = asdict(self), asdict(other)
        return {name: value for name, value in mine.items() if value != theirs[name]}


def check_names(found: Mapping[str, Any], who: str = "merge settings") -> None:
    known = [field.name for field in fields(MergeSettings)]
    unknown = [str(name) for name in found if name not in known]
    if unknown:
        raise ConfigError(
            f"{who}: there is no {', '.join(unknown)[:80]}; it has {', '.join(known)}"
        )


def _word(name: str, value: object, words: tuple[str, ...]) -> str:
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(words):
        return words[value]
    text = str(value)
    if text.isdecimal() and int(text) < len(words):
        return words[int(text)]
    plain = text.lower().replace(" ", "")
    if name == "mask":
        plain = SHORT_MASKS.get(plain, plain).lower()
    for word in words:
        if word.lower() == plain:
            return word
    raise ConfigError(f"{name} must be one of {', '.join(words)}, got {text!r:.60}")
