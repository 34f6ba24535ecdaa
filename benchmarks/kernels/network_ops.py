"""attention, norms, geglu and to_uint8 on the shapes of Stable Diffusion 1.5 and its decoder.

The reference of each is torch's own operator, so the ratio to it is the ratio to the peer.

Run: python -m benchmarks.kernels.network_ops
"""

from __future__ import annotations

import torch

from accel.kernels.attention import op as attention_op
from accel.kernels.geglu import op as geglu_op
from accel.kernels.group_norm_silu import op as norm_op
from accel.kernels.layer_norm import op as layer_op
from accel.kernels.to_uint8 import op as bytes_op
from benchmarks.harness import Args, bench_kernel

HEADS = [  # batch, heads, queries, keys, width of a head
    (1, 8, 4096, 4096, 40), (2, 8, 1024, 1024, 80), (2, 8, 256, 256, 160), (2, 8, 4096, 77, 40),
    (2, 8, 1024, 77, 80), (2, 8, 256, 77, 160), (1, 1, 4096, 4096, 512), (1, 1, 1024, 1024, 512),
    (1, 12, 77, 77, 64),
]  # fmt: skip
NORMS = [(2, 320, 64, 64), (2, 640, 32, 32), (2, 1280, 16, 16), (2, 2560, 8, 8), (1, 512, 64, 64),
         (1, 256, 128, 128), (1, 128, 256, 256)]  # fmt: skip
ROWS = [(8192, 320), (2048, 640), (512, 1280)]
PICTURES = [(1, 3, 512, 512), (4, 3, 512, 512)]
GATES = [(8192, 2560), (4096, 2560), (2048, 5120), (512, 10240)]


def heads(batch: int, count: int, queries: int, keys: int, dim: int) -> Args:
    """Queries, keys and values as a layer gives them: heads of one position side by side."""
    q = torch.randn(batch, queries, count, dim).transpose(1, 2)
    k, v = (torch.randn(batch, keys, count, dim).transpose(1, 2) for _ in range(2))
    return q, k, v, dim**-0.5, False


def norms(last: bool) -> list[tuple[str, Args]]:
    cases = []
    for shape in NORMS:
        x, weight, bias = torch.randn(shape), torch.randn(shape[1]), torch.randn(shape[1])
        x = x.to(memory_format=torch.channels_last) if last else x
        label = "x".join(map(str, shape)) + (" NHWC" if last else " NCHW")
        cases.append((label, (x, 32, weight, bias, 1e-5, True)))
    return cases


def main() -> None:
    torch.manual_seed(0)
    bench_kernel(attention_op, [(" ".join(map(str, s)), heads(*s)) for s in HEADS], rounds=7)
    bench_kernel(
        norm_op, norms(False) + norms(True), rounds=9, bytes_moved=lambda x, *rest: 2 * x.nbytes
    )
    bench_kernel(
        geglu_op,
        [("x".join(map(str, s)), (torch.randn(s),)) for s in GATES],
        rounds=9,
        bytes_moved=lambda x: x.nbytes * 3 // 2,
    )
    rows = [(s, (torch.randn(s), torch.randn(s[1]), torch.randn(s[1]), 1e-5)) for s in ROWS]
    bench_kernel(
        layer_op,
        [("x".join(map(str, s)), args) for s, args in rows],
        rounds=9,
        bytes_moved=lambda x, *rest: 2 * x.nbytes,
    )
    pictures = [torch.randn(s).contiguous(memory_format=torch.channels_last) for s in PICTURES]
    bench_kernel(
        bytes_op,
        [("x".join(map(str, x.shape)) + " NHWC", (x,)) for x in pictures],
        rounds=9,
        bytes_moved=lambda x: x.nbytes * 5 // 4,
    )


if __name__ == "__main__":
    main()
