"""`accel train-diffusion`."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path
from typing import Any

from accel.cli.shared import command, deliver, with_progress
from accel.core import Cancel, ConfigError

# Options that not every part takes.
OPTIONS_OF = {
    "vae": ("images", "min_psnr"),
    "unet": ("images", "start", "vae", "batch"),
    "lora": ("model", "steps", "batch", "rank", "alpha", "rate", "seed"),
}


def add(commands: Any) -> None:
    parser = command(
        commands,
        "train-diffusion",
        "train the small text-to-image model, or a LoRA for it or for Stable Diffusion",
        "  accel train-diffusion vae pictures.npz RUN\n"
        "  accel train-diffusion unet pictures.npz RUN --images 650000\n"
        "  accel train-diffusion lora my_pictures/ style.safetensors --model nano --steps 400\n"
        "Call it again with the same arguments to go on after a stop or a kill.",
    )
    parser.add_argument("part", choices=("vae", "unet", "lora"), help="what to train")
    parser.add_argument(
        "data",
        type=Path,
        help="folder of pictures, each with its caption in a .txt beside it, or a .npz of"
        " training/nano/data.py",
    )
    parser.add_argument(
        "output", type=Path, help="folder of the run; for lora the .safetensors to write"
    )
    parser.add_argument("--images", type=int, help="vae, unet: length of the schedule, in pictures")
    parser.add_argument("--start", type=Path, help="unet: model file to go on from")
    parser.add_argument("--vae", type=Path, help="unet: autoencoder; default RUN/vae.safetensors")
    parser.add_argument("--batch", type=int, help="pictures in a step (unet 64, lora 8)")
    parser.add_argument(
        "--min-psnr", type=float, metavar="DB", help="vae: what it must reach (default 26)"
    )
    parser.add_argument("--model", help="lora: model to train for (default nano)")
    parser.add_argument("--steps", type=int, help="lora: batches (default 400)")
    parser.add_argument("--rank", type=int, help="lora: rank of the matrices (default 8)")
    parser.add_argument("--alpha", type=float, help="lora: their product counts alpha/rank")
    parser.add_argument("--rate", type=float, help="lora: highest learning rate (default 0.002)")
    parser.add_argument("--seed", type=int, help="lora: of the draws (default 0)")
    parser.add_argument("--threads", type=int, default=0, help="cores to use; default all")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    from accel.pipelines.train_diffusion import train_diffusion, train_lora_on

    def say(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    given = given_to(args)

    def work(progress: Any, cancel: Cancel) -> dict[str, Any]:
        signal.signal(signal.SIGINT, lambda *_: cancel.set())  # Ctrl-C ends the step and saves
        if args.part == "lora":
            model = given.pop("model", "nano")
            return train_lora_on(
                model, args.data, args.output, threads=args.threads, progress=progress,
                cancel=cancel, say=say, **given,
            )  # fmt: skip
        return train_diffusion(
            args.part, args.data, args.output, images=args.images, vae=args.vae, start=args.start,
            batch=args.batch, min_psnr_db=args.min_psnr, threads=args.threads, progress=progress,
            cancel=cancel, say=say,
        )  # fmt: skip

    before = signal.getsignal(signal.SIGINT)
    try:
        report = with_progress(work)
    finally:
        signal.signal(signal.SIGINT, before)
    state = "finished" if report["finished"] else "stopped; call it again to go on"
    text = f"{report['output']}: {state} after {report['seconds']:.0f} s"
    deliver(report, args.json, text)


def given_to(args: argparse.Namespace) -> dict[str, Any]:
    """Options that were given; ConfigError for one that the part does not take."""
    every = dict.fromkeys(name for names in OPTIONS_OF.values() for name in names)
    given = {name: value for name in every if (value := getattr(args, name)) is not None}
    for name in given:
        takers = [part for part, names in OPTIONS_OF.items() if name in names]
        if args.part not in takers:
            option = name.replace("_", "-")
            raise ConfigError(
                f"train-diffusion: --{option} must go with {' or '.join(takers)}, got {args.part}"
            )
    return given
