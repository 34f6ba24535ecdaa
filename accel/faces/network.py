"""Networks of faces: as one native program on the CPU where that can be, else by ONNX Runtime."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from accel.core import choose_device, read_file
from accel.nn.onnx.load import plan_of, samples
from accel.nn.onnx.native import Runner
from accel.nn.onnx.ops import Unsupported
from accel.weights import onnx_graph
from accel.weights.assets import is_shipped
from accel.weights.onnx import Network, open_onnx

Array = NDArray[Any]


def open_network(source: Path, *, device: str = "cpu", threads: int = 1) -> Network | NativeNetwork:
    """Open a network of one input whose first axis counts items; raises as open_onnx does.

    It maps arrays to arrays. On a GPU it takes tensors of it too, and `on_device` leaves what comes
    out there.
    """
    if choose_device(device).type == "cpu":
        name = str(source)
        data = read_file(source, onnx_graph.MAX_FILE_BYTES, "an ONNX model")
        model = (onnx_graph.parse_shipped if is_shipped(source) else onnx_graph.parse)(data, name)
        onnx_graph.tidy(model)
        onnx_graph.fold_storage(model)
        try:
            runner = Runner(plan_of(model))
            if len(runner.inputs) == 1 and runner.pays(samples(model)):
                return NativeNetwork(runner, threads)
        except Unsupported:
            pass  # ONNX Runtime may know the operator
    return open_onnx(source, device=device, threads=threads)


class NativeNetwork:
    """Items go through one by one, so that a file that fixes its batch at one takes any number.

    Safe to call from many threads, which do not wait for each other: each has a runner of its own.
    """

    def __init__(self, runner: Runner, threads: int):
        self._threads = threads
        self._plan = runner.plan
        self._input = runner.inputs[0]
        self._free = [runner]
        self._lock = threading.Lock()

    def __call__(self, items: Array | torch.Tensor) -> list[Array]:
        # Frames may lie on a GPU though their networks were opened here.
        array = items.cpu().numpy() if isinstance(items, torch.Tensor) else items
        given = torch.from_numpy(np.ascontiguousarray(array, np.float32))
        several = given if len(given) else given.new_zeros((1, *given.shape[1:]))
        with self._own_runner() as runner:
            runs = [
                runner.run({self._input: several[i : i + 1]}, self._threads)
                for i in range(len(several))
            ]
        # Few are given more than one item, and joining lets go of the interpreter's lock.
        joined = [p[0] if len(p) == 1 else torch.cat(p) for p in zip(*runs)]
        return [whole.numpy()[: len(given)] for whole in joined]

    @contextmanager
    def _own_runner(self) -> Iterator[Runner]:
        """A runner that nobody else uses meanwhile; what it learned of sizes stays with it."""
        with self._lock:
            runner = self._free.pop() if self._free else Runner(self._plan)
        try:
            yield runner
        finally:
            self._free.append(runner)
