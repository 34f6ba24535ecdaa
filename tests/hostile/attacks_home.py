"""Attacks by what lies in the user's own folder: keys, certificates, the ledger, the folder itself.

Others may write there on a machine that is set up badly, and a backup may come back damaged.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, rsa

from accel.provenance import keys
from accel.provenance.ledger import Ledger
from tests.hostile.attacks import Words, attack

GENERATE = ["generate", "a cat", "-o", "out.png", "--steps", "1"]


def home(folder: Path) -> Path:
    """A home as the engine makes it, with a ledger of one entry."""
    place = folder / "home"
    keys.local_identity(place)
    Ledger(place / "ledger.sqlite").add(task="generate", sha256="0" * 64)
    return place


def pem(key: object, password: bytes | None = None) -> bytes:
    locked = serialization.BestAvailableEncryption(password) if password else None
    return key.private_bytes(  # type: ignore[attr-defined]
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
        locked or serialization.NoEncryption(),
    )  # fmt: skip


def ends_soon(place: Path) -> None:
    """Put a leaf there that has to be renewed, for which the root's key is needed."""
    root = keys.certificates_of(place / "identity" / "root.pem")[0]
    root_key = keys._private_key(place / "identity" / "root.key")
    key = ec.generate_private_key(ec.SECP256R1())
    leaf = keys._issue(keys._subject("a leaf"), key.public_key(), root.subject, root_key, days=5)
    (place / "identity" / "leaf.pem").write_bytes(pem(key) + keys.pem_of([leaf]).encode())


def file_of(name: str, content: Callable[[], bytes]) -> Callable[[Path], None]:
    return lambda place: (place / "identity" / name).write_bytes(content()) and None


def replaced(name: str, make: Callable[[Path], object]) -> Callable[[Path], None]:
    def build(place: Path) -> None:
        path = place / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        make(path)

    return build


def other_root(make: Callable[[], object]) -> Callable[[Path], None]:
    """The root's key is another, as the leaf has to be renewed."""

    def build(place: Path) -> None:
        ends_soon(place)
        (place / "identity" / "root.key").write_bytes(pem(make()))

    return build


def odd_leaf(
    place: Path, change: Callable[[x509.CertificateBuilder], x509.CertificateBuilder]
) -> None:
    root_key = keys._private_key(place / "identity" / "root.key")
    root = keys.certificates_of(place / "identity" / "root.pem")[0]
    key = ec.generate_private_key(ec.SECP256R1())
    now = keys._now()
    builder = (
        x509.CertificateBuilder().subject_name(keys._subject("odd")).issuer_name(root.subject)
        .public_key(key.public_key()).serial_number(1)
        .not_valid_before(now.replace(year=2020)).not_valid_after(now.replace(year=2040))
    )  # fmt: skip
    leaf = change(builder).sign(root_key, hashes.SHA256())
    (place / "identity" / "leaf.pem").write_bytes(pem(key) + keys.pem_of([leaf]).encode())


def ledger_of(*commands: str) -> Callable[[Path], None]:
    def build(place: Path) -> None:
        with sqlite3.connect(place / "ledger.sqlite") as base:
            for one in commands:
                base.execute(one)

    return build


def many_certificates(place: Path) -> None:
    """A megabyte of them."""
    one = (place / "identity" / "root.pem").read_bytes()
    (place / "identity" / "root.pem").write_bytes(one * ((1 << 20) // len(one)))


def long_subject(place: Path) -> None:
    odd_leaf(
        place,
        lambda b: b.add_extension(
            x509.SubjectAlternativeName([x509.DNSName("\x1b[31m" * 100)]), critical=True
        ),
    )  # fmt: skip


def sparse(path: Path) -> None:
    path.touch()
    os.truncate(path, 900 << 20)


HOMES: dict[str, Callable[[Path], object]] = {
    "that_is_a_file": lambda place: (shutil.rmtree(place), place.write_bytes(b"")),
    "that_is_a_pipe": lambda place: (shutil.rmtree(place), os.mkfifo(place)),
    "that_is_a_device": lambda place: (shutil.rmtree(place), place.symlink_to("/dev/null")),
    "that_leads_nowhere": lambda place: (shutil.rmtree(place), place.symlink_to("nowhere/at/all")),
    "that_leads_to_itself": lambda place: (shutil.rmtree(place), place.symlink_to("home")),
    "that_is_made_up": lambda place: (shutil.rmtree(place), place.symlink_to("/proc/self")),
    "of_an_identity_file": replaced("identity", lambda path: path.write_bytes(b"x")),
    "of_an_identity_pipe": replaced("identity", os.mkfifo),
    "of_an_empty_identity": replaced("identity", lambda path: path.mkdir()),
    "of_an_identity_nowhere": replaced("identity", lambda path: path.symlink_to("nowhere")),
    "of_an_identity_of_the_kernel": replaced("identity", lambda path: path.symlink_to("/proc/1")),
    "of_a_sparse_leaf": replaced("identity/leaf.pem", sparse),
    "of_a_leaf_that_is_a_pipe": replaced("identity/leaf.pem", os.mkfifo),
    "of_a_leaf_that_is_a_folder": replaced("identity/leaf.pem", lambda path: path.mkdir()),
    "of_a_leaf_nowhere": replaced("identity/leaf.pem", lambda path: path.symlink_to("nowhere")),
    "of_a_leaf_of_the_kernel": replaced(
        "identity/leaf.pem", lambda path: path.symlink_to("/proc/kmsg")
    ),
    "of_a_root_of_a_device": replaced("identity/root.pem", lambda p: p.symlink_to("/dev/zero")),
    "of_no_root": replaced("identity/root.pem", lambda path: None),
    "of_an_empty_leaf": file_of("leaf.pem", bytes),
    "of_a_leaf_of_nonsense": file_of("leaf.pem", lambda: os.urandom(5000)),
    "of_a_leaf_of_begins": file_of("leaf.pem", lambda: b"-----BEGIN CERTIFICATE-----\n" * 30_000),
    "of_a_leaf_of_empty_parts": file_of(
        "leaf.pem", lambda: b"-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n" * 18_000
    ),
    "of_a_locked_leaf": file_of(
        "leaf.pem", lambda: pem(ec.generate_private_key(ec.SECP256R1()), b"secret")
    ),
    "of_very_many_certificates": many_certificates,
    "of_a_leaf_for_nothing": lambda place: odd_leaf(place, lambda b: b),
    "of_a_leaf_of_odd_words": long_subject,
    "of_another_roots_key": other_root(lambda: ec.generate_private_key(ec.SECP256R1())),
    "of_a_root_of_rsa": other_root(lambda: rsa.generate_private_key(65537, 2048)),
    "of_a_root_of_ed25519": other_root(ed25519.Ed25519PrivateKey.generate),
    "of_a_root_of_ed448": other_root(ed448.Ed448PrivateKey.generate),
    "of_a_root_of_dsa": other_root(lambda: dsa.generate_private_key(1024)),
    "of_a_root_of_p521": other_root(lambda: ec.generate_private_key(ec.SECP521R1())),
    "of_a_ledger_at_its_end": ledger_of(f"UPDATE entries SET number = {2**63 - 1}"),
    "of_a_ledger_of_bytes": ledger_of("UPDATE entries SET hash = x'00ff'"),
    "of_a_ledger_of_numbers": ledger_of("UPDATE entries SET hash = 5"),
    "of_a_ledger_of_infinity": ledger_of("UPDATE entries SET hash = 9e999"),
    "of_a_ledger_of_half_characters": ledger_of("UPDATE entries SET hash = CAST(x'80' AS TEXT)"),
    "of_a_ledger_of_no_number": ledger_of("UPDATE entries SET number = -5"),
    "of_a_ledger_of_a_long_hash": ledger_of("UPDATE entries SET hash = hex(zeroblob(200000000))"),
    "of_a_ledger_with_other_columns": ledger_of("ALTER TABLE entries ADD COLUMN more TEXT"),
    "of_a_ledger_whose_trigger_counts": ledger_of(
        "CREATE TRIGGER t BEFORE INSERT ON entries BEGIN SELECT count(*) FROM (WITH RECURSIVE"
        " c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c) SELECT n FROM c); END"
    ),
    "of_a_ledger_whose_index_counts": ledger_of(
        "CREATE INDEX slow ON entries (hex(zeroblob(300000000)))"
    ),
}  # fmt: skip
WORDS = {
    "generate": GENERATE,
    "verify": ["verify", "portrait.png"],
    "list": ["ledger", "list"],
    "check": ["ledger", "verify"],
}
for _name, _make in HOMES.items():
    for _what, _words in WORDS.items():

        def _build(folder: Path, url: str, make=_make, words=_words) -> Words:
            make(home(folder))
            return words

        _build.__name__ = f"home_{_name}_{_what}"
        attack(statuses=(0, 1, 2, 3))(_build)
