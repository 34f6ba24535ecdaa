"""Every sampler by one kernel a step gives what its own function gives, but for rounding."""

from __future__ import annotations

import pytest
import torch

from accel.core import ConfigError
from accel.kernels.guided_step import OUTPUTS, TERMS
from accel.sampling.fused import FusedRun
from accel.sampling.guidance import Prompted, guided
from accel.sampling.plan import Recorder, Sum, plan
from accel.sampling.samplers import SAMPLERS, run_sampler
from accel.sampling.schedules import NoiseSchedule, karras, schedule, uniform

SD = NoiseSchedule.scaled_linear()
SCALE = 4.0


def answer(x, t, condition):
    """Neither linear nor smooth in t alone."""
    return torch.tanh(x * condition + t / 1000) * 0.9 + 0.1 * torch.sin(x)


def predict_rows(x, t):
    t = torch.tensor(t, dtype=torch.float32).item()  # as a network is told it
    without, with_prompt = x.chunk(2)
    return torch.cat([answer(without, t, 0.4), answer(with_prompt, t, 0.9)])


def predict_conditions(x, t, conditions):
    parts = [answer(p, float(t[0]), c) for p, c in zip(x.chunk(len(conditions)), conditions)]
    return torch.cat(parts)


def draws(dtype):
    make = torch.Generator().manual_seed(7)
    return lambda sigma, following: torch.randn(2, 4, 5, 3, generator=make, dtype=dtype)


def levels_for(name: str, steps: int):
    if name in ("tcd", "lcm"):
        return schedule(name, SD, 4)
    return karras(SD, steps)


def run_fused(
    name, predict, x, sigmas, levels, *, scale, kind, noise, callback, **settings
):  # fmt: skip
    """As `run_sampler` with a guided denoiser, but for the rounding of the last places.

    `predict` is given the batch without the prompt first, then with it; with it alone where scale
    is 1 and the sampler does not ask for both.
    """
    steps = plan(name, sigmas, **settings)
    run = FusedRun(
        steps, levels, x.shape, scale=scale, kind=kind, dtype=x.dtype,
        precision=torch.promote_types(x.dtype, torch.float32),
    )  # fmt: skip
    run.begin(x, noise)

    def call(i):
        run.advance(predict(run.inputs, levels.timestep(steps.calls[i].sigma)))

    return run.finish(call, callback)


def both(name: str, sigmas, dtype=torch.float64, kind="eps", scale=SCALE, **settings):
    x = draws(dtype)(0, 0) * sigmas[0]
    seen: tuple[list, list] = ([], [])
    denoise = guided(predict_conditions, scale, Prompted([(0.9, 1.0)], 0.4), SD, kind)
    expected = run_sampler(
        name, denoise, x, sigmas, noise=draws(dtype), **settings,
        callback=lambda i, clean: seen[0].append((i, clean.clone())),
    )  # fmt: skip
    rows = predict_rows if scale != 1 else lambda x, t: predict_rows(torch.cat([x, x]), t)[2:]
    got = run_fused(
        name, rows, x, sigmas, SD, scale=scale, kind=kind, noise=draws(dtype), **settings,
        callback=lambda i, clean: seen[1].append((i, clean)),
    )  # fmt: skip
    return expected, got, seen


def away(got, expected) -> float:
    return float((got - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_in_double(name):
    expected, got, (ours, theirs) = both(name, levels_for(name, 9))
    assert away(got, expected) < 1e-9
    assert [i for i, _ in ours] == [i for i, _ in theirs]
    for (_, a), (_, b) in zip(ours, theirs, strict=True):
        assert away(b, a) < 1e-9


@pytest.mark.parametrize(
    "name", ["euler", "heun", "dpmpp_2m", "lms", "unipc", "dpmpp_3m_sde", "plms"]
)
def test_long_runs_in_single_stay_within_a_few_rounding_steps(name):
    expected, got, _ = both(name, karras(SD, 24), torch.float32)
    assert away(got, expected) < 1e-5


@pytest.mark.parametrize("name", ["restart", "dpmpp_2m_sde", "unipc_bh1", "deis"])
def test_long_runs(name):
    for levels in (karras(SD, 37), uniform(SD, 21)):
        expected, got, _ = both(name, levels)
        assert away(got, expected) < 1e-9


@pytest.mark.parametrize("kind", ["eps", "v", "x0", "flow"])
@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_what_the_network_predicts(kind, scale):
    expected, got, _ = both("dpmpp_2m", karras(SD, 6), kind=kind, scale=scale)
    assert away(got, expected) < 1e-9


def test_settings_and_levels_that_do_not_end_at_zero():
    for name, settings in (("ddim", {"eta": 0.4}), ("deis", {"order": 3}), ("tcd", {"gamma": 0.6})):
        expected, got, _ = both(name, levels_for(name, 8)[:-1], **settings)
        assert away(got, expected) < 1e-9


def test_steps_fit_the_kernel_and_few_values_are_kept():
    for name in SAMPLERS:
        steps = plan(name, levels_for(name, 40))
        assert max(len(call.sums) for call in steps.calls) <= OUTPUTS
        assert max(len(t) for call in steps.calls for t in call.sums.values()) <= TERMS
        run = FusedRun(steps, SD, (1, 1, 1, 1))
        assert len(run.values) - len(steps.draws) <= 10, name


def test_a_run_can_be_used_again():
    steps = plan("euler_a", karras(SD, 5))
    run = FusedRun(steps, SD, (2, 4, 5, 3), scale=SCALE)

    def once():
        run.begin(draws(torch.float32)(0, 0) * 14, draws(torch.float32))
        return run.finish(lambda i: run.advance(predict_rows(run.inputs, 1.0 * i)))

    assert torch.equal(once(), once())


def test_refusals():
    steps = plan("euler_a", [3.0, 1.0, 0.0])
    with pytest.raises(ValueError, match="noise must be given"):
        FusedRun(steps, SD, (1, 4, 2, 2)).begin(torch.zeros(1, 4, 2, 2))
    with pytest.raises(TypeError, match="must be sums"):
        torch.exp(Sum({"x": 1.0}, Recorder()))
    with pytest.raises(ConfigError, match="no sampler is called"):
        plan("eulers", [1.0, 0.0])
