"""Layers and whole networks, written for reading; parameter names are the single-file layout's."""

from accel.nn.conv import Conv2d, Linear

__all__ = ["Conv2d", "Linear"]
