"""`accel swap`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from accel.cli.shared import BAD_INPUT, DONE, REFUSED, command, deliver, with_progress
from accel.core import ConfigError, one_line


def add(commands: Any) -> None:
    parser = command(
        commands,
        "swap",
        "put one face into a video, a picture, a folder of pictures or a folder of films",
        "  accel swap clip.mp4 swapped.mp4 --source face.png\n"
        "  accel swap clip.mp4 out.mp4 --source a.jpg --source b.jpg --preview sheet.png\n"
        "  accel swap party.mov out.mov --source face.png --select reference --reference her.png\n"
        "  accel swap clip.mkv out.mkv --source face.png --swapper inswapper_128.onnx"
        " --recogniser w600k_r50.onnx\n"
        "  accel swap clip.mp4 out.mp4 --swapper her.dfm\n"
        "  accel swap photo.jpg swapped.jpg --source face.png --json -\n"
        "  accel swap films/ swapped/ --source face.png",
    )
    parser.add_argument("input", type=Path, help="video, gif, picture or folder of either")
    parser.add_argument("output", type=Path, help="file to write; a folder when the input is one")
    parser.add_argument(
        "--source",
        type=Path,
        default=[],
        action="append",
        help="picture with the face to put in; give several of the same person for a better match;"
        " a .dfm needs none",
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
    parser.add_argument(
        "--jobs",
        type=int,
        metavar="N",
        help="films of a folder that share the cores (default: one for every four cores)",
    )
    add_marking(parser)
    parser.set_defaults(run=run)


def add_marking(parser: argparse.ArgumentParser) -> None:
    """Options of every command that writes swapped faces."""
    marks = parser.add_argument_group("marking", "what is made is marked unless switched off here")
    marks.add_argument(
        "--watermark",
        default="frame",
        help="invisible mark: frame (default), face (all else stays bit-exact) or off",
    )
    marks.add_argument("--label", default="auto", help="visible label: corner (default) or off")
    marks.add_argument(
        "--credentials", default="on", choices=("on", "off"), help="signed Content Credential"
    )
    marks.add_argument(
        "--ledger", default="on", choices=("on", "off"), help="line in this machine's own list"
    )
    marks.add_argument(
        "--consent",
        default="undeclared",
        help="your claim about the persons shown: own, licensed, historical, fiction or undeclared",
    )
    marks.add_argument(
        "--certificate", type=Path, metavar="PEM", help="sign with your own certificate chain"
    )
    marks.add_argument("--key", type=Path, metavar="PEM", help="private key of --certificate")


def marking(args: argparse.Namespace) -> Any:
    """The ProvenanceConfig that the options ask for."""
    from accel.pipelines.provenance import ProvenanceConfig

    return ProvenanceConfig(
        watermark=args.watermark,
        label=args.label,
        credentials=args.credentials == "on",
        ledger=args.ledger == "on",
        consent=args.consent,
        certificate=args.certificate,
        key=args.key,
    )


def run(args: argparse.Namespace) -> int:
    from accel.pipelines.swap import swap_video
    from accel.pipelines.swap_films import holds_films, swap_films

    config = _config(args)
    if holds_films(args.input):
        report = with_progress(
            lambda progress, cancel: swap_films(
                args.input, args.output, config, jobs=args.jobs, progress=progress, cancel=cancel
            )
        )
        deliver(report, args.json, describe_films(report))
        return _complain_of(report["failed"])
    if args.jobs is not None:
        raise ConfigError(f"--jobs is for a folder of films, {args.input} is none")
    report = with_progress(
        lambda progress, cancel: swap_video(
            args.input, args.output, config, progress=progress, cancel=cancel
        )
    )
    deliver(report, args.json, describe(report))
    return DONE


def _config(args: argparse.Namespace) -> Any:
    """The SwapConfig that the options ask for."""
    from accel.pipelines.swap import EncodeConfig, SwapConfig

    optional = {
        name: value
        for name in ("max_distance", "min_score")
        if (value := getattr(args, name)) is not None
    }
    return SwapConfig(
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
        provenance=marking(args),
        **optional,
    )


def describe(report: dict[str, Any]) -> str:
    stages = ", ".join(f"{k} {v:.1f}" for k, v in report["stage_seconds"].items() if v >= 0.05)
    lines = [
        f"{report['output']}: {report['frames']} frames in {report['seconds']:.1f} s"
        f" ({report['fps']:.1f} fps), {report['codec']}",
        f"faces: {report['frames_swapped']} frames swapped of {report['frames_with_faces']}"
        f" that show a face ({report['swapped']} faces of {report['faces']} found)",
        f"seconds by stage (they run side by side): {stages}",
        f"peak memory {report['peak_memory_mb'] or 0:.0f} MB, {report['device']}",
        report["marked"]["line"],
    ]
    return "\n".join(lines + [f"note: {note}" for note in report["notes"]])


def describe_films(report: dict[str, Any]) -> str:
    lines = [
        f"{one['output']}: {one['frames_swapped']} of {one['frames']} frames swapped,"
        f" {one['seconds']:.1f} s; {one['marked']['line']}"
        for one in report["films"]
    ]
    lines += [f"{path}: there already" for path in report["there_already"]]
    made, failed = len(report["films"]), len(report["failed"])
    lines += [
        f"{made} films, {report['frames']} frames in {report['seconds']:.1f} s"
        f" ({report['fps']:.1f} fps); {len(report['there_already'])} were there already,"
        f" {failed} could not be swapped",
        f"peak memory {report['peak_memory_mb'] or 0:.0f} MB, {report['device']}",
    ]
    notes = [*report["notes"]]
    notes += [f"{one['output']}: {note}" for one in report["films"] for note in one["notes"]]
    return "\n".join(lines + [f"note: {note}" for note in notes])


def _complain_of(failed: Sequence[dict[str, str]]) -> int:
    """Tell on stderr which films were not swapped, and why; the exit status."""
    for one in failed:
        told = one["error"] if one["input"] in one["error"] else f"{one['input']}: {one['error']}"
        print(f"accel: {one_line(told)}", file=sys.stderr)
    kinds = {one["kind"] for one in failed}
    return BAD_INPUT if "error" in kinds else REFUSED if kinds else DONE
