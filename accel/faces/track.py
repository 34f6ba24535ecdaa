"""Faces through a film: found once, then followed by their own landmarks, with steady numbers.

The detector looks at the first frame of a scene, where a face was lost, and now and then for new
faces. In between the mesh of one frame says where to look in the next. Frames are given out a few
later than they are taken: a face that hides for a moment is filled in, one that is found late is
followed back to where it appeared, and landmarks are smoothed from both sides.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import numpy as np

from accel.core import ConfigError
from accel.faces.face import Face
from accel.faces.find import FaceModels, find_faces
from accel.faces.scene import Thumb, mark_cuts
from accel.faces.stream import Slot, Stream
from accel.kernels.planes import Planes

__all__ = ["Analyser", "FaceModels", "find_faces"]

T = TypeVar("T")


class Analyser:
    """Finds and follows the faces of a stream of frames.

    device, threads: where the networks run, and how many cores one of them may use.
    max_faces: at most so many faces at a time, the largest first.
    lookahead: how many frames later a frame is given out than taken. Memory holds so many and
        `batch` more. 0 follows without filling gaps; smoothing then has only the past.
    redetect_every: frames between two looks for new faces while some are followed.
    batch: frames that go through the mesh network at once; their regions are foretold. Pays on a
        GPU; 0 chooses 4 there and 1 on a CPU.
    rotation: degrees by which the picture is to be turned for showing, if the file says so; only
        tells which way up to look for faces first.
    iris_every: frames between two looks at the irises; those in between are interpolated. 0: never.
    smoothing: off gives the landmarks as they were measured.
    look_threads: how many share the many views of a look at a new scene, while nothing else can go
        on; on a CPU.
    sure_after: frames a face must be seen in, in a scene that is longer; what is seen in fewer is
        taken for a pattern that looked like a face for a moment.
    details: off leaves pose, lids, mouth and irises 0, where only landmarks are wanted.
    identities: off asks who a face is only once it was lost, so that it is known when it returns.

    stats: what has been done so far: runs of each network, tracks, cuts, seconds by stage.
    """

    def __init__(
        self,
        *,
        device: str = "cpu",
        threads: int = 1,
        max_faces: int = 8,
        lookahead: int = 8,
        redetect_every: int = 8,
        batch: int = 0,
        rotation: int = 0,
        iris_every: int = 6,
        look_threads: int = 1,
        smoothing: bool = True,
        sure_after: int = 3,
        details: bool = True,
        identities: bool = True,
        models: FaceModels | None = None,
    ) -> None:
        limits = {
            "max_faces": (max_faces, 1),
            "lookahead": (lookahead, 0),
            "redetect_every": (redetect_every, 1),
            "batch": (batch, 0),
            "iris_every": (iris_every, 0),
            "look_threads": (look_threads, 1),
            "sure_after": (sure_after, 1),
        }
        for name, (value, least) in limits.items():
            if value < least:
                raise ConfigError(f"{name} must be at least {least}, got {value}")
        self.models = models or FaceModels(device=device, threads=threads)
        self.max_faces = max_faces
        self.lookahead = lookahead
        self.redetect_every = redetect_every
        self.batch = batch or (4 if device.startswith("cuda") else 1)
        self.angle = float(np.deg2rad(-rotation))
        self.iris_every = iris_every
        self.look_threads = look_threads
        self.smoothing = smoothing
        self.sure_after = sure_after
        self.details = details
        self.identities = identities
        self.tracks = self.cuts = self.frames = self.filled = 0

    @property
    def stats(self) -> dict[str, Any]:
        mine = {"frames": self.frames, "tracks": self.tracks, "cuts": self.cuts}
        return {**mine, "filled": self.filled, **self.models.stats()}

    def analyse(self, frames: Iterable[tuple[T, Planes]]) -> Iterator[tuple[T, Planes, list[Face]]]:
        """Give each frame back with its faces, the largest first; in order, nothing left out."""
        stream: Stream[T] = Stream(self)
        group: list[Slot[T]] = []
        scene = -1
        marked = self._timed_cuts(frames)
        for index, (token, planes, cut, thumb) in enumerate(marked):
            scene += cut
            self.frames += 1
            self.cuts += cut and index > 0
            group.append(Slot(token, planes, index, scene, cut, thumb))
            if len(group) == self.batch:
                stream.take(group)
                group = []
                yield from stream.ready(self.lookahead)
        stream.take(group)
        yield from stream.ready(0)

    def _timed_cuts(
        self, frames: Iterable[tuple[T, Planes]]
    ) -> Iterator[tuple[T, Planes, bool, Thumb]]:
        """mark_cuts, timed without the time that the frames' source takes."""
        waited, clock = 0.0, self.models.clock

        def counted() -> Iterator[tuple[T, Planes]]:
            nonlocal waited
            iterator = iter(frames)
            while True:
                start = clock()
                try:
                    frame = next(iterator)
                except StopIteration:
                    return
                finally:
                    waited += clock() - start
                yield frame

        marked = mark_cuts(counted())
        while True:
            start, waited = clock(), 0.0
            try:
                frame = next(marked)
            except StopIteration:
                return
            finally:
                spent = clock() - start - waited
                seconds = self.models.seconds
                seconds["scene"] = seconds.get("scene", 0.0) + spent
            yield frame
