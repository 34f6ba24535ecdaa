"""Adapters: the change they ask for, against the definitions and the trainers' own library."""

from __future__ import annotations

import pytest
import torch

from accel.core import ConfigError, InputError
from accel.weights.lora import Adapter, change, merged, parse, scale_of

OUT, IN, R, K = 12, 8, 3, 3


def draw(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def one(**parts) -> Adapter:
    (adapter,) = parse({"m." + name.replace("__", "."): t for name, t in parts.items()}).values()
    return adapter


LINEAR, CONV = draw(OUT, IN), draw(OUT, IN, K, K)
A, B = draw(R, IN), draw(OUT, R)


@pytest.mark.parametrize(
    "names",
    [
        ("lora_down__weight", "lora_up__weight"),
        ("lora_A__weight", "lora_B__weight"),
        ("lora_A__default__weight", "lora_B__default__weight"),
        ("lora__down__weight", "lora__up__weight"),
        ("lora_linear_layer__down__weight", "lora_linear_layer__up__weight"),
    ],
)
def test_low_rank_under_all_its_names(names):
    adapter = one(**dict(zip(names, (A, B), strict=True)))
    torch.testing.assert_close(change(adapter, LINEAR), B @ A)
    torch.testing.assert_close(merged(LINEAR, adapter, 0.6), LINEAR + 0.6 * (B @ A))


@pytest.mark.parametrize(
    ("extra", "scale"),
    [
        ({}, 1.0),
        ({"alpha": torch.tensor(6.0)}, 2.0),
        ({"alpha": torch.tensor(0.0)}, 1.0),
        ({"alpha": torch.tensor(6.0), "scale": torch.tensor(0.5)}, 0.5),
    ],
)
def test_alpha_is_in_ranks(extra, scale):
    adapter = one(lora_down__weight=A, lora_up__weight=B, **extra)
    assert scale_of(adapter) == scale
    torch.testing.assert_close(change(adapter, LINEAR), scale * (B @ A))


def test_convolutions():
    down, up = draw(R, IN, K, K), draw(OUT, R, 1, 1)
    delta = change(one(lora_down__weight=down, lora_up__weight=up), CONV)
    x = draw(1, IN, 5, 5)
    conv = torch.nn.functional.conv2d
    torch.testing.assert_close(conv(x, delta), conv(conv(x, down), up), rtol=1e-4, atol=1e-4)


def test_tucker_convolutions():
    down, mid, up = draw(R, IN, 1, 1), draw(R, R, K, K), draw(OUT, R, 1, 1)
    delta = change(one(lora_down__weight=down, lora_mid__weight=mid, lora_up__weight=up), CONV)
    x = draw(1, IN, 5, 5)
    conv = torch.nn.functional.conv2d
    expected = conv(conv(conv(x, down), mid), up)
    torch.testing.assert_close(conv(x, delta), expected, rtol=1e-4, atol=1e-4)


def test_a_linear_adapter_on_a_1x1_convolution_and_the_other_way_round():
    flat = one(lora_down__weight=A, lora_up__weight=B)
    deep = one(lora_down__weight=A[..., None, None], lora_up__weight=B[..., None, None])
    for weight in (LINEAR, LINEAR[..., None, None]):
        for adapter in (flat, deep):
            assert torch.equal(change(adapter, weight), (B @ A).view(weight.shape))


def test_ia3_multiplies_along_inputs_or_outputs():
    v = draw(IN)
    by_input = one(weight=v, on_input=torch.tensor(True))
    torch.testing.assert_close(change(by_input, CONV), CONV * v[None, :, None, None])
    v = draw(OUT)
    by_output = one(weight=v, on_input=torch.tensor(False))
    torch.testing.assert_close(change(by_output, LINEAR), LINEAR * v[:, None])


def test_full_differences_and_norms():
    adapter = one(diff=LINEAR * 2, diff_b=draw(OUT))
    torch.testing.assert_close(merged(LINEAR, adapter, 0.5), LINEAR * 2)
    assert adapter.changes_bias
    assert torch.equal(change(one(w_norm=draw(OUT)), draw(OUT)), draw(OUT))


def loha(tucker: bool):
    if tucker:
        w1a, w1b, w2a, w2b = draw(R, OUT), draw(R, IN), draw(R, OUT) + 1, draw(R, IN) - 1
        return w1a, w1b, w2a, w2b, draw(R, R, K, K), draw(R, R, K, K) * 0.5
    w1a, w1b = draw(OUT, R), draw(R, IN * K * K)
    return w1a, w1b, w1a + 1, w1b - 1, None, None


def lokr(kind: str):
    """(w1, w1_a, w1_b, w2, w2_a, w2_b, t2) for a weight of 12 x 8 x 3 x 3: 3 x 2 by 4 x 4."""
    w1 = draw(3, 2)
    if kind == "whole":
        return w1, None, None, draw(4, 4, K, K), None, None, None
    if kind == "factored":
        return None, draw(3, R), draw(R, 2), None, draw(4, R), draw(R, 4 * K * K), None
    return w1, None, None, None, draw(R, 4), draw(R, 4), draw(R, R, K, K)


def named(prefix: str, names: list[str], values) -> dict:
    return {prefix + n: v for n, v in zip(names, values, strict=True) if v is not None}


LOHA = ["w1_a", "w1_b", "w2_a", "w2_b", "t1", "t2"]
LOKR = ["w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b", "t2"]


@pytest.mark.parametrize("tucker", [False, True])
def test_loha_agrees_with_lycoris(tucker):
    peer = pytest.importorskip("lycoris.functional.loha", exc_type=ImportError)
    w1a, w1b, w2a, w2b, t1, t2 = values = loha(tucker)
    adapter = one(**named("hada_", LOHA, values), alpha=torch.tensor(1.5))
    expected = peer.diff_weight(w1b, w1a, w2b, w2a, t1, t2, gamma=0.5).view(CONV.shape)
    torch.testing.assert_close(change(adapter, CONV), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", ["whole", "factored", "tucker"])
def test_lokr_agrees_with_lycoris(kind):
    peer = pytest.importorskip("lycoris.functional.lokr", exc_type=ImportError)
    values = lokr(kind)
    adapter = one(**named("lokr_", LOKR, values), alpha=torch.tensor(1.5))
    assert scale_of(adapter) == (1.0 if kind == "whole" else 0.5)
    expected = peer.kron_weight(*values, scale=scale_of(adapter)).reshape(CONV.shape)
    torch.testing.assert_close(change(adapter, CONV), expected, rtol=1e-6, atol=1e-6)


def test_loha_is_a_product_of_products():
    w1a, w1b, w2a, w2b, *_ = values = loha(False)
    delta = change(one(**named("hada_", LOHA, values)), CONV)
    torch.testing.assert_close(delta.view(OUT, -1), (w1a @ w1b) * (w2a @ w2b))


def test_lokr_is_a_kronecker_product():
    values = lokr("whole")
    delta = change(one(**named("lokr_", LOKR, values)), CONV)
    torch.testing.assert_close(delta[4:8, 4:8], values[0][1, 1] * values[3])


@pytest.mark.parametrize("weight", [LINEAR, CONV], ids=["linear", "conv"])
@pytest.mark.parametrize("by_row", [True, False])
def test_dora_gives_the_trained_norm(weight, by_row):
    axis = 0 if by_row else 1
    shape = [1] * weight.ndim
    shape[axis] = weight.shape[axis]
    wanted = draw(*shape).abs() + 0.5
    delta = torch.randn_like(weight)
    adapter = Adapter("m", "full", {"diff": delta, "dora_scale": wanted})
    others = [i for i in range(weight.ndim) if i != axis]
    got = merged(weight, adapter, 1.0)
    norm = torch.linalg.vector_norm(got, dim=others, keepdim=True)
    torch.testing.assert_close(norm, wanted)
    torch.testing.assert_close(merged(weight, adapter, 0.0), weight + delta)


@pytest.mark.parametrize("strength", [1.0, 0.4])
@pytest.mark.parametrize("by_row", [True, False])
def test_dora_agrees_with_lycoris(by_row, strength):
    peer = pytest.importorskip("lycoris.functional.general", exc_type=ImportError)
    wanted = draw(OUT, 1, 1, 1) if by_row else draw(1, IN, 1, 1)
    delta = torch.randn_like(CONV)
    adapter = Adapter("m", "full", {"diff": delta, "dora_scale": wanted})
    expected = peer.weight_decompose(CONV + delta, wanted, strength, by_row)
    torch.testing.assert_close(merged(CONV, adapter, strength), expected, rtol=1e-6, atol=1e-6)


def test_dora_as_forge_does_it():
    wanted, delta = draw(OUT, 1), torch.randn_like(LINEAR)
    adapter = Adapter("m", "full", {"diff": delta, "dora_scale": wanted})
    whole = (LINEAR + delta) * wanted / LINEAR.norm(dim=1, keepdim=True)
    expected = LINEAR + 0.3 * (whole - LINEAR)
    torch.testing.assert_close(merged(LINEAR, adapter, 0.3, "forge"), expected)
    with pytest.raises(ConfigError, match="dora_norm must be one of"):
        merged(LINEAR, adapter, 0.3, "other")


def test_low_rank_agrees_with_peft():
    peft = pytest.importorskip("peft", exc_type=ImportError)
    base = torch.nn.Sequential(torch.nn.Linear(IN, OUT))
    base[0].weight.data.copy_(LINEAR)
    model = peft.get_peft_model(base, peft.LoraConfig(r=R, lora_alpha=2, target_modules=["0"]))
    layer = model.base_model.model[0]
    layer.lora_B["default"].weight.data.copy_(B)
    state = {k: v for k, v in model.state_dict().items() if "lora_" in k}
    (adapter,) = parse(state).values()
    expected = layer.get_delta_weight("default")
    alpha = Adapter("m", "lora", {**adapter.parts, "alpha": torch.tensor(2.0)})
    torch.testing.assert_close(change(alpha, LINEAR), expected, rtol=1e-6, atol=1e-6)


def oft(blocks, **extra):
    return one(oft_blocks=blocks, **extra)


@pytest.mark.parametrize("weight", [LINEAR, CONV], ids=["linear", "conv"])
@pytest.mark.parametrize("shape", [(3, 4, 4), (2, 6, 2, 2)], ids=["diagonal", "butterfly"])
def test_rotations_keep_lengths(weight, shape):
    """Of each column of the weight, over its outputs; and at strength 0 they do nothing."""
    adapter = oft(draw(*shape) * 0.3)
    turned = merged(weight, adapter, 1.0)
    torch.testing.assert_close(turned.norm(dim=0), weight.norm(dim=0))
    assert (turned - weight).abs().max() > 0.1
    torch.testing.assert_close(merged(weight, adapter, 0.0), weight)
    bounded = merged(weight, oft(draw(*shape) * 0.3, alpha=torch.tensor(1e-4)), 1.0)
    assert (bounded - weight).abs().max() < 0.1


@pytest.mark.parametrize("strength", [1.0, 0.6])
@pytest.mark.parametrize("bound", [0.0, 0.01])
@pytest.mark.parametrize("with_rescale", [False, True])
def test_rotations_agree_with_lycoris(with_rescale, bound, strength):
    """With bounds and strengths, which its function for diagonal blocks does not take."""
    diagonal = pytest.importorskip("lycoris.functional.diag_oft", exc_type=ImportError)
    butterfly = pytest.importorskip("lycoris.functional.boft", exc_type=ImportError)
    rescale = draw(OUT, 1) * 0.1 + 1 if with_rescale else None
    extra = {"alpha": torch.tensor(bound)} | ({} if rescale is None else {"rescale": rescale})
    blocks = draw(2, 6, 2, 2) * 0.3
    expected = butterfly.diff_weight(
        LINEAR, blocks, rescale, constraint=bound * OUT, scale=strength, backend="torch"
    )
    got = change(oft(blocks, **extra), LINEAR, strength)
    assert (got - expected).abs().max() < 1e-6 * expected.abs().max() + 1e-6
    if strength == 1:
        blocks = draw(3, 4, 4) * 0.3
        expected = diagonal.diff_weight(
            LINEAR, blocks, rescale, constraint=bound * OUT, backend="torch"
        )
        got = change(oft(blocks, **extra), LINEAR)
        assert (got - expected).abs().max() < 1e-6 * expected.abs().max() + 1e-6


@pytest.mark.parametrize("weight", [LINEAR, CONV], ids=["linear", "conv"])
def test_glora(weight):
    conv = weight.ndim == 4
    b2 = draw(R, IN, K, K) if conv else draw(R, IN)
    parts = {"a1": draw(IN, R), "a2": draw(R, IN), "b1": draw(OUT, R), "b2": b2}
    if conv:
        parts = {n: t if t.ndim == 4 else t[..., None, None] for n, t in parts.items()}
    adapter = one(alpha=torch.tensor(6.0), **{n + "__weight": t for n, t in parts.items()})
    flat = {n: t.flatten(1) for n, t in parts.items()}
    own = torch.einsum("oi...,ij->oj...", weight, flat["a1"] @ flat["a2"])
    expected = 2.0 * (own + (flat["b1"] @ flat["b2"]).view(weight.shape))
    torch.testing.assert_close(change(adapter, weight), expected)
    peer = pytest.importorskip("lycoris.modules.glora", exc_type=ImportError)
    theirs = peer._glora_weight(weight, *parts.values(), None, 2.0)
    assert (change(adapter, weight) - theirs).abs().max() < 1e-6 * theirs.abs().max()


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["m.lora_up.weight"], "m must be one whole adapter, got up"),
        (["m.hada_w1_a", "m.hada_w1_b"], "m must be one whole adapter, got w1_a, w1_b"),
        (["m.diff", "m.weight"], "m must be one whole adapter, got diff, vector"),
        (["m.alpha"], "m must be one whole adapter, got alpha"),
        (["m.something"], "m.something is of no known kind"),
    ],
)
def test_refuses_what_is_no_adapter(names, message):
    with pytest.raises(InputError, match=message):
        parse(dict.fromkeys(names, torch.zeros(2, 2)), "file")


def test_names_the_module_that_does_not_fit():
    adapter = one(lora_down__weight=A, lora_up__weight=B)
    with pytest.raises(InputError, match=r"m: lora of .* does not fit a weight of \(7, 7\)"):
        change(adapter, torch.zeros(7, 7))


@pytest.mark.parametrize(
    "parts",
    [
        {"lora_up.weight": (200_000, 1), "lora_down.weight": (1, 200_000)},
        {"hada_w1_a": (7000, 1), "hada_w1_b": (1, 7000), "hada_w2_a": (7000, 1),
         "hada_w2_b": (1, 7000)},
        {"lokr_w1_a": (2000, 1), "lokr_w1_b": (1, 2000), "lokr_w2_a": (2000, 1),
         "lokr_w2_b": (1, 2000)},
        {"a1.weight": (8000, 1), "a2.weight": (1, 8000), "b1.weight": (8, 1), "b2.weight": (1, 8)},
        {"lora_up.weight": (8, 1), "lora_mid.weight": (1, 100_000, 3, 3),
         "lora_down.weight": (100_000, 8)},
        {"oft_blocks": (1, 9000, 1)},
    ],
    ids=["lora", "loha", "lokr", "glora", "tucker", "oft"],
)  # fmt: skip
def test_parts_whose_product_would_fill_the_memory_are_refused(parts):
    tensors = {f"a.{name}": torch.ones(shape) for name, shape in parts.items()}
    (adapter,) = parse(tensors).values()
    with pytest.raises(InputError, match="does not fit a weight of"):
        merged(torch.ones(8, 8), adapter, 1.0)
