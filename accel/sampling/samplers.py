"""Every sampler by name, and one way to call them all."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import partial

from torch import Tensor

from accel.core import ConfigError
from accel.sampling import cfgpp, few_steps, ode, sde
from accel.sampling.names import SAMPLER_TITLES, find_sampler
from accel.sampling.parameterise import Denoise
from accel.sampling.steps import Callback, Noise
from accel.sampling.unipc import unipc

WITHOUT_NOISE: dict[str, Callable[..., Tensor]] = {
    "euler": ode.euler,
    "ddim": sde.ddim,
    "heun": ode.heun,
    "dpm2": ode.dpm2,
    "dpmpp_2m": ode.dpmpp_2m,
    "lms": ode.lms,
    "plms": ode.plms,
    "unipc": unipc,
    "unipc_bh1": partial(unipc, order=3, variant="bh1"),
    "deis": ode.deis,
    "euler_cfg_pp": cfgpp.euler_cfg_pp,
    "dpmpp_2m_cfg_pp": cfgpp.dpmpp_2m_cfg_pp,
}
WITH_NOISE: dict[str, Callable[..., Tensor]] = {
    "euler_a": sde.euler_ancestral,
    "ddpm": sde.euler_ancestral,
    "dpm2_a": sde.dpm2_ancestral,
    "dpmpp_2s_a": sde.dpmpp_2s_ancestral,
    "dpmpp_sde": sde.dpmpp_sde,
    "dpmpp_2m_sde": sde.dpmpp_2m_sde,
    "dpmpp_2m_sde_heun": partial(sde.dpmpp_2m_sde, variant="heun"),
    "dpmpp_3m_sde": sde.dpmpp_3m_sde,
    "restart": sde.restart,
    "lcm": few_steps.lcm,
    "tcd": few_steps.tcd,
    "euler_a_cfg_pp": cfgpp.euler_ancestral_cfg_pp,
    "dpmpp_2s_a_cfg_pp": cfgpp.dpmpp_2s_ancestral_cfg_pp,
}
SAMPLERS = WITHOUT_NOISE | WITH_NOISE
# These ask for the increments of one Brownian motion: accel.sampling.brownian.BrownianNoise.
BROWNIAN = frozenset({"dpmpp_sde", "dpmpp_2m_sde", "dpmpp_2m_sde_heun", "dpmpp_3m_sde"})
TWO_CALLS = frozenset({"heun", "dpm2", "dpm2_a", "dpmpp_2s_a", "dpmpp_sde", "dpmpp_2s_a_cfg_pp"})

assert set(SAMPLERS) == set(SAMPLER_TITLES), "every sampler has a title"


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
    **settings: object,
) -> Tensor:  # [B, C, H, W] at level sigmas[-1]
    """Run a sampler; `noise` is for those that put noise back, and ignored by the others.

    name: as in SAMPLERS, or another program's name for it. settings: the sampler's own, such as
    `eta`, `order`, `churn`. Raises ConfigError for an unknown name or setting, ValueError when a
    sampler lacks its noise or the levels do not go down.
    """
    name = find_sampler(name)
    sampler = SAMPLERS[name]
    takes = inspect.signature(sampler).parameters
    unknown = sorted(set(settings) - set(takes))
    if unknown:
        own = sorted(set(takes) - {"denoise", "x", "sigmas", "noise", "callback"})
        raise ConfigError(f"{name} has no {unknown[0]}; it has {', '.join(own) or 'no settings'}")
    if name in WITH_NOISE and noise is None:
        raise ValueError(f"run_sampler: {name} puts noise back, so noise must be given")
    if "noise" in takes:
        settings["noise"] = noise
    return sampler(denoise, x, sigmas, callback=callback, **settings)
