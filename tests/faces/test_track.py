"""Films of one portrait, moved by known maps: who is found, where, and under which number."""

from __future__ import annotations

import numpy as np
import pytest

from accel.core import ConfigError
from accel.faces.align import transform
from accel.faces.stream import Stream
from accel.faces.track import Analyser
from tests.faces.film import film, grey, move, picture, planes_of, portrait

WALL = grey(3)
CLOSE = 0.03  # how far off its true place a landmark may be on average, by the face's size


def analyse(models, frames, **settings):
    analyser = Analyser(models=models, **{"iris_every": 0} | settings)
    return list(analyser.analyse(frames)), analyser


def error(face, matrix, astronaut) -> float:
    """Mean distance from the truth, by the size of the face."""
    truth = transform(matrix, astronaut)[:, :2]
    return float(np.linalg.norm(face.landmarks[:, :2] - truth, axis=1).mean() / face.size)


def test_follows_a_moving_face_with_one_number(models, astronaut):
    moves = [move(dx=3 * i, dy=-i, zoom=1 + 0.01 * i, turn=1.5 * i) for i in range(16)]
    before = models.full.runs
    seen, analyser = analyse(models, film(*map(picture, moves)), redetect_every=100)
    assert [token for token, _, _ in seen] == list(range(16))
    assert [len(faces) for _, _, faces in seen] == [1] * 16
    assert {faces[0].track for _, _, faces in seen} == {0}
    assert max(error(f[0], m, astronaut) for (_, _, f), m in zip(seen, moves)) < CLOSE
    # Found once, then followed by its own landmarks.
    assert models.full.runs - before <= 3
    assert analyser.tracks == 1
    assert analyser.cuts == 0


def test_frames_foretold_in_batches_give_the_same_faces(models, astronaut):
    moves = [move(dx=4 * i, turn=2 * i) for i in range(9)]
    frames = film(*map(picture, moves))
    one, _ = analyse(models, frames, batch=1, smoothing=False)
    four, _ = analyse(models, frames, batch=4, smoothing=False)
    for (_, _, a), (_, _, b), m in zip(one, four, moves):
        assert np.abs(a[0].landmarks[:, :2] - b[0].landmarks[:, :2]).max() < 0.05 * a[0].size
        assert error(b[0], m, astronaut) < CLOSE


def test_two_faces_keep_their_numbers(models):
    frames = [on_a_wall(at(30 + i, 60), at(180 - i, 70)) for i in range(8)]
    seen, _ = analyse(models, film(*frames))
    for _, _, faces in seen:
        assert len(faces) == 2
        middle = {f.track: f.box[[0, 2]].mean() for f in faces}
        assert set(middle) == {0, 1}
    first = {f.track: f.box[0] for f in seen[0][2]}
    last = {f.track: f.box[0] for f in seen[-1][2]}
    assert all(abs(first[t] - last[t]) < 20 for t in first)  # neither jumped to the other


def test_a_face_hidden_for_some_frames_is_filled_in(models, astronaut):
    moves = [move(dx=2 * i) for i in range(14)]
    frames = [picture(m) for m in moves]
    for index in (5, 6, 7):
        frames[index][70:165, 105:225] = 60  # a board held before the face
    seen, analyser = analyse(models, film(*frames))
    assert [len(faces) for _, _, faces in seen] == [1] * 14
    assert {f.track for _, _, faces in seen for f in faces} == {0}
    assert analyser.filled == 3
    assert error(seen[6][2][0], moves[6], astronaut) < 2 * CLOSE
    assert 0.5 <= seen[6][2][0].score < seen[3][2][0].score


def test_a_face_is_not_put_into_another_shot_of_few_frames(models):
    frames = [picture(move(dx=2 * i)) for i in range(14)]
    frames[6:8] = [WALL, WALL]
    seen, analyser = analyse(models, film(*frames))
    assert analyser.cuts == 0  # as a flash is none
    assert [len(faces) for _, _, faces in seen] == [1] * 6 + [0] * 2 + [1] * 6
    assert {f.track for _, _, faces in seen for f in faces} == {0}
    assert analyser.filled == 0


def on_a_wall(*placed: np.ndarray, wall: np.ndarray = WALL) -> np.ndarray:
    """The head alone, small before a patterned wall: who comes or goes there is no cut."""
    head = picture(*placed, of=portrait()[30:215, 130:325], back=0)
    return np.where(head.any(axis=-1, keepdims=True), head, wall)


def test_a_face_found_late_is_followed_back_to_where_it_appeared(models):
    seconds = [on_a_wall()] * 3 + [on_a_wall(at(100 + i, 60)) for i in range(9)]
    seen, analyser = analyse(models, film(*seconds))
    assert analyser.cuts == 0
    assert [bool(faces) for _, _, faces in seen] == [False] * 3 + [True] * 9


@pytest.mark.parametrize("identities", [True, False])
def test_the_same_face_comes_back_under_its_number(models, identities):
    frames = [on_a_wall(at(40, 60))] * 4 + [on_a_wall()] * 10 + [on_a_wall(at(180, 90))] * 6
    before = models.stats()["identity_runs"]
    seen, analyser = analyse(models, film(*frames), lookahead=4, identities=identities)
    asked = analyser.stats["identity_runs"] - before
    assert asked > 2 if identities else asked == 2  # when it was lost, and when one was found
    assert analyser.cuts == 0
    assert [len(faces) for _, _, faces in seen] == [1] * 4 + [0] * 10 + [1] * 6
    assert {f.track for _, _, faces in seen for f in faces} == {0}
    assert np.ptp([f[0].box for _, _, f in seen[14:]], axis=0).max() < 1.0  # not pulled back


def at(x: float, y: float, zoom: float = 0.6) -> np.ndarray:
    return np.array([[zoom, 0.0, x], [0.0, zoom, y]])


def test_a_cut_begins_a_new_track_and_nothing_smears_across_it(models, astronaut):
    here, there = move(dx=-45), move(dx=45, zoom=1.2)
    shots = [picture(here)] * 6 + [picture(there, of=portrait()[:, ::-1].copy())] * 6
    seen, analyser = analyse(models, film(*shots))
    assert analyser.cuts == 1
    assert [f[0].scene for _, _, f in seen] == [0] * 6 + [1] * 6
    assert [f[0].track for _, _, f in seen] == [0] * 6 + [1] * 6
    assert error(seen[5][2][0], here, astronaut) < CLOSE  # the last frame knows nothing of the next
    assert np.ptp([f[0].box for _, _, f in seen[6:]], axis=0).max() < 1.0


def test_a_cut_that_leaves_the_face_in_its_place_begins_a_new_track(models):
    place = at(110, 60)
    shots = [on_a_wall(place)] * 4 + [on_a_wall(place, wall=grey(8))] * 4
    seen, analyser = analyse(models, film(*shots))
    assert analyser.cuts == 1
    assert [(f[0].scene, f[0].track) for _, _, f in seen] == [(0, 0)] * 4 + [(1, 1)] * 4


def test_sideways_films_are_looked_at_sideways(models):
    upright = [picture(move(dx=2 * i)) for i in range(5)]
    for quarter, roll in ((1, -90), (2, 180), (3, 90)):
        turned = [np.rot90(frame, quarter).copy() for frame in upright]
        seen, _ = analyse(models, film(*turned))
        assert [len(faces) for _, _, faces in seen] == [1] * 5
        off = np.degrees(seen[0][2][0].pose[2]) - roll  # rot90 turns against the clock
        assert abs((off + 180) % 360 - 180) < 12


def test_ten_bit_frames(models, astronaut):
    frames = [(i, planes_of(picture(move()), bits=10)) for i in range(2)]
    seen, _ = analyse(models, frames)
    assert error(seen[1][2][0], move(), astronaut) < CLOSE


def test_no_face_gives_no_face(models):
    seen, _ = analyse(models, film(*[grey(i // 4) for i in range(8)]))
    assert [faces for _, _, faces in seen] == [[]] * 8


def test_takes_and_gives_any_number_of_frames(models):
    for count in (0, 1, 2):
        seen, _ = analyse(models, film(*[picture(move())] * count))
        assert [len(faces) for _, _, faces in seen] == [1] * count


@pytest.mark.parametrize("batch", [1, 3])
def test_holds_no_more_frames_than_it_says(models, batch):
    taken, lookahead = 0, 2

    def counted():
        nonlocal taken
        for frame in film(*[picture(move())] * 12):
            taken += 1
            yield frame

    analyser = Analyser(models=models, iris_every=0, lookahead=lookahead, batch=batch)
    for given, _ in enumerate(analyser.analyse(counted())):
        # Two more wait for the decision whether the film cuts.
        assert taken - given <= lookahead + batch + 3


def test_at_most_max_faces(models):
    frame = on_a_wall(at(30, 60), at(180, 70, zoom=0.7))
    seen, _ = analyse(models, film(frame, frame), max_faces=1)
    assert [len(faces) for _, _, faces in seen] == [1, 1]


def test_refuses_settings_that_cannot_be():
    with pytest.raises(ConfigError, match="lookahead must be at least 0, got -1"):
        Analyser(lookahead=-1)


@pytest.mark.parametrize(("side", "fill"), [(240, 1.3), (480, 1.1)])
def test_a_face_that_fills_the_frame_is_found(models, astronaut, side, fill):
    low, high = astronaut[:, :2].min(0), astronaut[:, :2].max(0)
    zoom = fill * side / (high - low).max()  # the face, as large as the frame and more
    x, y = side / 2 - zoom * (low + high) / 2
    moves = [np.array([[zoom, 0.0, x + i], [0.0, zoom, y]]) for i in range(6)]
    before = models.full.runs
    seen, _ = analyse(models, film(*(picture(m, size=(side, side)) for m in moves)))
    assert [len(faces) for _, _, faces in seen] == [1] * 6
    assert max(error(f[0], m, astronaut) for (_, _, f), m in zip(seen, moves)) < CLOSE
    assert models.full.runs - before <= 3  # and followed from then on


def test_a_film_without_faces_is_looked_at_from_afar_now_and_then(models, monkeypatch):
    looks = []
    monkeypatch.setattr(Stream, "_look_from_afar", lambda self, planes: looks.append(planes) or [])
    seen, _ = analyse(models, film(*[WALL] * 60), lookahead=4)
    assert not any(faces for _, _, faces in seen)
    assert 2 <= len(looks) <= 4
