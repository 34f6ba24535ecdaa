"""`accel dfl clear, frames, extract, sort, pack, unpack, encode`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from accel.cli.dfl.ask import add_interactive, ask, yes
from accel.cli.dfl.next_step import after_faces
from accel.cli.shared import BAD_INPUT, command, deliver, with_progress
from accel.cli.swap import add_marking, marking


def add(steps: Any) -> None:
    _add_clear(steps)
    _add_frames(steps)
    _add_extract(steps)
    _add_sort(steps)
    _add_pack(steps)


def step(steps: Any, name: str, help: str, examples: str, *, side: bool) -> argparse.ArgumentParser:
    """A parser with what every step takes."""
    parser = command(steps, name, help, examples)
    parser.add_argument("workspace", type=Path, help="folder with data_src.* and data_dst.*")
    if side:
        parser.add_argument(
            "--side", required=True, choices=("src", "dst"), help="source or target of the swap"
        )
    add_interactive(parser)
    return parser


# --- clear ---------------------------------------------------------------------------------------


def _add_clear(steps: Any) -> None:
    parser = step(
        steps,
        "clear",
        "remove what was made in a workspace; films and other people's files stay",
        "  accel dfl clear workspace                     # lists what would go\n"
        "  accel dfl clear workspace --yes\n"
        "  accel dfl clear workspace --only aligned --yes",
        side=False,
    )
    parser.add_argument("--yes", action="store_true", help="really remove")
    parser.add_argument(
        "--only",
        action="append",
        choices=("frames", "aligned", "merged", "model", "result"),
        help="remove only this; may be given several times",
    )
    parser.set_defaults(run=_run_clear)


def _run_clear(args: argparse.Namespace) -> int | None:
    from accel.pipelines.dfl.clear import PARTS, clear_workspace

    parts = tuple(args.only or PARTS)
    report = clear_workspace(args.workspace, parts=parts, really=args.yes)
    if report["going"] and not args.yes and args.interactive:
        print(_describe_clear(report), file=sys.stderr)
        ask(args, "yes", "remove these", yes)
        report = clear_workspace(args.workspace, parts=parts, really=args.yes)
    text = _describe_clear(report)
    refused = bool(report["going"]) and not report["is_done"]
    if refused:
        text += "\nnothing was removed; say --yes to remove it"
    deliver(report, args.json, text)
    return BAD_INPUT if refused else None


def _describe_clear(report: dict[str, Any]) -> str:
    if not report["going"]:
        return f"{report['workspace']}: nothing to remove"
    word = "removed" if report["is_done"] else "to be removed"
    lines = []
    for folder, names in report["going"].items():
        shown = ", ".join(names) if len(names) <= 3 else f"{names[0]} ... {names[-1]}"
        lines.append(f"{folder}: {len(names)} files {word} ({shown})")
    lines.append(f"{report['bytes'] / 2**20:.1f} MB in all")
    lines += [f"{folder}: {n} other files stay" for folder, n in report["staying"].items()]
    return "\n".join(lines)


# --- frames --------------------------------------------------------------------------------------


def _add_frames(steps: Any) -> None:
    parser = step(
        steps,
        "frames",
        "take a film apart into pictures (may be left out: later steps read the film too)",
        "  accel dfl frames workspace --side src --fps 5\n"
        "  accel dfl frames workspace --side dst\n"
        "  accel dfl frames workspace --side dst --format jpg --quality 95",
        side=True,
    )
    parser.add_argument(
        "--fps", type=float, help="at most so many frames a second; all by default, as dst needs"
    )
    parser.add_argument("--format", choices=("png", "jpg"), default="png")
    parser.add_argument("--quality", type=int, default=95, help="of jpg, 1..100 (default 95)")
    parser.add_argument(
        "--overwrite", action="store_true", help="remove pictures made with other settings"
    )
    parser.set_defaults(run=_run_frames)


def _run_frames(args: argparse.Namespace) -> None:
    from accel.pipelines.dfl.save_frames import FramesConfig, save_frames

    if args.side == "src":
        ask(args, "fps", "frames a second", float)
    ask(args, "format", "picture format, png or jpg", str)
    config = FramesConfig(
        fps=args.fps, format=args.format, quality=args.quality, overwrite=args.overwrite
    )
    report = with_progress(
        lambda progress, cancel: save_frames(
            args.workspace, args.side, config, progress=progress, cancel=cancel
        )
    )
    text = (
        f"{report['folder']}: {report['frames']} frames of {report['width']}x{report['height']},"
        f" {report['written']} written now in {report['seconds']:.1f} s"
    )
    deliver(report, args.json, after_faces(_with_notes(text, report), args.workspace))


# --- extract -------------------------------------------------------------------------------------


def _add_extract(steps: Any) -> None:
    parser = step(
        steps,
        "extract",
        "cut the faces out of the frames of one side into its aligned folder",
        "  accel dfl extract workspace --side src\n"
        "  accel dfl extract workspace --side dst --face-type full --size 256 --debug\n"
        "  accel dfl extract workspace --side src --fps 5 --max-faces 1\n"
        "  accel dfl extract workspace --side src --landmarks 2dfan4.onnx",
        side=True,
    )
    parser.add_argument(
        "--face-type",
        default="whole",
        help="half, midfull, full, whole (default) or head; the model must be of the same type",
    )
    parser.add_argument("--size", type=int, help="side of the crop (default 512, head 768)")
    parser.add_argument("--jpeg-quality", type=int, default=90, help="1..100 (default 90)")
    parser.add_argument("--max-faces", type=int, default=0, help="a frame; 0, the default, is all")
    parser.add_argument("--min-score", type=float, default=0.5, help="drop less certain faces")
    parser.add_argument("--min-face-px", type=int, default=24, help="drop smaller faces")
    parser.add_argument(
        "--landmarks", type=Path, metavar="ONNX", help="2DFAN-4 network; the mesh by default"
    )
    parser.add_argument("--debug", action="store_true", help="also write aligned_debug pictures")
    parser.add_argument("--fps", type=float, help="thin out the film of src, read directly")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    parser.add_argument(
        "--overwrite", action="store_true", help="start anew; what was extracted before goes"
    )
    parser.set_defaults(run=_run_extract)


def _run_extract(args: argparse.Namespace) -> None:
    from accel.pipelines.dfl.extract import ExtractConfig, extract_faces

    ask(args, "face_type", "face type: half, midfull, full, whole or head", str)
    ask(args, "max_faces", "most faces a frame, 0 for all", int)
    ask(args, "size", "side of the crop in pixels", int)
    ask(args, "jpeg_quality", "JPEG quality", int)
    ask(args, "debug", "write debug pictures, y or n", yes)
    names = (
        "face_type", "size", "jpeg_quality", "max_faces", "min_score", "min_face_px", "landmarks",
        "debug", "fps", "device", "overwrite",
    )  # fmt: skip
    config = ExtractConfig(**{name: getattr(args, name) for name in names})
    report = with_progress(
        lambda progress, cancel: extract_faces(
            args.workspace, args.side, config, progress=progress, cancel=cancel
        )
    )
    lines = [
        f"{report['folder']}: {report['faces']} faces ({report['face_type']}, {report['size']} px)"
        f" in {report['frames_with_faces']} of {report['frames']} frames",
        f"{report['frames_now']} frames looked at now in {report['seconds']:.1f} s"
        f" ({report['fps']:.1f} fps)",
    ]
    if report["dropped"]:
        reasons = ", ".join(f"{why} {n}" for why, n in report["dropped"].items())
        lines.append(f"dropped: {reasons}")
    text = _with_notes("\n".join(lines), report)
    deliver(report, args.json, after_faces(text, args.workspace, args.side))


# --- sort, pack, unpack --------------------------------------------------------------------------


def _add_sort(steps: Any) -> None:
    parser = step(
        steps,
        "sort",
        "put the aligned faces of one side in order; what is left over goes to a trash folder",
        "  accel dfl sort workspace --side src --by blur\n"
        "  accel dfl sort workspace --side src --by final --target 2000\n"
        "  accel dfl sort workspace --side dst --by hist --sheet faces.png",
        side=True,
    )
    parser.add_argument(
        "--by",
        default="hist",
        help="blur, motion-blur, face-yaw, face-pitch, face-source-rect-size, hist (default),"
        " hist-dissim, brightness, hue, black, origname, oneface, absdiff, final or final-fast",
    )
    parser.add_argument(
        "--target", type=int, default=2000, help="faces that final modes keep (2000)"
    )
    parser.add_argument("--sheet", type=Path, metavar="PNG", help="where the contact sheet goes")
    parser.set_defaults(run=_run_sort)


def _run_sort(args: argparse.Namespace) -> None:
    from accel.pipelines.dfl.sort import sort_faces

    ask(args, "by", "sort by", str)
    report = with_progress(
        lambda progress, cancel: sort_faces(
            args.workspace,
            args.side,
            args.by,
            target=args.target,
            sheet=args.sheet,
            progress=progress,
            cancel=cancel,
        )
    )
    text = (
        f"{report['faces']} faces by {report['by']}, {report['trashed'] + len(report['bad'])} moved"
        f" to {report['trash']}"
    )
    if report["sheet"]:
        text += f"\ncontact sheet: {report['sheet']}"
    deliver(report, args.json, after_faces(_with_notes(text, report), args.workspace))


def _add_pack(steps: Any) -> None:
    for name, help, keep in (
        ("pack", "put the aligned faces of one side into one file, faceset.pak", "pictures"),
        ("unpack", "write the faces of a faceset.pak as pictures again", "pak"),
    ):
        parser = step(steps, name, help, f"  accel dfl {name} workspace --side src", side=True)
        parser.add_argument("--keep", action="store_true", help=f"do not remove the {keep}")
        parser.set_defaults(run=_run_pack if name == "pack" else _run_unpack)


def _run_pack(args: argparse.Namespace) -> None:
    from accel.pipelines.dfl.pack import pack_faces

    report = with_progress(
        lambda progress, cancel: pack_faces(
            args.workspace, args.side, keep=args.keep, progress=progress, cancel=cancel
        )
    )
    text = f"{report['pak']}: {report['faces']} faces, {report['bytes'] / 2**20:.1f} MB"
    deliver(report, args.json, text)


def _run_unpack(args: argparse.Namespace) -> None:
    from accel.pipelines.dfl.pack import unpack_faces

    report = with_progress(
        lambda progress, cancel: unpack_faces(
            args.workspace, args.side, keep=args.keep, progress=progress, cancel=cancel
        )
    )
    deliver(report, args.json, _with_notes(f"{report['folder']}: {report['faces']} faces", report))


# --- encode --------------------------------------------------------------------------------------


def add_encode(steps: Any) -> None:
    parser = step(
        steps,
        "encode",
        "put the merged frames back into a film, with the target's sound and time stamps",
        "  accel dfl encode workspace\n"
        "  accel dfl encode workspace --to out.mkv --codec hevc --crf 20\n"
        "  accel dfl encode workspace --to out.mp4 --mask-to masks.mp4",
        side=False,
    )
    parser.add_argument("--to", type=Path, help="film to write; result.mp4 of the workspace")
    parser.add_argument("--mask-to", type=Path, help="also put merged_mask into this film")
    parser.add_argument("--codec", help="encoder; the default matches the target's film")
    parser.add_argument("--crf", type=int, help="quality, lower is better")
    parser.add_argument("--preset", help="encoder speed, such as veryfast or slow")
    parser.add_argument("--lossless", action="store_true", help="every sample as it was merged")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing film")
    add_marking(parser)
    parser.set_defaults(run=_run_encode)


def _run_encode(args: argparse.Namespace) -> None:
    from accel.pipelines.dfl.encode import encode_result
    from accel.pipelines.swap import EncodeConfig

    config = EncodeConfig(
        codec=args.codec, crf=args.crf, preset=args.preset, lossless=args.lossless
    )
    report = with_progress(
        lambda progress, cancel: encode_result(
            args.workspace,
            args.to,
            config,
            mask_output=args.mask_to,
            provenance=marking(args),
            overwrite=args.overwrite,
            progress=progress,
            cancel=cancel,
        )
    )
    text = (
        f"{report['output']}: {report['frames']} frames, {report['merged']} merged,"
        f" {report['codec']}, in {report['seconds']:.1f} s\n{report['marked']['line']}"
    )
    deliver(report, args.json, _with_notes(text, report))


def _with_notes(text: str, report: dict[str, Any]) -> str:
    return "\n".join([text, *(f"note: {note}" for note in report["notes"])])
