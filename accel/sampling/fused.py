"""A run of a sampler whose every step is one launch of accel.kernels.guided_step.

Everything that a step reads or writes has a fixed place, so that network and step can be captured
as a CUDA graph once and replayed for every step: accel.pipelines.generate.graphs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from accel.kernels.guided_step import guided_step
from accel.sampling.parameterise import NoiseLevels
from accel.sampling.plan import START, Name, Plan, scale_at, tables
from accel.sampling.steps import Callback, Noise


class FusedRun:
    """Buffers and tables of one plan; may be used again for other pictures of the same shape.

    rows: 1 where the network is asked for the prompt alone, else 2. inputs: [rows * B, C, H, W]
    what it sees at the next call, once for each condition.
    step: [1] int32 how many calls were made; both on the device.
    """

    def __init__(
        self,
        plan: Plan,
        levels: NoiseLevels,
        shape: Sequence[int],  # [B, C, H, W] of x
        *,
        scale: float = 1.0,  # of guidance
        kind: str = "eps",
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,  # of the network
        precision: torch.dtype = torch.float32,  # of what is remembered
    ):
        self.plan, self.levels, self.shape = plan, levels, tuple(shape)
        needs_both = scale != 1 or any(call.needs_other for call in plan.calls)
        self.rows = 2 if needs_both else 1
        made = tables(plan, levels, scale, kind, precision)
        self._slot = made.slot
        self._numbers, self._slots = made.numbers.to(device), made.slots.to(device)
        count = torch.Size(self.shape).numel()
        self.values = torch.zeros(made.count, count, dtype=precision, device=device)
        batch, *rest = self.shape
        self.inputs = torch.zeros(self.rows * batch, *rest, dtype=dtype, device=device)
        self.step = torch.zeros(1, dtype=torch.int32, device=device)

    def begin(self, x: Tensor, noise: Noise | None = None) -> None:
        """Set out from x, at the first level; all noise is drawn now, in the order of its use."""
        known: dict[Name, Tensor] = {START: x}
        for i, (sigma, following) in enumerate(self.plan.draws):
            if noise is None:
                raise ValueError("FusedRun: the sampler puts noise back, so noise must be given")
            known["noise", i] = noise(sigma, following)
        for name, terms in self.plan.before.items():
            known[name] = torch.stack([known[part] * c for part, c in terms.items()]).sum(0)
        for name, value in known.items():
            if name in self._slot:
                self.values[self._slot[name]].copy_(value.reshape(-1))
        first = self.plan.calls[0]
        shown = self.value(first.x) * scale_at(self.levels, first.sigma)
        self.inputs.copy_(shown.repeat(self.rows, *[1] * (len(self.shape) - 1)))
        self.step.zero_()

    def advance(
        self,
        predictions: Tensor,  # [rows * B, C, H, W] without the prompt, then with it
    ) -> None:
        """Take the step of the call that was made of `inputs`; waits for nothing."""
        flat = predictions.reshape(self.rows, -1)
        uncond = flat[0] if self.rows == 2 else None
        inputs = self.inputs.view(self.rows, -1)
        guided_step(self.values, inputs, flat[-1], uncond, self._numbers, self._slots, self.step)

    def value(self, name: Name) -> Tensor:  # shaped like x; a view of what later steps write over
        return self.values[self._slot[name]].view(self.shape)

    def finish(
        self,
        call: Callable[[int], None],  # makes call number i and takes its step
        callback: Callback | None = None,
    ) -> Tensor:
        """Make all calls, telling `callback` of each step; returns x at the last level."""
        seen = list(self.plan.seen)
        index = 0
        for i in range(len(self.plan.calls)):
            call(i)
            while seen and seen[0][0] <= i:
                name = seen.pop(0)[1]
                if callback:
                    callback(index, self.value(name).clone())
                index += 1
        return self.value(self.plan.result).clone()
