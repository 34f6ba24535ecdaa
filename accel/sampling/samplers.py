"""Every sampler by name, and one way to call them all."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence

from torch import Tensor

from accel.core import ConfigError
from accel.sampling import ode, sde
from accel.sampling.ode import Callback
from accel.sampling.parameterise import Denoise
from accel.sampling.sde import Noise

WITHOUT_NOISE: dict[str, Callable[..., Tensor]] = {
    "euler": ode.euler,
    "ddim": ode.euler,
    "heun": ode.heun,
    "dpm2": ode.dpm2,
    "dpmpp_2m": ode.dpmpp_2m,
    "lms": ode.lms,
}
WITH_NOISE: dict[str, Callable[..., Tensor]] = {
    "euler_a": sde.euler_ancestral,
    "ddpm": sde.euler_ancestral,
    "dpm2_a": sde.dpm2_ancestral,
    "dpmpp_2s_a": sde.dpmpp_2s_ancestral,
    "dpmpp_sde": sde.dpmpp_sde,
    "dpmpp_2m_sde": sde.dpmpp_2m_sde,
    "dpmpp_3m_sde": sde.dpmpp_3m_sde,
    "lcm": sde.lcm,
}
SAMPLERS = WITHOUT_NOISE | WITH_NOISE
TWO_CALLS = frozenset({"heun", "dpm2", "dpm2_a", "dpmpp_2s_a", "dpmpp_sde"})


def calls_of(name: str, steps: int) -> int:
    """How many steps A1111 counts for a sampler: twice as many where each asks twice.

    Its prompt schedules and `guided`'s skip_early are shares of this.
    """
    return 2 * steps if name in TWO_CALLS else steps


def run_sampler(
    name: str,
    denoise: Denoise,
    x: Tensor,  # [B, C, H, W] at level sigmas[0]
    sigmas: Sequence[float],  # descending, often ending in 0
    *,
    noise: Noise | None = None,
    callback: Callback | None = None,
) -> Tensor:  # [B, C, H, W] at level sigmas[-1]
    """Run a sampler; `noise` is for those that put noise back, and ignored by the others.

    Raises ConfigError for an unknown name, ValueError when a sampler lacks its noise or the levels
    do not go down.
    """
    if name not in SAMPLERS:
        near = difflib.get_close_matches(name, SAMPLERS, n=3, cutoff=0.4) or sorted(SAMPLERS)
        raise ConfigError(f"no sampler is called {name!r}; near: {', '.join(near)}")
    if name in WITHOUT_NOISE:
        return SAMPLERS[name](denoise, x, sigmas, callback=callback)
    if noise is None:
        raise ValueError(f"run_sampler: {name} puts noise back, so noise must be given")
    return SAMPLERS[name](denoise, x, sigmas, noise=noise, callback=callback)
