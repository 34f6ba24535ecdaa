"""Attack files that are ledgers, whose tables look elsewhere or compute what they hold.

Source: SQLite's documentation of virtual tables, FTS5's contents elsewhere, generated columns.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

from tests.hostile.attacks import Words, attack

COLUMNS = ("number", "time", "task", "sha256", "mark", "consent", "looks", "credential",
           "previous", "hash")  # fmt: skip
COUNTING = "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c{})"
ROW = ", ".join("n AS number" if name == "number" else f"'' AS {name}" for name in COLUMNS)
NO_END = f"CREATE VIEW v AS {COUNTING.format('')} SELECT n AS id, {ROW} FROM c"


def ledger(folder: Path, *commands: str) -> None:
    base = sqlite3.connect(folder / "a.sqlite")
    base.execute("PRAGMA journal_mode = OFF")
    for one in commands:
        base.execute(one)
    base.commit()
    base.close()


def computed(expression: str) -> tuple[str, str]:
    """A table of one row, of which one column is worked out as it is read."""
    plain = [name for name in COLUMNS if name != "mark"]
    table = ", ".join([*plain, f"mark TEXT GENERATED ALWAYS AS ({expression})"])
    values = ", ".join(["1", *["''"] * 8])
    return (f"CREATE TABLE entries ({table})",
            f"INSERT INTO entries ({', '.join(plain)}) VALUES ({values})")  # fmt: skip


LEDGERS = {
    "of_words_that_a_view_makes": (
        NO_END,
        f"CREATE VIRTUAL TABLE entries USING fts5({', '.join(COLUMNS)}, content='v',"
        " content_rowid='id')",
    ),
    "of_old_words_that_a_view_makes": (
        NO_END.replace("AS id", "AS docid"),
        f"CREATE VIRTUAL TABLE entries USING fts4({', '.join(COLUMNS)}, content='v')",
    ),
    "of_places": ("CREATE VIRTUAL TABLE entries USING rtree(number, a, b)",),
    "that_computes_a_gigabyte": computed("hex(zeroblob(400000000))"),
    "that_compares_for_long": computed(f"hex(zeroblob(20000)) LIKE '{'%0%00' * 2000}1'"),
    "of_a_thousand_columns": (
        f"CREATE TABLE entries ({', '.join([*COLUMNS, *(f'c{i}' for i in range(1900))])})",
        f"INSERT INTO entries ({', '.join(COLUMNS)}) {COUNTING.format(' WHERE n < 20000')}"
        f" SELECT {ROW} FROM c",
    ),
}
for _name, _commands in LEDGERS.items():
    for _word in ("list", "verify", "export"):

        def _build(folder: Path, url: str, word=_word, commands=_commands) -> Words:
            ledger(folder, *commands)
            return ["ledger", word, "--file", "a.sqlite"]

        _build.__name__ = f"ledger_{_name}_{_word}"
        attack("no table of entries")(_build)
