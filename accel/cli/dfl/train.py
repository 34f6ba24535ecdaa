"""`accel dfl train` and `accel dfl export`."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from accel.cli.dfl.ask import add_interactive, ask, yes
from accel.cli.dfl.next_step import with_next
from accel.cli.shared import INTERRUPTED, command, deliver, stopped_by_signals
from accel.core import Cancel, ConfigError, Progress

SWITCHES = {
    "lr_dropout": "move 30 %% of the weights a step, drawn anew each time; sharpens (quick96: on)",
    "flip_src": "mirror the source's faces at random (off)",
    "flip_dst": "mirror the target's faces at random (saehd: on)",
    "uniform_yaw": "all head directions equally often",
    "eyes_mouth": "eyes and mouth first",
    "masked": "learn the face alone, not what lies around it (on)",
    "blur_out_mask": "blur what lies around the face",
    "warp": "bend inputs (on); off when nearly done, for more sharpness",
    "clip": "limit the gradient's length",
}
NUMBERS: dict[str, tuple[type, str]] = {
    "batch": (int, "pictures of each person a step (default 4)"),
    "resolution": (int, "64..640, of a new saehd model (default 128)"),
    "ae_dims": (int, "size of the code (default 256)"),
    "e_dims": (int, "channels of the encoder (default 64)"),
    "d_dims": (int, "channels of the decoder (default 64)"),
    "d_mask_dims": (int, "channels of the mask's decoder (default a third of d-dims)"),
    "lr": (float, "learning rate (default 2e-4 for quick96, 5e-5 for saehd)"),
    "face_style": (float, "take on the target's colours on the face, 0..100"),
    "background_style": (float, "take on what lies around the target's face, 0..100"),
    "true_face": (float, "make the result more like the source, 0..1; archi df"),
    "hsv": (float, "vary the colours of the source's inputs, 0..0.3"),
    "gan": (float, "let an adversary ask for detail, 0..5; for the end of a training"),
    "gan_patch": (int, "pixels that it looks at together (default an eighth of the face)"),
    "gan_dims": (int, "its channels (default 16)"),
    "seed": (int, "of everything random (default 0)"),
}
WORDS = {
    "archi": "of a new saehd model: df or liae, a dash and some of u, d, t, c (default liae-ud)",
    "face_type": "of a new saehd model: half, midfull, full (default), whole or head",
    "color": "give source faces the target's colours: none, rct, lct, mkl, idt or sot",
    "optimiser": "adabelief (default of saehd) or rmsprop",
}
# With --interactive, in this order.
ASKED_OF_NEW = ("resolution", "face_type", "archi", "ae_dims", "e_dims", "d_dims", "d_mask_dims")
ASKED = (
    "batch", "flip_src", "flip_dst", "uniform_yaw", "masked", "eyes_mouth", "blur_out_mask",
    "optimiser", "lr_dropout", "warp", "hsv", "gan", "gan_patch", "gan_dims", "true_face",
    "face_style", "background_style", "color", "clip",
)  # fmt: skip


def add(steps: Any) -> None:
    parser = command(
        steps,
        "train",
        "train a model on the aligned faces of both sides, or go on with one",
        "  accel dfl train workspace --model quick96 --iterations 100000 --preview-port 8800\n"
        "  accel dfl train workspace --model saehd --iterations 300000 --archi df-ud"
        " --resolution 192 --face-type whole\n"
        "  accel dfl train workspace --model saehd --iterations 400000 --lr-dropout --no-warp",
    )
    parser.add_argument("workspace", type=Path, help="folder with data_src and data_dst")
    parser.add_argument(
        "--model",
        choices=("quick96", "saehd"),
        default="quick96",
        help="quick96 (default) is 96 pixels and full face; saehd has the shape that you choose",
    )
    parser.add_argument(
        "--name", "--model-name", dest="name", default="",
        help="of the model; default: the one of its kind that was saved last, else new",
    )  # fmt: skip
    parser.add_argument("--iterations", type=int, help="to reach in total; a second call goes on")
    for name, (kind, text) in NUMBERS.items():
        parser.add_argument(_flag(name), type=kind, help=text)
    for name, text in WORDS.items():
        parser.add_argument(_flag(name), help=text)
    for name, text in SWITCHES.items():
        parser.add_argument(_flag(name), action=argparse.BooleanOptionalAction, help=text)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument(
        "--precision",
        default="fp32",
        choices=("fp32", "bf16", "fp16"),
        help="of the networks; bf16 is faster where the machine has units for it",
    )
    parser.add_argument("--threads", type=int, default=0, help="of the networks (default: all)")
    parser.add_argument("--workers", type=int, default=1, help="threads that make samples")
    parser.add_argument(
        "--save-minutes", type=float, default=15.0, help="how often the model is saved (15)"
    )
    parser.add_argument(
        "--preview-minutes", type=float, default=2.0, help="how often the preview is drawn (2)"
    )
    parser.add_argument(
        "--backup-hours", type=float, default=0.0, help="set a copy aside so often; 0: never"
    )
    parser.add_argument("--backups", type=int, default=3, help="copies to keep")
    parser.add_argument(
        "--preview-port", type=int, help="show how it goes on http://127.0.0.1:PORT; 0: any"
    )
    add_interactive(parser)
    parser.set_defaults(run=run_train)


def add_export(steps: Any) -> None:
    parser = command(
        steps,
        "export",
        "write a trained model as a .dfm file, which `accel swap` and others run",
        "  accel dfl export workspace --to her.dfm\n"
        "  accel swap clip.mp4 out.mp4 --swapper her.dfm",
    )
    parser.add_argument("workspace", type=Path, help="folder with model/")
    parser.add_argument("--to", type=Path, required=True, metavar="FILE.dfm")
    parser.add_argument("--model", choices=("quick96", "saehd"), help="default: the last saved")
    parser.add_argument("--name", help="of the model; default: the last saved")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing file")
    parser.set_defaults(run=run_export)


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def run_train(args: argparse.Namespace) -> int | None:
    from accel.pipelines.dfl.train import TrainConfig, train

    if args.interactive:
        _ask(args)
    if args.iterations is None:
        raise ConfigError("train: --iterations must say how many steps there are to be in total")
    config = TrainConfig(
        model=args.model,
        name=args.name,
        iterations=args.iterations,
        options={name: getattr(args, name) for name in (*NUMBERS, *WORDS, *SWITCHES)},
        device=args.device,
        precision=args.precision,
        threads=args.threads,
        workers=args.workers,
        save_minutes=args.save_minutes,
        preview_minutes=args.preview_minutes,
        backup_hours=args.backup_hours,
        backups=args.backups,
        preview_port=args.preview_port,
    )
    cancel = Cancel()
    with stopped_by_signals(cancel), _Display() as display:
        report = train(args.workspace, config, progress=display, cancel=cancel)
    text = describe(report)
    if report["finished"]:
        film = str(args.workspace / "result.mp4")
        text = with_next(text, "merge", args.workspace, "--to", film)
    deliver(report, args.json, text)
    return INTERRUPTED if report["cancelled"] else None


def _ask(args: argparse.Namespace) -> None:
    """Ask for the model, and for options with what they are now as the answer of an empty line."""
    from accel.pipelines.dfl.train import TrainConfig, current_options

    ask(args, "model", "model, quick96 or saehd", str)
    ask(args, "iterations", "iterations in total", int)
    now, is_new = current_options(args.workspace, TrainConfig(model=args.model, name=args.name))
    names = [name for name in ASKED if name in now]
    if is_new and args.model == "saehd":
        names = [*ASKED_OF_NEW, *names]
        now["d_mask_dims"] = None  # follows from what is answered before it
    kinds = {name: kind for name, (kind, _) in NUMBERS.items()} | dict.fromkeys(SWITCHES, yes)
    for name in names:
        if name.startswith("gan_") and not args.gan:
            continue
        if name == "true_face" and not (args.archi or now["archi"]).startswith("df"):
            continue
        if getattr(args, name) is None:
            setattr(args, name, now[name])
        ask(args, name, _question(name, getattr(args, name) is None), kinds.get(name, str))


def _question(name: str, is_open: bool) -> str:
    """What an option means; for one without a value, what it is then too."""
    texts = WORDS | SWITCHES | {number: text for number, (_, text) in NUMBERS.items()}
    text = texts[name] if is_open else texts[name].partition(" (")[0]
    return f"{_flag(name)[2:]}: {text}".replace("%%", "%")


def describe(report: dict[str, Any]) -> str:
    lines = [
        f"{report['folder']}: model {report['name']}, {report['iterations']} iterations"
        f" ({report['steps']} now, {report['iterations_per_s']:.2f} a second)",
        f"faces: {report['faces']['src']} source, {report['faces']['dst']} target",
        f"look at {report['preview']} and {report['loss_curve']}",
    ]
    if report["loss_src"] is not None:
        lines.insert(1, f"loss: src {report['loss_src']:.4f}, dst {report['loss_dst']:.4f}")
    if report["cancelled"]:
        lines.append("stopped and saved; the same command goes on")
    return "\n".join(lines + [f"note: {note}" for note in report["notes"]])


def run_export(args: argparse.Namespace) -> None:
    from accel.pipelines.dfl.export import export

    report = export(
        args.workspace, args.to, model=args.model, name=args.name, overwrite=args.overwrite
    )
    text = (
        f"{report['output']}: model {report['name']} ({report['model']}, {report['resolution']}"
        f" pixels, {report['face_type']}) after {report['iterations']} iterations\n"
        f"next: accel swap FILM OUTPUT --swapper {shlex.quote(report['output'])}"
    )
    deliver(report, args.json, text)


class _Display:
    """Iterations, losses and speed: a bar on a terminal, a line now and then in a log file."""

    EVERY_S = 60.0

    def __init__(self) -> None:
        self._bar: Any = None
        self._task: Any = None
        self._stage = self._page = self._warning = ""
        self._terminal = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        self._last = float("-inf")

    def __enter__(self) -> _Display:
        if self._terminal:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
            from rich.progress import Progress as Bar

            columns = (  # no more than a terminal of 80 columns shows
                TextColumn("{task.description}"),
                BarColumn(8),
                MofNCompleteColumn(),
                TextColumn("{task.fields[text]}"),
            )
            self._bar = Bar(*columns, console=Console(stderr=True), transient=True)
            self._bar.start()
        return self

    def __exit__(self, *unused: object) -> None:
        if self._bar:
            self._bar.stop()

    def __call__(self, event: Progress) -> None:
        with suppress(OSError):  # a terminal that is gone must not cost the training
            self._show(event)

    def _show(self, event: Progress) -> None:
        text = words(event)
        page = getattr(event, "page", None)
        if page and page != self._page:
            self._page = page
            print(f"preview on {page}", file=sys.stderr, flush=True)
        warning = getattr(event, "warning", "")
        if warning != self._warning:
            self._warning = warning
            line = f"warning: {warning}" if warning else "it could be saved now"
            print(line, file=sys.stderr, flush=True)
        if self._bar:
            if event.stage != self._stage:
                if self._task is not None:
                    self._bar.remove_task(self._task)
                self._task = self._bar.add_task(event.stage, total=event.total, text=text)
            self._stage = event.stage
            self._bar.update(self._task, completed=event.done, total=event.total, text=text)
        elif event.stage == "train":
            self._log(f"{event.done}/{event.total} {text}")

    def _log(self, line: str) -> None:
        import time

        if time.monotonic() - self._last >= self.EVERY_S:
            self._last = time.monotonic()
            print(line, file=sys.stderr, flush=True)


def words(event: Progress) -> str:
    """Losses, speed and what is left, for a person."""
    source = getattr(event, "loss_src", None)
    if source is None:
        return ""
    destination = getattr(event, "loss_dst", 0.0)
    left = ((event.total or 0) - event.done) / max(event.rate, 1e-9)
    hours, minutes = int(left // 3600), int(left % 3600 // 60)
    losses = f"src {source:.4f} dst {destination:.4f}"
    return f"{losses} {event.rate:.2f} it/s {hours}:{minutes:02d} h left"
