"""Names of samplers and schedules, ours and others'."""

from __future__ import annotations

import pytest

from accel.core import ConfigError
from accel.sampling import schedules
from accel.sampling.names import (
    SAMPLER_TITLES,
    SCHEDULE_TITLES,
    default_schedule,
    find_names,
    find_sampler,
    find_schedule,
    schedule,
)
from accel.sampling.samplers import SAMPLERS
from accel.sampling.schedules import SCHEDULES, NoiseSchedule

SD = NoiseSchedule.scaled_linear()


@pytest.mark.parametrize("name", SAMPLERS)
def test_own_names_and_titles_are_found(name):
    assert find_sampler(name) == name
    assert find_sampler(SAMPLER_TITLES[name]) == name
    assert find_sampler(SAMPLER_TITLES[name].lower()) == name
    assert default_schedule(name) in SCHEDULES


@pytest.mark.parametrize("name", SCHEDULES)
def test_own_schedules_are_found(name):
    assert find_schedule(name) == name
    assert find_schedule(SCHEDULE_TITLES.get(name, name)) == name


@pytest.mark.parametrize(
    ("sampler", "spacing", "expected"),
    [
        ("DPM++ 2M Karras", None, ("dpmpp_2m", "karras")),
        ("DPM++ 2M SDE Exponential", None, ("dpmpp_2m_sde", "exponential")),
        ("DPM++ 2M SDE Heun Karras", None, ("dpmpp_2m_sde_heun", "karras")),
        ("DPM++ 2M", None, ("dpmpp_2m", "karras")),
        ("DPM++ 3M SDE", "Automatic", ("dpmpp_3m_sde", "exponential")),
        ("Euler a", "SGM Uniform", ("euler_a", "sgm_uniform")),
        ("k_euler_ancestral", None, ("euler_a", "uniform")),
        ("sample_me", None, None),
        ("uni_pc_bh2", "simple", ("unipc", "simple")),
        ("UniPC", None, ("unipc", "uniform")),
        ("DPMSolverMultistepScheduler", "karras", ("dpmpp_2m", "karras")),
        ("DDIM", None, ("ddim", "ddim_uniform")),
        ("DDIM CFG++", None, ("euler_cfg_pp", "ddim_uniform")),
        ("dpmpp_2s_ancestral_cfg_pp", "karras", ("dpmpp_2s_a_cfg_pp", "karras")),
        ("DPM2 a Karras", "uniform", ("dpm2_a", "uniform")),
        ("LMS Karras", None, ("lms", "karras")),
    ],
)
def test_names_of_other_programs(sampler, spacing, expected):
    if expected is None:
        with pytest.raises(ConfigError, match="no sampler is called 'sample_me'"):
            find_names(sampler, spacing)
    else:
        assert find_names(sampler, spacing) == expected


def test_nearest_names_are_told():
    with pytest.raises(
        ConfigError, match=r"no sampler is called 'dpm\+\+2m_karas'; near: dpmpp_2m"
    ):
        find_sampler("dpm++2m_karas")
    with pytest.raises(ConfigError, match="no schedule is called 'karass'; near: karras"):
        schedule("karass", 10)


def test_levels_of_a_model_a_schedule_or_a_range():
    class Model:
        noise = SD

    expected = schedules.schedule("karras", SD, 7)
    assert schedule("Karras", 7) == schedule("karras", 7, SD) == expected
    assert schedule("karras", 7, Model()) == expected
    assert schedule("karras", 7, (0.1, 10.0)) == pytest.approx(schedules.karras_between(0.1, 10, 7))
    for name in SCHEDULES:
        same = schedule(name, 7, (SD.sigma_min, SD.sigma_max))
        assert same == pytest.approx(schedule(name, 7))


@pytest.mark.parametrize("ends", [(0.0, 1.0), (2.0, 1.0), (float("nan"), 1.0), (1.0, float("inf"))])
def test_refuses_a_range(ends):
    with pytest.raises(ConfigError, match="must be 0 < sigma_min < sigma_max"):
        schedule("karras", 7, ends)


def test_some_samplers_leave_out_the_level_before_the_last():
    whole = schedules.schedule("karras", SD, 8)
    assert schedule("karras", 7, sampler="DPM2 a") == [*whole[:-2], 0.0]
    assert schedule("automatic", 7, sampler="DPM2") == [*whole[:-2], 0.0]
    assert schedule("automatic", 7, sampler="euler") == schedules.schedule("uniform", SD, 7)
