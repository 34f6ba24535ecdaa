"""A loaded checkpoint, ready to be asked for pictures: the object that `accel.load` returns."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from accel.core import Cancel, ConfigError, InputError, ProgressCallback, choose_device
from accel.models import nano
from accel.models.export import PAGE
from accel.models.load import Loaded
from accel.models.load import load as load_file
from accel.models.lora import LoraSet, Strength
from accel.models.stable_diffusion import Conditioning, StableDiffusion
from accel.models.tiny import TinyVae, load_tiny
from accel.models.vae_16bit import scale_activations
from accel.nn.adapter import Adapter
from accel.nn.control import ControlNet
from accel.pipelines.generate.graph_cache import exported, open_exported
from accel.pipelines.generate.memory import Budget, let_weights_go_when_passed
from accel.pipelines.generate.model_folders import ModelFolders
from accel.pipelines.generate.prompts import TextEncoder, check_length
from accel.sampling.schedules import NoiseSchedule
from accel.text.prompt import schedule, split_and, take_tags
from accel.weights.assets import asset
from accel.weights.files import open_tensors
from accel.weights.lora import parse as parse_lora

NANO_FILE = "nano.safetensors"
RUNTIMES = ("torch", "onnx")
PREDICTIONS = ("eps", "v")
Lora = tuple[str | Path, Strength]


def load(
    path_or_name: str | Path = nano.NAME,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    vae: str | Path | None = None,
    *,
    prediction: str | None = None,
    zero_terminal_snr: bool | None = None,
    models: str | Path | None = None,
    max_memory: float | None = None,
    runtime: str = "torch",
    decoder: str | Path | None = None,
) -> Model:
    """Load a checkpoint: `nano`, a file, a folder in diffusers' layout, or a name or hash of one.

    vae: a file whose autoencoder replaces the checkpoint's own. prediction ("eps" or "v") and
    zero_terminal_snr (a last level of pure noise) overrule what the file says of itself.
    models: where names are looked up, see ModelFolders. decoder: a TAESD, a small network that
    decodes in place of the autoencoder. max_memory: MB that the process shall stay under.
    runtime: "onnx" exports the networks, keeps what it made (see graph_cache) and runs it by ONNX
    Runtime; a folder that was exported is opened as it is.
    Raises InputError for what cannot be loaded, ConfigError for a name that nothing has and for a
    device that is not there.
    """
    folders = ModelFolders(Path(models) if models else None)
    embedded = str(path_or_name) == nano.NAME
    path = asset(NANO_FILE) if embedded else folders.find("checkpoint", path_or_name)
    own_vae = folders.find("vae", vae) if vae else None
    place = choose_device(str(device))
    if runtime not in RUNTIMES:
        raise ConfigError(f"runtime must be one of {', '.join(RUNTIMES)}, got {runtime!r}")
    if prediction not in (None, *PREDICTIONS):
        raise ConfigError(f"prediction must be one of {', '.join(PREDICTIONS)}, got {prediction!r}")
    budget = Budget(max_memory)
    budget.check_weights(path)
    if (path / PAGE).is_file():
        loaded = open_exported(path, place)
    else:
        loaded = load_file(path, dtype=dtype, device=place, vae=own_vae)
        if dtype == torch.float16:  # whose range SDXL's activations leave
            scale_activations(loaded.model.vae)
        if runtime == "onnx":
            sources = [path, *([own_vae] if own_vae else [])]
            loaded = exported(loaded, sources, dtype, place)
    if prediction is not None:
        loaded = replace(loaded, prediction=prediction)
    if zero_terminal_snr is not None:
        loaded = replace(loaded, zero_terminal_snr=zero_terminal_snr)
    model = Model(loaded, path, dtype, place, vae=own_vae, folders=folders, budget=budget)
    model.prediction_asked = prediction or ""
    if decoder is not None:
        model.decoder_path = folders.find("decoder", decoder)
        model.tiny = tiny_decoder(model, model.decoder_path)
    return model


def tiny_decoder(model: Model, path: Path) -> TinyVae:
    """A TAESD's decoder; raises InputError for one that is not for this model's latents."""
    tiny = load_tiny(path, dtype=model.dtype, device=model.device)
    if tiny.decoder is None:
        raise InputError(f"{path}: must be a TAESD with a decoder, got an encoder alone")
    channels = model.loaded.model.config.vae.latent_channels
    with torch.inference_mode():
        try:
            shape = tuple(
                tiny.decode(torch.zeros(1, channels, 1, 1).to(model.device, model.dtype)).shape
            )
        except RuntimeError as error:
            raise InputError(f"{path}: must decode {channels} channels, as {model.name}") from error
    if shape != (1, 3, model.factor, model.factor):
        raise InputError(
            f"{path}: must give {model.factor} pixels a latent pixel, as {model.name},"
            f" got {shape[-1]}"
        )
    return tiny


class Model:
    """Networks of one checkpoint with all that sampling needs. Calls may come from any thread.

    LoRA files change weights in place, so calls on one model wait for each other.
    """

    def __init__(
        self,
        loaded: Loaded,
        path: Path,
        dtype: torch.dtype,
        device: torch.device,
        *,
        vae: Path | None = None,
        folders: ModelFolders | None = None,
        budget: Budget | None = None,
    ):
        self.loaded, self.path, self.dtype, self.device, self.vae_path = (
            loaded, path, dtype, device, vae,
        )  # fmt: skip
        self.folders = folders or ModelFolders()
        self.budget = budget or Budget()
        self.noise = noise_schedule(loaded)
        rows = nano.row_map(loaded.metadata) if loaded.name == nano.NAME else None
        embeddings = {one.stem: one.path for one in self.folders.of("embedding")}
        self.text = TextEncoder(loaded, rows, device, embeddings)
        self.lock = threading.RLock()
        if self.has_weights:
            let_weights_go_when_passed(loaded, self.lock)
        self.controls: dict[Path, ControlNet | Adapter] = {}  # what the last run asked for
        self.tiny: TinyVae | None = None  # decodes in place of the autoencoder
        self.decoder_path: Path | None = None
        self.prediction_asked = ""  # against what the file says
        self._loras: LoraSet | None = None  # made when the first is wanted
        self._standing: list[Lora] = []  # what `load_lora` asked for
        self._in_effect: list[Lora] = []
        self.weight_changes = 0  # how often; what was made of weights before is void then

    @property
    def name(self) -> str:
        """The family's member: "nano", "sd1", "sdxl-inpaint", ..."""
        return self.loaded.name

    @property
    def has_weights(self) -> bool:
        """Whether the networks are ours, whose weights can be changed, and not exported ones."""
        return isinstance(self.loaded.model, StableDiffusion)

    @property
    def is_told_guidance(self) -> bool:
        """Whether the network is told the guidance scale (LCM): one call then does for a step."""
        return self.loaded.model.config.unet.guidance_width > 0

    @property
    def factor(self) -> int:
        """Pixels per latent pixel."""
        return self.loaded.model.config.vae.factor

    @property
    def side_px(self) -> int:
        return self.loaded.model.config.side_px

    # ------------------------------------------------------------ the networks, one by one

    def encode_text(self, prompt: str, clip_skip: int = 1) -> Conditioning:
        """What the network is told of one prompt, with emphasis: context [1, tokens, width].

        Changes while sampling are taken as in the first step. Raises ConfigError for several
        prompts joined by AND: there is no one context for them.
        """
        check_length(prompt)
        parts = split_and(take_tags(prompt)[0])
        if len(parts) > 1:
            raise ConfigError(
                f"encode_text: takes one prompt, got {len(parts)} joined by AND; encode each"
            )
        with self.lock:
            return self.text.encode(schedule(parts[0][0], 1)[0][1], clip_skip)

    @torch.inference_mode()
    def denoise(
        self,
        x: Tensor,  # [B, C, H, W] scaled noisy latent
        t: Tensor,  # [B] or a single number: timesteps 0..999; fractions allowed
        conditioning: Conditioning,  # of B prompts, or of one for all
        guidance: float | None = None,  # scale, for distilled networks that are told it
    ) -> Tensor:  # [B, 4, H, W] the network's own prediction, noise or velocity
        batch = x.shape[0]
        t = torch.as_tensor(t, device=self.device).flatten().float().expand(batch)
        context = conditioning.context.expand(batch, -1, -1)
        vector = None
        if conditioning.pooled is not None:
            numbers = self.sizes(x.shape[2] * self.factor, x.shape[3] * self.factor)
            pooled = conditioning.pooled.expand(batch, -1)
            vector = self.loaded.model.vector(pooled, numbers.expand(batch, -1))
        out: Tensor = self.loaded.model.unet(
            x.to(self.device, self.dtype), t, context.to(self.dtype), vector,
            **({"guidance": guidance} if self.is_told_guidance else {}),
        )  # fmt: skip
        return out

    @torch.inference_mode()
    def encode(
        self,
        image: Tensor,  # [B, 3, H, W] in -1..1
    ) -> Tensor:  # [B, z, H/f, W/f] mean of the posterior, shifted and scaled
        check_picture("encode: image", image, 3)
        image = image.to(self.device, self.dtype)
        vae = self.loaded.model.vae
        latents = [self.budget.encode(vae, one) for one in torch.split(image, 1)]
        return torch.cat(latents)

    @torch.inference_mode()
    def decode(
        self,
        latent: Tensor,  # [B, z, h, w] shifted and scaled
    ) -> Tensor:  # [B, 3, f*h, f*w] about -1..1, not clamped
        check_picture("decode: latent", latent, self.loaded.model.config.vae.latent_channels)
        latent = latent.to(self.device, self.dtype)
        if self.tiny is not None:
            return torch.cat([self.tiny.decode(one) for one in torch.split(latent, 1)])
        vae = self.loaded.model.vae
        self.let_weights_go()
        images = [self.budget.decode(vae, one) for one in torch.split(latent, 1)]
        return torch.cat(images)

    def let_weights_go(self) -> None:
        """Before the decoder, which needs none of the UNet: its memory is free for the picture."""
        if self.lock.acquire(blocking=False):  # else someone may be changing weights
            try:
                self.loaded.release()
            finally:
                self.lock.release()

    def sizes(
        self, height: int, width: int, *, negative: bool = False
    ) -> Tensor:  # [1, size_numbers] what SDXL is told of a picture's size and crop
        numbers: list[float] = [height, width, 0, 0, height, width]
        if self.loaded.model.config.size_numbers == 5:  # a refiner: a score for the target size
            numbers = [height, width, 0, 0, 2.5 if negative else 6.0]
        return torch.tensor([numbers], dtype=torch.float32, device=self.device)

    # ------------------------------------------------------------ LoRA

    def load_lora(self, path: str | Path, weight: float = 1.0) -> None:
        """Put a LoRA file in effect for all that follows, beside those that are.

        Raises InputError, naming the modules, for one of another base model; nothing changes then.
        """
        with self.lock:
            lora = (self.folders.find("lora", path), float(weight))
            self.use_loras([*self._standing, lora])
            self._standing.append(lora)

    def unload_loras(self) -> None:
        """Give back the weights as they were loaded, to the bit."""
        with self.lock:
            self._standing.clear()
            self.use_loras([])

    def use_loras(self, wanted: Sequence[Lora]) -> None:
        """Put exactly these in effect; `load_lora`'s own list stays as it is."""
        wanted = list(wanted)
        if wanted == self._in_effect:
            return
        if not self.has_weights:
            raise ConfigError("an exported model takes no LoRA: its weights are inside its graphs")
        if self._loras is None:
            self._loras = LoraSet(self.loaded.model)
        parsed = []
        for path, weight in wanted:
            file = Path(path)
            parsed.append((str(path), parse_lora(open_tensors(file), str(file)), weight))
        self._loras.set(parsed)
        self._in_effect = wanted
        self.weight_changes += 1
        self.text.forget()

    @property
    def standing_loras(self) -> list[Lora]:
        return list(self._standing)

    # ------------------------------------------------------------ pictures

    def sample(
        self,
        prompt: str,
        negative: str = "",
        *,
        init: Any = None,
        mask: Any = None,
        noise: Any = None,
        callback: Callable[[int, Tensor], None] | None = None,
        output: str = "image",
        progress: ProgressCallback | None = None,
        cancel: Cancel | None = None,
        **options: Any,
    ) -> Tensor:  # [count, 3, H, W] about -1..1, or [count, z, h, w]
        """Make `count` pictures; options are the fields of `Options`, named as on the command line.

        init: picture to start from: a file, a PIL picture, or [3, H, W] or [B, 3, H, W] in -1..1.
        mask: what of it to replace: a file, a PIL picture, or [H, W] in 0..1; 1 is replaced.
        noise: the draws to use in place of the seed's, in order: [B, z, h, w], or a list of those.
        callback: given the step just taken and its denoised latent; may raise to stop.
        output: "image", or "latent" as it is before the decoder.
        Raises ConfigError for options that cannot be, Cancelled when `cancel` was set.
        """
        from accel.pipelines.generate.options import OUTPUTS, Options
        from accel.pipelines.generate.run import run

        if output not in OUTPUTS:
            raise ConfigError(f"output must be one of {', '.join(OUTPUTS)}, got {output!r}")
        made = run(
            self,
            prompt,
            Options.of({"negative": negative, **options}),
            init=init,
            mask=mask,
            noise=noise,
            callback=callback,
            decode=output == "image",
            progress=progress,
            cancel=cancel,
        )
        return torch.cat([one.image if output == "image" else one.latent for one in made])


def check_picture(what: str, x: Tensor, channels: int) -> None:
    if x.ndim != 4 or x.shape[1] != channels:
        raise ValueError(f"{what} must be [B, {channels}, H, W], got {tuple(x.shape)}")


def noise_schedule(loaded: Loaded) -> NoiseSchedule:
    if loaded.zero_terminal_snr:
        return NoiseSchedule.scaled_linear(zero_terminal_snr=True)
    return NoiseSchedule.scaled_linear()
