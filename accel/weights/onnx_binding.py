"""ONNX Runtime on tensors that stay where they are: inputs and outputs bound, on our own stream.

A run by arrays costs two copies and a wait for each. Bound, the session reads the tensors that our
kernels wrote and writes tensors that our kernels read. It works on a CUDA stream that we give it
(`user_compute_stream`), because it does not wait for anybody else's; events order that stream and
the caller's, so the host never waits.

Sources: ONNX Runtime's pages on I/O binding and on the CUDA and TensorRT execution providers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from torch import Tensor

TORCH_DTYPES = {
    "tensor(float)": torch.float32, "tensor(float16)": torch.float16,
    "tensor(double)": torch.float64, "tensor(int64)": torch.int64, "tensor(int32)": torch.int32,
    "tensor(uint8)": torch.uint8, "tensor(bool)": torch.bool,
}  # fmt: skip
NUMPY_DTYPES = {
    torch.float32: np.float32, torch.float16: np.float16, torch.float64: np.float64,
    torch.int64: np.int64, torch.int32: np.int32, torch.uint8: np.uint8, torch.bool: np.bool_,
}  # fmt: skip
LARGEST_BATCH = 16  # what a TensorRT engine of a free first size is built for


def device_stream(device: torch.device) -> Any:
    """A stream for a session's work; the default one's address is 0, which would mean "none"."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


def device_providers(
    device: torch.device,
    stream: Any,
    tensorrt: Path | None = None,  # folder in which built engines are kept
    profiles: Mapping[str, str] | None = None,
) -> list[Any]:
    """What to ask ONNX Runtime for, the first choice first; all of it on `stream`."""
    place = {"device_id": device.index or 0, "user_compute_stream": str(stream.cuda_stream)}
    cuda = place | {
        # Shapes stay the same from frame to frame, so trying all algorithms once pays.
        "cudnn_conv_algo_search": "EXHAUSTIVE", "cudnn_conv_use_max_workspace": "1",
    }  # fmt: skip
    providers: list[Any] = [("CUDAExecutionProvider", cuda), "CPUExecutionProvider"]
    if tensorrt is not None:
        engines = {
            "trt_engine_cache_enable": "True", "trt_engine_cache_path": str(tensorrt),
            "trt_timing_cache_enable": "True", "trt_timing_cache_path": str(tensorrt),
            "trt_fp16_enable": "True",
        }  # fmt: skip
        providers.insert(0, ("TensorrtExecutionProvider", place | engines | dict(profiles or {})))
    return providers


def batch_profiles(shapes: Mapping[str, tuple[int | str, ...]]) -> dict[str, str]:
    """TensorRT's options for inputs whose first size alone is free; none where others are.

    Without them an engine is built anew, for minutes, at every size not seen before.
    """
    rest = {name: shape[1:] for name, shape in shapes.items() if shape}
    if not any(isinstance(shapes[name][0], str) for name in rest) or any(
        isinstance(size, str) for sizes in rest.values() for size in sizes
    ):
        return {}

    def profile(batch: int) -> str:
        return ",".join(
            f"{name}:" + "x".join(map(str, (batch, *sizes) if free(name) else shapes[name]))
            for name, sizes in rest.items()
        )

    def free(name: str) -> bool:
        return isinstance(shapes[name][0], str)

    return {
        "trt_profile_min_shapes": profile(1),
        "trt_profile_opt_shapes": profile(4),
        "trt_profile_max_shapes": profile(LARGEST_BATCH),
    }


class Binding:
    """Runs one session on tensors of its device; outputs are new tensors there.

    The shapes of outputs are learned from one ordinary run for each set of input shapes, so they
    must follow from those (an output as long as what was found in the input does not). Where the
    file says that the first size of all is one free number, any count of items follows from one.
    """

    def __init__(
        self, session: onnxruntime.InferenceSession, device: torch.device, stream: Any = None
    ) -> None:
        self.session, self.device, self.stream = session, device, stream
        self._dtypes = {i.name: TORCH_DTYPES[i.type] for i in session.get_inputs()}
        self._outputs = [(o.name, TORCH_DTYPES[o.type]) for o in session.get_outputs()]
        self._shapes: dict[tuple[Any, ...], list[tuple[int, ...]]] = {}
        firsts = {
            p.shape[0] if p.shape else 0 for p in (*session.get_inputs(), *session.get_outputs())
        }
        self._counts_items = len(firsts) == 1 and isinstance(firsts.pop(), str)
        self._options = onnxruntime.RunOptions()
        # The stream is ours: what is done when, its events say.
        self._options.add_run_config_entry("disable_synchronize_execution_providers", "1")

    def __call__(self, feeds: Mapping[str, Tensor]) -> list[Tensor]:
        """Map tensors by input name to the outputs, in the file's order; nothing is waited for."""
        ready = {name: tensor.to(self._dtypes[name]).contiguous() for name, tensor in feeds.items()}
        outputs = [
            torch.empty(shape, dtype=dtype, device=self.device)
            for shape, (_, dtype) in zip(self._shapes_for(ready), self._outputs)
        ]
        with self._ordered([*ready.values(), *outputs]):
            self._run(ready, outputs)
        return outputs

    def _shapes_for(self, feeds: Mapping[str, Tensor]) -> list[tuple[int, ...]]:
        """Of the outputs."""
        counts = {t.shape[0] for t in feeds.values()} if self._counts_items else set()
        skipped = 1 if len(counts) == 1 else 0
        key = skipped, *((name, tuple(t.shape[skipped:])) for name, t in sorted(feeds.items()))
        if key not in self._shapes:
            arrays = {name: t.cpu().numpy() for name, t in feeds.items()}  # once for these sizes
            made = [tuple(o.shape) for o in self.session.run(None, arrays)]
            if skipped and {shape[0] for shape in made} != counts:
                self._counts_items = False  # the file says so, and it is not
                return made
            self._shapes[key] = [shape[skipped:] for shape in made]
        return [(*counts, *shape) if skipped else shape for shape in self._shapes[key]]

    def _run(self, feeds: Mapping[str, Tensor], outputs: list[Tensor]) -> None:
        binding = self.session.io_binding()
        index = self.device.index or 0
        for name, tensor in feeds.items():
            binding.bind_input(
                name, self.device.type, index, NUMPY_DTYPES[tensor.dtype], tuple(tensor.shape),
                tensor.data_ptr(),
            )  # fmt: skip
        for (name, _), tensor in zip(self._outputs, outputs):
            binding.bind_output(
                name, self.device.type, index, NUMPY_DTYPES[tensor.dtype], tuple(tensor.shape),
                tensor.data_ptr(),
            )  # fmt: skip
        self.session.run_with_iobinding(binding, self._options)

    @contextmanager
    def _ordered(self, tensors: list[Tensor]) -> Iterator[None]:
        """Our stream after the caller's, then the caller's after ours: by events, on the device."""
        if self.stream is None:
            yield
            return
        current = torch.cuda.current_stream(self.device)
        self.stream.wait_stream(current)
        yield
        current.wait_stream(self.stream)
        for tensor in tensors:  # their memory must not be given away while it is used there
            tensor.record_stream(self.stream)
