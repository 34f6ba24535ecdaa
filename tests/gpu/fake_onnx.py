"""ONNX Runtime's side of the counting device: sessions run on the CPU, their traffic is counted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from unittest import mock

import numpy as np
import torch

from accel.weights.onnx import Network, _Place
from accel.weights.onnx_binding import Binding
from tests.gpu.fake_cuda import Device, FakeTensor


@contextmanager
def fake_onnx(device: Device) -> Iterator[None]:
    """Networks that are opened "on CUDA" run on the CPU; bound runs copy nothing, others do."""
    plain = Network._run

    def bound(self: Binding, feeds: Mapping[str, torch.Tensor], outputs: list[torch.Tensor]):
        if not all(isinstance(t, FakeTensor) for t in (*feeds.values(), *outputs)):
            raise ValueError("a bound tensor must lie on the session's device")
        arrays = {name: t.host.numpy() for name, t in feeds.items()}
        results = self.session.run(None, arrays, self._options)
        device.ran("bound")
        for output, result in zip(outputs, results):
            output.host.copy_(torch.from_numpy(np.asarray(result)))

    def by_arrays(self: Network, feed: dict[str, Any]) -> list[Any]:
        results = plain(self, feed)
        if self.binding is not None:
            device.ran("by arrays")
            for array in feed.values():
                device.copied("up", array.nbytes)
            for array in results:
                device.copied("down", array.nbytes)
            device.wait("a network run by arrays")
        return results

    with (
        mock.patch.object(_Place, "providers", return_value=["CPUExecutionProvider"]),
        mock.patch.object(Binding, "_run", bound),
        mock.patch.object(Network, "_run", by_arrays),
    ):
        yield
