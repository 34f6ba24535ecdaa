"""What a picture costs: one step, one decoding and a whole picture of the embedded model.

With one thread the clock is CPU time; the same networks exported and run by ONNX Runtime stand
beside ours.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from accel.pipelines.generate import Model, load
from benchmarks.harness import Call, conditions, interleaved, save

STEPS, THREADS = 20, 2


def calls_of(ours: Model, peer: Model) -> dict[str, dict[str, Call]]:
    told = ours.encode_text("a red apple")
    x = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    latent = x[:1]

    def both(call: Callable[[Model], object]) -> dict[str, Call]:
        return {"accel": lambda: call(ours), "onnxruntime": lambda: call(peer)}

    return {
        "one step with guidance": both(lambda m: m.denoise(x, torch.tensor(500.0), told)),
        "decoding 64x64": both(lambda m: m.decode(latent)),
        f"a picture, {STEPS} steps": both(lambda m: m.sample("a red apple", steps=STEPS)),
    }


def main() -> None:
    ours, peer = load("nano"), load("nano", runtime="onnx")
    rows = []
    for label, calls in calls_of(ours, peer).items():
        medians = interleaved(calls, rounds=5, threads=THREADS)
        ratio = medians["onnxruntime"] / medians["accel"]
        print(
            f"{label:26} accel {medians['accel'] * 1e3:9.1f} ms   onnxruntime"
            f" {medians['onnxruntime'] * 1e3:9.1f} ms   {ratio:5.2f} x"
        )
        milliseconds = {name: round(seconds * 1e3, 2) for name, seconds in medians.items()}
        rows.append({"what": label, "median_ms": milliseconds, "ratio": round(ratio, 3)})
    save("generate", {"rows": rows, **conditions(THREADS)})


if __name__ == "__main__":
    main()
