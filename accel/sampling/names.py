"""What other programs call samplers and schedules, and what they pair with what.

A1111's pictures name them by titles, and its older versions join the two: "DPM++ 2M Karras".
ComfyUI, k-diffusion and diffusers have names of their own.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Protocol

from accel.core import ConfigError
from accel.sampling import schedules
from accel.sampling.schedules import SCHEDULES, STABLE_DIFFUSION, NoiseSchedule

AUTOMATIC = "automatic"
SAMPLER_TITLES = {
    "euler": "Euler",
    "euler_a": "Euler a",
    "heun": "Heun",
    "dpm2": "DPM2",
    "dpm2_a": "DPM2 a",
    "dpmpp_2s_a": "DPM++ 2S a",
    "dpmpp_2m": "DPM++ 2M",
    "dpmpp_sde": "DPM++ SDE",
    "dpmpp_2m_sde": "DPM++ 2M SDE",
    "dpmpp_2m_sde_heun": "DPM++ 2M SDE Heun",
    "dpmpp_3m_sde": "DPM++ 3M SDE",
    "lms": "LMS",
    "ddim": "DDIM",
    "ddpm": "DDPM",
    "plms": "PLMS",
    "unipc": "UniPC",
    "unipc_bh1": "UniPC bh1",
    "deis": "DEIS",
    "lcm": "LCM",
    "tcd": "TCD",
    "restart": "Restart",
    "euler_cfg_pp": "DDIM CFG++",
    "euler_a_cfg_pp": "Euler a CFG++",
    "dpmpp_2s_a_cfg_pp": "DPM++ 2S a CFG++",
    "dpmpp_2m_cfg_pp": "DPM++ 2M CFG++",
}
SCHEDULE_TITLES = {
    AUTOMATIC: "Automatic",
    "uniform": "Uniform",
    "karras": "Karras",
    "exponential": "Exponential",
    "polyexponential": "Polyexponential",
    "sgm_uniform": "SGM Uniform",
    "kl_optimal": "KL Optimal",
    "align_your_steps": "Align Your Steps",
    "simple": "Simple",
    "normal": "Normal",
    "ddim_uniform": "DDIM",
    "beta": "Beta",
    "turbo": "Turbo",
}
# Names in use elsewhere for what we have under another, as `plain` writes them.
SAMPLER_ALIASES = {
    "euler_ancestral": "euler_a",
    "dpm_2": "dpm2",
    "dpm_2_ancestral": "dpm2_a",
    "dpm2_ancestral": "dpm2_a",
    "dpmpp_2s_ancestral": "dpmpp_2s_a",
    "uni_pc": "unipc",
    "uni_pc_bh1": "unipc_bh1",
    "uni_pc_bh2": "unipc",
    "unipc_bh2": "unipc",
    "euler_ancestral_cfg_pp": "euler_a_cfg_pp",
    "dpmpp_2s_ancestral_cfg_pp": "dpmpp_2s_a_cfg_pp",
    "pndm": "plms",
    "pndmscheduler": "plms",
    "ddimscheduler": "ddim",
    "ddpmscheduler": "ddpm",
    "eulerdiscretescheduler": "euler",
    "eulerancestraldiscretescheduler": "euler_a",
    "heundiscretescheduler": "heun",
    "kdpm2discretescheduler": "dpm2",
    "kdpm2ancestraldiscretescheduler": "dpm2_a",
    "lmsdiscretescheduler": "lms",
    "dpmsolvermultistepscheduler": "dpmpp_2m",
    "unipcmultistepscheduler": "unipc",
    "deismultistepscheduler": "deis",
    "lcmscheduler": "lcm",
    "tcdscheduler": "tcd",
}
SCHEDULE_ALIASES = {
    "ddim": "ddim_uniform",
    "ays": "align_your_steps",
    "ays_sdxl": "align_your_steps_sdxl",
    "discrete": "uniform",
    "default": "uniform",
}
KARRAS_BY_DEFAULT = frozenset(
    {"dpmpp_2m", "dpmpp_sde", "dpmpp_2s_a", "dpm2", "dpm2_a", "restart", "dpmpp_2m_cfg_pp"}
)
EXPONENTIAL_BY_DEFAULT = frozenset({"dpmpp_2m_sde", "dpmpp_2m_sde_heun", "dpmpp_3m_sde"})
OWN_BY_DEFAULT = {"ddim": "ddim_uniform", "plms": "leading_to_min", "lcm": "lcm", "tcd": "tcd",
                  "euler_cfg_pp": "ddim_uniform"}  # fmt: skip
# A1111 makes one step more for these and leaves out the level before the last.
WITHOUT_PENULTIMATE = frozenset({"dpm2", "dpm2_a", "dpmpp_3m_sde"})


def find_names(sampler: str, schedule: str | None = None) -> tuple[str, str]:
    """Our names of a sampler and a schedule, given under ours or another program's.

    schedule None or "automatic": the one that the sampler's name carries, else A1111's choice for
    the sampler. Raises ConfigError, with the nearest names, for one that does not exist.
    """
    name, carried = split_title(sampler)
    if schedule is None or plain(schedule) == AUTOMATIC:
        return name, carried or default_schedule(name)
    return name, find_schedule(schedule)


def find_sampler(name: str) -> str:
    """Our name; one that carries a schedule too ("DPM++ 2M Karras") is taken without it."""
    return split_title(name)[0]


def find_schedule(name: str) -> str:
    found = look_up(name, SCHEDULES, SCHEDULE_TITLES, SCHEDULE_ALIASES)
    if found is None:
        raise unknown("schedule", name, [*SCHEDULES, AUTOMATIC])
    return found


def split_title(sampler: str) -> tuple[str, str | None]:
    """("dpmpp_2m", "karras") of "DPM++ 2M Karras"; None where no schedule is named."""
    found = look_up(sampler, SAMPLER_TITLES, SAMPLER_TITLES, SAMPLER_ALIASES)
    if found is not None:
        return found, None
    for schedule, title in SCHEDULE_TITLES.items():
        start = plain(sampler).removesuffix("_" + plain(title))
        if start != plain(sampler):
            found = look_up(start, SAMPLER_TITLES, SAMPLER_TITLES, SAMPLER_ALIASES)
            if found is not None:
                return found, None if schedule == AUTOMATIC else schedule
    raise unknown("sampler", sampler, SAMPLER_TITLES)


def default_schedule(sampler: str) -> str:
    """What A1111 means by "Automatic"; for samplers that it has not, what they were made for."""
    if sampler in KARRAS_BY_DEFAULT:
        return "karras"
    if sampler in EXPONENTIAL_BY_DEFAULT:
        return "exponential"
    return OWN_BY_DEFAULT.get(sampler, "uniform")


class HasNoise(Protocol):
    @property
    def noise(self) -> NoiseSchedule: ...


def schedule(
    name: str,
    steps: int,
    of: NoiseSchedule | HasNoise | tuple[float, float] = STABLE_DIFFUSION,
    *,
    sampler: str | None = None,
) -> list[float]:
    """The levels of a run, from the noisiest down, most often to 0.

    of: a model that `accel.load` gave, its NoiseSchedule, or (sigma_min, sigma_max): Stable
    Diffusion's levels stretched to that range in their logarithm. sampler: leave out the level
    before the last where A1111 does so for this sampler; and what "automatic" refers to.
    Raises ConfigError for an unknown name, steps or a range that cannot be.
    """
    noise = levels_of(of)
    own = None if sampler is None else find_sampler(sampler)
    if plain(name) == AUTOMATIC:
        name = default_schedule(own or "")
    name = find_schedule(name)
    if own not in WITHOUT_PENULTIMATE:
        return schedules.schedule(name, noise, steps)
    levels = schedules.schedule(name, noise, steps + 1)
    return [*levels[:-2], levels[-1]]


def levels_of(of: NoiseSchedule | HasNoise | tuple[float, float]) -> NoiseSchedule:
    if isinstance(of, NoiseSchedule):
        return of
    if not isinstance(of, tuple):
        return of.noise
    return STABLE_DIFFUSION.stretched(*of)


def look_up(
    name: str, known: Iterable[str], titles: Mapping[str, str], aliases: Mapping[str, str]
) -> str | None:
    wanted = plain(name).removeprefix("k_")
    wanted = aliases.get(wanted, wanted)
    for own in known:
        if wanted in (own, plain(titles.get(own, own))):
            return own
    return None


def plain(name: str) -> str:
    """Lower case, words joined by underscores, "++" as "pp" (a word of its own after CFG)."""
    spaced = name.lower().replace("cfg++", "cfg pp").replace("++", "pp")
    return "_".join(spaced.replace("-", " ").replace("_", " ").split())


def unknown(what: str, name: str, known: Iterable[str]) -> ConfigError:
    known = list(known)
    near = difflib.get_close_matches(plain(name), known, n=3, cutoff=0.4)
    there = f"near: {', '.join(near)}" if near else f"there are {', '.join(sorted(known))}"
    return ConfigError(f"no {what} is called {name!r}; {there}")
