"""Families of generative models, one file each: configurations, names, how to tell a file."""

from __future__ import annotations

FAMILIES = {  # by name: the module, imported when it is wanted
    "stable_diffusion": "accel.models.stable_diffusion",
    "nano": "accel.models.nano",
}
