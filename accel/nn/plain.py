"""Networks traced without our own operators: each is replaced by its definition in torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch.overrides import TorchFunctionMode

from accel.kernels._op import OPS

PREFIX = "accel::"


class PlainOps(TorchFunctionMode):
    """Inside `with PlainOps():` this thread's calls of accel's operators run their references.

    A tracer that knows torch's operators alone, such as the exporter to ONNX, then sees only those.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        # A packet of overloads has the attribute, one overload has the method.
        name = getattr(func, "_qualified_op_name", "")
        if not name and hasattr(func, "_schema"):
            name = func.name()  # type: ignore[attr-defined]
        if name.startswith(PREFIX):
            op = OPS[name.removeprefix(PREFIX).split(".")[0]]
            return op.reference(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))
