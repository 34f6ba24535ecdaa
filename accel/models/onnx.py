"""`load_onnx`: an ONNX file on our own kernels where they take it, on ONNX Runtime where not."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper
from torch import Tensor

from accel.core import ConfigError, choose_device, read_file
from accel.nn.onnx.load import plan_of, samples
from accel.nn.onnx.native import Runner
from accel.nn.onnx.ops import MISFITS, TYPES, Unsupported, first_line
from accel.weights import onnx_graph
from accel.weights.onnx import Network, Port, open_onnx

Array = NDArray[Any]
HALF = (torch.float16, torch.bfloat16)
RUNTIMES = ("auto", "accel", "onnxruntime")


def load_onnx(
    source: Path | str | bytes,
    device: str = "cpu",
    runtime: str = "auto",
    threads: int = 0,
    *,
    tensorrt: Path | None = None,
) -> OnnxModel:
    """Open an ONNX file, or the bytes of one.

    device: `auto`, `cpu`, `cuda` or `cuda:N`.
    runtime: `accel` runs the graph on our kernels (CPU); `onnxruntime` on ONNX Runtime; `auto`
        takes ours on the CPU where the graph becomes one native program with at most a tenth of the
        work left to operators of torch; ONNX Runtime elsewhere.
    threads: for ONNX Runtime on the CPU; 0: as many as torch uses.
    tensorrt: on CUDA, a folder for TensorRT's engines; TensorRT then runs what it can.

    Raises InputError for a file that is no ONNX model or reaches outside its own bytes, ConfigError
    where the runtime or the device cannot be had.
    """
    if runtime not in RUNTIMES:
        raise ConfigError(f"runtime must be one of {', '.join(RUNTIMES)}, got {runtime!r}")
    name = "ONNX model" if isinstance(source, bytes) else str(source)
    data = source if isinstance(source, bytes) else _read(Path(source))
    on_cpu = choose_device(device).type == "cpu"
    if runtime == "accel" and not on_cpu:
        raise ConfigError(f"runtime accel runs on the CPU, got device {device}")
    if runtime != "onnxruntime" and on_cpu:
        try:
            model = onnx_graph.parse(data, name)
            onnx_graph.tidy(model)
            onnx_graph.fold_storage(model)
            runner = Runner(plan_of(model))
            if runtime == "accel" or runner.pays(samples(model)):
                return OnnxModel(name, plan=runner, types=_types(model))
        except Unsupported as error:
            if runtime == "accel":
                raise ConfigError(f"{name}: runtime accel cannot run it: {error}") from None
    network = open_onnx(
        data, device=device, threads=threads or torch.get_num_threads(), dynamic_batch=False,
        tensorrt=tensorrt,
    )  # fmt: skip
    return OnnxModel(name, network=network)


class OnnxModel:
    """A network from an ONNX file; `runtime` says what runs it. Safe to call from many threads."""

    def __init__(
        self,
        name: str,
        *,
        plan: Runner | None = None,
        network: Network | None = None,
        types: Mapping[str, Any] | None = None,  # of the plan's outputs
    ):
        self.name = name
        self.runtime = "accel" if plan else "onnxruntime"
        self.inputs = plan.inputs if plan else [p.name for p in network.inputs] if network else []
        self.outputs = (
            plan.outputs if plan else [p.name for p in network.outputs] if network else []
        )
        self._plan, self._network = plan, network
        self._types = dict(types or {})
        self._lock = threading.Lock()

    @property
    def ports(self) -> list[Port]:
        """What goes in, with shapes and types; only of a network that ONNX Runtime runs."""
        return self._network.inputs if self._network else []

    def on_device(self, feeds: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Map CUDA tensors to CUDA tensors, bound in place; the host waits for nothing.

        Sizes of outputs must follow from those of inputs. Raises ConfigError for a network that was
        not opened on CUDA.
        """
        if self._network is None or self._network.binding is None:
            raise ConfigError(f"{self.name}: must be opened on a CUDA device to run there")
        return dict(zip(self.outputs, self._network.binding(feeds)))

    def run(self, feeds: Mapping[str, Array | Tensor]) -> dict[str, Array]:
        """Map arrays by input name to arrays by output name.

        Raises ValueError when an input is missing, unknown, or does not fit the graph; ConfigError
        where `runtime="accel"` was asked for and lacks what the graph needs.
        """
        if set(feeds) != set(self.inputs):
            raise ValueError(
                f"{self.name}: inputs must be {', '.join(self.inputs)}, "
                f"got {', '.join(sorted(feeds)) or 'none'}"
            )
        if self._network is not None:
            results = self._network.whole(**feeds)
            return dict(zip(self.outputs, results))
        assert self._plan is not None
        tensors = {n: _computable(torch.as_tensor(v)) for n, v in feeds.items()}
        try:
            with self._lock:
                outputs = self._plan.run(tensors)
        except Unsupported as error:
            raise ConfigError(f"{self.name}: runtime accel cannot run it: {error}") from None
        except MISFITS as error:
            raise ValueError(
                f"{self.name}: inputs must fit the graph: {first_line(error)}"
            ) from None
        arrays = (t.contiguous().numpy() for t in outputs)
        return {n: a.astype(self._types.get(n, a.dtype)) for n, a in zip(self.outputs, arrays)}


def _computable(tensor: Tensor) -> Tensor:
    return (tensor.float() if tensor.dtype in HALF else tensor).contiguous()


def _read(path: Path) -> bytes:
    return read_file(path, onnx_graph.MAX_FILE_BYTES, "an ONNX model")


def _types(model: ModelProto) -> dict[str, Any]:
    kinds = {o.name: o.type.tensor_type.elem_type for o in model.graph.output}
    return {
        name: helper.tensor_dtype_to_np_dtype(kind)
        for name, kind in kinds.items()
        if kind in TYPES and kind != TensorProto.BFLOAT16
    }
