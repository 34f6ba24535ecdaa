"""Settings of a face autoencoder's training, and how DeepFaceLab's files spell them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from accel.core import ConfigError, InputError
from accel.faces.autoencoder import QUICK96, AutoencoderConfig
from accel.faces.face_types import FaceType, face_type

MODELS = {"quick96": "Quick96", "saehd": "SAEHD"}  # what users type, what files are called
LR = {"quick96": 2e-4, "saehd": 5e-5}
DROPOUT, COSINE = 0.3, 500
MAX_BATCH = 256
# DeepFaceLab's letters for face types.
LETTERS = {
    "h": FaceType.HALF,
    "mf": FaceType.MID_FULL,
    "f": FaceType.FULL,
    "wf": FaceType.WHOLE,
    "head": FaceType.HEAD,
}
# Our name of an option, DeepFaceLab's.
SPELLED = {
    "batch": "batch_size",
    "masked": "masked_training",
    "eyes_mouth": "eyes_mouth_prio",
    "uniform_yaw": "uniform_yaw",
    "warp": "random_warp",
    "flip_src": "random_src_flip",
    "flip_dst": "random_dst_flip",
    "true_face": "true_face_power",
    "face_style": "face_style_power",
    "background_style": "bg_style_power",
    "blur_out_mask": "blur_out_mask",
    "clip": "clipgrad",
    "color": "ct_mode",
    "hsv": "random_hsv_power",
    "gan": "gan_power",
    "gan_dims": "gan_dims",
}
# Options of DeepFaceLab that are no longer true once a model was trained here.
REPLACED = ("pretrain", "random_flip")
COLORS = ("none", "rct", "lct", "mkl", "idt", "sot")
RANGES: dict[str, tuple[float, float]] = {
    "face_style": (0, 100),
    "background_style": (0, 100),
    "true_face": (0, 1),
    "hsv": (0, 0.3),
    "gan": (0, 5),
    "gan_patch": (3, 640),
    "gan_dims": (4, 512),
}
SHAPE = ("resolution", "archi", "ae_dims", "e_dims", "d_dims", "d_mask_dims")


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """What is trained and how; kept with the model.

    model: quick96, whose shape and loss are fixed, or saehd.
    network: its shape. batch: pictures of each person a step. seed: of all that is random.
    optimiser: rmsprop or adabelief. lr: learning rate; None takes the model's. lr_dropout: move
        only 30 % of the weights a step, drawn anew each time, with a rate that rises and falls.
        clip: limit the gradient's length.
    masked: learn the face alone, not what lies around it. eyes_mouth: these first.
        blur_out_mask: blur what lies outside the mask, so that its edge is learned softly.
    warp: bend inputs, so that faces are learned and not pictures. Off, when a model is nearly
        done, for more sharpness. flip_src, flip_dst: mirror one person's faces at random.
        uniform_yaw: all head directions equally often.
    face_style, background_style: how much the swapped face takes on the destination's colours
        inside of the mask (0..100), and its surroundings outside of it (0..100).
    true_face: how much df is made to give the destination the code of a source's face (0..1).
    color: each source face is given the colours of a destination's face, drawn by lot: one of
        COLORS. hsv: how far hue, saturation and light of the source's inputs vary (0..0.3).
    gan: how much an adversary that knows drawn faces asks for detail (0..5); for the end of a
        training. gan_patch: pixels of a face it looks at together, None for an eighth of the
        face (3..640). gan_dims: its channels (4..512).
    """

    model: str = "quick96"
    network: AutoencoderConfig = QUICK96
    batch: int = 4
    seed: int = 0
    optimiser: str = "rmsprop"
    lr: float | None = None
    lr_dropout: bool = True
    clip: bool = False
    masked: bool = True
    eyes_mouth: bool = False
    blur_out_mask: bool = False
    warp: bool = True
    flip_src: bool = False
    flip_dst: bool = False
    uniform_yaw: bool = False
    face_style: float = 0.0
    background_style: float = 0.0
    true_face: float = 0.0
    color: str = "none"
    hsv: float = 0.0
    gan: float = 0.0
    gan_patch: int | None = None
    gan_dims: int = 16

    def __post_init__(self) -> None:
        if self.model not in MODELS:
            raise ConfigError(f"model must be one of {', '.join(MODELS)}, got {self.model!r:.40}")
        if not 1 <= self.batch <= MAX_BATCH:
            raise ConfigError(f"batch must lie in 1..{MAX_BATCH}, got {self.batch}")
        if self.lr is not None and not 0 < self.lr <= 1:
            raise ConfigError(f"lr must lie above 0 and up to 1, got {self.lr}")
        if not 0 <= self.seed < 1 << 32:
            raise ConfigError(f"seed must lie in 0..2^32 - 1, got {self.seed}")
        for name, (low, high) in RANGES.items():
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise ConfigError(f"{name} must lie in {low}..{high}, got {value}")
        if self.color not in COLORS:
            raise ConfigError(f"color must be one of {', '.join(COLORS)}, got {self.color!r:.40}")
        if self.true_face and self.network.kind != "df":
            raise ConfigError(f"true_face needs archi df, got {self.network.archi}")
        if self.model == "quick96":
            self._check_quick96()

    def _check_quick96(self) -> None:
        if self.network != QUICK96:
            raise ConfigError(
                "quick96 has a fixed shape (96 pixels, full face, df-ud); take saehd for another"
            )
        fixed = {f.name: f.default for f in fields(self) if f.name in QUICK96_FIXED}
        for name, value in fixed.items():
            if getattr(self, name) != value:
                raise ConfigError(f"quick96 has no {name}; take saehd for it")

    @property
    def kind(self) -> str:
        """The word in the names of the model's files."""
        return MODELS[self.model]

    @property
    def gan_patch_px(self) -> int:
        return self.gan_patch or max(3, self.network.resolution // 8)

    @property
    def rate(self) -> float:
        return self.lr if self.lr is not None else LR[self.model]


QUICK96_FIXED = (
    "optimiser", "clip", "masked", "eyes_mouth", "blur_out_mask", "warp", "flip_src", "flip_dst",
    "face_style", "background_style", "true_face", "color", "hsv", "gan", "gan_patch", "gan_dims",
)  # fmt: skip
SAEHD = TrainOptions(
    model="saehd",
    network=AutoencoderConfig(face_type=FaceType.FULL),
    batch=4,
    optimiser="adabelief",
    lr_dropout=False,
    flip_dst=True,
)
DEFAULTS = {"quick96": TrainOptions(), "saehd": SAEHD}


def with_given(base: TrainOptions, given: Mapping[str, Any]) -> TrainOptions:
    """Change what is given and not None; shape options reach the network.

    Raises ConfigError for an option that does not exist.
    """
    given = {name: value for name, value in given.items() if value is not None}
    known = {*(f.name for f in fields(TrainOptions)), *SHAPE, "face_type"}
    for name in given:
        if name not in known:
            raise ConfigError(f"training has no option {name}; it has {', '.join(sorted(known))}")
    shape = {name: given.pop(name) for name in SHAPE if name in given}
    if "face_type" in given:
        shape["face_type"] = face_type(given.pop("face_type"))
    if "d_dims" in shape and "d_mask_dims" not in shape:
        shape["d_mask_dims"] = mask_dims(shape["d_dims"])
    return replace(base, network=replace(base.network, **shape), **given)


def mask_dims(d_dims: int) -> int:
    """A third, made even."""
    third = d_dims // 3
    return third + third % 2


def to_dfl(options: TrainOptions) -> dict[str, Any]:
    """The dictionary that DeepFaceLab keeps, ours beside it under names that it passes over."""
    letter = next(k for k, v in LETTERS.items() if v is options.network.face_type)
    found: dict[str, Any] = {dfl: getattr(options, name) for name, dfl in SPELLED.items()}
    found |= {name: getattr(options.network, name) for name in SHAPE} | {"face_type": letter}
    found |= {
        "adabelief": options.optimiser == "adabelief",
        "lr_dropout": "y" if options.lr_dropout else "n",
        "accel_seed": options.seed,
        "accel_lr": options.lr,
        "gan_patch_size": options.gan_patch_px,
    }
    return found


def foreign(found: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a model's file that mean nothing here, for the other program to find again."""
    known = {*to_dfl(SAEHD), *REPLACED}
    plain = (str, int, float, type(None))  # and bool, which is an int
    return {
        name: value
        for name, value in found.items()
        if isinstance(name, str) and name not in known and isinstance(value, plain)
    }


def from_dfl(model: str, found: Mapping[str, Any], who: str) -> TrainOptions:
    """Options from a model's file. Raises InputError, one line, for values that cannot be."""
    base = replace(DEFAULTS[model], network=shape_from_dfl(model, found, who))
    try:
        values = {name: _like(getattr(base, name), found.get(dfl)) for name, dfl in SPELLED.items()}
        if model == "quick96":
            values = {k: v for k, v in values.items() if k not in QUICK96_FIXED}
        else:
            # Files of earlier versions have one word for both.
            both = _like(False, found.get("random_flip"))
            for name in ("flip_src", "flip_dst"):
                values[name] = both if values[name] is None else values[name]
            values["gan_patch"] = _like(0, found.get("gan_patch_size"))
            values["optimiser"] = "adabelief" if found.get("adabelief", True) else "rmsprop"
        if found.get("lr_dropout") is not None:
            values["lr_dropout"] = found["lr_dropout"] not in ("n", False)
        values |= {"seed": _like(0, found.get("accel_seed")), "lr": found.get("accel_lr")}
        return with_given(base, values)
    except (ConfigError, TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{who}: holds options that cannot be used: {error}") from None


def shape_from_dfl(model: str, found: Mapping[str, Any], who: str) -> AutoencoderConfig:
    """A network's shape from a model's file, whatever its training was set to.

    Raises InputError, one line, for a shape that cannot be.
    """
    base = DEFAULTS[model]
    if model == "quick96":
        return base.network
    try:
        shape = {name: _like(0 if name != "archi" else "", found.get(name)) for name in SHAPE}
        letter = str(found.get("face_type", "f"))
        shape["face_type"] = LETTERS[letter].value if letter in LETTERS else letter
        return with_given(base, shape).network
    except (ConfigError, TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{who}: holds a shape that cannot be used: {error}") from None


def _like(sample: Any, value: Any) -> Any:
    return None if value is None else type(sample)(value)


def as_report(options: TrainOptions) -> dict[str, Any]:
    """The options as plain data for a report."""
    return asdict(options) | {"lr": options.rate}
