"""Adapters of every kind as their trainers' own libraries apply them, on small layers."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from accel.weights.lora import Adapter, bias_change, merged, parse

LIMIT = 2e-6  # of layers' results, of which each sums up to 72 products
KINDS = [
    ("lora", {}),
    ("lora", {"rs_lora": True}),
    ("lora", {"dora_wd": True}),
    ("lora", {"dora_wd": True, "wd_on_output": False}),
    ("locon", {}),
    ("locon", {"use_tucker": True}),
    ("locon", {"use_scalar": True}),
    ("loha", {}),
    ("loha", {"use_tucker": True}),
    ("loha", {"dora_wd": True}),
    ("loha", {"use_scalar": True}),
    ("lokr", {"factor": 4}),
    ("lokr", {"factor": 4, "decompose_both": True}),
    ("lokr", {"factor": -1, "use_tucker": True}),
    ("lokr", {"factor": 4, "full_matrix": True}),
    ("lokr", {"factor": 4, "dora_wd": True}),
    ("ia3", {}),
    ("full", {}),
    ("glora", {}),
    ("diag-oft", {}),
    ("diag-oft", {"rescaled": True, "constraint": 0.01}),
    ("boft", {}),
    ("boft", {"rescaled": True}),
]


class Layers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(16, 32)
        self.conv = nn.Conv2d(8, 16, 3, padding=1)
        self.one = nn.Conv2d(8, 16, 1)

    def forward(self, x):
        return x


def moved(parameters) -> None:
    with torch.no_grad():
        for name, p in parameters:
            if p.requires_grad and ("dora_scale" in name or "magnitude" in name):
                p.mul_(1 + 0.2 * torch.rand_like(p))
            elif p.requires_grad:
                p.add_(torch.randn_like(p) * 0.2)


def changed(base, module: str, adapter: Adapter, strength: float) -> nn.Module:
    """Our layer with the adapter merged."""
    layers = Layers()
    layers.load_state_dict(base)
    weight, bias = base[f"{module}.weight"], base[f"{module}.bias"]
    more = bias_change(adapter, weight, bias)
    with torch.no_grad():
        if set(adapter.parts) != {"diff_b"}:
            layers.get_parameter(f"{module}.weight").copy_(merged(weight, adapter, strength))
        if more is not None:
            layers.get_parameter(f"{module}.bias").add_(strength * more)
    return layers.get_submodule(module)


@pytest.mark.parametrize("strength", [1.0, 0.6, -0.7])
@pytest.mark.parametrize(("kind", "options"), KINDS, ids=str)
def test_lycoris(kind, options, strength):
    """What its layers give, with rank and alpha that differ: merging LoHa, it scales twice."""
    lycoris = pytest.importorskip("lycoris", exc_type=ImportError)
    lycoris.LycorisNetwork.apply_preset({"target_module": ["Linear", "Conv2d"]})
    torch.manual_seed(0)
    layers = Layers()
    base = {name: tensor.detach().clone() for name, tensor in layers.state_dict().items()}
    network = lycoris.create_lycoris(
        layers, 1.0, linear_dim=2, linear_alpha=1, conv_dim=2, conv_alpha=1, algo=kind, **options
    )
    network.apply_to()
    moved(network.named_parameters())
    network.set_multiplier(strength)
    adapters = parse({name: t.detach().clone() for name, t in network.state_dict().items()})
    assert len(adapters) == 3
    x = {"linear": torch.randn(5, 16), "conv": torch.randn(2, 8, 6, 6)}
    x["one"] = x["conv"]
    for name, adapter in adapters.items():
        module = name.removeprefix("lycoris_")
        with torch.no_grad():
            expected = layers.get_submodule(module)(x[module])
            got = changed(base, module, adapter, strength)(x[module])
        assert (got - expected).abs().max() < LIMIT * expected.abs().max(), name


def peft_config(kind: str):
    peft = pytest.importorskip("peft", exc_type=ImportError)
    every = {"target_modules": ["linear", "conv", "one"]}
    return {
        "lora": lambda: peft.LoraConfig(r=2, lora_alpha=2, **every),
        "dora": lambda: peft.LoraConfig(r=2, lora_alpha=2, use_dora=True, **every),
        "loha": lambda: peft.LoHaConfig(r=2, alpha=2, **every),
        "loha tucker": lambda: peft.LoHaConfig(r=2, alpha=2, use_effective_conv2d=True, **every),
        "lokr": lambda: peft.LoKrConfig(r=2, alpha=2, **every),
        "lokr tucker": lambda: peft.LoKrConfig(r=2, alpha=2, use_effective_conv2d=True, **every),
        "ia3": lambda: peft.IA3Config(feedforward_modules=["linear", "one"], **every),
    }[kind]()


@pytest.mark.parametrize(
    "kind", ["lora", "dora", "loha", "loha tucker", "lokr", "lokr tucker", "ia3"]
)
def test_peft(kind):
    config = peft_config(kind)
    import peft

    torch.manual_seed(0)
    layers = Layers()
    base = {name: tensor.detach().clone() for name, tensor in layers.state_dict().items()}
    network = peft.get_peft_model(layers, config)
    moved(network.named_parameters())
    adapters = parse({k: v.clone() for k, v in peft.get_peft_model_state_dict(network).items()})
    expected = network.merge_and_unload()
    assert len(adapters) == 3
    for name, adapter in adapters.items():
        module = name.removeprefix("base_model.model.")
        got = changed(base, module, adapter, 1.0)
        for part in ("weight", "bias"):
            torch.testing.assert_close(
                got.get_parameter(part), expected.get_parameter(f"{module}.{part}"),
                rtol=1e-6, atol=1e-6,
            )  # fmt: skip
