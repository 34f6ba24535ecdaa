"""Pictures that steer a run: ControlNets and T2I-Adapters, from files to what the UNet is given.

Shares of the steps, and what is more important than what, are those of sd-webui-controlnet.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from accel.core import ConfigError, InputError, open_file
from accel.models import stable_diffusion as sd
from accel.models.adapter import load_adapter
from accel.models.control import load_control, soft_scales
from accel.models.described import without_guidance
from accel.models.folder import open_part
from accel.nn.adapter import Adapter, placed
from accel.nn.control import ControlNet
from accel.nn.reuse import Prompts
from accel.nn.unet import UnetConfig
from accel.pipelines.generate.pictures import fitted, read_picture, to_tensor
from accel.weights.files import open_tensors

if TYPE_CHECKING:
    from accel.pipelines.generate.canvas import Canvas, Size
    from accel.pipelines.generate.model import Model
    from accel.pipelines.generate.network import Known

MODES = {  # what is more important, and its title in a picture's text
    "balanced": "Balanced",
    "prompt": "My prompt is more important",
    "control": "ControlNet is more important",
}
RESIZES = {"stretch": "Just Resize", "crop": "Crop and Resize", "fill": "Resize and Fill"}
HINT_FACTOR = 8  # pixels of a control's picture per latent pixel


@dataclass(frozen=True)
class Control:
    """One picture that steers.

    file: a ControlNet or T2I-Adapter, or a name among the models. picture: a file, a Pillow picture
    or a tensor, already the edges, depths, poses, ... that the network was trained on.
    start, end: share of the steps between which it is in effect. mode: "prompt" steers the fine
    parts less; "control" does too, and leaves the negative prompt alone.
    """

    file: str | Path
    picture: Any
    weight: float = 1.0
    start: float = 0.0
    end: float = 1.0
    mode: str = "balanced"

    def __post_init__(self) -> None:
        if not -10 <= self.weight <= 10:  # written so that NaN is refused too
            raise ConfigError(f"control: weight must lie in -10..10, got {self.weight}")
        if not 0 <= self.start <= self.end <= 1:
            raise ConfigError(
                f"control: 0 <= start <= end <= 1 must hold, got {self.start} and {self.end}"
            )
        if self.mode not in MODES:
            raise ConfigError(f"control: mode must be one of {', '.join(MODES)}, got {self.mode!r}")

    def in_effect(self, step: int, steps: int) -> bool:
        return step / steps >= self.start and (step + 1) / steps <= self.end


def control_of(given: Any) -> Control:
    """From (file, picture), (file, picture, weight), and so on."""
    if isinstance(given, Control):
        return given
    if not isinstance(given, (tuple, list)) or not 2 <= len(given) <= 6:
        raise ConfigError(f"controls must be (file, picture, weight) each, got {given!r:.80}")
    return Control(*given)


@dataclass(frozen=True, eq=False)
class Steer:
    """A control made ready for one size: what is added to the UNet's skips or features."""

    control: Control
    network: ControlNet | Adapter
    # What the network makes of the picture, the same at every step: an adapter's features, or the
    # one thing that goes into a ControlNet.
    features: tuple[Tensor, ...]

    def skips(self, x: Tensor, t: float, prompts: Prompts, known: Known) -> list[Tensor] | None:
        if not isinstance(self.network, ControlNet):
            return None
        x = x[:, : self.network.config.in_channels]  # without what inpainting networks see beside
        network, levels = known.control(self.network)
        added = network(x, self.features[0], t, prompts, levels, self.control.weight)
        return [part * scale for part, scale in zip(added, self._scales(len(added)), strict=True)]

    def placed(self, unet: UnetConfig) -> dict[int, Tensor]:
        found = placed(self.features, unet, self.control.weight)
        scales = self._scales(len(found))
        return {at: part * scale for (at, part), scale in zip(found.items(), scales, strict=True)}

    def _scales(self, count: int) -> list[float]:
        return [1.0] * count if self.control.mode == "balanced" else soft_scales(count)


def steering(
    steers: Sequence[Sequence[Steer]],  # of each row
    unet: UnetConfig,
    x: Tensor,
    t: float,
    prompts: Prompts,
    known: Known,
) -> tuple[list[Tensor] | None, dict[int, Tensor] | None]:
    """For Unet's `control` and `features`: the sum of all; rows that lack one get nothing of it."""
    control: list[Tensor] | None = None
    features: dict[int, Tensor] = {}
    for one in dict.fromkeys(steer for row in steers for steer in row):
        has = torch.tensor([one in row for row in steers], device=x.device).to(x.dtype)
        rows = has[:, None, None, None]
        added = one.skips(x, t, prompts, known)
        if added is not None:
            added = [part * rows for part in added]
            control = added if control is None else [a + b for a, b in zip(control, added)]
        else:
            for at, part in one.placed(unet).items():
                features[at] = features[at] + part * rows if at in features else part * rows
    return control, features or None


def ready(model: Model, controls: Sequence[Control], canvas: Canvas, resize: str) -> list[Steer]:
    """What the networks make of their pictures, brought to the size of the pass."""
    made = []
    for control in controls:
        network = network_of(model, control)
        picture = read_picture(control.picture)
        if canvas.box is not None:  # of a picture of whose part alone is worked on
            picture = fitted(picture, canvas.whole or canvas.size, resize).crop(canvas.box)
        size = picture_size(model, network, canvas.size)
        values = (to_tensor(fitted(picture, size, resize)) + 1) / 2
        wanted = (
            network.hint_channels if isinstance(network, ControlNet) else network.config.in_channels
        )
        if wanted == 1:
            values = values.mean(1, keepdim=True)
        elif wanted != 3:
            raise InputError(
                f"{control.file}: must take a picture of 3 or 1 channels, not {wanted}"
            )
        values = values.to(model.device, model.dtype)
        if isinstance(network, ControlNet):
            features: tuple[Tensor, ...] = (network.seen(values),)
        else:
            features = tuple(network(values))
        made.append(Steer(control, network, features))
    return made


def picture_size(model: Model, network: ControlNet | Adapter, size: Size) -> Size:
    """What a network is shown of a pass of this size: an adapter's sides must be multiples."""
    width, height = (side // model.factor * HINT_FACTOR for side in size)
    unit = 1 if isinstance(network, ControlNet) else network.config.factor
    return -(-width // unit) * unit, -(-height // unit) * unit


def network_of(model: Model, control: Control) -> ControlNet | Adapter:
    """The network of a file, kept with the model until a run asks for others."""
    path = model.folders.find("control", control.file)
    if path not in model.controls:
        model.controls[path] = load(path, model)
    return model.controls[path]


def keep(model: Model, controls: Sequence[Control]) -> list[nn.Module]:
    """Load what a run asks for and let go of the rest, so that memory does not grow."""
    if controls and not model.has_weights:
        raise ConfigError("controls need the networks themselves, not exported ones")
    wanted = {model.folders.find("control", one.file) for one in controls}
    for path in set(model.controls) - wanted:
        del model.controls[path]
    return [network_of(model, one) for one in controls]


def load(path: Path, model: Model) -> ControlNet | Adapter:
    """Raises InputError, naming both, for a control of another family than the model's."""
    file = open_part(path) if path.is_dir() else open_tensors(path)
    hints = ("input_hint_block.", "controlnet_cond_embedding.")
    if any(hint in key for key in file for hint in hints):
        return control_net(path, model)
    if not any(".body." in f".{key}" for key in file):
        raise InputError(
            f"{path}: must be a ControlNet or T2I-Adapter, got {len(file)} other tensors"
        )
    adapter = load_adapter(path, dtype=model.dtype, device=model.device)
    unet = model.loaded.model.config.unet
    # SDXL's first level has no transformer, and its adapters begin one level lower.
    is_xl, has_xl = adapter.config.kind == "full-xl", unet.transformer_depth[0] == 0
    widths = adapter.config.channels
    if is_xl != has_xl or any(width not in unet.widths for width in widths):
        raise InputError(
            f"{path}: is a T2I-Adapter for {'sdxl' if is_xl else 'sd1'} (widths {widths}),"
            f" but {model.path.name} is {model.name} (widths {unet.widths})"
        )
    return adapter


def control_net(path: Path, model: Model) -> ControlNet:
    base = model.name.removesuffix("-inpaint").removesuffix("-edit")
    unet = without_guidance(model.loaded.model.config.unet)
    if base in sd.CONFIGS and sd.CONFIGS[base].unet == unet:
        loaded = load_control(path, dtype=model.dtype, device=model.device)
        if loaded.name != base:
            raise InputError(
                f"{path}: is a ControlNet for {loaded.name}, but {model.path.name} is {model.name}"
            )
        return loaded.network
    try:
        return load_control(path, dtype=model.dtype, device=model.device, config=unet).network
    except InputError as error:
        raise InputError(f"{error} (as a ControlNet for {model.name})") from error


def described(control: Control, path: Path, resize: str) -> str:
    """A picture's text on one control, in the manner of sd-webui-controlnet."""
    pairs = {
        "Module": "None",
        "Model": f"{path.stem} [{short_hash(path)}]" if path.is_file() else path.name,
        "Weight": f"{control.weight:g}",
        "Resize Mode": RESIZES[resize],
        "Guidance Start": f"{control.start:g}",
        "Guidance End": f"{control.end:g}",
        "Pixel Perfect": "False",
        "Control Mode": MODES[control.mode],
    }
    return ", ".join(f"{key}: {value}" for key, value in pairs.items())


def short_hash(path: Path) -> str:
    """A1111's first kind of hash, by which ControlNets are still named: of 64 KiB behind 1 MiB."""
    with open_file(path, "a file of weights") as file:
        file.seek(1 << 20)
        return hashlib.sha256(file.read(1 << 16)).hexdigest()[:8]
