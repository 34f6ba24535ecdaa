"""From a file of weights to networks: find the family, make the networks, put the tensors in."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from accel.core import ConfigError, InputError, read_file
from accel.models import nano
from accel.models import stable_diffusion as sd
from accel.models.described import own_tokenizer
from accel.models.folder import is_folder, read_folder, read_prediction
from accel.models.unfilled import unfilled
from accel.nn.conv import choose_packing, kept_in_halves, may_stay
from accel.text.bpe import BpeTokenizer
from accel.weights.files import TensorFile, first_not_finite, open_tensors

V_IN_YAML = re.compile(r"""parameterization:\s*["']?v["']?\s*$|\.VScaling\b""", re.MULTILINE)
ZERO_SNR_IN_YAML = re.compile(
    r"""(?:rescale_betas_zero_snr|zero_terminal_snr|ztsnr):\s*["']?true["']?\s*$""",
    re.MULTILINE | re.IGNORECASE,
)
MAX_YAML_BYTES = 1 << 20
NAMED = 3  # missing tensors that an error spells out
DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
READ_BYTES = 256 << 20  # that are checked before their pages are let go
GUIDANCE = sd.UNET_PREFIX + sd.GUIDANCE


@dataclass(frozen=True)
class Loaded:
    """A checkpoint ready for inference.

    name: the family's member, such as "sd1" or "sdxl-inpaint".
    prediction: "eps" or "v"; a file says so by a mark, as shapes cannot tell.
    zero_terminal_snr: trained on a schedule whose last level is pure noise.
    tokenizer: in place of CLIP's, for text towers with another vocabulary.
    files: that weights may still lie in.
    """

    name: str
    model: sd.StableDiffusion
    prediction: str
    zero_terminal_snr: bool
    metadata: dict[str, str]
    tokenizer: BpeTokenizer | None = None
    files: tuple[TensorFile, ...] = ()

    def release(self, weights: Iterable[Tensor] | None = None) -> None:
        """Stop counting weights (None: all) as memory of this process where they are as in files.

        No other thread may change weights meanwhile.
        """
        release(self.files, weights)


def load(
    path: Path,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    vae: Path | None = None,
    prediction: str | None = None,
) -> Loaded:
    """Load a checkpoint of the Stable Diffusion family: one file (`nano` is one), or a folder.

    Tensors that are stored in `dtype` stay mapped to the file until they are written to; so do
    layers' weights of 16 bits, on the CPU, where `dtype` is float32: the kernels widen them as they
    go, and results are the same bytes. `vae` names a file whose autoencoder replaces the
    checkpoint's own; `prediction`, "eps" or "v", overrules what the file says. Raises InputError
    for a file of another family, tensors that are missing, of a wrong shape, or not finite.
    """
    if dtype not in DTYPES:
        raise ConfigError(f"dtype must be one of {', '.join(map(str, DTYPES))}, got {dtype}")
    metadata: dict[str, str] = {}
    if is_folder(path):
        name, config, tensors, files = read_folder(path)
        kind, zero_snr = read_prediction(path)
    else:
        file = open_tensors(path)
        metadata = file.metadata
        name, config = recognise(file)
        kind, zero_snr = told_prediction(file)
        tensors, files = collect(file, lambda key: sd.rename(key, config)), [file]
    with unfilled():
        model = sd.build(config)
    if vae is not None:
        tensors = {key: t for key, t in tensors.items() if not key.startswith("vae.")}
        other = open_tensors(vae)
        tensors |= collect(other, lambda key: vae_name(key, config))
        files.append(other)
    fill(model, tensors, path, dtype, torch.device(device), files)
    return Loaded(
        name,
        model.eval().requires_grad_(False),
        prediction or kind,
        zero_snr,
        metadata,
        own_tokenizer(path) if is_folder(path) else None,
        tuple(files),
    )


def recognise(file: TensorFile) -> tuple[str, sd.Config]:
    if file.metadata.get("family") == nano.NAME:
        return nano.NAME, nano.config(file.shapes)
    name = sd.detect(file.shapes)
    if name is None:
        some = ", ".join(sorted(file)[:NAMED])
        raise InputError(
            f"{file.path}: must be a checkpoint of Stable Diffusion 1, 2 or XL in one file, got"
            f" {len(file)} tensors of another kind ({some}, ...)"
        )
    return name, sd.told_guidance(sd.config_of(name), file.shapes.get(GUIDANCE))


def told_prediction(file: TensorFile) -> tuple[str, bool]:
    """("eps" or "v", zero terminal SNR): from marks in the file, its metadata, or a yaml beside it.

    The marks are empty tensors that trainers add; the yaml is the original repository's.
    """
    sidecar = file.path.with_suffix(".yaml")
    text = ""
    if sidecar.is_file():
        text = read_file(sidecar, MAX_YAML_BYTES, "a yaml").decode("utf-8", "replace")
    says_v = (
        "v_pred" in file
        or file.metadata.get("modelspec.prediction_type") == "v"
        or V_IN_YAML.search(text) is not None
    )
    return "v" if says_v else "eps", "ztsnr" in file or ZERO_SNR_IN_YAML.search(text) is not None


def vae_name(key: str, config: sd.Config) -> str | None:
    """An autoencoder's own file has its names with or without the checkpoint's prefix."""
    return sd.rename(sd.VAE_PREFIX + key.removeprefix(sd.VAE_PREFIX), config)


def collect(file: TensorFile, rename: Callable[[str], str | None]) -> dict[str, Tensor]:
    tensors = {}
    for key in file:
        own = rename(key)
        if own is not None:
            tensors[own] = file[key]
    return tensors


def release(files: Sequence[TensorFile], tensors: Iterable[Tensor] | None = None) -> None:
    given = None if tensors is None else list(tensors)
    for file in files:
        file.release(given)


def fill(
    network: nn.Module,  # on the meta device
    tensors: Mapping[str, Tensor],  # under the network's own names; others are passed over
    path: Path,  # for messages
    dtype: torch.dtype,
    device: torch.device,
    files: Sequence[TensorFile] = (),  # of the tensors, which are all read once
) -> None:
    wanted = network.state_dict()
    missing = sorted(set(wanted) - set(tensors))
    if missing:
        some = ", ".join(missing[:NAMED])
        raise InputError(f"{path}: {len(missing)} tensors must not be missing: {some}, ...")
    ready = {}
    for name, place in wanted.items():
        tensor = tensors[name]
        if place.shape != tensor.shape:
            # 1x1 convolutions and linear layers hold the same numbers in the same order.
            if tensor.numel() != place.numel() or tensor.squeeze().shape != place.squeeze().shape:
                raise InputError(
                    f"{path}: {name} must be of shape {tuple(place.shape)},"
                    f" got {tuple(tensor.shape)}"
                )
            tensor = tensor.reshape(place.shape)
        ready[name] = tensor
    stay = kept_in_halves(network) if may_stay(dtype, device) else set()
    read: list[Tensor] = []
    read_bytes = 0
    for name, tensor in ready.items():
        if first_not_finite({name: tensor}):
            raise InputError(f"{path}: {name} must hold finite numbers, got NaN or infinity")
        stays = name in stay and tensor.is_floating_point() and tensor.dtype.itemsize == 2
        ready[name] = tensor if stays else tensor.to(device=device, dtype=dtype)
        read.append(tensor)
        read_bytes += tensor.nbytes
        if read_bytes > READ_BYTES:
            release(files, read)  # else the file would count as memory, parts never used too
            read, read_bytes = [], 0
    release(files)
    network.load_state_dict(ready, assign=True)
    choose_packing(network)
