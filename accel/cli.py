"""The command line: one `add_<command>` and one `run_<command>` per job."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from accel.core import Cancel, Cancelled, ConfigError, Progress, Refused

DONE, BAD_INPUT, REFUSED, INTERRUPTED = 0, 2, 3, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return the exit status (0 done, 2 bad input, 3 refused, 130 cancelled)."""
    args = _parser().parse_args(argv)
    try:
        return args.run(args) or DONE
    except ConfigError as error:
        return _complain(str(error), BAD_INPUT)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _complain(f"{where}{error.strerror or error}", BAD_INPUT)
    except Refused as error:
        return _complain(f"refused: {error}", REFUSED)
    except (Cancelled, KeyboardInterrupt):
        return _complain("cancelled; nothing was left behind", INTERRUPTED)


def _complain(text: str, status: int) -> int:
    print(f"accel: {' '.join(text.split())}", file=sys.stderr)
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="accel",
        description="Swap faces in video and sample images from generative models, fast.",
        epilog="`accel COMMAND --help` explains a command and gives examples.",
    )
    parser.add_argument("--version", action="store_true", help="print the version and stop")
    parser.set_defaults(run=lambda args: _run_bare(parser, args))
    commands = parser.add_subparsers(metavar="COMMAND")
    for add in (add_swap, add_doctor, add_demo):
        add(commands)
    return parser


def _run_bare(parser: argparse.ArgumentParser, args: argparse.Namespace) -> int:
    if args.version:
        import accel

        print(accel.__version__)
        return DONE
    parser.print_help()
    return BAD_INPUT


def _command(commands: Any, name: str, help: str, examples: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=help,
        description=help[0].upper() + help[1:] + ".",
        epilog=f"examples:\n{examples}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--json", metavar="FILE", help="write the report as JSON; - for standard output"
    )
    return parser


# --- swap -------------------------------------------------------------------------------------


def add_swap(commands: Any) -> None:
    parser = _command(
        commands,
        "swap",
        "put one face into a video, a picture or a folder of pictures",
        "  accel swap clip.mp4 swapped.mp4 --source face.png\n"
        "  accel swap clip.mp4 out.mp4 --source a.jpg --source b.jpg --preview sheet.png\n"
        "  accel swap party.mov out.mov --source face.png --select reference --reference her.png\n"
        "  accel swap clip.mkv out.mkv --source face.png --swapper inswapper_128.onnx"
        " --recogniser w600k_r50.onnx\n"
        "  accel swap photo.jpg swapped.jpg --source face.png --json -",
    )
    parser.add_argument("input", type=Path, help="video, gif, picture or folder of pictures")
    parser.add_argument("output", type=Path, help="file to write; a folder when the input is one")
    parser.add_argument(
        "--source",
        type=Path,
        required=True,
        action="append",
        help="picture with the face to put in; give several of the same person for a better match",
    )
    parser.add_argument(
        "--swapper", default="mesh", help="mesh (default, needs no weights), FILE.onnx or FILE.dfm"
    )
    parser.add_argument(
        "--recogniser",
        type=Path,
        help="identity network (ArcFace ONNX) that an inswapper-type swapper needs",
    )
    parser.add_argument(
        "--converter", type=Path, help="embedding converter (ONNX) of simswap, ghost, hififace"
    )
    parser.add_argument(
        "--kind", help="family of a swapper file that does not show it, such as ghost"
    )
    parser.add_argument(
        "--select",
        default="all",
        help="all (default), largest, reference, or N: the N-th face to appear, as numbered on"
        " the preview",
    )
    parser.add_argument("--reference", type=Path, help="picture of the person to replace")
    parser.add_argument("--max-distance", type=float, help="same person below this (default 0.6)")
    parser.add_argument("--min-score", type=float, help="leave less certain faces (default 0.5)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--codec", help="encoder; the default matches the input")
    parser.add_argument("--crf", type=int, help="quality, lower is better; 0 is lossless for x264")
    parser.add_argument("--preset", help="encoder speed, such as veryfast or slow")
    parser.add_argument("--preview", type=Path, metavar="PNG", help="write a before/after sheet")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing output")
    parser.set_defaults(run=run_swap)


def run_swap(args: argparse.Namespace) -> None:
    from accel.pipelines.swap import EncodeConfig, SwapConfig, swap_video

    optional = {
        name: value
        for name in ("max_distance", "min_score")
        if (value := getattr(args, name)) is not None
    }
    config = SwapConfig(
        sources=tuple(args.source),
        swapper=args.swapper,
        recogniser=args.recogniser,
        converter=args.converter,
        kind=args.kind,
        select=args.select,
        reference=args.reference,
        device=args.device,
        preview=args.preview,
        overwrite=args.overwrite,
        encode=EncodeConfig(codec=args.codec, crf=args.crf, preset=args.preset),
        **optional,
    )
    report = _with_progress(
        lambda progress, cancel: swap_video(
            args.input, args.output, config, progress=progress, cancel=cancel
        )
    )
    _deliver(report, args.json, _describe_swap(report))


def _describe_swap(report: dict[str, Any]) -> str:
    stages = ", ".join(f"{k} {v:.1f}" for k, v in report["stage_seconds"].items() if v >= 0.05)
    lines = [
        f"{report['output']}: {report['frames']} frames in {report['seconds']:.1f} s"
        f" ({report['fps']:.1f} fps), {report['codec']}",
        f"faces: {report['frames_swapped']} frames swapped of {report['frames_with_faces']}"
        f" that show a face ({report['swapped']} faces of {report['faces']} found)",
        f"seconds by stage (they run side by side): {stages}",
        f"peak memory {report['peak_memory_mb'] or 0:.0f} MB, {report['device']}",
    ]
    return "\n".join(lines + [f"note: {note}" for note in report["notes"]])


# --- doctor -----------------------------------------------------------------------------------


def add_doctor(commands: Any) -> None:
    parser = _command(
        commands,
        "doctor",
        "say what works on this machine, and why the rest does not",
        "  accel doctor\n  accel doctor --json -",
    )
    parser.set_defaults(run=run_doctor)


def run_doctor(args: argparse.Namespace) -> None:
    from accel.pipelines.doctor import describe, examine

    report = examine()
    _deliver(report, args.json, describe(report))


# --- demo -------------------------------------------------------------------------------------


def add_demo(commands: Any) -> None:
    parser = _command(
        commands,
        "demo",
        "swap the embedded portrait into a real clip and show the result",
        "  accel demo\n  accel demo --folder out --offline",
    )
    parser.add_argument(
        "--folder", type=Path, default=Path("demo"), help="where the files go (default demo)"
    )
    parser.add_argument(
        "--offline",
        action="store_true",
        help="render a clip from the portrait instead of fetching one from the package index",
    )
    parser.set_defaults(run=run_demo)


def run_demo(args: argparse.Namespace) -> None:
    from accel.pipelines.demo import run_demo as demo

    report = _with_progress(
        lambda progress, cancel: demo(
            args.folder, offline=args.offline, progress=progress, cancel=cancel
        )
    )
    text = _describe_swap(report) + f"\nlook at {report['preview']}"
    _deliver(report, args.json, text)


# --- what every command shares ----------------------------------------------------------------


def _deliver(report: dict[str, Any], target: str | None, text: str) -> None:
    """Write the JSON report where it was asked for; tell a person the rest in plain words."""
    if target == "-":
        print(json.dumps(report, indent=1))
        return
    if target:
        Path(target).write_text(json.dumps(report, indent=1) + "\n")
    print(text)


def _with_progress(work: Callable[[Any, Cancel], dict[str, Any]]) -> dict[str, Any]:
    """Run `work` with a progress bar on a terminal, none in a pipe; SIGTERM cancels."""
    cancel = Cancel()
    before = signal.signal(signal.SIGTERM, lambda *_: cancel.set())
    try:
        if not sys.stderr.isatty() or os.environ.get("TERM") == "dumb":
            return work(None, cancel)
        with _Bar() as bar:
            return work(bar.update, cancel)
    finally:
        signal.signal(signal.SIGTERM, before)


class _Bar:
    """A rich progress bar fed by Progress events."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )  # fmt: skip
        from rich.progress import (
            Progress as Display,
        )

        self._display = Display(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]:.1f} fps"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        self._task: Any = None

    def __enter__(self) -> _Bar:
        self._display.start()
        return self

    def __exit__(self, *unused: object) -> None:
        self._display.stop()

    def update(self, event: Progress) -> None:
        if self._task is None:
            self._task = self._display.add_task(event.stage, total=event.total, rate=0.0)
        self._display.update(self._task, completed=event.done, total=event.total, rate=event.rate)
