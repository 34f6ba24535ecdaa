"""`accel dfl merge`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from accel.cli.dfl.next_step import with_next
from accel.cli.shared import command, deliver, stopped_by_signals, with_progress
from accel.cli.swap import add_marking, marking
from accel.core import Cancel

# Options that are settings of a frame, with what they say; ranges are told by the settings.
NUMBERS = {
    "hist-match-threshold": "how far up the frame's values hist-match goes, 0..255 (238)",
    "erode": "draw the mask's edge in, -400..400; below 0 out",
    "blur": "width of the mask's soft edge, 0..400",
    "motion-blur": "0..100 per cent of the face's own motion",
    "face-scale": "-50..50; above 0 the face gets smaller",
    "super-resolution": "0..100 per cent of the enlarged face that a network drew",
    "sharpness": "-100..100, with --sharpen; below 0 blurs",
    "denoise": "median filter over the whole frame, 0..500",
    "bicubic": "lose detail of the whole frame, 0..100",
    "color-degrade": "reduce colours of the whole frame, 0..100",
}


def add(steps: Any) -> None:
    parser = command(
        steps,
        "merge",
        "put the trained face into the target's frames",
        "  accel dfl merge workspace\n"
        "  accel dfl merge workspace --mode seamless --mask prdxdst --color rct --erode 10\n"
        "  accel dfl merge workspace --interactive\n"
        "  accel dfl merge workspace --config merge.json --to result.mp4",
    )
    parser.add_argument("workspace", type=Path, help="folder with data_dst.* and a trained model")
    parser.add_argument(
        "--mode",
        help="original, overlay (default), hist-match, seamless, seamless-hist-match, raw-rgb or"
        " raw-predict; or its number",
    )
    parser.add_argument(
        "--mask",
        help="full, dst, learned-prd, learned-dst, prdxdst (default), prd+dst, XSeg-prd, XSeg-dst,"
        " XSeg-prdxdst or all; or its number 0..9",
    )
    parser.add_argument(
        "--color", help="none, rct (default), lct, mkl, mkl-m, idt, idt-m, sot-m or mix-m"
    )
    for name, help in NUMBERS.items():
        parser.add_argument(f"--{name}", type=int, metavar="N", help=help)
    parser.add_argument("--sharpen", help="none (default), box or gaussian")
    parser.add_argument(
        "--whole-hist-match",
        action="store_true",
        help="hist-match looks at the whole crop, not only under the mask",
    )
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="settings frame by frame, as JSON"
    )
    parser.add_argument(
        "--name", "--model-name", dest="name", help="of the model; default: the last saved"
    )
    parser.add_argument("--xseg", type=Path, metavar="ONNX", help="XSeg network, for XSeg masks")
    parser.add_argument("--to", type=Path, metavar="FILE", help="write a film, no pictures")
    parser.add_argument("--seed", type=int, help="of colour transfers that draw lots (default 0)")
    parser.add_argument(
        "--color-variant",
        choices=("dfl", "exact"),
        help="dfl (default): as DeepFaceLab, which counts black around the mask and shifts cloned "
        "faces at the frame's edge; exact: does neither",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--codec", help="encoder of --to; the default matches the target's film")
    parser.add_argument("--crf", type=int, help="quality of --to, lower is better")
    parser.add_argument("--preset", help="encoder speed of --to, such as veryfast or slow")
    parser.add_argument(
        "--overwrite", action="store_true", help="merge all again; replace the film"
    )
    parser.add_argument(
        "--interactive", action="store_true", help="open a page with a live preview and keys"
    )
    parser.add_argument("--port", type=int, default=0, help="of the page; 0, the default, is any")
    add_marking(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    from accel.pipelines.dfl.merge import MergeConfig, merge_faces
    from accel.pipelines.dfl.merge_page import merge_interactively
    from accel.pipelines.swap import EncodeConfig

    config = MergeConfig(
        settings=settings_of(args),
        config=args.config,
        model=args.name,
        xseg=args.xseg,
        to=args.to,
        seed=args.seed,
        color_variant=args.color_variant,
        device=args.device,
        overwrite=args.overwrite,
        encode=EncodeConfig(codec=args.codec, crf=args.crf, preset=args.preset),
        provenance=marking(args),
    )
    if args.interactive:
        cancel = Cancel()
        with stopped_by_signals(cancel):
            report = merge_interactively(
                args.workspace, config, port=args.port, ready=_say, cancel=cancel
            )
        is_merged = "output" in report
        text = f"{describe(report) if is_merged else _left(report)}\n"
        text += f"settings: {report['session']}"
        if not is_merged:
            text = with_next(text, "merge", args.workspace, "--config", report["session"])
    else:
        report = with_progress(
            lambda progress, cancel: merge_faces(
                args.workspace, config, progress=progress, cancel=cancel
            )
        )
        is_merged, text = True, describe(report)
    if is_merged and not args.to:
        text = with_next(text, "encode", args.workspace)
    deliver(report, args.json, text)


def _left(report: dict[str, Any]) -> str:
    """What a merger that was left, or stopped, has done."""
    if not report["merged"]:
        return "nothing was merged"
    return f"stopped after {report['merged']} frames, which are kept"


def _say(url: str) -> None:
    print(f"open {url}\nesc there, or Ctrl-C here, saves and ends", file=sys.stderr, flush=True)


def settings_of(args: argparse.Namespace) -> Any:
    from accel.pipelines.dfl.merge import MergeSettings

    names = ("mode", "mask", "color", "sharpen", *(n.replace("-", "_") for n in NUMBERS))
    given = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    return MergeSettings(masked_hist_match=not args.whole_hist_match, **given)


def describe(report: dict[str, Any]) -> str:
    lines = [
        f"{report['output']}: {report['merged']} frames merged now, {report['kept']} kept,"
        f" in {report['seconds']:.1f} s ({report['fps']:.1f} fps)",
        f"{report['faces']} faces in {report['frames_with_faces']} of {report['frames']} frames,"
        f" {report['model']} at iteration {report['iteration']}",
        report["marked"]["line"],
    ]
    return "\n".join(lines + [f"note: {note}" for note in report["notes"]])
