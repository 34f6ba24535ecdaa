"""Ledgers that are very long, and rows, tables and folders that are not as the engine made them."""

from __future__ import annotations

import json
import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from accel.cli import main
from accel.core import ConfigError, InputError
from accel.provenance import ledger as module
from accel.provenance.keys import config_folder
from accel.provenance.ledger import Ledger, ledger_path

HASHES = [f"{n:064x}" for n in range(7)]
OLD_SCHEMA = """
CREATE TABLE IF NOT EXISTS entries (
  number INTEGER PRIMARY KEY, time TEXT NOT NULL, task TEXT NOT NULL, sha256 TEXT NOT NULL,
  mark TEXT, consent TEXT NOT NULL, looks TEXT NOT NULL, credential TEXT NOT NULL,
  previous TEXT NOT NULL, hash TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS by_sha256 ON entries (sha256);
CREATE INDEX IF NOT EXISTS by_mark ON entries (mark);
"""


@pytest.fixture
def ledger(tmp_path) -> Ledger:
    made = Ledger(tmp_path / "ledger.sqlite")
    for sha256 in HASHES:
        made.add(task="generate", sha256=sha256, looks=("0" * 16,))
    return made


def change(ledger: Ledger, *commands: str) -> None:
    with closing(sqlite3.connect(ledger.path)) as base, base:
        for one in commands:
            base.execute(one)


@pytest.mark.parametrize("page", [(1, 1 << 20), (2, 1 << 20), (7, 1 << 20), (100, 100)])
def test_pages_hide_no_entry(ledger, monkeypatch, page):
    monkeypatch.setattr(module, "_PAGE", page[0])
    monkeypatch.setattr(module, "_PAGE_BYTES", page[1])
    assert [entry.sha256 for entry in ledger.each()] == HASHES
    for last in (1, 3, 7, 8, 10**30):
        assert [entry.sha256 for entry in ledger.each(last)] == HASHES[-last:]
    assert ledger.check() == ([], 7, ledger.entries()[-1].hash)
    assert len(ledger.looking_like(("0" * 16,))) == 7


def test_who_pages_through_a_list_keeps_nobody_from_writing(ledger, monkeypatch):
    monkeypatch.setattr(module, "_PAGE", 2)
    monkeypatch.setattr(module, "_WAIT_S", 0.1)
    shown = ledger.each()
    next(shown)
    ledger.add(task="edit", sha256="f" * 64)
    assert [entry.task for entry in shown] == ["generate"] * 6 + ["edit"]


def test_entries_are_shown_as_they_are_read(ledger, monkeypatch, capsys):
    """A list of three million rows took more than a minute to say anything."""
    monkeypatch.setattr(module, "_PAGE", 2)
    change(ledger, "UPDATE entries SET looks = 'no digits' WHERE number = 6")
    assert main(["ledger", "list", "--file", str(ledger.path)]) == 2
    out, err = capsys.readouterr()
    assert out.count("\n") == 5
    assert "no entry" in err


def test_a_report_is_written_entry_by_entry(ledger, tmp_path, capsys):
    file = tmp_path / "all.json"
    assert main(["ledger", "list", "--file", str(ledger.path), "--json", str(file)]) == 0
    assert capsys.readouterr().out.count("\n") == 7
    assert main(["ledger", "list", "--file", str(ledger.path), "--json", "-"]) == 0
    told = json.loads(file.read_text())
    assert json.loads(capsys.readouterr().out) == told
    assert [one["sha256"] for one in told["entries"]] == HASHES
    change(ledger, "UPDATE entries SET consent = 'own' WHERE number = 2")
    assert main(["ledger", "verify", "--file", str(ledger.path), "--json", str(file)]) == 1
    assert json.loads(file.read_text())["faults"] == ["entry 2 was altered"]


ODD = ('a"b', "a\\b", "é한\U0001f600", "a\nb", "\x7f", "{}", "", "a, b")


@pytest.mark.parametrize(
    "looks", ["", " ab  cd ", "0x1f 1_0", "ab\tcd", "٣", "0123456789abcdef" * 2]
)
def test_a_chain_of_odd_words_holds(tmp_path, looks):
    """What is checked is the very form that was signed, however its letters are written."""
    made = Ledger(tmp_path / "odd.sqlite")
    for odd in ODD:
        entry = made.add(task=odd, sha256="0" * 64, mark=odd, consent=odd, credential=odd)
        told = vars(entry) | {"looks": tuple(looks.split())}
        (row,) = made._read("WHERE number = ?", (entry.number,))
        row = row._replace(looks=looks)
        assert module._expected_hash(row) == module.Entry(**told).expected_hash()
    assert made.check() == ([], len(ODD), made.entries()[-1].hash)


def test_a_look_is_found_in_pages_of_every_shape(tmp_path, monkeypatch):
    """Pages that cannot hold it are passed over at once; none that may."""
    monkeypatch.setattr(module, "_PAGE", 3)
    made = Ledger(tmp_path / "ledger.sqlite")
    wanted = "0123456789abcdef"
    near, far = "0123456789abcdff", "f" * 16
    for looks in [(), (far,), (far, near), (far,) * 8, ("12345",), ("0x" + near,), (near,)]:
        made.add(task="edit", sha256="0" * 64, looks=looks)
    found = made.looking_like(("0" * 16, wanted), 1)
    assert [entry.number for entry in found] == [3, 6, 7]


def test_faults_have_an_end(ledger, monkeypatch):
    monkeypatch.setattr(module, "MOST_FAULTS", 3)
    change(ledger, "UPDATE entries SET consent = 'own'")
    assert ledger.faults()[3:] == ["what follows entry 3 was not looked at"]


def test_many_entries_of_one_file_are_not_all_told(ledger, monkeypatch):
    monkeypatch.setattr(module, "MOST_FITTING", 2)
    change(ledger, "UPDATE entries SET sha256 = 'same', mark = 'same'")
    for found in (ledger.with_file("same"), ledger.with_mark("same"), ledger.looking_like(("0",))):
        assert [entry.number for entry in found] == [6, 7]


@pytest.mark.parametrize(
    "command",
    [
        f"UPDATE entries SET number = {2**63 - 1} WHERE number = 7",
        "UPDATE entries SET hash = X'00ff' WHERE number = 7",
        "DELETE FROM entries WHERE number < 7",
        "UPDATE entries SET hash = CAST(X'80' AS TEXT) WHERE number = 7",
        "UPDATE entries SET hash = hex(zeroblob(1000000)) WHERE number = 7",
    ],
)
def test_an_odd_last_row_is_an_error_of_one_line(ledger, command):
    """The largest number was an OverflowError, bytes for a hash a TypeError."""
    change(ledger, command)
    if command.startswith("DELETE"):  # which the chain tells, as it always does
        change(ledger, "UPDATE entries SET number = -3")
    with pytest.raises(InputError, match="the ledger cannot be used"):
        ledger.add(task="edit", sha256="f" * 64)


@pytest.mark.parametrize(
    "command",
    [
        "CREATE TRIGGER t BEFORE INSERT ON entries BEGIN SELECT count(*) FROM (WITH RECURSIVE"
        " c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c LIMIT 9) SELECT n FROM c); END",
        "CREATE INDEX slow ON entries (hex(zeroblob(9)))",
        "CREATE TABLE more (a)",
        "ALTER TABLE entries ADD COLUMN more TEXT",
    ],
)
def test_what_would_compute_as_a_row_is_added_is_refused(ledger, command):
    """A trigger hung, an index took gigabytes."""
    change(ledger, command)
    for use in (ledger.prepare, lambda: ledger.add(task="edit", sha256="f" * 64)):
        with pytest.raises(InputError, match="must hold what the engine made alone"):
            use()


@pytest.mark.parametrize("analysed", [False, True])
def test_ledgers_of_earlier_versions_go_on(tmp_path, analysed):
    with closing(sqlite3.connect(tmp_path / "a.sqlite")) as base:
        base.executescript(OLD_SCHEMA)
        base.execute("DROP INDEX by_mark")
        if analysed:
            base.execute("ANALYZE")
        base.commit()
    ledger = Ledger(tmp_path / "a.sqlite")
    assert ledger.add(task="edit", sha256="f" * 64).number == 1
    assert ledger.add(task="edit", sha256="e" * 64).number == 2
    assert not ledger.faults()


def test_a_user_without_a_folder_is_told(monkeypatch, capsys):
    """It was a RuntimeError."""

    def home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    for name in ("ACCEL_HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", home)
    for place in (ledger_path, config_folder):
        with pytest.raises(ConfigError, match="set ACCEL_HOME"):
            place()
    assert main(["ledger", "list"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    monkeypatch.setenv("ACCEL_HOME", os.curdir)
    assert ledger_path() == Path("ledger.sqlite")
