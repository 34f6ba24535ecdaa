"""A sampler's arithmetic as tables: what each step adds up, found by running it on symbols.

Whatever a sampler does with pictures is adding and scaling: x, the denoised pictures and the noise.
Run once with symbols in place of tensors, it leaves a list of sums, with coefficients in double
precision; one kernel, accel.kernels.guided_step, then takes every step of every sampler. The
functions in ode.py, sde.py, ... stay the definition: the sums round otherwise, by a few units in
the last place.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor

from accel.core import ConfigError
from accel.kernels.guided_step import HEAD, NUMBERS, OUTPUTS, SLOTS, TERMS
from accel.sampling.parameterise import NoiseLevels
from accel.sampling.samplers import run_sampler

START = "x"  # the value that a run begins with
# Of a value: START, ("clean", call), ("other", call), ("noise", draw), ("sum", number).
Name = tuple[str, int] | str


class Sum:
    """A sum of named values, standing for a tensor while a sampler is run on symbols."""

    def __init__(self, terms: Mapping[Name, float], recorder: Recorder):
        self.terms = {name: c for name, c in terms.items() if c != 0}
        self.recorder = recorder

    def _with(self, other: Any, factor: float) -> Sum:
        if not isinstance(other, Sum):
            raise TypeError(f"a sampler's arithmetic must be sums, got one with {type(other)}")
        terms = dict(self.terms)
        for name, c in other.terms.items():
            terms[name] = terms.get(name, 0.0) + factor * c
        return Sum(terms, self.recorder)

    def __add__(self, other: Any) -> Sum:
        return self._with(other, 1.0)

    def __sub__(self, other: Any) -> Sum:
        return self._with(other, -1.0)

    def __mul__(self, factor: float) -> Sum:
        return Sum({name: c * factor for name, c in self.terms.items()}, self.recorder)

    __rmul__ = __mul__

    def __truediv__(self, divisor: float) -> Sum:
        return self * (1.0 / divisor)

    def settled(self) -> Sum:
        """A value of its own, so that sums of it stay short."""
        return Sum({self.recorder.value_of(self): 1.0}, self.recorder)

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Sum:
        if func is torch.lerp:
            begin, end = cast("tuple[Sum, Sum]", args[:2])
            share = float(args[2])
            return begin * (1.0 - share) + end * share
        if func is torch.zeros_like:
            return Sum({}, args[0].recorder)
        raise TypeError(f"a sampler's arithmetic must be sums, got {func}")


@dataclass
class Call:
    """One call of the network, and the sums that are taken after it."""

    sigma: float
    x: Name  # what the network sees, at this level
    needs_other: bool = False
    sums: dict[Name, dict[Name, float]] = field(default_factory=dict)


class Recorder:
    """Stands for denoiser and noise, and writes down what is asked of them."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.draws: list[tuple[float, float]] = []
        self.before: dict[Name, dict[Name, float]] = {}  # sums before the first call: churn
        self.seen: list[tuple[int, Name]] = []  # after which call the callback sees what
        self._count = 0

    def __call__(self, x: Sum, sigma: float) -> Sum:
        name = self.value_of(x)
        if self.calls and name not in self.calls[-1].sums:
            name = self._sum(x)  # what the network sees next is always made by the step before
        self.calls.append(Call(sigma, name))
        return Sum({("clean", len(self.calls) - 1): 1.0}, self)

    def pair(self, x: Sum, sigma: float) -> tuple[Sum, Sum]:
        clean = self(x, sigma)
        self.calls[-1].needs_other = True
        return clean, Sum({("other", len(self.calls) - 1): 1.0}, self)

    def noise(self, sigma: float, following: float) -> Sum:
        self.draws.append((sigma, following))
        return Sum({("noise", len(self.draws) - 1): 1.0}, self)

    def callback(self, index: int, clean: Sum) -> None:
        self.seen.append((len(self.calls) - 1, self.value_of(clean)))

    def value_of(self, x: Sum) -> Name:
        """The one value that a sum is, or a new one."""
        if len(x.terms) == 1:
            ((name, c),) = x.terms.items()
            if c == 1:
                return name
        return self._sum(x)

    def _sum(self, x: Sum) -> Name:
        sums = self.calls[-1].sums if self.calls else self.before
        # Sums of one step are taken together, so none may be made of another.
        terms: dict[Name, float] = {}
        for name, c in x.terms.items():
            for part, share in sums.get(name, {name: 1.0}).items():
                terms[part] = terms.get(part, 0.0) + c * share
        self._count += 1
        made: Name = ("sum", self._count)
        sums[made] = {name: c for name, c in terms.items() if c != 0}
        x.terms = {made: 1.0}  # what the sampler goes on to do with it is short again
        return made


@dataclass(frozen=True)
class Plan:
    """A run of a sampler.

    calls: of the network, in order. draws: the steps for which noise is asked, in order. result:
    the value that the run ends in. seen: for each step, the call after which its denoised picture
    is there, and which value that is. before: sums that are taken before the first call.
    """

    calls: Sequence[Call]
    draws: Sequence[tuple[float, float]]
    result: Name
    seen: Sequence[tuple[int, Name]]
    before: Mapping[Name, Mapping[Name, float]]


def plan(name: str, sigmas: Sequence[float], **settings: Any) -> Plan:
    """Run a sampler on symbols; arguments as of `run_sampler`.

    Raises ConfigError for one whose steps have more terms than the kernel takes.
    """
    recorder = Recorder()
    start: Any = Sum({START: 1.0}, recorder)
    end: Any = run_sampler(
        name, recorder, start, sigmas,  # type: ignore[arg-type]
        noise=recorder.noise, callback=recorder.callback, **settings,  # type: ignore[arg-type]
    )  # fmt: skip
    result = recorder.value_of(end)
    for call in recorder.calls:
        if len(call.sums) > OUTPUTS or any(len(terms) > TERMS for terms in call.sums.values()):
            raise ConfigError(f"{name} adds up more than a step of the kernel can")
    return Plan(recorder.calls, recorder.draws, result, recorder.seen, recorder.before)


@dataclass(frozen=True)
class Tables:
    """A plan for the kernel: see accel.kernels.guided_step for the rows.

    slot: where each value lies while it is needed; the result and what a callback sees then, too.
    """

    numbers: Tensor  # [calls, NUMBERS]
    slots: Tensor  # [calls, SLOTS]
    slot: Mapping[Name, int]
    count: int  # of slots


def tables(
    plan: Plan,
    levels: NoiseLevels,
    scale: float,  # of guidance
    kind: str = "eps",  # what the network predicts: see parameterise.PREDICTIONS
    dtype: torch.dtype = torch.float32,
) -> Tables:
    """Lay a plan out for one model, prediction and guidance scale."""
    slot, count = placed(plan)
    numbers = torch.zeros(len(plan.calls), NUMBERS, dtype=torch.float64)
    slots = torch.full((len(plan.calls), SLOTS), -1, dtype=torch.int32)
    for row, call in enumerate(plan.calls):
        keep, gain = parameters(kind, call.sigma)
        following = plan.calls[row + 1] if row + 1 < len(plan.calls) else None
        outputs = list(call.sums)
        fed = outputs.index(following.x) if following and following.x in outputs else -1
        # `scaled` is a multiplication at every level; on one it shows by what.
        shown = 1.0 if following is None else scale_at(levels, following.sigma)
        numbers[row, :HEAD] = torch.tensor([scale, keep, gain, shown], dtype=torch.float64)
        clean, other = ("clean", row), ("other", row)
        heads = [slot[call.x], slot.get(clean, -1), slot.get(other, -1), fed]
        slots[row, :HEAD] = torch.tensor(heads, dtype=torch.int32)
        for m, (made, terms) in enumerate(call.sums.items()):
            own = {name: c for name, c in terms.items() if name not in (clean, other)}
            a, b = HEAD + m * (2 + TERMS), HEAD + m * (1 + TERMS)
            row_numbers = [terms.get(clean, 0.0), terms.get(other, 0.0), *own.values()]
            numbers[row, a : a + len(row_numbers)] = torch.tensor(row_numbers, dtype=torch.float64)
            row_slots = [slot.get(made, -1), *(slot[name] for name in own)]
            slots[row, b : b + len(row_slots)] = torch.tensor(row_slots, dtype=torch.int32)
    return Tables(numbers.to(dtype), slots, slot, count)


def parameters(kind: str, sigma: float) -> tuple[float, float]:
    """(keep, gain): the denoised picture is keep * x + gain * prediction, see `denoised`."""
    if kind in ("eps", "flow"):
        return 1.0, -sigma
    if kind == "v":
        variance = sigma * sigma + 1
        return 1 / variance, -sigma / math.sqrt(variance)
    if kind == "x0":
        return 0.0, 1.0
    raise ValueError(f"prediction must be one of eps, v, x0, flow, got {kind!r}")


def scale_at(levels: NoiseLevels, sigma: float) -> float:
    return float(levels.scaled(torch.ones((), dtype=torch.float64), sigma))


def placed(plan: Plan) -> tuple[dict[Name, int], int]:
    """A slot for each value while it is needed, and how many slots that takes."""
    last: dict[Name, int] = {}  # the last call that reads a value
    for i, call in enumerate(plan.calls):
        last[call.x] = i
        for terms in call.sums.values():
            last |= dict.fromkeys(terms, i)
    forever = len(plan.calls)
    last[plan.result] = forever
    for call_index, name in plan.seen:
        last[name] = max(last.get(name, 0), call_index + 1)
    slot: dict[Name, int] = {}
    free: list[int] = []
    count = 0
    ends: list[tuple[int, Name]] = []

    def give(name: Name) -> None:
        nonlocal count
        if name in slot or name not in last:
            return
        if free:
            slot[name] = free.pop()
        else:
            slot[name], count = count, count + 1
        ends.append((last[name], name))

    for name in (START, *(("noise", i) for i in range(len(plan.draws))), *plan.before):
        give(name)  # type: ignore[arg-type]
    for i, call in enumerate(plan.calls):
        # What this call reads last is free for what it makes: the kernel reads before it writes.
        for end, name in [pair for pair in ends if pair[0] <= i]:
            ends.remove((end, name))
            free.append(slot[name])
        made: list[Name] = list(call.sums)
        # clean and other are kept only where a later call reads them, or somebody looks.
        for name in (("clean", i), ("other", i)):
            if last.get(name, -1) > i or name == plan.result:
                made.append(name)
        for name in made:
            give(name)
    return slot, count
