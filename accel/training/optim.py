"""Optimisers over all weights of a model: one pass of native code over each, state that is saved.

Sources: see `accel.kernels.optimise`. Names of the state are those of DeepFaceLab's files.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from accel.core import ConfigError
from accel.kernels.optimise import adabelief_step, mix, rmsprop_step

KINDS = {"rmsprop": ("acc",), "adabelief": ("ms", "vs")}  # prefixes of what each remembers
CLIP_NORM = 1.0


class Optimiser:
    """RMSprop or AdaBelief, without bias correction.

    keep: share of weights that move in a step, drawn anew each step ("learning rate dropout").
    cosine: if not 0, the learning rate falls to 0 and rises again in so many steps.
    clip: scale gradients down to a common length of 1.
    The draw depends on `seed`, the step and the weight's place alone.
    """

    def __init__(
        self,
        weights: Iterable[tuple[str, nn.Parameter]],
        kind: str = "rmsprop",
        *,
        lr: float,
        keep: float = 1.0,
        cosine: int = 0,
        clip: bool = False,
        seed: int = 0,
    ) -> None:
        if kind not in KINDS:
            raise ConfigError(f"optimiser must be one of {', '.join(KINDS)}, got {kind!r:.40}")
        self.weights = dict(weights)
        self.kind, self.lr, self.keep, self.cosine, self.clip = kind, lr, keep, cosine, clip
        self.seed, self.steps = seed, 0
        self.memory = {
            f"{prefix}_{name}": torch.zeros_like(w, memory_format=torch.preserve_format)
            for prefix in KINDS[kind]
            for name, w in self.weights.items()
        }

    @torch.no_grad()
    def step(self, scale: float = 1.0) -> None:
        """Move all weights that have a gradient, and forget the gradients.

        scale: what gradients are multiplied by first.
        """
        lr = self.lr
        if self.cosine:
            lr *= (math.cos(self.steps * 2 * math.pi / self.cosine) + 1) / 2
        if self.clip:
            scale *= min(1.0, CLIP_NORM / max(scale * self.norm(), 1e-30))
        for place, (name, weight) in enumerate(self.weights.items()):
            if weight.grad is None:
                continue
            memory = [self.memory[f"{prefix}_{name}"] for prefix in KINDS[self.kind]]
            flat = [_flat(t, weight) for t in (weight, *memory, weight.grad)]
            seed = mix(self.seed, self.steps, place)
            move = rmsprop_step if self.kind == "rmsprop" else adabelief_step
            move(*flat, lr=lr, scale=scale, keep=self.keep, seed=seed)
            weight.grad = None
        self.steps += 1

    def forget(self) -> None:
        """Drop the gradients."""
        for weight in self.weights.values():
            weight.grad = None

    def norm(self) -> float:
        """The length of all gradients together. Waits for them."""
        grads = [w.grad for w in self.weights.values() if w.grad is not None]
        return float(torch.nn.utils.get_total_norm(grads))

    def state(self) -> dict[str, Tensor]:
        """What must be kept to go on exactly."""
        return {"iters": torch.tensor(self.steps), **self.memory}

    def load(self, state: Mapping[str, Tensor]) -> list[str]:
        """Take up a kept state; return names that it lacks, which begin at zero."""
        if "iters" in state:
            self.steps = int(state["iters"])
        missing = []
        for name, tensor in self.memory.items():
            found = state.get(name)
            if found is None or found.shape != tensor.shape:
                missing.append(name)
                tensor.zero_()
            else:
                tensor.copy_(found)
        return missing


class LossScale:
    """Keeps gradients of half precision above its smallest number.

    The factor is halved whenever a gradient is not finite, and that step left out; it is doubled
    after 2000 good steps. Micikevicius et al. 2017, arXiv:1710.03740, section 3.2.
    """

    GOOD = 2000

    def __init__(self, factor: float = 2.0**14) -> None:
        self.factor, self.good = factor, 0

    def step(self, optimiser: Optimiser) -> bool:
        """Let the optimiser move if all gradients are finite. Waits for them."""
        fine = math.isfinite(optimiser.norm())
        if fine:
            optimiser.step(1 / self.factor)
            self.good += 1
        else:
            optimiser.forget()
            self.factor, self.good = max(1.0, self.factor / 2), 0
        if self.good == self.GOOD:
            self.factor, self.good = self.factor * 2, 0
        return fine


def _flat(tensor: Tensor, like: Tensor) -> Tensor:
    """All numbers of a tensor, in the order that `like` has in memory."""
    if tensor.stride() != like.stride():
        tensor = torch.empty_like(like, memory_format=torch.preserve_format).copy_(tensor)
    return tensor.detach().as_strided((tensor.numel(),), (1,), tensor.storage_offset())
