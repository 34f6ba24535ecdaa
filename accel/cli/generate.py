"""`accel generate`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from accel.cli.shared import command, deliver, with_progress
from accel.cli.swap import add_marking, marking

# Options that go on as they are, when given: name, kind, what it is.
SETTINGS: tuple[tuple[str, Any, str], ...] = (
    ("negative", str, "what the picture shall not show"),
    ("sampler", str, "dpmpp_2m (default), euler, euler_a, ... or A1111's titles"),
    ("schedule", str, "noise levels: karras (default), automatic, exponential, ..."),
    ("steps", int, "steps of the sampler (default 20)"),
    ("cfg", float, "guidance scale (default 7); 1 follows the prompt alone, at half the cost"),
    ("seed", int, "of the first picture, the next has the next (default: drawn at random)"),
    ("width", int, "pixels (default: what the model was trained on)"),
    ("height", int, "pixels"),
    ("count", int, "how many pictures (default 1)"),
    ("clip-skip", int, "2 takes the text from the last layer but one"),
)


def add(commands: Any) -> None:
    parser = command(
        commands,
        "generate",
        "make pictures from a prompt",
        '  accel generate "a red apple" -o apple.png\n'
        '  accel generate "tree, flat style" -o tree.png --seed 3 --count 4\n'
        '  accel generate "(red:1.2) apple <lora:style:0.8>" --negative green -o a.png\n'
        '  accel generate "a castle" --model model.safetensors --sampler "DPM++ 2M" -o c.png',
    )
    parser.add_argument("prompt", help="what to show, in A1111's prompt language")
    parser.add_argument("-o", "--output", type=Path, required=True, help="PNG, JPEG or WebP")
    parser.add_argument("--model", default="nano", help="nano (default), a file or a folder")
    parser.add_argument("--vae", type=Path, help="file of another autoencoder")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    for name, kind, help in SETTINGS:
        parser.add_argument(f"--{name}", type=kind, help=help)
    parser.add_argument("--overwrite", action="store_true", help="replace existing files")
    add_marking(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    from accel.pipelines.generate import generate

    settings: dict[str, Any] = {"seed": args.seed}
    for name, _, _ in SETTINGS:
        value = getattr(args, name.replace("-", "_"))
        if value is not None:
            settings[name.replace("-", "_")] = value
    report = with_progress(
        lambda progress, cancel: generate(
            args.prompt,
            args.output,
            model=args.model,
            device=args.device,
            vae=args.vae,
            overwrite=args.overwrite,
            provenance=marking(args),
            progress=progress,
            cancel=cancel,
            **settings,
        )
    )
    deliver(report, args.json, describe(report))


def describe(report: dict[str, Any]) -> str:
    stages = ", ".join(f"{k} {v:.1f}" for k, v in report["stage_seconds"].items() if v >= 0.05)
    first = report["pictures"][0]
    lines = [
        f"{report['output']}: {len(report['pictures'])} x {first['width']}x{first['height']}"
        f" in {report['seconds']:.1f} s ({stages})",
        f"seed {first['seed']}, model {report['model']}, {report['device']},"
        f" peak memory {report['peak_memory_mb'] or 0:.0f} MB",
        report["marked"]["line"],
    ]
    return "\n".join(lines)
