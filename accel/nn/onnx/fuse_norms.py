"""Norms that were written out by means, squares and roots, found and made one step each."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch.nn.functional as F
from torch import Tensor

from accel.kernels import group_norm_silu
from accel.nn.onnx.ops import Attributes, integers, op
from accel.nn.onnx.plan import Step
from accel.nn.onnx.wiring import Constants, Wiring, other, replaced, scalar


@op("accel.instance_norm")
def instance_norm(
    a: Attributes, x: Tensor, scale: Tensor | None = None, shift: Tensor | None = None
) -> Tensor:
    """Normalise over the axes of pixels; then, where given, times scale plus shift."""
    if x.ndim != 4:  # there these axes are others than pixels
        centred = x - x.mean(a["axes"], keepdim=True)
        variance = centred.square().mean(a["axes"], keepdim=True)
        return _affine(centred / (variance + a["epsilon"]).sqrt(), scale, shift)
    channels = x.shape[1]

    def affine(value: Tensor | None, rest: float) -> Tensor | None:
        if value is None:
            return x.new_full((channels,), rest)
        of_channels = tuple(value.shape) in ((channels, 1, 1), (1, channels, 1, 1))
        return value.reshape(-1) if of_channels else None

    weight, bias = affine(scale, 1.0), affine(shift, 0.0)
    if weight is not None and bias is not None:
        return group_norm_silu(x, channels, weight, bias, a["epsilon"], False)
    ones, zeros = x.new_ones(channels), x.new_zeros(channels)
    y = group_norm_silu(x, channels, ones, zeros, a["epsilon"], False)
    return _affine(y, scale, shift)


def _affine(y: Tensor, scale: Tensor | None, shift: Tensor | None) -> Tensor:
    y = y if scale is None else y * scale
    return y if shift is None else y + shift


def instance_norms(
    steps: Sequence[Step], constants: Constants, outputs: Sequence[str]
) -> list[Step]:
    """Find instance norms that were written out: x less its mean, over the root of its variance."""
    graph, result = Wiring(steps, outputs), list(steps)
    for step in steps:
        found = _written_out(step, graph, constants)
        if found is None:
            continue
        parts, epsilon = found
        kind, outs = "accel.instance_norm", parts[-1].outputs
        a = {"epsilon": epsilon, "axes": _axes(step, constants)}
        fused = Step(kind, a, [step.inputs[0]], outs)
        result = replaced(result, parts, fused)
    return result


# Axes of a mean.
PIXELS, LAST, CHANNELS = ([2, 3], [-2, -1]), ([-1],), ([1],)


def _written_out(
    mean: Step, graph: Wiring, constants: Constants, over: Sequence[list[int]] = PIXELS
) -> tuple[list[Step], float] | None:
    """From the first ReduceMean: all the steps of the norm, and its epsilon."""
    if not _is_mean(mean, constants, over):
        return None
    x = mean.inputs[0]
    less = graph.only_reader(mean.outputs[0], "Sub")
    if less is None or less.inputs != [x, mean.outputs[0]]:
        return None
    centred = less.outputs[0]
    squares = [s for s in graph.read.get(centred, []) if _is_square(s, centred, constants)]
    if not squares:
        return None
    square = squares[0]
    again = graph.only_reader(square.outputs[0], "ReduceMean")
    if again is None or not _is_mean(again, constants, over):
        return None
    plus = graph.only_reader(again.outputs[0], "Add")
    root = graph.only_reader(plus.outputs[0], "Sqrt") if plus else None
    if plus is None or root is None:
        return None
    epsilon = scalar(constants, other(plus, again.outputs[0]))
    if epsilon is None:
        return None
    parts = [mean, less, square, again, plus, root]
    rate = root.outputs[0]
    turned = graph.only_reader(rate)
    if turned and _is_reciprocal(turned, rate, constants):
        parts.append(turned)
        rate = turned.outputs[0]
        last = graph.only_reader(rate, "Mul")
        fits = last is not None and set(last.inputs) == {centred, rate}
    else:
        last = graph.only_reader(rate, "Div")
        fits = last is not None and last.inputs == [centred, rate]
    reads_of_centred = sum(s.inputs.count(centred) for s in [square, last] if s is not None)
    if last is None or not fits or graph.count[centred] != reads_of_centred:
        return None
    return [*parts, last], epsilon


def _is_mean(step: Step, constants: Constants, over: Sequence[list[int]]) -> bool:
    if step.kind != "ReduceMean" or not step.attributes.get("keepdims", 1):
        return False
    return _axes(step, constants) in over


def _axes(mean: Step, constants: Constants) -> list[int]:
    """The axes of a mean, in order; none where they are not known, or all are meant."""
    given = constants.get(mean.inputs[1]) if len(mean.inputs) > 1 else None
    return sorted(mean.attributes.get("axes", []) if given is None else given.tolist())


def _is_square(step: Step, name: str, constants: Constants) -> bool:
    if step.kind == "Mul":
        return step.inputs == [name, name]
    return step.kind == "Pow" and scalar(constants, step.inputs[1]) == 2


def _is_reciprocal(step: Step, name: str, constants: Constants) -> bool:
    if step.kind == "Reciprocal":
        return True
    is_one = step.kind == "Div" and scalar(constants, step.inputs[0]) == 1
    return is_one and step.inputs[1] == name


def scaled_norms(steps: Sequence[Step], constants: Constants, outputs: Sequence[str]) -> list[Step]:
    """Take the scale and the shift that follow an instance norm into it (AdaIN)."""
    graph, result = Wiring(steps, outputs), list(steps)
    for step in [s for s in steps if s.kind == "accel.instance_norm"]:
        for kind in ("Mul", "Add"):
            follower = graph.only_reader(step.outputs[0], kind)
            if follower is None or (kind == "Add" and len(step.inputs) == 1):
                break
            step.inputs = [*step.inputs, other(follower, step.outputs[0])]
            step.outputs = follower.outputs
            # It reads what the follower read, so it must stand where the follower stood.
            result.remove(step)
            result[next(i for i, s in enumerate(result) if s is follower)] = step
    return result


def layer_norms(steps: Sequence[Step], constants: Constants, outputs: Sequence[str]) -> list[Step]:
    """Find norms of the last dimension that were written out, with a scale and a shift or not."""
    return _norms("accel.layer_norm", LAST, lambda v: v.ndim <= 1, steps, constants, outputs)


def channel_norms(
    steps: Sequence[Step], constants: Constants, outputs: Sequence[str]
) -> list[Step]:
    """Find norms of each pixel's channels that were written out, with scale and shift or not."""
    return _norms("accel.channel_norm", CHANNELS, _of_channels, steps, constants, outputs)


def _norms(
    kind: str,
    over: Sequence[list[int]],
    fits: Callable[[Tensor], bool],  # whether a constant may be its scale or shift
    steps: Sequence[Step],
    constants: Constants,
    outputs: Sequence[str],
) -> list[Step]:
    graph, result = Wiring(steps, outputs), list(steps)
    for step in steps:
        found = _written_out(step, graph, constants, over)
        if found is None:
            continue
        parts, epsilon = found
        parts, vectors = _with_affine(parts, graph, constants, fits)
        inputs = [step.inputs[0], *vectors]
        fused = Step(kind, {"epsilon": epsilon}, inputs, parts[-1].outputs)
        result = replaced(result, parts, fused)
    return result


def _with_affine(
    parts: list[Step], graph: Wiring, constants: Constants, fits: Callable[[Tensor], bool]
) -> tuple[list[Step], list[str]]:
    """A norm's steps and the scale and shift that follow them, and the names of those two."""
    parts, vectors = list(parts), []
    for kind in ("Mul", "Add"):
        after = graph.only_reader(parts[-1].outputs[0], kind)
        vector = "" if after is None else other(after, parts[-1].outputs[0])
        if after is None or vector not in constants or not fits(constants[vector]):
            break
        vectors.append(vector)
        parts.append(after)
    return parts, vectors


@op("accel.channel_norm")
def channel_norm(
    a: Attributes, x: Tensor, scale: Tensor | None = None, shift: Tensor | None = None
) -> Tensor:
    centred = x - x.mean(1, keepdim=True)
    variance = centred.square().mean(1, keepdim=True)
    return _affine(centred / (variance + a["epsilon"]).sqrt(), scale, shift)


@op("accel.layer_norm")
def layer_norm(
    a: Attributes, x: Tensor, scale: Tensor | None = None, shift: Tensor | None = None
) -> Tensor:
    return _affine(F.layer_norm(x, x.shape[-1:], None, None, a["epsilon"]), scale, shift)


def group_norms(steps: Sequence[Step], constants: Constants, outputs: Sequence[str]) -> list[Step]:
    """Find group norms: instance norms of a tensor whose groups were made its channels."""
    graph, result = Wiring(steps, outputs), list(steps)
    for norm in steps:
        before = graph.maker(norm.inputs[0], "Reshape") if norm.inputs else None
        after = graph.only_reader(norm.outputs[0], "Reshape")
        if norm.kind != "InstanceNormalization" or before is None or after is None:
            continue
        grouped = constants.get(before.inputs[1])
        ones, zeros = (constants.get(name) for name in norm.inputs[1:3])
        if grouped is None or ones is None or zeros is None or before.attributes.get("allowzero"):
            continue
        is_plain = bool((ones == 1).all()) and not bool(zeros.any())
        if grouped.numel() != 3 or int(grouped[0]) != 0 or int(grouped[2]) != -1 or not is_plain:
            continue
        if int(grouped[1]) < 1:  # every channel is a group of its own
            continue
        parts, vectors = _with_affine([before, norm, after], graph, constants, _of_channels)
        inputs = [before.inputs[0], after.inputs[1], *vectors]
        a = {"groups": int(grouped[1]), "epsilon": norm.attributes.get("epsilon", 1e-5)}
        result = replaced(result, parts, Step("accel.group_norm", a, inputs, parts[-1].outputs))
    return result


def _of_channels(value: Tensor) -> bool:
    return value.ndim in (3, 4) and value.shape[-3] == value.numel()


@op("accel.group_norm")
def group_norm(
    a: Attributes,
    x: Tensor,
    shape: Tensor,  # of the result
    scale: Tensor | None = None,
    shift: Tensor | None = None,
) -> Tensor:
    y = F.group_norm(x, a["groups"], None, None, a["epsilon"])
    y = y.reshape([x.shape[i] if s == 0 else s for i, s in enumerate(integers(shape) or [])])
    return _affine(y, scale, shift)
