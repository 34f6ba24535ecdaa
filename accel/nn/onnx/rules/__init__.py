"""How each operator becomes nodes of a native program; see lower.py.

A rule says that it cannot take a step (NotNative) before it changes anything.
"""

from accel.nn.onnx.rules import kernels, moves, pixels, pointwise, products  # register their rules
from accel.nn.onnx.rules.register import RULES

__all__ = ["RULES", "kernels", "moves", "pixels", "pointwise", "products"]
