"""A folder of films is swapped film by film, whatever becomes of one of them."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

import accel
from accel.cli import main
from accel.core import Cancel, Cancelled, ConfigError, InputError
from accel.pipelines.demo import PORTRAIT
from accel.pipelines.provenance import ProvenanceConfig
from accel.pipelines.swap import EncodeConfig, SwapConfig, swap_video
from accel.pipelines.swap_films import names, swap_films
from accel.weights.assets import asset
from tests.pipelines.clips import decode, write_clip

BARE = ProvenanceConfig(watermark="off", label="off", credentials=False, ledger=False)
CONFIG = SwapConfig(
    sources=(asset(PORTRAIT),), encode=EncodeConfig(preset="veryfast"), provenance=BARE
)
WORDS = ["--source", str(asset(PORTRAIT)), "--watermark", "off", "--label", "off"]
WORDS += ["--credentials", "off", "--ledger", "off"]


@pytest.fixture
def films(tmp_path):
    folder = tmp_path / "films"
    folder.mkdir()
    write_clip(folder / "b.mp4", 5)
    write_clip(folder / "a.mkv", 7, width=400, height=300)
    write_clip(folder / "c.mov", 4)
    return folder


def pixels(path):
    return [planes[0] for _, planes in decode(path)]


def same(a, b):
    return len(a) == len(b) and all((x == y).all() for x, y in zip(a, b))


@pytest.mark.parametrize("jobs", [1, 3])
def test_films_are_those_that_runs_of_their_own_make(films, tmp_path, jobs):
    """Neither what came before nor what runs beside a film is to be seen in it."""
    out = tmp_path / "out"
    for name in ("b.mp4", "c.mov"):  # x264 gives other bytes now and then for the same frames
        (films / name).rename(films / f"{name}.mkv")
    config = replace(CONFIG, encode=EncodeConfig(codec="ffv1"))
    report = swap_films(films, out, config, jobs=jobs)
    assert [one["frames"] for one in report["films"]] == [7, 5, 4]
    assert report["frames"] == 16
    assert not report["failed"]
    assert sorted(path.name for path in out.iterdir()) == ["a.mkv", "b.mp4.mkv", "c.mov.mkv"]
    for film in films.iterdir():
        alone = tmp_path / f"alone_{film.name}"
        swap_video(film, alone, config)
        assert same(pixels(out / film.name), pixels(alone))
        assert not same(pixels(alone), pixels(film))


def test_a_second_run_makes_only_what_is_missing(films, tmp_path):
    out = tmp_path / "out"
    accel.swap_films(films, out, CONFIG)
    kept = (out / "b.mp4").stat().st_mtime_ns
    (out / "c.mov").unlink()
    report = accel.swap_films(films, out, CONFIG)
    assert [one["output"] for one in report["films"]] == [str(out / "c.mov")]
    assert report["there_already"] == [str(out / "a.mkv"), str(out / "b.mp4")]
    assert (out / "b.mp4").stat().st_mtime_ns == kept
    again = accel.swap_films(
        films, out, sources=CONFIG.sources, provenance=BARE, encode=CONFIG.encode, overwrite=True
    )
    assert len(again["films"]) == 3
    assert (out / "b.mp4").stat().st_mtime_ns != kept


def test_a_film_that_cannot_be_read_does_not_stop_the_others(films, tmp_path, capsys):
    whole = (films / "b.mp4").read_bytes()
    (films / "b.mp4").write_bytes(whole[:200])
    status = main(["swap", str(films), str(tmp_path / "out"), *WORDS, "--json", "-"])
    told = capsys.readouterr()
    assert status == 2
    assert told.err.count("\n") == 1
    assert "b.mp4" in told.err
    report = json.loads(told.out)
    assert [one["input"] for one in report["failed"]] == [str(films / "b.mp4")]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.mkv", "c.mov"]
    (films / "b.mp4").write_bytes(whole)
    assert main(["swap", str(films), str(tmp_path / "out"), *WORDS]) == 0
    told = capsys.readouterr()
    assert "2 were there already" in told.out
    assert not told.err


class _Never:
    def check(self, frames):
        from accel.core import Refused

        raise Refused("frame 0: not this one")


def test_a_refused_film_is_told_and_leaves_nothing(films, tmp_path):
    report = swap_films(films, tmp_path / "out", CONFIG, gates=_Never)
    assert [one["kind"] for one in report["failed"]] == ["refused"] * 3
    assert not list((tmp_path / "out").iterdir())


def test_cancelled_it_keeps_what_is_whole_and_says_how_to_go_on(films, tmp_path):
    cancel = Cancel()
    seen = []

    def tell(event):
        seen.append(event)
        if event.stage.startswith("1 of 3"):
            cancel.set()

    with pytest.raises(Cancelled, match="1 of 3 films are done, the same command goes on"):
        swap_films(films, tmp_path / "out", CONFIG, jobs=1, progress=tell, cancel=cancel)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.mkv"]
    assert [event.done for event in seen] == sorted(event.done for event in seen)
    assert all(event.done <= event.total for event in seen)


def test_what_is_wrong_with_all_of_them_is_told_before_any_is_begun(films, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(ConfigError, match="another folder"):
        swap_films(films, films, CONFIG)
    with pytest.raises(ConfigError, match="preview"):
        swap_films(films, out, sources=CONFIG.sources, preview=tmp_path / "sheet.png")
    with pytest.raises(InputError, match="nobody"):
        swap_films(films, out, sources=[tmp_path / "nobody.png"])
    with pytest.raises(InputError, match="must be a folder"):
        swap_films(films / "b.mp4", out, CONFIG)
    (films / "still.png").write_bytes(asset(PORTRAIT).read_bytes())
    with pytest.raises(ConfigError, match="3 and 1 of them"):
        swap_films(films, out, CONFIG)
    assert not out.exists()


def test_names_tell_two_films_apart(tmp_path):
    films = [tmp_path / name for name in ("a.wmv", "a.mp4", "a.flv")]
    assert list(names(films).values()) == ["a.wmv.mp4", "a.mp4", "a.flv.mp4"]


def test_jobs_are_for_folders_of_films(films, tmp_path, capsys):
    status = main(["swap", str(films / "b.mp4"), str(tmp_path / "o.mp4"), *WORDS, "--jobs", "2"])
    assert status == 2
    assert "--jobs is for a folder of films" in capsys.readouterr().err
    assert main(["swap", str(films), str(tmp_path / "out"), *WORDS, "--jobs", "0"]) == 2
    assert "jobs must be at least 1" in capsys.readouterr().err
