"""The ledger: chained, found again, altered lines named, no pictures."""

from __future__ import annotations

import json
import os
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import cv2
import pytest

from accel.core import ConfigError, InputError
from accel.provenance.ledger import Ledger, ledger_path, look
from tests.provenance.film import gray, jpeg, planes_of, portrait

HASHES = [f"{n:064x}" for n in range(5)]


@pytest.fixture
def ledger(tmp_path) -> Ledger:
    made = Ledger(tmp_path / "folder" / "ledger.sqlite")
    for n, sha256 in enumerate(HASHES):
        made.add(task="generate", sha256=sha256, mark=f"{n:012x}", looks=(f"{n:016x}",))
    return made


def test_entries_come_back_in_order(ledger):
    assert [entry.sha256 for entry in ledger.entries()] == HASHES
    assert [entry.number for entry in ledger.entries(2)] == [4, 5]
    assert not ledger.faults()


def test_is_found_by_file_mark_and_look(ledger):
    assert ledger.with_file(HASHES[2])[0].number == 3
    assert ledger.with_mark("000000000004")[0].number == 5
    assert not ledger.with_mark("00000000000f")
    assert [e.number for e in ledger.looking_like(("0" * 16,), limit=1)] == [1, 2, 3, 5]


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ("UPDATE entries SET consent = 'own' WHERE number = 3", "entry 3 was altered"),
        ("DELETE FROM entries WHERE number = 2", "entry 2 is missing before entry 3"),
        ("UPDATE entries SET previous = hash WHERE number = 4", "entry 4 does not follow"),
        ("UPDATE entries SET looks = 'no digits' WHERE number = 2", "what follows entry 1 was"),
        ("UPDATE entries SET mark = X'00' WHERE number = 5", "what follows entry 4 was altered"),
    ],
)
def test_tampering_is_seen(ledger, change, fault):
    with sqlite3.connect(ledger.path) as base:
        base.execute(change)
    assert ledger.faults()[0].startswith(fault)


def test_a_line_rewritten_with_a_right_hash_breaks_the_chain(ledger):
    entry = ledger.entries()[1]
    forged = type(entry)(**{**vars(entry), "consent": "own"})
    with sqlite3.connect(ledger.path) as base:
        base.execute(
            "UPDATE entries SET consent = 'own', hash = ? WHERE number = 2",
            (forged.expected_hash(),),
        )
    assert ledger.faults() == ["entry 3 does not follow the one before it"]


def test_export_is_one_line_of_json_each(ledger):
    lines = [json.loads(line) for line in ledger.export().splitlines()]
    assert [line["number"] for line in lines] == [1, 2, 3, 4, 5]
    assert lines[1]["previous"] == lines[0]["hash"]


def test_many_writers_make_one_chain(tmp_path):
    path = tmp_path / "ledger.sqlite"
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda h: Ledger(path).add(task="edit", sha256=h), HASHES * 3))
    assert len(Ledger(path).entries()) == 15
    assert not Ledger(path).faults()


def test_reading_creates_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("ACCEL_HOME", str(tmp_path / "home"))
    assert Ledger().entries() == []
    assert not ledger_path().parent.exists()


@pytest.mark.parametrize("content", [b"no database at all" * 100, b""])
def test_a_file_that_is_no_ledger_is_named(tmp_path, content):
    path = tmp_path / "ledger.sqlite"
    path.write_bytes(content)
    with pytest.raises(InputError, match="the ledger cannot be used"):
        Ledger(path).entries()


def test_refuses_what_is_no_hash(tmp_path):
    with pytest.raises(ConfigError, match="64 digits"):
        Ledger(tmp_path / "ledger.sqlite").add(task="edit", sha256="abc")


def test_looks_survive_compression_and_tell_pictures_apart():
    picture = gray(portrait())
    small = jpeg(cv2.resize(picture, (300, 300), interpolation=cv2.INTER_AREA), 50)
    other = planes_of(360, 640, 40).c0.numpy()
    assert (int(look(picture), 16) ^ int(look(small), 16)).bit_count() <= 4
    assert (int(look(picture), 16) ^ int(look(other), 16)).bit_count() > 10


def test_is_made_for_its_owner_alone(ledger):
    assert ledger.path.stat().st_mode & 0o777 == 0o600


def test_one_that_cannot_be_written_is_said_before_any_work(tmp_path):
    (tmp_path / "ledger.sqlite").write_bytes(b"no data base" * 100)
    with pytest.raises(InputError, match="cannot be used: file is not a database"):
        Ledger(tmp_path / "ledger.sqlite").prepare()
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match="cannot be used: Is a directory"):
        Ledger(tmp_path / "folder").prepare()
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="must be a ledger, is a folder, pipe or device"):
        Ledger(tmp_path / "pipe").prepare()


def test_who_looks_does_not_wait_long_for_who_writes(ledger, monkeypatch):
    monkeypatch.setattr("accel.provenance.ledger._LOOK_S", 0.1)
    with closing(sqlite3.connect(ledger.path, isolation_level=None)) as base:
        base.execute("BEGIN EXCLUSIVE")
        with pytest.raises(InputError, match="locked"):
            ledger.entries()
    assert len(ledger.entries()) == 5


COLUMNS = ("number", "time", "task", "sha256", "mark", "consent", "looks", "credential",
           "previous", "hash")  # fmt: skip


@pytest.mark.parametrize(
    "commands",
    [
        (
            "CREATE VIEW v AS WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c LIMIT"
            f" 5) SELECT n AS id, {', '.join(f'n AS {name}' for name in COLUMNS)} FROM c",
            f"CREATE VIRTUAL TABLE entries USING fts5({', '.join(COLUMNS)}, content='v',"
            " content_rowid='id')",
        ),
        (
            f"CREATE TABLE entries ({', '.join(COLUMNS[1:])}, number AS (hex(zeroblob(9))))",
            "INSERT INTO entries VALUES ('', '', '', '', '', '', '', '', '')",
        ),
        (
            f"CREATE TABLE entries ({', '.join(COLUMNS)}, more)",
            "INSERT INTO entries VALUES (1, '', '', '', '', '', '', '', '', '', '')",
        ),
        (
            f"CREATE TABLE entries ({', '.join(COLUMNS)})",
            "INSERT INTO entries VALUES (1, hex(zeroblob(900000)), '', '', '', '', '', '', '', '')",
        ),
    ],
)
def test_a_table_that_computes_or_is_endless_is_no_ledger(tmp_path, commands):
    """A view behind a table of words hung; a column of 400 MB that was worked out took 3 GB."""
    base = sqlite3.connect(tmp_path / "a.sqlite")
    for one in commands:
        base.execute(one)
    base.commit()
    base.close()
    for look_into in (Ledger.entries, Ledger.faults):
        with pytest.raises(InputError, match="the ledger cannot be used"):
            look_into(Ledger(tmp_path / "a.sqlite"))
