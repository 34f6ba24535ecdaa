"""Attention that was written out as two products with a softmax between them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from accel.nn.onnx.ops import Attributes, op
from accel.nn.onnx.plan import Step
from accel.nn.onnx.wiring import Constants, Wiring, other, replaced


def einsums(steps: Sequence[Step], constants: Constants, outputs: Sequence[str]) -> list[Step]:
    """Sums over one letter of two operands are products of matrices, perhaps turned."""
    result = []
    for step in steps:
        parts = _as_product(step) if step.kind == "Einsum" and len(step.inputs) == 2 else None
        result.extend(parts or [step])
    return result


def _as_product(step: Step) -> list[Step] | None:
    operands, arrow, out = step.attributes["equation"].replace(" ", "").partition("->")
    x, _, y = operands.partition(",")
    if not arrow or not all(t.isalpha() and len(set(t)) == len(t) for t in (x, y, out)):
        return None
    batch = [c for c in out if c in x and c in y]
    summed = [c for c in x if c in y and c not in out]
    left, right = ([c for c in t if c not in batch + summed] for t in (x, y))
    if not len(summed) == len(left) == len(right) == 1 or set(left + right) - set(out):
        return None
    opset, made = {"opset": step.attributes["opset"], "outputs": 1}, []
    names = []
    wanted = (batch + left + summed, batch + summed + right)
    for name, letters, order in zip(step.inputs, (x, y), wanted):
        turn = [letters.index(c) for c in order]
        if turn != sorted(turn):
            made.append(
                Step(
                    "Transpose",
                    opset | {"perm": turn},
                    [name],
                    [f"{step.outputs[0]}/{''.join(order)}"],
                )
            )
            name = made[-1].outputs[0]
        names.append(name)
    given = batch + left + right
    turn = [given.index(c) for c in out]
    product = step.outputs[0] if turn == sorted(turn) else f"{step.outputs[0]}/product"
    made.append(Step("MatMul", opset, names, [product]))
    if turn != sorted(turn):
        made.append(Step("Transpose", opset | {"perm": turn}, [product], step.outputs))
    return made


MOST_TILED = 1 << 24  # numbers


def tiled_adds(steps: Sequence[Step], constants: Constants, outputs: Sequence[str]) -> list[Step]:
    """What is added to the scores of heads, and to those of windows once these were set apart for
    it: one table for each window."""
    graph, result = Wiring(steps, outputs), list(steps)
    for soft in [s for s in steps if s.kind == "Softmax"]:
        joined = graph.maker(soft.inputs[0], "Reshape")
        added = graph.maker(joined.inputs[0], "Add") if joined else None
        apart = [graph.maker(n, "Reshape") for n in added.inputs] if added else []
        if joined is None or added is None or sum(a is not None for a in apart) != 1:
            continue
        split = next(a for a in apart if a is not None)
        table = constants.get(other(added, split.outputs[0]))
        sizes = [constants.get(step.inputs[1]) for step in (split, joined)]
        if table is None or sizes[0] is None or sizes[1] is None:
            continue
        before = graph.maker(split.inputs[0], "Add")
        first = [n for n in before.inputs if n in constants] if before else []
        of_heads = constants[first[0]] if len(first) == 1 else torch.zeros(1)
        whole = _table(table, of_heads, *(size.tolist() for size in sizes))  # type: ignore[union-attr]
        if whole is None:
            continue
        parts, x = [split, added, joined], split.inputs[0]
        if before is not None and len(first) == 1:
            parts, x = [before, *parts], other(before, first[0])
        name = f"{joined.outputs[0]}/added"
        constants[name] = whole
        fused = Step("accel.tiled_add", {}, [x, name], joined.outputs)
        result = replaced(result, parts, fused)
        graph.made[joined.outputs[0]] = fused
    return result


def _table(
    windows: Tensor, heads: Tensor, apart: list[int], joined: list[int]
) -> Tensor | None:  # [windows, heads, queries, keys]
    """None where shapes are not [.., windows, heads, queries, keys] and [.., heads, ...]."""
    size = tuple(apart[-4:])
    if len(apart) != 5 or len(joined) != 4 or joined[1:] != apart[2:] or min(size) < 1:
        return None
    if math.prod(size) > MOST_TILED or windows.ndim > 5 or heads.ndim > 4:
        return None
    if any(t.dtype != torch.float32 for t in (windows, heads)) or windows.shape[:-4].numel() != 1:
        return None
    if heads.shape[:-3].numel() != 1:
        return None
    windows, heads = windows.reshape(windows.shape[-4:]), heads.reshape(heads.shape[-3:])
    if np.broadcast_shapes(windows.shape, heads.shape, size) != size:
        return None
    return (windows + heads).expand(size).contiguous()


@op("accel.tiled_add")
def tiled_add(
    a: Attributes,
    x: Tensor,  # [batches windows, heads, queries, keys]
    table: Tensor,  # [windows, heads, queries, keys]
) -> Tensor:
    return (x.reshape(-1, *table.shape) + table).reshape(x.shape)


def attentions(steps: Sequence[Step], constants: Constants, outputs: Sequence[str]) -> list[Step]:
    """softmax(q k + mask) v, with its factors and the turns of its operands taken in."""
    graph, result = Wiring(steps, outputs), list(steps)
    for soft in [s for s in steps if s.kind == "Softmax"]:
        found = _written_out(soft, graph, constants)
        if found is None:
            continue
        fused, parts = found
        result = replaced(result, parts, fused)
    return result


def _written_out(soft: Step, graph: Wiring, constants: Constants) -> tuple[Step, list[Step]] | None:
    last = graph.only_reader(soft.outputs[0], "MatMul")
    a = soft.attributes
    axis = a.get("axis", -1 if a["opset"] >= 13 else 1)
    is_last = axis in (-1, 3) or (axis == 2 and a["opset"] >= 13)
    if last is None or last.inputs[0] != soft.outputs[0] or not is_last:
        return None
    parts, score, mask, factor, divided = [soft, last], soft.inputs[0], "", "", False
    added = graph.maker(score, "Add") or graph.maker(score, "accel.tiled_add")
    if added is not None:
        sides = [n for n in added.inputs if graph.made.get(n) is not None and _scores(n, graph)]
        if len(sides) != 1:
            return None
        score, mask = sides[0], other(added, sides[0])
        parts.append(added)
    for kind in ("Mul", "Div"):
        scaled = graph.maker(score, kind)
        if scaled is not None:
            sides = [n for n in scaled.inputs if graph.maker(n, "MatMul") is not None]
            if len(sides) != 1 or (kind == "Div" and scaled.inputs[0] != sides[0]):
                return None
            score, factor, divided = sides[0], other(scaled, sides[0]), kind == "Div"
            parts.append(scaled)
            break
    product = graph.maker(score, "MatMul")
    if product is None:
        return None
    parts.append(product)
    operands = []
    for name in (*product.inputs, last.inputs[1]):
        operands.append(_operand(name, graph, parts, constants))
    (q, q_factor, q_turn), (k, k_factor, k_turn), (v, v_factor, v_turn) = operands
    if v_factor:
        return None
    out, turn = last.outputs, None
    turned = graph.only_reader(out[0], "Transpose")
    if turned is not None and "perm" in turned.attributes:
        parts.append(turned)
        out, turn = turned.outputs, list(turned.attributes["perm"])
    attributes = {
        "q": q_turn,
        "k": k_turn,
        "v": v_turn,
        "out": turn,
        "divided": divided,
        "axis": axis,
        "tiled": added is not None and added.kind == "accel.tiled_add",
    }
    inputs = [q, k, v, mask, q_factor, k_factor, factor]
    return Step("accel.attention", attributes, inputs, out), parts


def _scores(name: str, graph: Wiring) -> bool:
    """Whether a value is a product, perhaps scaled."""
    if graph.maker(name, "MatMul") is not None:
        return True
    scaled = graph.maker(name, "Mul") or graph.maker(name, "Div")
    return scaled is not None and any(graph.maker(n, "MatMul") for n in scaled.inputs)


def _operand(
    name: str, graph: Wiring, parts: list[Step], constants: Constants
) -> tuple[str, str, list[int] | None]:
    """A value, the factor it is multiplied by, and how it is turned."""
    factor, turn = "", None
    scaled = graph.maker(name, "Mul")
    if scaled is not None:
        for i in (1, 0):  # a factor that comes from no input's values is a constant or a shape's
            if _is_setting(scaled.inputs[i], graph, constants):
                parts.append(scaled)
                name, factor = scaled.inputs[1 - i], scaled.inputs[i]
                break
    turned = graph.maker(name, "Transpose")
    if turned is not None and "perm" in turned.attributes:
        parts.append(turned)
        name, turn = turned.inputs[0], list(turned.attributes["perm"])
    return name, factor, turn


def _is_setting(name: str, graph: Wiring, constants: Constants) -> bool:
    """Whether a value is a constant's or a shape's, by way of at most a few operators."""
    for _ in range(8):
        if name in constants:
            return constants[name].numel() == 1
        step = graph.made.get(name)
        if step is None:
            return False
        if step.kind == "Shape":
            return True
        variable = [n for n in step.inputs if n and n not in constants]
        if len(variable) != 1 or step.kind not in ("Sqrt", "Div", "Cast", "Slice", "Gather", "Mul"):
            return False
        name = variable[0]
    return False


@op("accel.attention")
def attend(
    a: Attributes,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    q_factor: Tensor | None,
    k_factor: Tensor | None,
    factor: Tensor | None,
) -> Tensor:
    q, k, v = (t if turn is None else t.permute(turn) for t, turn in _turned(a, q, k, v))
    q = q if q_factor is None else q * q_factor
    k = k if k_factor is None else k * k_factor
    score = q @ k
    if factor is not None:
        score = score / factor if a["divided"] else score * factor
    if a["tiled"]:
        score = tiled_add({}, score, mask)
    elif mask is not None:
        score = score + mask
    out = score.softmax(a["axis"]) @ v
    return out if a["out"] is None else out.permute(a["out"])


def _turned(a: Attributes, *operands: Tensor) -> list[tuple[Tensor, list[int] | None]]:
    return list(zip(operands, (a["q"], a["k"], a["v"])))
