"""What other programs call our samplers and schedules, both ways.

A1111's pictures name them by titles, and its older versions join the two: "DPM++ 2M Karras".
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from accel.core import ConfigError
from accel.sampling.samplers import SAMPLERS
from accel.sampling.schedules import SCHEDULES

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
    "deis": "DEIS",
    "lcm": "LCM",
    "tcd": "TCD",
    "restart": "Restart",
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
KARRAS_BY_DEFAULT = (
    "dpmpp_2m", "dpmpp_sde", "dpmpp_2s_a", "dpm2", "dpm2_a", "restart",
)  # fmt: skip
EXPONENTIAL_BY_DEFAULT = ("dpmpp_2m_sde", "dpmpp_2m_sde_heun", "dpmpp_3m_sde")
# Names in use elsewhere for what we have under another.
SAMPLER_ALIASES = {"k_euler": "euler", "k_euler_a": "euler_a", "euler_ancestral": "euler_a",
                   "uni_pc": "unipc", "dpm2_ancestral": "dpm2_a",
                   "dpmpp_2s_ancestral": "dpmpp_2s_a"}  # fmt: skip
SCHEDULE_ALIASES = {"ddim": "ddim_uniform", "ays": "align_your_steps", "discrete": "uniform"}


def find_names(sampler: str, schedule: str | None) -> tuple[str, str]:
    """Our names of a sampler and a schedule, given under ours or another program's.

    schedule None or "automatic": the one that the sampler's name carries, else A1111's choice for
    the sampler. Raises ConfigError, with the nearest names, for one that does not exist.
    """
    name, carried = split_title(sampler)
    if schedule is None or plain(schedule) == AUTOMATIC:
        return name, carried or default_schedule(name)
    return name, find_schedule(schedule)


def find_schedule(schedule: str) -> str:
    found = look_up(schedule, SCHEDULES, SCHEDULE_TITLES, SCHEDULE_ALIASES)
    if found is None:
        raise unknown("schedule", schedule, [*SCHEDULES, AUTOMATIC])
    return found


def split_title(sampler: str) -> tuple[str, str | None]:
    """("dpmpp_2m", "karras") of "DPM++ 2M Karras"; None where no schedule is named."""
    found = look_up(sampler, SAMPLERS, SAMPLER_TITLES, SAMPLER_ALIASES)
    if found is not None:
        return found, None
    for schedule in ("karras", "exponential", "polyexponential", "sgm_uniform"):
        ending = SCHEDULE_TITLES[schedule]
        if plain(sampler).endswith("_" + plain(ending)):
            start = sampler[: -len(ending)].strip(" _")
            found = look_up(start, SAMPLERS, SAMPLER_TITLES, SAMPLER_ALIASES)
            if found is not None:
                return found, schedule
    raise unknown("sampler", sampler, SAMPLERS)


def default_schedule(sampler: str) -> str:
    """What A1111 means by "Automatic"."""
    if sampler in KARRAS_BY_DEFAULT:
        return "karras"
    if sampler in EXPONENTIAL_BY_DEFAULT:
        return "exponential"
    return "ddim_uniform" if sampler in ("ddim", "plms") else "uniform"


def look_up(
    name: str, known: Iterable[str], titles: dict[str, str], aliases: dict[str, str]
) -> str | None:
    wanted = plain(name)
    wanted = aliases.get(wanted, wanted)
    for own in known:
        if wanted in (own, plain(titles.get(own, own))):
            return own
    return None


def plain(name: str) -> str:
    """Lower case, words joined by underscores, "++" as "pp"."""
    return "_".join(name.lower().replace("++", "pp").replace("-", " ").replace("_", " ").split())


def unknown(what: str, name: str, known: Iterable[str]) -> ConfigError:
    near = difflib.get_close_matches(plain(name), known, n=3, cutoff=0.4) or sorted(known)
    return ConfigError(f"no {what} is called {name!r}; near: {', '.join(near)}")
