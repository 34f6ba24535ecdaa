"""Any frame of a film: going back costs a film no more than going on."""

from __future__ import annotations

import threading
from contextlib import closing

import numpy as np
import pytest

from accel.pipelines.dfl import seek
from accel.pipelines.dfl.seek import Seeker
from accel.pipelines.dfl.timeline import film, read_timeline
from tests.pipelines.dfl.clips import rgb, workspace

FRAMES = 40


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """A film of one key frame."""
    folder = tmp_path_factory.mktemp("film")
    workspace(folder, sides=("dst",), frames=FRAMES, options={"g": "250", "bf": "2"})
    return folder / "data_dst.mp4"


@pytest.fixture
def seeker(path, monkeypatch):
    """With room for 16 frames; `starts` lists the key frames that decoding began at."""
    with closing(film(path)) as reader, Seeker(reader, read_timeline(reader)) as made:
        monkeypatch.setattr(seek, "MOST_CACHED", 16)
        start, made.starts = made._start, []
        monkeypatch.setattr(made, "_start", lambda key: (made.starts.append(key), start(key)))
        yield made


def wanted(path) -> list[np.ndarray]:
    with closing(film(path)) as reader:
        return [rgb(frame) for frame in reader]


def test_who_goes_back_frame_by_frame_seldom_waits_for_the_key_frame(seeker, path):
    pictures = wanted(path)
    waited = 0
    for number in range(FRAMES - 1, -1, -1):
        began = len(seeker.starts)
        assert np.array_equal(rgb(seeker.read(number)), pictures[number]), number
        waited += len(seeker.starts) > began
        seeker.prepare(number)
    assert waited == 1  # for the first
    assert len(seeker.starts) <= FRAMES / 8 + 1
    assert 8 < len(seeker._cache) <= 16


def test_without_preparation_little_is_kept(seeker):
    for number in range(FRAMES):
        seeker.read(number)
    assert len(seeker._cache) == seek.CACHED


def test_what_is_kept_is_given_while_another_frame_is_decoded(seeker):
    seeker.read(20)
    found: list = []
    with seeker._decoding:  # as whoever decodes holds it
        asks = threading.Thread(target=lambda: found.append(seeker.read(19)))
        asks.start()
        asks.join(30)
        assert found, "waited for a decoder that it does not need"


def test_large_frames_are_fewer(seeker, monkeypatch):
    frame = seeker.read(0)
    assert seek._room_for(frame) == 16
    size = sum(plane.buffer_size for plane in frame.picture.planes)
    monkeypatch.setattr(seek, "CACHED_BYTES", 10 * size)
    assert seek._room_for(frame) == 10
    monkeypatch.setattr(seek, "CACHED_BYTES", size)
    assert seek._room_for(frame) == seek.CACHED


def test_preparing_gives_way_to_whoever_waits(seeker):
    seeker.read(30)  # and what lies before it, down to 23
    seeker._waiting = 1
    seeker.prepare(24)
    assert 22 not in seeker._cache
    seeker._waiting = 0
    seeker.prepare(24)
    assert 22 in seeker._cache


def test_a_frame_that_is_not_there_is_looked_for_once(seeker, monkeypatch):
    """Damaged films skip numbers."""
    seeker.read(30)
    looked: list[int] = []
    monkeypatch.setattr(seeker, "_reach", lambda number, gives_way: looked.append(number))
    for _ in range(6):
        seeker.prepare(24)
    assert looked == [22, 21, 20]
