"""Attack files end in one clear line: nothing is run, fetched, or written outside."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from accel.core import InputError
from accel.video.boxes import check_film
from tests.hostile import attacks
from tests.hostile.attacks import film
from tests.hostile.every import ATTACKS
from tests.hostile.judge import ROOT, faults, left_outside

LONGEST_S = 7000  # by the clock, for all of a battery
SIDE_BY_SIDE = 2  # batteries at a time
# In the fast part of the tests: one of each class, none that swaps a film.
QUICK = (
    "playlist_mp4", "concat_script", "http_url", "concat_protocol", "many_edits", "thousand_tracks",
    "two_thousand_million_samples", "png_of_16k", "png_text_bomb", "gif_of_64k", "jpeg_of_64k",
    "film_of_64k", "pipe_as_film", "device_as_film", "verify_of_a_pipe", "link_to_itself",
    "name_that_writes_to_the_terminal", "checkpoint_that_runs", "checkpoint_bomb",
    "checkpoint_that_leaves_its_folder", "checkpoint_of_many_members", "tensors_nested",
    "tensors_with_an_endless_header", "tensors_of_empty_lists", "faceset_that_runs",
    "faceset_that_leaves_its_folder", "face_that_runs", "prompt_of_alternatives",
    "checkpoint_of_magic", "checkpoint_through_state", "tensors_of_nothing_times_all",
    "trained_note_nested", "film_data_address", "words_without_end", "tiff_of_many_samples",
    "credential_of_nested_boxes", "ledger_that_is_a_pipe", "ledger_that_counts_for_ever",
)  # fmt: skip
REST = tuple(
    name
    for name, attack in ATTACKS.items()
    if name not in QUICK and attack.build.__module__ == attacks.__name__
)
MANY = tuple(name for name in ATTACKS if name not in (*QUICK, *REST))


class Battery:
    """Runs a set of attacks once and keeps what each did."""

    def __init__(self, folder: Path, names: tuple[str, ...], *, is_confined: bool = False):
        self.folder = folder
        with socket.create_server(("127.0.0.1", 0)) as server:
            url = f"http://127.0.0.1:{server.getsockname()[1]}"
            paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
            shares = [names[i::SIDE_BY_SIDE] for i in range(SIDE_BY_SIDE)]
            team = [
                subprocess.Popen(
                    [sys.executable, "-m", "tests.hostile.battery", str(folder), url, *share],
                    env=os.environ
                    | {"PYTHONPATH": os.pathsep.join(paths), "CONFINED": str(int(is_confined))},
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                )
                for share in shares
            ]
            with ThreadPoolExecutor(SIDE_BY_SIDE) as readers:
                told = list(readers.map(lambda one: one.communicate(timeout=LONGEST_S), team))
            server.settimeout(0.1)
            try:
                server.accept()[0].close()
                self.asked = True
            except TimeoutError:
                self.asked = False
        for one, (_, errors) in zip(team, told):
            assert one.returncode == 0, errors
        reports = [json.loads(line) for out, _ in told for line in out.splitlines()]
        self.reports = {report["name"]: report for report in reports}
        assert set(self.reports) == set(names)


@pytest.fixture(scope="module")
def quick(tmp_path_factory) -> Battery:
    return Battery(tmp_path_factory.mktemp("quick"), QUICK)


@pytest.fixture(scope="module")
def rest(tmp_path_factory) -> Battery:
    return Battery(tmp_path_factory.mktemp("rest"), REST)


@pytest.fixture(scope="module")
def many(tmp_path_factory) -> Battery:
    return Battery(tmp_path_factory.mktemp("many"), MANY)


@pytest.fixture(scope="module")
def confined(tmp_path_factory) -> Battery:
    return Battery(tmp_path_factory.mktemp("confined"), tuple(ATTACKS), is_confined=True)


def check(battery: Battery, name: str) -> None:
    assert not faults(ATTACKS[name], battery.reports[name]), battery.reports[name]


def check_surroundings(battery: Battery, names: set[str]) -> None:
    assert left_outside(battery.folder, names) == []
    assert not battery.asked, "a file made the engine ask for a URL"


@pytest.mark.timeout(1600)
@pytest.mark.parametrize("name", QUICK)
def test_attack_gets_nowhere(quick, name):
    check(quick, name)


def test_quick_attacks_leave_nothing_outside(quick):
    check_surroundings(quick, {*QUICK})


@pytest.mark.slow
@pytest.mark.timeout(1600)
@pytest.mark.parametrize("name", REST)
def test_other_attack_gets_nowhere(rest, name):
    check(rest, name)


@pytest.mark.exhaustive
@pytest.mark.timeout(3200)
@pytest.mark.parametrize("name", MANY)
def test_one_of_many_attacks_gets_nowhere(many, name):
    check(many, name)


@pytest.mark.exhaustive
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("name", ATTACKS)
def test_attack_on_a_confined_command_gets_nowhere(confined, name):
    check(confined, name)


@pytest.mark.exhaustive
def test_attacks_on_confined_commands_leave_nothing_outside(confined):
    check_surroundings(confined, {*ATTACKS})


@pytest.mark.slow
def test_other_attacks_leave_nothing_outside(rest):
    check_surroundings(rest, {*REST})


@pytest.mark.exhaustive
def test_many_attacks_leave_nothing_outside(many):
    check_surroundings(many, {*MANY})


@pytest.mark.slow
def test_a_whole_command_in_its_own_process(tmp_path):
    """As a user would: nothing but the line on stderr."""
    path = film(tmp_path)
    path.write_bytes(path.read_bytes()[:700])
    ran = subprocess.run(
        [sys.executable, "-m", "accel", "verify", "--untrusted", "a.mp4"],
        cwd=tmp_path, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert ran.returncode in (3, 4), ran
    assert "Traceback" not in ran.stdout + ran.stderr


def test_honest_films_pass_the_count_of_boxes(tmp_path):
    for name in ("a.mp4", "a.mov"):
        check_film(film(tmp_path, name))
    (tmp_path / "odd.mp4").write_bytes(b"\0\0\0\0free" + b"\0\0\0\x01mdat" + bytes(8))
    check_film(tmp_path / "odd.mp4")


def test_boxes_without_end_are_refused(tmp_path):
    path = tmp_path / "a.mp4"
    path.write_bytes(b"\0\0\0\x08free" * 600_000)
    with pytest.raises(InputError, match="boxes, has more"):
        check_film(path)
