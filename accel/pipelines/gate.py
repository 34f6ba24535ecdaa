"""The content gate: no face is put into sexual pictures.

A small classifier looks at frames that were decoded anyway: about one a second, and wherever the
picture has become another. It is a speed bump with a stated reason, no control: it errs in both
directions, and it says nothing about consent or age. Programs that embed the engine may pass their
own gate.

Source: the classifier of nsfwjs (MobileNetV2, five classes), see accel/assets/MANIFEST.json.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from accel.core import Refused
from accel.faces.crops import rgb_crops
from accel.faces.scene import Thumb, difference, thumbnail
from accel.kernels.planes import Planes, gbr_layout
from accel.video.frame import Frame
from accel.weights.assets import asset
from accel.weights.onnx import open_onnx

NETWORK, SIDE_PX = "nsfw_mobilenet_v2_224.u8w.onnx", 224
CLASSES = ("drawing", "hentai", "neutral", "porn", "sexy")
STOPS = ("hentai", "porn")  # nudity alone (`sexy`) is no reason: swimwear and dancers are that
THRESHOLD = 0.85
# Between two looks: at most, and at least where scenes change. Ten frames of 120 a second are seen.
EVERY_S, SOONEST_S = 1.0, 0.08
ANOTHER = 0.35  # how unlike the picture looked at last; two unrelated ones differ by about 1

Pixels = npt.NDArray[np.float32]  # [N, 224, 224, 3] RGB in 0..1
Classify = Callable[[Pixels], npt.NDArray[np.float32]]  # -> [N, 5] probabilities


class Gate(Protocol):
    """What a pipeline asks before it alters frames."""

    def check(self, frames: Sequence[Frame]) -> None:
        """Look at consecutive frames before they are altered; raise Refused to stop the run."""


class ContentGate:
    """Stops at a frame that shows sexual acts; one object per run.

    rotation: degrees clockwise that a viewer turns the frames by.
    stills: frames are pictures that may have nothing in common, so each is looked at.
    classify: another classifier in place of the embedded one.
    """

    def __init__(
        self, *, rotation: int = 0, stills: bool = False, classify: Classify | None = None
    ) -> None:
        self._classify = classify or _network()
        self._turns, self._stills = -(rotation // 90), stills
        self._last_s: float | None = None
        self._last: Thumb | None = None
        self.looks = 0  # frames that were classified
        self.highest = 0.0  # score so far

    def check(self, frames: Sequence[Frame]) -> None:
        """Look at those of some consecutive frames that are due.

        Raises Refused with frame, time, score and reason.
        """
        for frame in frames:
            if self._stills or self._is_due(frame.time_s, frame.planes):
                self._judge(frame.planes, f"frame {frame.index} ({frame.time_s:.1f} s)")

    def check_picture(self, rgb: npt.NDArray[np.uint8], what: str = "the picture") -> None:
        """Look at one picture, [H, W, 3]; raises Refused."""
        red, green, blue = (torch.from_numpy(rgb[:, :, k].copy()) for k in range(3))
        self._judge(Planes(green, blue, red, gbr_layout()), what)

    def _is_due(self, time_s: float, planes: Planes) -> bool:
        since = EVERY_S if self._last_s is None else abs(time_s - self._last_s)
        if since < SOONEST_S:
            return False
        thumb = thumbnail(planes)
        if since < EVERY_S and self._last is not None and difference(self._last, thumb) < ANOTHER:
            return False
        self._last_s, self._last = time_s, thumb
        return True

    def _judge(self, planes: Planes, where: str) -> None:
        self.looks += 1
        # The classifier was trained on whole pictures squeezed into a square.
        whole = self._view(planes, planes.width, planes.height)
        score = self._score(whole)
        if score >= THRESHOLD:  # alone it errs too often: cyclists in the sun got 0.93
            longer, shorter = max(planes.height, planes.width), min(planes.height, planes.width)
            others = [
                whole[:, :, ::-1],  # mirrored
                self._view(planes, longer, longer),  # in its aspect, with borders
                self._view(planes, shorter, shorter),  # the middle
            ]
            score = (score + sum(map(self._score, others))) / 4
        self.highest = max(self.highest, score)
        if score >= THRESHOLD:
            raise Refused(
                f"{where} looks like sexual content (score {score:.2f}, {THRESHOLD} stops): the "
                "engine makes none with AI; of people who did not agree it is a crime in many "
                "countries"
            )

    def _view(self, planes: Planes, width: float, height: float) -> Pixels:
        """The middle `width` by `height` pixels of a frame, upright; beyond its edges is black."""
        across, down = SIDE_PX / width, SIDE_PX / height
        half = SIDE_PX / 2 - 0.5
        matrix = [
            [across, 0, half - across * (planes.width - 1) / 2],
            [0, down, half - down * (planes.height - 1) / 2],
        ]
        view = rgb_crops(planes, np.array([matrix]), SIDE_PX)
        return np.ascontiguousarray(np.rot90(view, self._turns, axes=(1, 2)))

    def _score(self, view: Pixels) -> float:
        odds = self._classify(np.ascontiguousarray(view))[0]
        return float(sum(odds[CLASSES.index(name)] for name in STOPS))


def _network() -> Classify:
    network = open_onnx(asset(NETWORK), threads=1)

    def classify(views: Pixels) -> npt.NDArray[np.float32]:
        odds: npt.NDArray[np.float32] = network(views)[0]
        return odds

    return classify
