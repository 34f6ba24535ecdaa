"""More attack files: workspaces, facesets, lists, ledgers, settings and prompts of strangers."""

from __future__ import annotations

import io
import json
import os
import sqlite3
import struct
from contextlib import closing
from pathlib import Path

import numpy as np
from PIL import Image

from tests.hostile.attacks import Words, attack, bomb, film, header, png, prompt, workspace


def aligned(folder: Path, side: str = "src") -> Path:
    place = folder / "w" / f"data_{side}" / "aligned"
    place.mkdir(parents=True)
    return place


def face(**changes) -> bytes:
    """A face cut out, whose record says something odd."""
    from dataclasses import replace

    from accel.faces.faceset import with_face
    from tests.fuzz.targets import _record

    file = io.BytesIO()
    Image.new("RGB", (64, 64), (90, 80, 70)).save(file, "JPEG")
    return with_face(file.getvalue(), replace(_record(), **changes))


FACES = {
    "from_elsewhere": {"source_filename": "../../../../canary.png"},
    "of_odd_names": {"source_filename": "\x1b[2J\u202e\nERROR.png"},
    "of_no_numbers": {"landmarks": np.full((68, 2), np.nan)},
    "of_endless_numbers": {"landmarks": np.full((68, 2), 1e308)},
    "of_far_places": {"source_landmarks": np.full((68, 2), 1e300)},
    "of_a_far_box": {"source_rect": (-(10**9), 0, 10**9, 9)},
    "of_no_matrix": {"matrix": np.zeros((2, 3))},
    "of_brows": {"eyebrows_expand_mod": float("inf")},
    "with_a_mask_bomb": {
        "xseg_mask": png(header(30000, 30000, 8, 0), (b"IDAT", bomb(1 << 29)), (b"IEND", b""))
    },
    "with_a_mask_that_is_none": {"xseg_mask": b"evil"},
}  # fmt: skip

for _name, _changes in FACES.items():
    for _step in (("sort", "--by", "blur"), ("pack",)):

        def _build(folder: Path, url: str, changes=_changes, step=_step) -> Words:
            place = aligned(folder)
            try:
                data = face(**changes)
            except ValueError:  # our own writer refuses it, so it is put in by hand
                data = face()
            for index in range(3):
                (place / f"0000{index}.jpg").write_bytes(data)
            return ["dfl", step[0], "w", "--side", "src", *step[1:]]

        _build.__name__ = f"face_{_name}_{_step[0]}"
        attack(statuses=(0, 2))(_build)


@attack(statuses=(2,))
def faces_that_are_pipes(folder: Path, url: str) -> Words:
    os.mkfifo(aligned(folder) / "00001.jpg")
    return ["dfl", "sort", "w", "--side", "src", "--by", "blur"]


@attack(statuses=(2,))
def faceset_that_is_a_pipe(folder: Path, url: str) -> Words:
    os.mkfifo(aligned(folder) / "faceset.pak")
    return ["dfl", "unpack", "w", "--side", "src"]


@attack(statuses=(0, 2))
def faces_that_are_links(folder: Path, url: str) -> Words:
    place = aligned(folder)
    (place / "00001.jpg").symlink_to("/etc/passwd")
    (place / "00002.jpg").symlink_to("/dev/zero")
    return ["dfl", "pack", "w", "--side", "src"]


@attack(statuses=(0, 2))
def list_of_what_others_made(folder: Path, url: str) -> Words:
    """Clearing removes what this engine made, by a list in the folder."""
    place = aligned(folder)
    (folder / "theirs").write_text("kept")
    names = ["../../../theirs", str(folder / "theirs"), "..", ".", "", "\0", "x" * 5000]
    (place / ".accel-made").write_bytes("\n".join(names).encode() + b"\n\xff\xfe\n")
    (place.parent / ".accel-made").write_bytes("\n".join(names).encode())
    return ["dfl", "clear", "w", "--yes"]


@attack(statuses=(0, 2))
def folder_that_is_a_link(folder: Path, url: str) -> Words:
    theirs = folder / "theirs"
    theirs.mkdir()
    (theirs / "00001.jpg").write_bytes(face())
    (theirs / ".accel-made").write_text("00001.jpg\n")
    (folder / "w" / "data_src").mkdir(parents=True)
    (folder / "w" / "data_src" / "aligned").symlink_to(theirs)
    return ["dfl", "clear", "w", "--yes"]


INDEX = {"version": 1, "video": "data_dst.mp4", "time_base": "1/25", "fps": 25, "suffix": ".png",
         "complete": True, "pts": {"00001": 0}}  # fmt: skip

for _name, _text in {
    "nested": "[" * 100_000,
    "of_endless_time": json.dumps(INDEX | {"time_base": "1e999999999"}),
    "of_no_time": json.dumps(INDEX | {"time_base": "1/0"}),
    "of_infinite_stamps": json.dumps(INDEX | {"pts": {"00001": float("inf")}}),
    "of_huge_stamps": json.dumps(INDEX | {"pts": {"00001": 0, "00002": 10**300}}),
    "of_names_elsewhere": json.dumps(INDEX | {"pts": {"../../../etc/passwd": 0}}),
    "of_a_film_elsewhere": json.dumps(INDEX | {"video": "../../../../etc/passwd"}),
    "of_odd_suffix": json.dumps(INDEX | {"suffix": "/../../x"}),
    "of_a_list": "[]",
    "of_odd_rate": json.dumps(INDEX | {"fps": "x" * 100_000}),
}.items():

    def _build(folder: Path, url: str, text=_text) -> Words:
        place = folder / "w" / "data_dst"
        place.mkdir(parents=True)
        (place / "merged").mkdir()
        Image.new("RGB", (64, 64)).save(place / "00001.png")
        Image.new("RGB", (64, 64)).save(place / "merged" / "00001.png")
        (place / "frames.json").write_text(text)
        film(folder / "w", "data_dst.mp4")
        return ["dfl", "encode", "w"]

    _build.__name__ = f"frames_{_name}"
    attack(statuses=(0, 2))(_build)


for _name, _text in {
    "nested": "[" * 100_000,
    "of_numbers": json.dumps({"version": 1, "default": {"erode": 1e400, "mode": []}}),
    "of_frames": json.dumps({"version": 1, "frames": {"../x": {"mode": "evil"}}}),
    "of_seed": json.dumps({"version": 1, "seed": 2**80}),
    "of_keys": json.dumps({"__class__": "x", "version": 1}),
}.items():

    def _build(folder: Path, url: str, text=_text) -> Words:
        (folder / "w" / "data_dst").mkdir(parents=True)
        Image.new("RGB", (64, 64)).save(folder / "w" / "data_dst" / "00001.png")
        (folder / "merge.json").write_text(text)
        return ["dfl", "merge", "w", "--config", "merge.json"]

    _build.__name__ = f"merge_settings_{_name}"
    attack(statuses=(2,))(_build)


@attack(statuses=(2,))
def reports_nested(folder: Path, url: str) -> Words:
    (folder / "a.json").write_text("[" * 100_000)
    return ["bench", "--compare", "a.json", "a.json"]


@attack(statuses=(2,))
def reports_of_odd_rows(folder: Path, url: str) -> Words:
    row = {"group": "x\x1b[2J", "name": "y", "case": "z", "device": "cpu", "threads": 1,
           "rate": 1e400, "seconds": -1}  # fmt: skip
    (folder / "a.json").write_text(json.dumps({"schema": "accel-bench/2", "rows": [row] * 3}))
    return ["bench", "--compare", "a.json", "a.json"]


@attack(statuses=(2,))
def reports_that_are_pipes(folder: Path, url: str) -> Words:
    os.mkfifo(folder / "a.json")
    return ["bench", "--gate", "a.json", "a.json"]


# --- ledgers --------------------------------------------------------------------------------------


TEXTS = "'' time, '' task, '' sha256, '' mark, '' consent, '' looks, '' credential"
TEXTS += ", '' previous, '' hash"


def ledger(folder: Path, name: str = "a.sqlite", what: str = "verify") -> Words:
    return ["ledger", what, "--file", name]


@attack(statuses=(1, 2))
def ledger_that_is_a_device(folder: Path, url: str) -> Words:
    return ledger(folder, "/dev/zero")


@attack(statuses=(1, 2))
def ledger_that_is_a_pipe(folder: Path, url: str) -> Words:
    os.mkfifo(folder / "a.sqlite")
    return ledger(folder)


@attack(statuses=(1, 2))
def ledger_that_is_a_folder(folder: Path, url: str) -> Words:
    (folder / "a.sqlite").mkdir()
    return ledger(folder, what="list")


@attack(statuses=(1, 2))
def ledger_of_nonsense(folder: Path, url: str) -> Words:
    (folder / "a.sqlite").write_bytes(b"SQLite format 3\0" + os.urandom(5000))
    return ledger(folder, what="export")


@attack(statuses=(0, 1, 2))
def ledger_that_counts_for_ever(folder: Path, url: str) -> Words:
    """A view in place of the table, whose rows never end."""
    with closing(sqlite3.connect(folder / "a.sqlite")) as base:
        base.execute(
            "create view entries as with recursive c(number) as (select 1 union all select"
            f" number + 1 from c) select number, {TEXTS} from c"
        )
        base.commit()
    return ledger(folder, what="list")


@attack(statuses=(0, 1, 2))
def ledger_of_terminal_words(folder: Path, url: str) -> Words:
    from accel.provenance.ledger import Ledger

    Ledger(folder / "a.sqlite").add(task="swap", sha256="0" * 64)
    with closing(sqlite3.connect(folder / "a.sqlite")) as base:
        table = base.execute("select name from sqlite_master where type = 'table'").fetchone()[0]
        base.execute(f"update {table} set task = char(27) || '[2J' || char(10) || 'ERROR'")
        base.commit()
    return ledger(folder, what="list")


# --- prompts and settings in pictures -------------------------------------------------------------

for _name, _prompt in {
    "of_many_ands": "a AND " * 5000 + "b",
    "of_many_breaks": "a BREAK " * 5000,
    "of_many_changes": "[a:b:0.5]" * 9000,
    "of_deep_changes": "[" * 40_000 + "a" + ":0.5]" * 40_000,
    "of_open_brackets": "((a" * 25_000,
    "of_closed_brackets": "(a" * 20_000 + ")" * 20_000,
}.items():

    def _build(folder: Path, url: str, words=_prompt) -> Words:
        return prompt(words)

    _build.__name__ = f"prompt_{_name}"
    attack(statuses=(0, 2))(_build)


@attack(statuses=(2,))
def pak_of_a_lying_table(folder: Path, url: str) -> Words:
    words = workspace(folder, [{"filename": "a.jpg", "person_name": None}] * 3, [b"x"] * 3)
    path = folder / "w" / "data_src" / "aligned" / "faceset.pak"
    data = bytearray(path.read_bytes())
    data[-3 - 32 :] = struct.pack("<QQQQ", 0, 2**63, 1, 2**64 - 1) + b"xxx"
    path.write_bytes(data)
    return words
