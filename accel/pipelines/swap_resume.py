"""How a swap of a folder of pictures goes on after a run that was broken off."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import accel
from accel.core import Cancelled, ConfigError, InputError, Refused
from accel.pipelines.marked_output import AnyReader, MarkedOutput, Plan
from accel.pipelines.provenance import Marker, content_hash
from accel.pipelines.swap_config import SwapConfig
from accel.video.picture_journal import PictureJournal
from accel.video.save_stills import check_folder


def open_journal(
    output: Path, reader: AnyReader, config: SwapConfig, marks: MarkedOutput
) -> PictureJournal:
    """What an earlier run left of the folder `output`, and where this one's pictures go."""
    check_folder(output)
    settings = told_settings(config, marks.marker)
    journal = PictureJournal(output, Plan(reader), settings, overwrite=config.overwrite)
    marks.go_on(journal.done)
    return journal


def went_on(journal: PictureJournal) -> list[str]:
    """The note on what was taken over, if anything."""
    count = len(journal.done)
    return [f"went on after {count} pictures that an earlier run finished"] if count else []


@contextmanager
def going_on(journal: PictureJournal | None) -> Iterator[None]:
    """Say with an error what it leaves done; of what the content gate refuses nothing is left."""
    try:
        yield
    except Refused:
        if journal is not None:
            journal.discard()
        raise
    except (InputError, ConfigError, Cancelled, KeyboardInterrupt) as error:
        remark = "" if journal is None else journal.remark()
        if not remark:
            raise
        if isinstance(error, Cancelled | KeyboardInterrupt):
            raise Cancelled(remark) from error
        raise type(error)(f"{error}; {remark}") from error


def told_settings(config: SwapConfig, marker: Marker) -> dict[str, Any]:
    """All that pictures depend on but the input, as JSON values; files by their content."""
    marks = marker.config
    return {
        "engine": accel.__version__,
        "source": [content_hash(path) for path in config.sources],
        "swapper": _known(Path(config.swapper)) if config.swapper != "mesh" else "mesh",
        "recogniser": _known(config.recogniser),
        "converter": _known(config.converter),
        "kind": config.kind,
        "select": config.select,
        "reference": _known(config.reference),
        "max_distance": config.max_distance,
        "min_score": config.min_score,
        "watermark": marks.watermark,
        "label": marks.label,
        "language": marks.language,
        "credentials": marker.identity.fingerprint if marker.identity else "off",
        "ledger": marks.ledger,
        "consent": marks.consent,
    }


def _known(path: Path | None) -> str | None:
    return None if path is None else content_hash(path)
