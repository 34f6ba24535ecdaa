"""A pass on a GPU as a CUDA graph: network and sampler's step are captured once, then replayed.

The host then has one launch a step instead of hundreds, and waits for nothing but the step before
the last, so that progress and cancelling keep up with the device. Whatever changes from step to
step lies in tables on the device (accel.sampling.fused, accel.nn.reuse.Level); runs that need more
go the usual way: see `why_not`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from accel.nn.reuse import Levels, Prompts, ReusingUnet
from accel.pipelines.generate.canvas import Canvas, Size
from accel.pipelines.generate.model import Model
from accel.pipelines.generate.network import Known, Told
from accel.pipelines.generate.options import Options
from accel.pipelines.generate.prompts import Part, Plan
from accel.sampling import plan as sampling_plan
from accel.sampling.fused import FusedRun
from accel.sampling.parameterise import NoiseLevels
from accel.sampling.steps import Callback, Noise

Work = Callable[[], None]


class Graphs(Protocol):
    """What captures and replays; tests have one of their own."""

    def warm(self, work: Work) -> None:
        """Do the work once, so that kernels are compiled and libraries have their memory."""

    def capture(self, work: Work) -> Work:
        """Record the work without doing it; what is returned does it."""

    def pace(self) -> None:
        """To be called after each step: wait for the one before it."""


class CudaGraphs:
    """torch's; not yet run on a device, see docs/generate.md."""

    def __init__(self) -> None:
        self._done: torch.cuda.Event | None = None

    def warm(self, work: Work) -> None:
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            work()
        torch.cuda.current_stream().wait_stream(stream)

    def capture(self, work: Work) -> Work:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            work()
        replay: Work = graph.replay
        return replay

    def pace(self) -> None:
        before = self._done
        self._done = torch.cuda.Event()  # type: ignore[no-untyped-call]
        self._done.record()
        if before is not None:
            before.synchronize()


def graphs_for(device: torch.device) -> Graphs | None:
    return CudaGraphs() if device.type == "cuda" else None


def why_not(model: Model, options: Options, canvas: Canvas, plan: Plan, tight: bool) -> str:
    """ "" where a pass can be captured, else the reason: what changes from step to step."""
    o = options
    stages = [part.stages for part in (*plan.parts, plan.negative)]
    contexts = {told.context.shape[1] for part in stages for _, told in part}
    reasons = {
        "exported networks run elsewhere": not model.has_weights,
        "prompts go through the network one by one": tight,
        "several prompts are joined by AND": len(plan.parts) > 1 or plan.parts[0].weight != 1,
        "a prompt changes on the way": any(len(part) > 1 for part in stages),
        "prompts are of different lengths": len(contexts) > 1,
        "a picture steers the network": bool(o.controls),
        "a part of the picture is kept": canvas.mask is not None,
        "the network sees a picture beside x": canvas.extra is not None,
        "steps differ in what they leave out": o.deepcache > 1 or o.tgate < 1,
        "guidance is not a sum": bool(o.cfg_rescale),
        "guidance comes and goes": bool(o.skip_early or o.s_min_uncond or o.pag),
    }
    return next((reason for reason, is_so in reasons.items() if is_so), "")


class GraphedRun:
    """One pass, for any number of pictures of one size: the first captures, later ones replay."""

    def __init__(
        self,
        run: FusedRun,
        unet: ReusingUnet,
        prompts: Prompts,  # without the prompt, then with it; as many rows as the run has
        levels: Levels,
        noise: NoiseLevels,
        graphs: Graphs,
    ):
        self.run, self.unet, self.prompts, self.levels, self.graphs = (
            run, unet, prompts, levels, graphs,
        )  # fmt: skip
        self.together = levels.together([noise.timestep(c.sigma) for c in run.plan.calls])
        self._replay: Work | None = None

    def sample(self, x: Tensor, noise: Noise, callback: Callback) -> Tensor:
        self.run.begin(x, noise)

        def call(i: int) -> None:
            if self._replay is None and i > 0:
                self._replay = self.graphs.capture(self._step)
            if self._replay is None:
                self.graphs.warm(self._step)
            else:
                self._replay()
            self.graphs.pace()

        return self.run.finish(call, callback)

    def _step(self) -> None:
        run: Any = self.run
        level = self.together, run.step
        run.advance(self.unet(run.inputs, level, self.prompts, self.levels))


def graphed_run(
    model: Model,
    known: Known,
    plan: Plan,
    size: Size,  # of the picture, pixels
    steps: sampling_plan.Plan,
    scale: float,  # of guidance
    noise: NoiseLevels,
    graphs: Graphs,
) -> GraphedRun:
    """A run whose steps are replayed; it holds what each of them reads."""
    config, (width, height) = model.loaded.model.config, size
    shape = (1, config.vae.latent_channels, height // model.factor, width // model.factor)
    run = FusedRun(
        steps, noise, shape, scale=scale, kind=model.loaded.prediction, device=model.device,
        dtype=model.dtype,
    )  # fmt: skip

    def told(part: Part, negative: bool) -> Told:
        sizes = model.sizes(height, width, negative=negative) if config.size_numbers else None
        return Told(part.at(0), sizes)

    rows = [told(plan.negative, True), told(plan.parts[0], False)][-run.rows :]
    return GraphedRun(run, known.unet, known.prompts(rows), known.levels, noise, graphs)
