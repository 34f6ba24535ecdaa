"""Train a LoRA: small matrices beside the attention layers of a model that stays as it is.

Works on `nano` and on Stable Diffusion 1.x, 2.x and SDXL; written under kohya's names, so that any
program that reads such files reads it. Of OpenCLIP's towers, which keep query, key and value in one
matrix, the other layers are trained.

Source: Hu et al. 2021 (arXiv:2106.09685).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import torch as safetensors
from torch import Tensor, nn

from accel.core import ConfigError
from accel.models.diffusers_names import open_clip_module, unet_module
from accel.models.stable_diffusion import Conditioning, StableDiffusion
from accel.sampling.schedules import NoiseSchedule
from accel.training.diffusion.run import Run, cosine
from accel.unfinished import write_whole

PARTS = (".to_q", ".to_k", ".to_v", ".to_out.0", ".ff.net.0.proj", ".ff.net.2")
NO_CAPTION = 0.1
LOG_EVERY = 25  # steps

TEXT_PARTS = (".q_proj", ".k_proj", ".v_proj", ".out_proj", ".fc1", ".fc2", ".c_fc", ".c_proj")
Encode = Callable[[Sequence[str]], Conditioning]  # of B captions


@dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """steps: batches. rank: columns of the small matrices. alpha: their product counts alpha/rank.

    rate: of AdamW at its highest. text: train the text tower's attention layers too.
    """

    steps: int = 400
    batch: int = 8
    rank: int = 8
    alpha: float = 8.0
    rate: float = 2e-3
    text: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if name not in ("text", "seed") and not value > 0:  # NaN is refused too
                raise ConfigError(f"train-diffusion lora: {name} must be above 0, got {value}")


class Adapter(nn.Module):
    """down, then up, which starts at zero: at first nothing changes."""

    def __init__(self, layer: nn.Linear, rank: int, alpha: float):
        super().__init__()
        width = layer.in_features
        self.lora_down = nn.Parameter(torch.randn(rank, width) / width**0.5)
        self.lora_up = nn.Parameter(torch.zeros(layer.out_features, rank))
        self.scale = alpha / rank

    def forward(self, x: Tensor) -> Tensor:
        return (
            nn.functional.linear(nn.functional.linear(x, self.lora_down), self.lora_up) * self.scale
        )


class Adapters:
    """Adapters on every chosen layer of a model, put on by hooks and taken off by `remove`."""

    def __init__(self, model: StableDiffusion, config: LoraConfig):
        torch.manual_seed(config.seed)
        self.modules = nn.ModuleDict()
        self._hooks: list[Any] = []
        for name, layer in chosen(model, config.text):
            adapter = Adapter(layer, config.rank, config.alpha)
            self.modules[name] = adapter
            self._hooks.append(layer.register_forward_hook(_adding(adapter)))
        self.alpha = config.alpha

    def remove(self) -> None:
        for hook in self._hooks:
            hook.remove()

    def _named(self) -> list[tuple[str, Adapter]]:
        return [(name, cast(Adapter, module)) for name, module in self.modules.items()]

    def tensors(self) -> dict[str, Tensor]:
        """The file's contents, in kohya's names."""
        found: dict[str, Tensor] = {}
        for name, adapter in self._named():
            found[f"{name}.lora_down.weight"] = adapter.lora_down.detach().half().contiguous()
            found[f"{name}.lora_up.weight"] = adapter.lora_up.detach().half().contiguous()
            found[f"{name}.alpha"] = torch.tensor(self.alpha)
        return found


def _adding(adapter: Adapter) -> Callable[..., Tensor]:
    def hook(layer: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return output + adapter(args[0])

    return hook


def chosen(model: StableDiffusion, text: bool) -> list[tuple[str, nn.Linear]]:
    """Layers that get an adapter, under kohya's names: SDXL's UNet has the original ones there."""
    found = []
    is_xl = model.config.unet.vector_width > 0
    for path, layer in model.unet.named_modules():
        if isinstance(layer, nn.Linear) and path.endswith(PARTS):
            theirs = path if is_xl else unet_module(path, model.config.unet)
            found.append((f"lora_unet_{theirs.replace('.', '_')}", layer))
    for i, tower in enumerate(model.towers if text else ()):
        prefix = f"lora_te{i + 1}_" if is_xl and len(model.towers) > 1 else "lora_te_"
        for path, layer in tower.named_modules():
            if isinstance(layer, nn.Linear) and path.endswith(TEXT_PARTS):
                theirs = path if path.startswith("text_model.") else open_clip_module(path)
                found.append((f"{prefix}{theirs.replace('.', '_')}", layer))
    return found


def train_lora(
    model: StableDiffusion,
    noise: NoiseSchedule,
    prediction: str,  # "eps" or "v"
    encode: Encode,
    latents: Tensor,  # [N, 4, h, w], scaled
    captions: Sequence[str],
    run: Run,
    output: Path,
    config: LoraConfig,
    sizes: Tensor | None = None,  # [1, size_numbers] that SDXL is told
) -> None:
    """Train on pictures' latents and write `output`; goes on from the run's last save.

    Raises ConfigError for a model of another kind or a setting that cannot be.
    """
    if prediction not in ("eps", "v"):
        raise ConfigError(f"train-diffusion lora: prediction must be eps or v, got {prediction}")
    model.requires_grad_(False)
    adapters = Adapters(model, config)
    parameters = list(adapters.modules.parameters())
    optimiser = torch.optim.AdamW(parameters, config.rate, weight_decay=1e-3)
    random = torch.Generator().manual_seed(config.seed)
    signals = (1 / (1 + torch.from_numpy(noise.sigmas).square())).float()
    step = 0
    losses: list[float] = []  # since the last line of the log
    about = {
        "rank": config.rank,
        "alpha": config.alpha,
        "text": config.text,
        "pictures": len(latents),
    }
    if state := run.load(**about):
        adapters.modules.load_state_dict(state["adapters"])
        optimiser.load_state_dict(state["optimiser"])
        random.set_state(state["random"])
        step = state["step"]
        run.log(f"resumed at step {step}")
    try:
        while step < config.steps and not run.stopping:
            for group in optimiser.param_groups:
                group["lr"] = config.rate * cosine(step, config.steps, 20, 0.1)
            picked, prompts = _drawn(captions, config.batch, random)
            told = encode(prompts)
            vector = None
            if told.pooled is not None and sizes is not None:
                vector = model.vector(told.pooled, sizes.expand(config.batch, -1))
            loss = _loss(model, signals, prediction, told.context, vector, latents[picked], random)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            step += 1
            losses.append(loss.item())
            run.tell(step, config.steps)
            if step % LOG_EVERY == 0:
                mean = sum(losses) / len(losses)
                run.log(f"step {step} loss {mean:.4f}")
                run.plot(step, mean)
                losses.clear()
            if run.should_save or step == config.steps:
                run.save(
                    {
                        "adapters": adapters.modules.state_dict(),
                        "optimiser": optimiser.state_dict(),
                        "random": random.get_state(),
                        "step": step,
                    }
                )
        metadata = {"ss_network_dim": str(config.rank), "ss_network_alpha": str(config.alpha)}
        write_whole(output, safetensors.save(adapters.tensors(), metadata))
    finally:
        adapters.remove()


def _drawn(
    captions: Sequence[str], batch: int, random: torch.Generator
) -> tuple[Tensor, list[str]]:  # [batch] indices
    """Pictures of one step, and their captions, some of them silent."""
    picked = torch.randint(len(captions), (batch,), generator=random)
    silent = torch.rand(batch, generator=random) < NO_CAPTION
    return picked, ["" if s else captions[i] for i, s in zip(picked.tolist(), silent.tolist())]


def _loss(
    model: StableDiffusion,
    signals: Tensor,
    prediction: str,
    context: Tensor,
    vector: Tensor | None,
    latents: Tensor,
    random: torch.Generator,
) -> Tensor:
    count = len(latents)
    jitter = torch.rand(count, generator=random)
    t = ((torch.arange(count) + jitter) / count * len(signals)).long().clamp(max=len(signals) - 1)
    noise = torch.randn(latents.shape, generator=random)
    signal = signals[t].view(-1, 1, 1, 1)
    x = signal.sqrt() * latents + (1 - signal).sqrt() * noise
    target = signal.sqrt() * noise - (1 - signal).sqrt() * latents if prediction == "v" else noise
    loss: Tensor = (model.unet(x, t, context, vector) - target).square().mean()
    return loss
