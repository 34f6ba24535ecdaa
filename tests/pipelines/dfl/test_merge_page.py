"""The interactive merger: its keys, its page in a real browser, and who may reach it."""

from __future__ import annotations

import http.client
import itertools
import json
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, closing
from pathlib import Path
from unittest.mock import Mock

import cv2
import numpy as np
import pytest

from accel.core import Cancelled, ConfigError
from accel.faces.merge import Stages
from accel.faces.merge_settings import COLORS, MASKS, MODES, SHARPENS, MergeSettings
from accel.pipelines.dfl import merge_live
from accel.pipelines.dfl.merge import merge_faces
from accel.pipelines.dfl.merge_job import MergeConfig, MergeJob
from accel.pipelines.dfl.merge_keys import HELP, STEPS, changed, rows
from accel.pipelines.dfl.merge_live import LiveMerger, open_live, session_path
from accel.pipelines.dfl.merge_looked import on_checkerboard
from accel.pipelines.dfl.merge_page import MergePage, merge_interactively
from accel.pipelines.dfl.workspace import Workspace
from tests.pipelines.dfl.chromium import PROGRAM, Chromium
from tests.pipelines.dfl.merge_clip import (
    FRAMES,
    HEIGHT,
    WIDTH,
    add_film,
    drawn,
    make_workspace,
    pictures,
)

ROOT = Path(__file__).parents[3]
BROWSER = pytest.mark.skipif(PROGRAM is None, reason="chromium is not installed")
SHOWN = MergeConfig(settings=MergeSettings(mask="dst"))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    return make_workspace(tmp_path_factory.mktemp("live") / "workspace")


@pytest.fixture
def workspace(prepared, tmp_path):
    shutil.copytree(prepared, tmp_path / "workspace")
    return tmp_path / "workspace"


@pytest.fixture
def opened(workspace):
    """Opens the merger as often as it is called; all are closed at the end."""
    with ExitStack() as stack:

        def open_it(config=SHOWN) -> LiveMerger:
            job = stack.enter_context(closing(MergeJob(Workspace(workspace), config)))
            return stack.enter_context(closing(open_live(job)))

        yield open_it


def pressed(live: LiveMerger, keys: str) -> None:
    """Lower-case letters and signs as they are, capitals with shift, `<` and `>` too."""
    unshifted = {"<": ",", ">": ".", "?": "/", ":": ";"}
    live.press([(unshifted.get(k, k.lower()), k in unshifted or k.isupper()) for k in keys])


def settings(live: LiveMerger) -> MergeSettings:
    return live.session.settings(live.number)


# --- keys ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", STEPS)
def test_two_keys_move_each_number_and_shift_moves_it_further(name):
    up, down = STEPS[name]
    start = MergeSettings(hist_match_threshold=100)

    def after(key, is_fast):
        return getattr(changed(start, key, is_fast, False), name) - getattr(start, name)

    low = -5 if name in ("erode", "sharpness", "face_scale", "hist_match_threshold") else 0
    assert (after(up, False), after(up, True)) == (1, 5)
    assert (after(down, False), after(down, True)) == (max(low, -1), low)


def test_numbers_stop_at_their_ends():
    assert changed(MergeSettings(erode=398), "w", True, False).erode == 400
    assert changed(MergeSettings(face_scale=-50), "j", False, False).face_scale == -50


def test_digits_choose_the_mode():
    for key, mode in zip("`123456", MODES):
        assert changed(MergeSettings(), key, False, False).mode == mode


@pytest.mark.parametrize(("key", "name", "words"), [
    ("x", "mask", MASKS), ("c", "color", COLORS), ("n", "sharpen", SHARPENS),
])  # fmt: skip
def test_letters_go_round_the_words(key, name, words):
    now = MergeSettings(**{name: words[0]})
    seen = []
    for _ in words:
        now = changed(now, key, False, True)
        seen.append(getattr(now, name))
    assert seen == [*words[1:], words[0]]


def test_masks_that_need_a_network_are_passed_over_without_it():
    assert changed(MergeSettings(mask=MASKS[5]), "x", False, False).mask == MASKS[0]
    assert changed(MergeSettings(mask=MASKS[7]), "x", False, False).mask == MASKS[0]


def test_every_key_is_explained():
    told = " ".join(keys for keys, _ in HELP)
    assert all(key in told.split() for pair in STEPS.values() for key in pair)
    assert changed(MergeSettings(), "b", False, False) is None


# --- frames -------------------------------------------------------------------------------------


def test_frames_inherit_and_frames_that_were_left_stay(opened):
    live = opened()
    pressed(live, "www.")
    assert (live.number, settings(live).erode) == (1, 3)
    pressed(live, "e,w")
    assert (live.number, settings(live).erode, settings(live).blur) == (0, 4, 0)
    pressed(live, ".")
    assert (settings(live).erode, settings(live).blur) == (3, 1)
    pressed(live, "..")
    assert (settings(live).erode, settings(live).blur) == (3, 1)
    pressed(live, "<")
    assert live.number == 0


def test_m_and_slash_carry_settings_to_other_frames(opened):
    live = opened()
    pressed(live, "w.ww.www/")
    assert live.number == 3
    assert [s.erode for s in live.session.every()] == [1, 3, 6, 6, 6]
    pressed(live, "wM")
    assert live.number == 0
    assert [s.erode for s in live.session.every()] == [7, 7, 7, 7, 6]
    pressed(live, "s?")
    assert live.number == FRAMES - 1
    assert {s.erode for s in live.session.every()} == {6}


def test_the_preview_is_what_a_run_without_a_window_writes(opened, workspace):
    live = opened()
    pressed(live, "3wwee.2z.")
    rgb = live.merged(1, live.session.settings(1))
    report = merge_faces(workspace, MergeConfig(settings=live.session.settings(1)))
    assert report["merged"] == FRAMES
    written = cv2.imread(str(workspace / "data_dst" / "merged" / "00002.png"))
    assert np.array_equal(written[..., ::-1], rgb)


def test_a_headless_run_with_the_saved_file_repeats_all_bytes(opened, workspace):
    live = opened()
    pressed(live, "3ccc.wwwww.2.4cEE>")
    live.wait()
    assert live.finished["merged"] == FRAMES
    live.close()
    expected = pictures(workspace / "data_dst" / "merged")
    saved = shutil.copy(session_path(live.job), workspace / "merge.json")
    shutil.rmtree(workspace / "data_dst" / "merged")
    shutil.rmtree(workspace / "data_dst" / "merged_mask")
    report = merge_faces(workspace, MergeConfig(config=workspace / "merge.json"))
    assert report["merged"] == FRAMES, saved
    assert pictures(workspace / "data_dst" / "merged") == expected


def test_keys_are_told_why_they_do_nothing_while_the_clip_is_merged(opened, monkeypatch):
    live = opened()
    before = settings(live)

    def until_stopped(job, *, progress, cancel):
        while True:
            cancel.check()
            time.sleep(0.01)

    monkeypatch.setattr(merge_live, "run_merge", until_stopped)
    pressed(live, ">w")
    assert settings(live) == before
    assert live.state()["note"] == merge_live.BUSY
    pressed(live, ">")
    live.wait()
    assert live.state()["note"] == "stopped; what was merged is kept"


def test_a_film_that_was_merged_from_the_page_may_be_merged_again(opened, workspace):
    """A stranger's of the same name may not."""
    add_film(workspace)
    film = workspace / "result.mp4"
    film.write_bytes(b"of somebody else")
    live = opened(MergeConfig(settings=MergeSettings(mask="dst"), to=film))
    pressed(live, ">")
    live.wait()
    assert "exists" in live.note
    film.unlink()
    sizes = []
    for keys in (">", "3EEE>"):
        pressed(live, keys)
        live.wait()
        assert live.note == f"{film}: merged"
        sizes.append(film.stat().st_size)
    assert sizes[0] != sizes[1]


def test_what_was_set_is_there_after_closing(opened):
    live = opened()
    pressed(live, "ww..3")
    live.close()
    again = opened()
    assert again.number == 2
    assert [(s.erode, s.mode) for s in again.session.every()][1:3] == [
        (2, "overlay"), (2, "seamless"),
    ]  # fmt: skip


def test_settings_of_another_clip_are_put_aside(opened, workspace):
    path = session_path(opened().job)
    path.write_text(json.dumps({"version": 1, "frames": {"77777": {}}}))
    live = opened()
    assert "put aside" in live.note
    assert path.with_name(path.name + ".old").exists()
    assert live.session.own == {}


def test_a_frame_that_cannot_be_read_is_said_and_others_go_on(opened, workspace):
    live = opened()
    (workspace / "data_dst" / "00002.png").write_bytes(b"\x89PNG\r\n\x1a\n damaged")
    pressed(live, ".")
    live.picture()
    assert "00002.png" in live.state()["note"]
    pressed(live, ".")
    jpeg, _ = live.picture()
    assert cv2.imdecode(np.frombuffer(jpeg, np.uint8), 1).shape == drawn(3).shape


def test_a_draft_is_half_as_large_and_shown_as_wide(opened, monkeypatch):
    live = opened()
    live.picture()
    monkeypatch.setattr(merge_live, "SOON_S", 0.0)
    jpeg, state = live.picture(hurried=True)
    assert state["draft"]
    assert cv2.imdecode(np.frombuffer(jpeg, np.uint8), 1).shape == (HEIGHT // 2, WIDTH // 2, 3)
    assert state["width"] == WIDTH
    jpeg, state = live.picture()
    assert not state["draft"]
    assert cv2.imdecode(np.frombuffer(jpeg, np.uint8), 1).shape == (HEIGHT, WIDTH, 3)


def test_a_frame_of_which_nothing_is_known_is_shown_as_it_was_filmed(opened):
    live = opened()
    _, state = live.picture(hurried=True)
    assert state["draft"]
    assert live.picture()[1]["draft"] is False


class SlowFilm:
    """Stands for a film whose frame is read when `may_go` says so."""

    def __init__(self, live: LiveMerger, monkeypatch) -> None:
        self.may_go = threading.Event()
        self.read = live.job.source.read
        monkeypatch.setattr(live.job.source, "read", self._read)

    def _read(self, name):
        assert self.may_go.wait(60)
        return self.read(name)


def test_a_key_is_answered_before_its_frame_is_read(opened, monkeypatch):
    live = opened()
    slow = SlowFilm(live, monkeypatch)
    pressed(live, ".")
    jpeg, state = live.picture(hurried=True)
    assert (jpeg, state["draft"], state["number"]) == (b"", True, 1)
    slow.may_go.set()
    jpeg, state = live.picture()
    assert not state["draft"]
    assert jpeg == merge_live.encoded(opened().merged(1, settings(live)), live.zoom)


def test_frames_before_the_one_looked_at_are_made_ready(opened, monkeypatch):
    live = opened()
    asked = Mock()
    monkeypatch.setattr(live.job.source, "prepare", asked)
    pressed(live, "..")
    live.picture()
    live.close()
    asked.assert_called_once_with("00003.png")


def test_after_a_picture_that_was_there_soon_no_draft_is_made(opened, monkeypatch):
    monkeypatch.setattr(merge_live, "SOON_S", 10.0)
    live = opened()
    live.picture()
    for key, is_new in (("w", True), ("w", False), ("e", True), ("e", False), ("w", False)):
        pressed(live, key)
        assert live.picture(hurried=True)[1]["draft"] is is_new, key
        live.picture()


def test_a_key_ends_the_picture_that_nobody_asks_for_any_longer(opened, monkeypatch):
    live = opened()
    pressed(live, "3")
    steps = []

    def press_at_the_clone(stages, name, key, make):
        steps.append(name)
        if name == "clone":
            pressed(live, "w")
        return once(stages, name, key, make)

    once = Stages.once
    monkeypatch.setattr(Stages, "once", press_at_the_clone)
    with pytest.raises(Cancelled):
        live.picture()
    assert steps[-1] == "clone"
    monkeypatch.undo()
    jpeg, state = live.picture()
    assert not state["draft"]
    fresh = opened().merged(0, settings(live))
    assert np.array_equal(live.merged(0, settings(live)), fresh)
    assert jpeg == merge_live.encoded(fresh, live.zoom)


def test_a_picture_that_was_given_up_is_no_answer(page, monkeypatch):
    monkeypatch.setattr(page.live, "picture", Mock(side_effect=Cancelled("cancelled")))
    assert ask(page, path=f"/{page.token}/frame")[0] == 409


def test_the_mask_can_be_seen(opened):
    live = opened()
    plain = live.merged(0, settings(live))
    shown = live.merged(0, settings(live), is_checkered=True)
    assert set(np.unique(shown[:12, :12])) == {128}
    assert np.array_equal(shown[50, 75], plain[50, 75])


def test_the_checkerboard_is_mixed_with_the_picture_by_the_mask():
    make = np.random.default_rng(0)
    rgb = make.integers(0, 256, (50, 70, 3)).astype(np.uint8)
    mask = np.zeros((50, 70), np.float32)
    mask[10:40, 5:60] = make.random((30, 55))
    y, x = np.mgrid[:50, :70] // 12
    light = np.where((x + y) % 2, 192.0, 128.0)[..., None]
    wanted = light + mask[..., None] * (rgb - light)
    assert np.abs(on_checkerboard(rgb, mask, 12) - wanted).max() <= 0.51
    nothing = on_checkerboard(rgb, np.zeros_like(mask), 12)
    assert np.array_equal(nothing, np.broadcast_to(light, nothing.shape))


def test_a_large_preview_that_takes_long_to_encode_is_preceded_by_a_draft(opened):
    live = opened()
    live.picture()
    live.picture()
    assert live.picture(hurried=True)[1]["draft"] is False
    live._encoding[merge_live.EXACT, live.zoom] = 1.0
    assert live.picture(hurried=True)[1]["draft"] is True


# --- the page -----------------------------------------------------------------------------------


@pytest.fixture
def page(opened):
    with closing(MergePage(opened())) as served:
        yield served


def ask(page, method="GET", path=None, body=None, **headers):
    connection = http.client.HTTPConnection("127.0.0.1", page.port, timeout=60)
    with closing(connection):
        path = f"/{page.token}/" if path is None else path
        connection.request(method, path, body, {k.replace("_", "-"): v for k, v in headers.items()})
        answer = connection.getresponse()
        return answer.status, answer.read(), answer.headers


def test_the_page_and_its_pictures(page):
    status, html, headers = ask(page)
    assert status == 200
    assert b"<title>Merger</title>" in html
    assert b"{{" not in html
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    status, jpeg, headers = ask(page, path=f"/{page.token}/frame")
    assert status == 200
    assert jpeg[:2] == b"\xff\xd8"
    assert json.loads(headers["X-State"])["total"] == FRAMES
    status, other, headers = ask(page, "POST", f"/{page.token}/keys", '[["2", false]]')
    assert status == 200
    assert other != jpeg
    assert json.loads(headers["X-State"])["rows"][0]["value"] == "hist-match"


@pytest.mark.parametrize(
    "wrong",
    [
        {"path": "/"},
        {"path": "/wrong/"},
        {"path": "/wrong/state"},
        {"Host": "evil.example"},
        {"Host": "127.0.0.1:1"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
    ],
    ids=str,
)
def test_strangers_are_refused(page, wrong):
    assert ask(page, **wrong)[0] == 403
    assert ask(page, "POST", body='[["w", false]]', **wrong)[0] == 403
    assert page.live.session.own == {}


NONSENSE = [
    "", "{", "{}", '["w"]', '[["w"]]', '[["w", 1]]', "[[1, true]]", f'[["{"w" * 17}", true]]',
    json.dumps([["w", False]] * 257),
]  # fmt: skip


@pytest.mark.parametrize("body", NONSENSE)
def test_requests_that_make_no_sense_are_refused(page, body):
    assert ask(page, "POST", f"/{page.token}/keys", body)[0] == 400
    for length in ("99999999", "9" * 5000):
        assert ask(page, "POST", f"/{page.token}/keys", None, Content_Length=length)[0] == 400
    assert ask(page, path=f"/{page.token}/../../etc/passwd")[0] == 404
    assert page.live.session.own == {}


def test_a_port_that_is_taken_is_refused(page):
    with pytest.raises(ConfigError, match=f"port {page.port} must be free"):
        MergePage(page.live, page.port)


def test_leaving_ends_the_command(workspace):
    ready = threading.Event()
    told: list = []

    def start(url):
        told.append(url)
        ready.set()

    work = threading.Thread(
        target=lambda: told.append(merge_interactively(workspace, SHOWN, ready=start))
    )
    work.start()
    assert ready.wait(60)
    port, token = int(told[0].split(":")[2].split("/")[0]), told[0].split("/")[3]
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    with closing(connection):
        connection.request("POST", f"/{token}/keys", '[["w", true], ["escape", false]]')
        assert connection.getresponse().status == 200
    work.join(60)
    (report,) = told[1:]
    assert (report["merged"], Path(report["session"]).name) == (0, "new_SAEHD_merger_session.json")
    assert {"seconds", "peak_memory_mb", "device", "versions"} <= set(report)
    job = MergeJob(Workspace(workspace), SHOWN)
    with closing(job), closing(open_live(job)) as live:
        assert live.session.settings(0).erode == 5


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_merge_that_is_stopped_by_a_signal_is_told_with_its_frames(workspace, number):
    command = [sys.executable, "-m", "accel", "dfl", "merge", str(workspace), "--interactive"]
    with subprocess.Popen(
        [*command, "--mask", "dst", "--denoise", "500"], cwd=ROOT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as merger:  # fmt: skip
        assert merger.stderr is not None
        port, token = re.search(r":(\d+)/(\S+)/", merger.stderr.readline()).groups()
        connection = http.client.HTTPConnection("127.0.0.1", int(port), timeout=60)
        with closing(connection):
            connection.request("POST", f"/{token}/keys", '[["w", false], [".", true]]')
            assert connection.getresponse().read()
            state = {"merging": {"done": 0, "running": True}}
            while state["merging"]["running"] and not state["merging"]["done"]:
                connection.request("GET", f"/{token}/state")
                state = json.loads(connection.getresponse().read())
        merger.send_signal(number)
        said, _ = merger.communicate(timeout=60)
    assert merger.returncode == 0, said
    # The merge may have been done just before.
    found = re.search(r"stopped after (\d) frames, which are kept|: (5) frames merged now", said)
    journal = json.loads((workspace / "data_dst" / "merged" / "merged.json").read_text())
    assert int(found[1] or found[2]) == len(journal), said
    session = json.loads((workspace / "model" / "new_SAEHD_merger_session.json").read_text())
    assert session["frames"]["00001"] == {"erode": 1}


# --- in a browser -------------------------------------------------------------------------------


class Person:
    """Who presses keys and looks at the picture."""

    def __init__(self, browser: Chromium, url: str) -> None:
        self.browser = browser
        browser.open(url)
        browser.wait("document.body && document.body.dataset.pictures && window.state")

    def press(self, key: str, shift: bool = False) -> None:
        """A key, until the exact picture is there."""
        before = int(self.browser.value("document.body.dataset.pictures"))
        self.browser.press(key, shift)
        self.browser.wait(f"Number(document.body.dataset.pictures) > {before}")
        self.browser.wait("!document.querySelector('#frame.busy')")

    def sees(self) -> str:
        """The pixels that the browser shows."""
        return self.browser.value(
            "(() => { const i = document.getElementById('frame');"
            " const c = document.createElement('canvas');"
            " c.width = i.width; c.height = i.height;"
            " const x = c.getContext('2d'); x.drawImage(i, 0, 0);"
            " return Array.from(x.getImageData(0, 0, c.width, c.height).data).join(); })()"
        )


@pytest.fixture
def browser(tmp_path):
    with Chromium(tmp_path / "browser") as opened_browser:
        yield opened_browser


@BROWSER
@pytest.mark.slow
def test_the_page_says_that_a_frame_is_being_read(page, browser, monkeypatch):
    person = Person(browser, page.url)
    slow, told = SlowFilm(page.live, monkeypatch), "document.getElementById('draft')"
    page.live.frames._looked.clear()
    last = person.sees()
    browser.press(".")
    browser.wait(f"{told}.textContent.includes('00002 is being read') && !{told}.hidden")
    assert browser.value("document.getElementById('place').textContent") == f"2 / {FRAMES}"
    assert person.sees() == last
    slow.may_go.set()
    browser.wait(f"{told}.hidden && !document.querySelector('#frame.stale')")
    assert person.sees() != last


@BROWSER
@pytest.mark.slow
def test_keys_change_the_picture_that_the_browser_shows(page, browser):
    person = Person(browser, page.url)
    last = person.sees()
    for key, shift in (("2", False), ("1", False), ("w", True), ("c", False), ("u", True),
                       ("v", False), (".", False)):  # fmt: skip
        person.press(key, shift)
        now = person.sees()
        assert now != last, key
        last = now
    assert browser.value("document.getElementById('place').textContent") == f"2 / {FRAMES}"
    assert browser.value("document.querySelector('#row-erode .value').textContent") == "5"
    browser.press("tab")
    assert browser.wait("document.getElementById('help').open")
    browser.press("escape")
    browser.wait("!document.getElementById('help').open")
    assert not page.live.is_closing


SETTING_KEYS = (*"`123456zxcn", *itertools.chain(*STEPS.values()))


@BROWSER
@pytest.mark.slow
@pytest.mark.parametrize("shift", [False, True], ids=["plain", "shift"])
def test_every_key_of_the_keyboard_arrives(page, browser, shift):
    person, live = Person(browser, page.url), page.live
    for key in SETTING_KEYS:
        live.session.change(
            live.number, MergeSettings(mask="dst", sharpness=7, hist_match_threshold=99)
        )
        wanted = changed(settings(live), key, shift, False)
        person.press(key, shift)
        assert settings(live) == wanted, key
        shown = browser.value("state.rows.map((row) => [row.name, row.value])")
        assert dict(shown) == {r["name"]: r["value"] for r in rows(wanted)}, key
    for key, number in ((".", 1), (".", 2), (",", 1), ("/", 2), ("m", 1)):
        if not shift:
            person.press(key)
            assert browser.value("state.number") == live.number == number, key
    for key, number in (("/", FRAMES - 1), ("m", 0), ("/", FRAMES - 1), (",", 0)):
        if shift:
            person.press(key, True)
            assert browser.value("state.number") == live.number == number, key
    for key, width in (("-", 640), ("=", 960), ("=", 1280)):
        person.press(key, shift)
        assert browser.value("state.zoom") == live.zoom == width
    person.press("v", shift)
    assert browser.value("state.checkered") is True


@BROWSER
@pytest.mark.slow
def test_a_draft_comes_first_where_the_exact_picture_takes_long(page, browser, monkeypatch):
    person, live = Person(browser, page.url), page.live
    person.press("3")
    drafts = int(browser.value("document.body.dataset.drafts"))
    expected = live.merged(0, settings(live).with_changes({"super_resolution": 5}))
    monkeypatch.setattr(merge_live, "SOON_S", 0.0)  # all takes long
    person.press("t", True)
    assert int(browser.value("document.body.dataset.drafts")) == drafts + 1
    assert browser.value("document.getElementById('draft').hidden") is True
    assert browser.value("document.getElementById('frame').clientWidth") == expected.shape[1]
    seen = np.array(person.sees().split(","), np.uint8).reshape(*expected.shape[:2], 4)
    jpeg = cv2.imdecode(np.frombuffer(merge_live.encoded(expected, 960), np.uint8), 1)
    assert np.abs(seen[..., :3].astype(int) - jpeg[..., ::-1]).max() <= 6  # two JPEG decoders


@BROWSER
@pytest.mark.slow
def test_shift_and_the_full_stop_merge_the_clip(page, browser, workspace):
    person = Person(browser, page.url)
    person.press("3")
    person.press(".", True)
    browser.wait("document.body.dataset.finished")
    assert "merged" in browser.value("document.getElementById('note').textContent")
    assert len(pictures(workspace / "data_dst" / "merged")) == FRAMES
    assert page.live.finished["merged"] == FRAMES


@BROWSER
@pytest.mark.slow
def test_a_key_in_another_window_changes_the_picture_in_this_one(page, browser):
    person = Person(browser, page.url)
    before, pictures = person.sees(), browser.value("document.body.dataset.pictures")
    page.live.press([("5", False), (".", False)])
    browser.wait(f"Number(document.body.dataset.pictures) > {pictures}")
    assert browser.value("document.getElementById('place').textContent") == f"2 / {FRAMES}"
    assert person.sees() != before


@BROWSER
@pytest.mark.slow
def test_closing_the_page_loses_nothing(page, browser):
    person = Person(browser, page.url)
    for key in ("4", "w", ".", "e"):
        person.press(key)
    seen = person.sees()
    browser.open("about:blank")
    browser.wait("!document.getElementById('frame')")
    again = Person(browser, page.url)
    assert again.sees() == seen
    assert browser.value("document.getElementById('place').textContent") == f"2 / {FRAMES}"
    browser.press("escape")
    browser.wait("document.getElementById('note').textContent.startsWith('Saved')")
    assert [s.erode for s in page.live.session.every()] == [1] * FRAMES
    assert page.left.wait(60)
