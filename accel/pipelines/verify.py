"""Verify files: their planes from the decoder, their origin from `accel.provenance.verify`."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from accel.provenance import keys
from accel.provenance.ledger import Ledger
from accel.provenance.verify import Report, examine
from accel.provenance.watermark import WEIGHTS, luma_of
from accel.video.read import DEFAULT_LIMITS, Limits, open_video


def verify_file(
    path: Path,
    *,
    anchors: Iterable[str] | None = None,
    ledger: Ledger | None = None,
    limits: Limits = DEFAULT_LIMITS,
) -> Report:
    """Say what can be said of a file's origin, offline.

    anchors: PEM certificates of the roots to trust; None trusts this installation's own alone.
    ledger: None uses this machine's.
    """
    trusted = own_anchors() if anchors is None else list(anchors)
    return examine(
        path, decoded(path, limits), anchors=trusted, ledger=Ledger() if ledger is None else ledger
    )


def verify_files(paths: Iterable[Path], **options: Any) -> Iterator[Report]:
    """Verify files, and every file below a folder; hidden files and `.c2pa` are passed over."""
    for path in paths:
        if not path.is_dir():
            yield verify_file(path, **options)
            continue
        for inside in sorted(path.rglob("*")):
            if inside.is_file() and not inside.name.startswith(".") and inside.suffix != ".c2pa":
                yield verify_file(inside, **options)


def own_anchors() -> list[str]:
    """The root of this installation, if it has signed yet; looking makes no key."""
    root = keys.config_folder() / "identity" / "root.pem"
    return [root.read_text()] if root.is_file() else []


def decoded(path: Path, limits: Limits = DEFAULT_LIMITS) -> Generator[tuple[NDArray[Any], float]]:
    """Luma planes in 8-bit codes, and how much each frame counts; InputError when undecodable."""
    with open_video(path, limits=limits) as reader:
        for frame in reader:
            weight = WEIGHTS.get(int(frame.picture.pict_type), 1.0)
            yield luma_of(frame.planes), weight
