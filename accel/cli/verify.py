"""`accel verify`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accel.cli.shared import check_target, command, deliver
from accel.core import one_line, write_text

if TYPE_CHECKING:
    from accel.pipelines.verify import Report

STATUSES = """exit status of one file:
  0  a signed statement is there and intact
  1  a signed statement is broken, has run out, or is contradicted by what else was found
  2  indications only: a mark, unsigned words, this machine's list
  3  nothing was found, which is no sign that AI was not used
  4  it could not be read
of several files: 1 if it is any file's, else the highest. 2 also for a wrong option, of which
standard error tells before anything is looked at: nothing is on standard output then"""


def add(commands: Any) -> None:
    parser = command(
        commands,
        "verify",
        "say where files come from: what is proven, indicated, declared or unknown",
        "  accel verify clip.mp4\n"
        "  accel verify photo.jpg --explain --language ko\n"
        "  accel verify downloads/ --report page.html --json -\n\n" + STATUSES,
    )
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE", help="file or folder")
    parser.add_argument("--explain", action="store_true", help="say what the words mean")
    parser.add_argument("--report", type=Path, metavar="HTML", help="write a page, history drawn")
    parser.add_argument("--language", choices=("en", "ko"), help="default: the locale's")
    parser.add_argument(
        "--trust",
        type=Path,
        action="append",
        default=[],
        metavar="PEM",
        help="certificates of a root to trust, beside this installation's own",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from accel.pipelines import verify

    language = args.language or verify.local_language()
    if args.report:
        check_target(args.report)
    anchors = verify.own_anchors() + [verify.anchor(path) for path in args.trust]
    quiet = args.json == "-"
    reports: list[Report] = []
    for report in verify.verify_files(args.files, anchors=anchors):
        if not quiet:  # as they come: a folder may take long
            print(("\n" if reports else "") + report.text(language), flush=True)
        reports.append(report)
    if args.explain and not quiet:
        print(f"\n{verify.explanation(language)}")
    if args.report:
        from accel.pipelines.report_page import page

        write_text(args.report, page(reports, language))
    status = verify.status_of(reports)
    if args.json:
        told = {"status": status, "files": [report.json() for report in reports]}
        deliver(told, args.json, f"\nwritten to {one_line(args.json)}")
    return status
