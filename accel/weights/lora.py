"""Adapters of all kinds as numbers: which change of a weight a LoRA file asks for.

A file holds, per module of the network, a few small tensors; this module sorts them, and computes
the change in float32. It does not know what the modules are (accel.models.lora_names does).

Sources: Hu et al. 2021 (arXiv:2106.09685); Yeh et al. 2023 (arXiv:2309.14859) for LoHa, LoKr and
the Tucker form of convolutions; Liu et al. 2022 (arXiv:2205.05638) for IA3; Liu et al. 2024
(arXiv:2402.09353) for DoRA.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from accel.core import ConfigError, InputError
from accel.weights.oft import rotated

# PEFT's names of DoRA's norms: always per output, whatever their shape.
MAGNITUDES = (
    "lora_magnitude_vector",
    "lora_magnitude_vector.weight",
    "lora_magnitude_vector.default.weight",
)
# What a name ends in: the kind of adapter ("" where any may have it), the part that it plays.
ENDINGS = {
    "lora_up.weight": ("lora", "up"),
    "lora_down.weight": ("lora", "down"),
    "lora_mid.weight": ("lora", "mid"),
    "lora_B.weight": ("lora", "up"),  # PEFT
    "lora_A.weight": ("lora", "down"),
    "lora_B.default.weight": ("lora", "up"),
    "lora_A.default.weight": ("lora", "down"),
    "lora.up.weight": ("lora", "up"),  # diffusers before PEFT
    "lora.down.weight": ("lora", "down"),
    "lora_linear_layer.up.weight": ("lora", "up"),
    "lora_linear_layer.down.weight": ("lora", "down"),
    **{f"hada_{part}": ("loha", part) for part in ("w1_a", "w1_b", "w2_a", "w2_b", "t1", "t2")},
    **{
        f"lokr_{part}": ("lokr", part)
        for part in ("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b", "t2")
    },
    "weight": ("ia3", "vector"),
    "on_input": ("ia3", "on_input"),
    "ia3_l": ("ia3", "gain"),  # PEFT
    "ia3_l.default": ("ia3", "gain"),
    "oft_blocks": ("oft", "blocks"),
    "rescale": ("oft", "rescale"),
    **{f"{part}.weight": ("glora", part) for part in ("a1", "a2", "b1", "b2", "bm")},
    "diff": ("full", "diff"),
    "diff_b": ("full", "diff_b"),
    "w_norm": ("full", "diff"),
    "b_norm": ("full", "diff_b"),
    "alpha": ("", "alpha"),
    "scale": ("", "scale"),
    "dora_scale": ("", "dora_scale"),
    **dict.fromkeys(MAGNITUDES, ("", "dora_scale")),
}
BY_LENGTH = sorted(ENDINGS, key=len, reverse=True)  # "x.lora_up.weight" is no "weight" of IA3
COMPLETE = {  # each kind needs all parts of one of these sets
    "lora": [{"up", "down"}],
    "loha": [{"w1_a", "w1_b", "w2_a", "w2_b"}],
    "lokr": [
        {"w1", "w2"},
        {"w1", "w2_a", "w2_b"},
        {"w1_a", "w1_b", "w2"},
        {"w1_a", "w1_b", "w2_a", "w2_b"},
    ],
    "ia3": [{"vector"}, {"gain"}],
    "oft": [{"blocks"}],
    "glora": [{"a1", "a2", "b1", "b2"}],
    "full": [{"diff"}, {"diff_b"}],
}
RANK_ROWS = {"lora": ("down",), "loha": ("w1_b",), "lokr": ("w1_b", "w2_b"), "glora": ("a2",)}
DORA_NORMS = ("lycoris", "forge")
MAX_RANK = 8192


@dataclass(frozen=True)
class Adapter:
    """The parts that a file holds for one module."""

    module: str
    kind: str  # "lora", "loha", "lokr", "ia3", "oft", "glora" or "full"
    parts: Mapping[str, Tensor]

    @property
    def changes_bias(self) -> bool:
        """Whether it must have a bias; PEFT's IA3 scales one where there is one (`bias_change`)."""
        return "diff_b" in self.parts


def parse(tensors: Mapping[str, Tensor], source: str = "LoRA") -> dict[str, Adapter]:
    """Sort a file's tensors by module.

    Raises InputError, with the name, for a tensor of no known kind, and for modules that lack a
    part or mix kinds.
    """
    found: dict[str, dict[str, Tensor]] = {}
    kinds: dict[str, set[str]] = {}
    for name, tensor in tensors.items():
        ending = next((e for e in BY_LENGTH if name.endswith("." + e)), None)
        if ending is None:
            raise InputError(f"{source}: {name} is of no known kind of adapter")
        kind, part = ENDINGS[ending]
        module = name[: -len(ending) - 1]
        found.setdefault(module, {})[part] = tensor.flatten() if ending in MAGNITUDES else tensor
        kinds.setdefault(module, set()).update({kind} - {""})
    adapters = {}
    for module, parts in found.items():
        kind = next(iter(kinds[module]), "")
        if len(kinds[module]) != 1 or not any(need <= set(parts) for need in COMPLETE[kind]):
            raise InputError(
                f"{source}: {module} must be one whole adapter, got {', '.join(sorted(parts))}"
            )
        adapters[module] = Adapter(module, kind, parts)
    return adapters


def change(
    adapter: Adapter, weight: Tensor, strength: float = 1.0
) -> Tensor:  # float32, shape of `weight`
    """What is added to `weight` at full strength, before DoRA's rescaling.

    Only rotations look at `strength`: their change is no multiple of it.

    Raises InputError, naming the module, where the parts do not fit the weight.
    """
    try:
        _check_sizes(adapter, weight)
        parts = {n: part.to(weight.device, torch.float32) for n, part in adapter.parts.items()}
        if adapter.kind == "full":
            delta = parts["diff"] if "diff" in parts else torch.zeros_like(weight)
        elif adapter.kind == "ia3":
            delta = _ia3(parts, weight)
        elif adapter.kind == "oft":
            delta = _oft(parts, weight, strength) - weight.float()
        elif adapter.kind == "glora":
            delta = _glora(parts, weight) * scale_of(adapter)
        else:
            delta = BUILT[adapter.kind](parts) * scale_of(adapter)
        return delta.reshape(weight.shape).to(torch.float32)
    except RuntimeError as error:
        shapes = ", ".join(f"{name} {tuple(part.shape)}" for name, part in adapter.parts.items())
        raise InputError(
            f"{adapter.module}: {adapter.kind} of {shapes} does not fit a weight of"
            f" {tuple(weight.shape)}: is it for another base model?"
        ) from error


def _check_sizes(adapter: Adapter, weight: Tensor) -> None:
    """Raise RuntimeError for parts whose product would be of another size, perhaps without end."""
    most = max(MAX_RANK, *weight.shape)
    if any(side > most for part in adapter.parts.values() for side in part.shape):
        raise RuntimeError(f"a side above {most}")
    shapes = {name: part.to("meta") for name, part in adapter.parts.items()}
    if adapter.kind in BUILT and BUILT[adapter.kind](shapes).numel() != weight.numel():
        raise RuntimeError("another size")
    if adapter.kind == "glora":
        _glora(shapes, weight.to("meta"))


def scale_of(adapter: Adapter) -> float:
    """alpha / rank; 1 where alpha is missing or 0, or where nothing was factored."""
    parts = adapter.parts
    if "scale" in parts:
        return float(parts["scale"])
    rows = RANK_ROWS[adapter.kind]
    rank = next((parts[name].shape[0] for name in rows if name in parts), None)
    alpha = float(parts["alpha"]) if "alpha" in parts else 0.0
    return alpha / rank if alpha and rank else 1.0


def _lora(parts: dict[str, Tensor]) -> Tensor:
    up, down = parts["up"].flatten(1), parts["down"]
    if "mid" in parts:
        return torch.einsum("op,pq...,qi->oi...", up, parts["mid"], down.flatten(1))
    return up @ down.flatten(1)


def _loha(parts: dict[str, Tensor]) -> Tensor:
    def factor(a: Tensor, b: Tensor, core: Tensor | None) -> Tensor:
        if core is None:
            return a @ b
        return torch.einsum("pq...,po,qi->oi...", core, a, b)

    first = factor(parts["w1_a"], parts["w1_b"], parts.get("t1"))
    return first * factor(parts["w2_a"], parts["w2_b"], parts.get("t2"))


def _lokr(parts: dict[str, Tensor]) -> Tensor:
    first = parts["w1"] if "w1" in parts else parts["w1_a"] @ parts["w1_b"]
    if "w2" in parts:
        second = parts["w2"]
    elif "t2" in parts:
        second = torch.einsum("pq...,po,qi->oi...", parts["t2"], parts["w2_a"], parts["w2_b"])
    else:
        second = parts["w2_a"] @ parts["w2_b"].flatten(1)
    return torch.kron(first.reshape(*first.shape, *[1] * (second.ndim - 2)), second.contiguous())


BUILT = {"lora": _lora, "loha": _loha, "lokr": _lokr}  # of their parts alone


def _oft(parts: dict[str, Tensor], weight: Tensor, strength: float) -> Tensor:
    """The file's alpha is a bound here, and no scale."""
    bound = float(parts["alpha"]) if "alpha" in parts else 0.0
    return rotated(weight, parts["blocks"], parts.get("rescale"), bound, strength)


def _glora(parts: dict[str, Tensor], weight: Tensor) -> Tensor:
    """The weight times a low-rank matrix on its inputs, plus another (arXiv:2306.07967)."""
    inner = parts["a1"].flatten(1) @ parts["a2"].flatten(1)
    own = torch.einsum("oi...,ij->oj...", weight.float(), inner)
    b1, b2 = parts["b1"], parts["b2"]
    if "bm" in parts:
        return own + torch.einsum("op,pq...,qi->oi...", b1.flatten(1), parts["bm"], b2.flatten(1))
    return own + (b1.flatten(1) @ b2.flatten(1)).reshape(weight.shape)


def _ia3(parts: dict[str, Tensor], weight: Tensor) -> Tensor:
    """The weight times a vector along its inputs, or its outputs; PEFT's stands for the result."""
    if "gain" in parts:
        shape = [1] * weight.ndim
        shape[_gain_axis(parts["gain"], weight)] = -1
        return weight.float() * (parts["gain"].flatten() - 1).view(shape)
    vector = parts["vector"].flatten()
    on_input = bool(parts["on_input"]) if "on_input" in parts else False
    shape = [1] * weight.ndim
    shape[1 if on_input else 0] = -1
    return weight.float() * vector.view(shape)


def _gain_axis(gain: Tensor, weight: Tensor) -> int:
    """0: of outputs. PEFT's [out, 1] and [1, in] say so; a convolution's lies as it fits."""
    if gain.ndim == 2:
        return int(gain.shape[0] == 1)
    return int(gain.numel() != weight.shape[0])


def bias_change(adapter: Adapter, weight: Tensor, bias: Tensor) -> Tensor | None:
    """What is added to the bias at full strength, in float32; None where it stays."""
    if adapter.changes_bias:
        return adapter.parts["diff_b"].to(bias.device, torch.float32)
    gain = adapter.parts.get("gain")
    if gain is None or _gain_axis(gain, weight) == 1:
        return None
    return bias.float() * (gain.flatten().to(bias.device, torch.float32) - 1)


def merged(
    weight: Tensor,
    adapter: Adapter,
    strength: float,
    dora_norm: str = "lycoris",  # or "forge": see DoRA below
) -> Tensor:  # float32, a new tensor
    """`weight` with one adapter merged at this strength.

    DoRA rescales the changed weight so that its norm, per row or per column as the file's vector
    lies, is the trained one. "lycoris", the trainers' own definition, takes the norm of the changed
    weight and blends the factor by strength; "forge" takes, for rows, the norm of the weight as it
    was, and blends the whole weight.
    """
    if dora_norm not in DORA_NORMS:
        raise ConfigError(f"dora_norm must be one of {DORA_NORMS}, got {dora_norm!r}")
    base = weight.float()
    if adapter.kind == "oft":
        return base + change(adapter, weight, strength)
    delta = change(adapter, weight)
    if "dora_scale" not in adapter.parts:
        return base + strength * delta
    wanted = adapter.parts["dora_scale"].to(base.device, torch.float32)
    by_row = wanted.shape[0] == base.shape[0] and wanted.numel() == base.shape[0]
    axes = tuple(i for i in range(base.ndim) if i != (0 if by_row else 1))
    shape = [1] * base.ndim
    shape[0 if by_row else 1] = -1
    whole = base + delta
    measured = base if dora_norm == "forge" and by_row else whole
    norm = torch.linalg.vector_norm(measured, dim=axes, keepdim=True)
    gain = wanted.reshape(shape) / (norm + torch.finfo(torch.float32).eps)
    blended: Tensor = whole * (strength * (gain - 1) + 1)
    if dora_norm == "forge":
        blended = base + strength * (whole * gain - base)
    return blended
