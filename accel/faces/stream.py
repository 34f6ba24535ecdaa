"""One pass over a film: which faces are followed, where they are looked for, what is given out."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

import numpy as np

from accel.faces.align import Array, cover, overlap
from accel.faces.detect import Detection, find_all, fine_views, near_views, whole_view
from accel.faces.face import Face, bare_face, make_face
from accel.faces.find import ANGLES, SAME_FACE, SURE, box_of, settle
from accel.faces.follow import Sight, Track, in_eyes
from accel.faces.landmark import face_region
from accel.faces.scene import Thumb, is_strange
from accel.kernels.planes import Planes

if TYPE_CHECKING:
    from accel.faces.track import Analyser

T = TypeVar("T")

SAME_PLACE = 0.3  # overlap of a new detection with a face that is followed already
NEAR_PLACE = 0.15  # with where a face should be that was just lost: it was faster than foretold
RETURNED = 0.5  # identity distance below which a lost face is back; stricter than SAME_PERSON
MOST_LOST = 32  # faces of a scene that are remembered after they left
MAX_REACH = 8  # frames to each side that landmarks are smoothed over


@dataclass(eq=False)
class Slot(Generic[T]):
    """A frame that waits to be given out."""

    token: T
    planes: Planes
    index: int
    scene: int
    cut: bool
    thumb: Thumb


class Stream(Generic[T]):
    """What one pass over a film has to remember."""

    def __init__(self, settings: Analyser) -> None:
        self.settings = settings
        self.models = settings.models
        self.slots: deque[Slot[T]] = deque()  # not yet given out
        self.tracks: list[Track] = []  # all that still may be given out or come back
        self.active: list[Track] = []  # those that are followed
        self.next_look = 0  # frame in which the detector is due
        self.misses = 0  # looks in a row that found nothing new
        self.views = 0  # which part of the frame the next look for new faces takes
        self.scene_ends: dict[int, int] = {}  # last frame so far of each scene
        self.thumbs: dict[int, Thumb] = {}  # of the last frames

    # Frames in.

    def take(self, group: Sequence[Slot[T]]) -> None:
        """Follow all faces through some consecutive frames."""
        self.slots.extend(group)
        self.thumbs.update((slot.index, slot.thumb) for slot in group)
        part: list[Slot[T]] = []
        for slot in group:
            if slot.cut:
                self._follow(part)
                part = []
                self._new_scene(slot)
            part.append(slot)
            self.scene_ends[slot.scene] = slot.index
        self._follow(part)
        self._look_closer(group)

    def _new_scene(self, slot: Slot[T]) -> None:
        self.active = []
        self.next_look, self.misses, self.views = slot.index, 0, 0

    def _follow(self, part: Sequence[Slot[T]]) -> None:
        foretold = self._foretell(part)
        for slot in part:
            missing = []
            for track in self.active:
                key = track.number, slot.index
                sight = foretold[key] if key in foretold else self._look_for(track, slot)
                if sight is None:
                    missing.append(track)
                else:
                    self._seen(track, slot.index, sight)
            missing += self._drop_doubles(slot.index)
            lost = [track for track in missing if track.last == slot.index - 1]
            if lost:
                self.next_look, self.misses = slot.index, 0
                if not self.settings.identities:
                    self._recognise([s for s in self.slots if s.index == slot.index - 1], lost)
            if slot.index >= self.next_look:
                self._detect(slot, missing)
            patience = max(self.settings.lookahead, 1)
            self.active = [t for t in self.active if slot.index - t.last < patience]

    def _foretell(self, part: Sequence[Slot[T]]) -> dict[tuple[int, int], Sight | None]:
        """Look for all faces in all frames at once, where their velocity takes them.

        What is not found in a later frame is left out: the frame before will say better.
        """
        asked = [(track, slot) for slot in part for track in self.active]
        found = self.models.measure(
            [slot.planes for _, slot in asked], [t.predict(slot.index) for t, slot in asked]
        )
        result: dict[tuple[int, int], Sight | None] = {}
        for (track, slot), sight in zip(asked, found):
            if sight is not None:
                result[track.number, slot.index] = Sight(*sight)
            elif slot is part[0]:
                result[track.number, slot.index] = None
        return result

    def _look_for(self, track: Track, slot: Slot[T]) -> Sight | None:
        found = self.models.measure([slot.planes], [track.predict(slot.index)])[0]
        return None if found is None else Sight(*found)

    def _seen(self, track: Track, index: int, sight: Sight) -> None:
        gap = index - track.last - 1
        track.add(index, sight)
        if 0 < gap <= self.settings.lookahead:
            self._fill(track)

    def _fill(self, track: Track) -> None:
        """Put the face where it hid for a moment, unless the whole picture was another one."""
        self.settings.filled += track.fill(self.settings.lookahead, self._may_hide)

    def _may_hide(self, before: int, index: int, after: int) -> bool:
        known = [self.thumbs[i] for i in (before, index, after) if i in self.thumbs]
        # Of what was given out long ago, nothing is known, and nothing can be changed.
        return len(known) == 3 and not is_strange(known[0], known[1], known[2])

    def _drop_doubles(self, index: int) -> list[Track]:
        """Where two tracks slid onto one face, the younger one loses it; return those that did."""
        here = [t for t in self.active if t.last == index]
        lost: list[Track] = []
        for i, elder in enumerate(here):
            for younger in here[i + 1 :]:
                if elder in lost or younger in lost:
                    continue
                boxes = [box_of(t.sights[index].landmarks) for t in (elder, younger)]
                if cover(*boxes) > SAME_FACE:
                    lost.append(younger)
        for track in lost:
            track.drop(index)
        return lost

    # The detector.

    def _detect(self, slot: Slot[T], missing: Sequence[Track]) -> None:
        """Look for faces that are not followed, and for those that were lost."""
        known = [box_of(t.sights[slot.index].landmarks) for t in self.active if t not in missing]
        with self.models.timed("detect"):
            detections = [
                d
                for d in self._look(slot, bool(missing))
                if all(overlap(d.box, box) < SAME_PLACE for box in known)
            ]
        came = False
        waiting = list(missing)
        settled = settle(self.models, slot.planes, detections)
        if not self.active and self.misses % 8 == 0 and not any(s >= SURE for _, s in settled):
            settled = self._look_from_afar(slot.planes) or settled
        if not settled and not self.active and self.misses % 4 == 0:
            settled = self._look_turned(slot.planes)
        for landmarks, score in settled:
            box = box_of(landmarks)
            if any(cover(box, other) > SAME_FACE for other in known):
                continue
            track = self._whose(landmarks, slot, waiting)
            # What nobody knows must be a face beyond doubt.
            if track is None and (score < SURE or len(known) >= self.settings.max_faces):
                continue
            came = True
            known.append(box)
            if track is None:
                track = self._new_track(slot)
            elif track in waiting:
                waiting.remove(track)
            if track not in self.active:
                self.active.append(track)
            self._seen(track, slot.index, Sight(landmarks, score))
            self._follow_back(track, slot.index)
        self._plan_next_look(slot.index, came, bool(waiting))

    def _look(self, slot: Slot[T], lost: bool) -> list[Detection]:
        """Run the detectors: at all of a new scene, at parts of it later."""
        full, near = self.models.full, self.models.near
        planes, angle = slot.planes, self.settings.angle
        whole, parts, fine = (
            views(planes, angle) for views in (whole_view, near_views, fine_views)
        )
        if self.active and not lost:
            # Newcomers: every other look takes the whole frame, those between go over its parts.
            turn, self.views = self.views, self.views + 1
            tour = np.concatenate([parts, fine])
            return near.find(planes, tour[[turn // 2 % len(tour)]] if turn % 2 else whole)
        looks = [(full, whole)]
        if self.misses % 2 == 0:
            all_parts = self.misses % 8 == 0 and not lost
            looks.append((near, np.concatenate([parts, fine]) if all_parts else parts))
        return find_all(looks, planes, threads=self.settings.look_threads)

    def _look_from_afar(self, planes: Planes) -> list[tuple[Array, float]]:
        """Look for a face that fills the frame: the detectors know none so near."""
        with self.models.timed("detect"):
            view = whole_view(planes, self.settings.angle, zoom=0.6)
            found = self.models.full.find(planes, view)
        return settle(self.models, planes, found)

    def _look_turned(self, planes: Planes) -> list[tuple[Array, float]]:
        """Look at the frame turned by quarters; keep to the way up in which faces are found."""
        for turn in ANGLES[1:]:
            angle = self.settings.angle + turn
            with self.models.timed("detect"):
                found = self.models.full.find(planes, whole_view(planes, angle))
            settled = settle(self.models, planes, found)
            if any(score >= SURE for _, score in settled):
                self.settings.angle = angle
                return settled
        return []

    def _plan_next_look(self, index: int, came: bool, lost: bool) -> None:
        """Often at first, then as seldom as can be caught up with by following back."""
        self.misses = 0 if came else self.misses + 1
        if self.active and not lost:
            wait = self.settings.redetect_every
        else:
            wait = min(1 << max(self.misses - 1, 0), max(self.settings.lookahead, 1))
        self.next_look = index + wait

    def _whose(self, landmarks: Array, slot: Slot[T], waiting: Sequence[Track]) -> Track | None:
        """Return the track this face belongs to: by its place if just lost, else by who it is."""
        box = box_of(landmarks)
        for track in waiting:
            x, y, side, _ = track.predict(slot.index)
            half = side / 3
            expected = np.array([x - half, y - half, x + half, y + half])
            if overlap(box, expected) > NEAR_PLACE:
                return track
        gone = [
            t
            for t in self.tracks
            if t.scene == slot.scene and t.last < slot.index and t.identity.any()
        ]
        if not gone:
            return None
        with self.models.timed("identity"):
            vector = self.models.recogniser([slot.planes], [landmarks[None]])[0]
        apart = [float(np.linalg.norm(t.identity - vector)) for t in gone]
        nearest = int(np.argmin(apart))
        return gone[nearest] if apart[nearest] < RETURNED else None

    def _new_track(self, slot: Slot[T]) -> Track:
        track = Track(self.settings.tracks, slot.scene, slot.index, slot.index, embed_at=slot.index)
        self.settings.tracks += 1
        self.tracks.append(track)
        return track

    def _follow_back(self, track: Track, index: int) -> None:
        """Follow a face that was just found back through the frames that still wait."""
        region = face_region(track.sights[index].landmarks)
        for slot in reversed(self.slots):
            if slot.index >= index:
                continue
            others = [t for t in self.tracks if t is not track and slot.index in t.sights]
            taken = [box_of(t.sights[slot.index].landmarks) for t in others]
            if slot.scene != track.scene or slot.index in track.sights:
                break
            found = self.models.measure([slot.planes], [region])[0]
            if found is None or any(cover(box_of(found[0]), b) > SAME_FACE for b in taken):
                break
            last = track.last
            track.add(slot.index, Sight(*found))
            track.last = last
            region = face_region(found[0])
        self._fill(track)

    # Irises and identities, which are looked at now and then.

    def _look_closer(self, group: Sequence[Slot[T]]) -> None:
        every = self.settings.iris_every
        eyes: list[tuple[Planes, Sight]] = []
        for slot in group:
            for track in self.active:
                sight = track.sights.get(slot.index)
                if sight is None or sight.filled:
                    continue
                if every and (slot.index % every == 0 or slot.index == track.first):
                    eyes.append((slot.planes, sight))
        if eyes:
            with self.models.timed("iris"):
                points = np.stack([sight.landmarks for _, sight in eyes])
                irises = self.models.iris([planes for planes, _ in eyes], points)
            for (_, sight), iris in zip(eyes, irises):
                sight.iris = in_eyes(iris, sight.landmarks)
        if self.settings.identities:
            self._recognise(group, self.active)

    def _recognise(self, group: Sequence[Slot[T]], tracks: Sequence[Track]) -> None:
        """See who the faces of some frames are, where that is due."""
        who: list[tuple[Planes, Track, int]] = []
        for slot in group:
            for track in tracks:
                sight = track.sights.get(slot.index)
                if sight is not None and not sight.filled and slot.index >= track.embed_at:
                    who.append((slot.planes, track, slot.index))
                    track.embed_at = slot.index + 1 + len(group)
        if who:
            with self.models.timed("identity"):
                meshes = [track.sights[index].landmarks[None] for _, track, index in who]
                vectors = self.models.recogniser([planes for planes, _, _ in who], meshes)
            for (_, track, index), vector in zip(who, vectors):
                track.recognised(index, vector)

    # Frames out.

    def ready(self, keep: int) -> Iterator[tuple[T, Planes, list[Face]]]:
        """Give out all but the last `keep` frames."""
        while len(self.slots) > keep:
            slot = self.slots.popleft()
            with self.models.timed("smooth"):
                faces = [
                    self._face(track, slot.index)
                    for track in self.tracks
                    if slot.index in track.sights and self._sure(track)
                ]
            faces.sort(key=lambda face: -face.size)
            yield slot.token, slot.planes, faces
            self._forget(slot)

    def _sure(self, track: Track) -> bool:
        """Whether a track is more than a pattern that looked like a face for a moment."""
        lasted = self.scene_ends[track.scene] - track.first + 1
        return (
            track.seen >= min(self.settings.sure_after, lasted)
            or lasted <= self.settings.lookahead // 2
        )

    def _face(self, track: Track, index: int) -> Face:
        sight, reach = track.sights[index], min(self.settings.lookahead, MAX_REACH)
        landmarks = track.smoothed(index, reach) if self.settings.smoothing else sight.landmarks
        if not self.settings.details:
            return bare_face(
                track=track.number,
                landmarks=landmarks,
                raw=sight.landmarks,
                score=sight.score,
                identity=track.identity,
                scene=track.scene,
            )
        return make_face(
            track=track.number,
            landmarks=landmarks,
            raw=sight.landmarks,
            iris=track.iris(index, landmarks, max(reach, self.settings.iris_every)),
            score=sight.score,
            identity=track.identity,
            scene=track.scene,
        )

    def _forget(self, slot: Slot[T]) -> None:
        for track in self.tracks:
            track.forget(slot.index - MAX_REACH)
        self.thumbs.pop(slot.index - self.settings.lookahead - 1, None)
        if self.slots and self.slots[0].scene != slot.scene:
            self.tracks = [t for t in self.tracks if t.scene > slot.scene]
            self.scene_ends = {s: end for s, end in self.scene_ends.items() if s > slot.scene}
        gone = [t for t in self.tracks if t.last < slot.index and t not in self.active]
        for track in gone[:-MOST_LOST]:
            self.tracks.remove(track)
