"""LoRA files on a loaded model: whose weights they change, and putting them back to the bit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from accel.core import InputError
from accel.models.diffusers_names import open_clip_module, unet_module
from accel.models.stable_diffusion import StableDiffusion
from accel.nn.conv import computing_dtype
from accel.weights.lora import Adapter, bias_change, merged

NAMED = 3  # modules that an error spells out
Strength = float | tuple[float, float]  # of all; or of the text towers, and of the UNet


@dataclass(frozen=True)
class Target:
    """One weight, or a third of the rows of a joint one."""

    parameter: str  # of the StableDiffusion module
    bias: str | None
    third: int | None = None

    def strength(self, given: Strength) -> float:
        if not isinstance(given, tuple):
            return given
        return given[0 if self.parameter.startswith("towers.") else 1]

    def view(self, tensor: Tensor) -> Tensor:
        return tensor if self.third is None else tensor.chunk(3)[self.third]


def targets(model: StableDiffusion) -> dict[str, Target]:
    """Every name under which a LoRA file may mean one of the model's modules."""
    table: dict[str, Target] = {}
    for path, module in model.unet.named_modules():
        target = _target(module, f"unet.{path}")
        if target:
            theirs = unet_module(path, model.config.unet)
            table[f"lora_unet_{_flat(path)}"] = target
            table[f"lora_unet_{_flat(theirs)}"] = target
            table[f"unet.{theirs}"] = target
            table[f"base_model.model.{theirs}"] = target  # as PEFT itself saves one network
            table[f"lycoris_{_flat(theirs)}"] = target  # and LyCORIS
            table[f"diffusion_model.{path}"] = target  # ComfyUI
            table.setdefault(theirs, target)  # diffusers' attention processors, saved alone
            table[f"unet.{theirs.replace('.to_out.0', '.to_out')}"] = target
            for part in ("to_q", "to_k", "to_v", "to_out"):  # diffusers before PEFT
                if theirs.endswith((f".{part}", f".{part}.0")):
                    stem = theirs.removesuffix(".0").removesuffix(f".{part}")
                    for prefix in ("unet.", ""):
                        table[f"{prefix}{stem}.processor.{part}_lora"] = target
    for i, tower in enumerate(model.towers):
        for path, target in _text_targets(tower, f"towers.{i}."):
            for prefix in _text_prefixes(model, i):
                table[f"{prefix}{_flat(path) if prefix.endswith('_') else path}"] = target
    return table


def _text_prefixes(model: StableDiffusion, tower: int) -> list[str]:
    if len(model.towers) == 1:
        only = ["lora_te_", "lora_te1_", "text_encoder.", "base_model.model."]
        return [*only, "lora_te2_", "text_encoder_2."] if model.config.size_numbers else only
    return [f"lora_te{tower + 1}_", "text_encoder." if tower == 0 else "text_encoder_2."]


def _text_targets(tower: nn.Module, prefix: str) -> list[tuple[str, Target]]:
    """Modules under transformers' paths, which files of both kinds of tower use."""
    found = []
    for path, module in tower.named_modules():
        if hasattr(module, "in_proj_weight"):
            layer = path.split(".")[2]
            for third, part in enumerate(("q_proj", "k_proj", "v_proj")):
                name = f"text_model.encoder.layers.{layer}.self_attn.{part}"
                joint = prefix + path + ".in_proj_"
                found.append((name, Target(joint + "weight", joint + "bias", third)))
        target = _target(module, prefix + path)
        if target:
            ours = path.startswith(("text_model.", "text_projection"))
            found.append((path if ours else open_clip_module(path), target))
    return found


def _target(module: nn.Module, path: str) -> Target | None:
    if not isinstance(getattr(module, "weight", None), nn.Parameter):
        return None
    has_bias = isinstance(getattr(module, "bias", None), nn.Parameter)
    return Target(f"{path}.weight", f"{path}.bias" if has_bias else None)


def _flat(path: str) -> str:
    return path.replace(".", "_")


class LoraSet:
    """The adapters that are in effect on one model; the weights as loaded are kept aside.

    Every change starts from the kept tensors, so strengths can be altered any number of times, and
    `clear` gives back the very tensors that were there.
    """

    def __init__(self, model: StableDiffusion):
        self.model = model
        self._targets = targets(model)
        self._kept: dict[str, nn.Parameter] = {}

    def resolve(self, adapters: Mapping[str, Adapter], source: str) -> dict[str, Target]:
        """Raises InputError, with names, when modules are not the model's: another base."""
        unknown = sorted(name for name in adapters if name not in self._targets)
        if unknown:
            raise InputError(
                f"{source}: is for another base model: {len(unknown)} of {len(adapters)} modules"
                f" are not in this one: {', '.join(unknown[:NAMED])}"
            )
        return {name: self._targets[name] for name in adapters}

    @torch.no_grad()
    def set(
        self,
        loras: Sequence[tuple[str, Mapping[str, Adapter], Strength]],  # name, adapters, strength
        dora_norm: str = "lycoris",
    ) -> None:
        """Put exactly these in effect, in order; nothing is changed where one does not fit."""
        fresh: dict[str, Tensor] = {}

        def original(name: str) -> Tensor:
            kept = self._kept.get(name)
            return (self.model.get_parameter(name) if kept is None else kept).detach()

        def current(name: str) -> Tensor:
            if name not in fresh:
                fresh[name] = original(name).float().clone()
            return fresh[name]

        for source, adapters, strengths in loras:
            for name, target in self.resolve(adapters, source).items():
                adapter, strength = adapters[name], target.strength(strengths)
                if set(adapter.parts) != {"diff_b"}:
                    rows = target.view(current(target.parameter))
                    rows.copy_(merged(rows, adapter, strength, dora_norm))
                if adapter.changes_bias and target.bias is None:
                    raise InputError(f"{source}: {name} has no bias to change")
                if target.bias is not None:
                    kept = target.view(self.model.get_parameter(target.parameter))
                    bias = fresh.get(target.bias, original(target.bias))
                    change = bias_change(adapter, kept, target.view(bias))
                    if change is not None:
                        bias = target.view(current(target.bias))
                        bias += strength * change
        self.clear()
        dtype = computing_dtype(self.model)  # weights may be kept in fewer bits
        for name, tensor in fresh.items():
            self._kept[name] = self.model.get_parameter(name)
            self._replace(name, nn.Parameter(tensor.to(dtype), requires_grad=False))

    def clear(self) -> None:
        for name, parameter in self._kept.items():
            self._replace(name, parameter)
        self._kept = {}

    def _replace(self, name: str, parameter: nn.Parameter) -> None:
        path, _, last = name.rpartition(".")
        setattr(self.model.get_submodule(path), last, parameter)
