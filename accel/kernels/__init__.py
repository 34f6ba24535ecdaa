"""Operators on tensors. Each has a reference and faster implementations; see `_op.Op`.

The functions are bound here when the package is loaded, over the modules of the same name:
`from accel.kernels import crop` is the function.
"""

from accel.kernels._native import keep_memory, release_memory
from accel.kernels._op import OPS
from accel.kernels.attention import attention
from accel.kernels.blend import blend_pyramid, feather
from accel.kernels.color import color_stats, illumination, relight
from accel.kernels.color_transfer import color_transfer
from accel.kernels.conv2d import conv2d, linear
from accel.kernels.crop import crop
from accel.kernels.cut import cut
from accel.kernels.decode_faces import decode_faces
from accel.kernels.few_colors import few_colors
from accel.kernels.geglu import geglu
from accel.kernels.geglu_linear import geglu_linear
from accel.kernels.group_norm_silu import group_norm_silu
from accel.kernels.guided_step import guided_step
from accel.kernels.layer_norm import layer_norm
from accel.kernels.mark import mark
from accel.kernels.morphology import erode_ellipse
from accel.kernels.optimise import adabelief_step, rmsprop_step
from accel.kernels.paste import paste, paste_rectangle
from accel.kernels.planes import PlaneLayout, Planes, gbr_layout, yuv_layout
from accel.kernels.planes_rgb import planes_to_rgb, rgb_to_planes
from accel.kernels.raster import raster
from accel.kernels.seamless import seamless
from accel.kernels.shrink import shrink
from accel.kernels.similarity import similarity
from accel.kernels.to_nv12 import to_nv12
from accel.kernels.to_uint8 import to_uint8
from accel.kernels.warp import warp

__all__ = [
    "OPS",
    "PlaneLayout",
    "Planes",
    "adabelief_step",
    "attention",
    "blend_pyramid",
    "color_stats",
    "color_transfer",
    "conv2d",
    "crop",
    "cut",
    "decode_faces",
    "erode_ellipse",
    "feather",
    "few_colors",
    "gbr_layout",
    "geglu",
    "geglu_linear",
    "group_norm_silu",
    "guided_step",
    "illumination",
    "keep_memory",
    "layer_norm",
    "linear",
    "mark",
    "paste",
    "paste_rectangle",
    "planes_to_rgb",
    "raster",
    "release_memory",
    "relight",
    "rgb_to_planes",
    "rmsprop_step",
    "seamless",
    "shrink",
    "similarity",
    "to_nv12",
    "to_uint8",
    "warp",
    "yuv_layout",
]
