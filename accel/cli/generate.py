"""`accel generate`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from accel.cli.shared import command, deliver, with_progress
from accel.cli.swap import add_marking, marking
from accel.core import ConfigError

# Options that go on as they are, when given: name, kind, what it is. True: a switch.
SETTINGS: dict[str, tuple[tuple[str, Any, str], ...]] = {
    "sampling": (
        ("negative", str, "what the picture shall not show"),
        ("sampler", str, "dpmpp_2m (default), euler, euler_a, ... or A1111's titles"),
        ("schedule", str, "noise levels: karras (default), automatic, exponential, ..."),
        ("steps", int, "steps of the sampler (default 20)"),
        ("cfg", float, "guidance scale (default 7); 1 follows the prompt alone, at half the cost"),
        ("seed", int, "of the first picture, the next has the next (default, or -1: drawn by lot)"),
        ("width", int, "pixels (default: what the model was trained on, or init's)"),
        ("height", int, "pixels"),
        ("count", int, "how many pictures (default 1)"),
        ("clip-skip", int, "2 takes the text from the last layer but one"),
        ("emphasis", str, "what (word:1.2) does: original (default), no norm, comfy, ignore, none"),
        ("eta", float, "share of the noise that ancestral samplers put back"),
        ("variation-seed", int, "another seed whose noise is mixed in"),
        ("variation-strength", float, "how much of it, 0 to 1"),
        ("noise-source", str, "cpu (default), or philox: as CUDA draws"),
        ("convention", str, "whose arithmetic of strength and first noise: a1111 or diffusers"),
        ("cfg-rescale", float, "0 to 1, against over-exposure"),
        ("skip-early", float, "share of the steps, from the first, without guidance"),
        ("s-min-uncond", float, "below this noise level every other step is without guidance"),
        ("pag", float, "strength of perturbed-attention guidance (default 0: off)"),
        ("tiling", True, "edges match, so that the picture can be laid side by side"),
    ),
    "approximations, quicker and off by default": (
        ("deepcache", int, "run the deep part of the network at every so many steps (default 1)"),
        ("deepcache-branch", int, "where it is cut: 0 (default) is quickest, more is nearer"),
        ("tgate", float, "share of the steps, then cross attention is frozen without guidance"),
        ("token-merging", float, "share of the tokens that self attention is spared, 0 to 0.75"),
    ),
    "from a picture": (
        ("init", Path, "picture to start from"),
        ("strength", float, "how much of it is replaced, 0 to 1 (default 0.75)"),
        ("resize", str, "to another shape by: stretch (default), crop or fill"),
        ("image-cfg", float, "guidance scale of the picture, for models that edit (default 1.5)"),
        ("mask", Path, "picture, white where init is to be replaced"),
        ("mask-blur", int, "softness of the mask's edge, pixels (default 4)"),
        ("mask-invert", True, "replace where the mask is black"),
        ("mask-content", str, "under it at first: original, fill, latent noise, latent nothing"),
        ("only-masked", True, "work on the masked part alone, enlarged to width and height"),
        ("padding", int, "pixels around that part (default 32)"),
        ("outpaint", str, "LEFT,TOP,RIGHT,BOTTOM pixels to add around init"),
    ),
    "second pass": (
        ("hires-scale", float, "enlarge by this much and sample again"),
        ("hires-upscaler", str, "latent (default), latent (bicubic), ..., esrgan, lanczos"),
        ("hires-steps", int, "steps of the second pass (default: as the first)"),
        ("hires-strength", float, "how much it replaces, 0 to 1 (default 0.7)"),
    ),
}

# One of each for every --control, in the same order; the last ones may be left out.
CONTROLS: tuple[tuple[str, Any, str], ...] = (
    ("control", Path, "a ControlNet or T2I-Adapter: a file, or a name in ControlNet"),
    ("control-image", Path, "picture of edges, depths, a pose, ..., as the network wants it"),
    ("control-weight", float, "how strongly (default 1)"),
    ("control-start", float, "share of the steps before it is in effect (default 0)"),
    ("control-end", float, "share of the steps after which it is not (default 1)"),
    ("control-mode", str, "more important: balanced (default), prompt or control"),
)


def add(commands: Any) -> None:
    parser = command(
        commands,
        "generate",
        "make pictures from a prompt",
        '  accel generate "a red apple" -o apple.png\n'
        '  accel generate "rocket, 3d style" -o rocket.png --seed 3 --count 4\n'
        '  accel generate "(red:1.2) apple <lora:ink:0.8>" --negative green -o a.png\n'
        '  accel generate "a castle" --model model.safetensors --sampler "DPM++ 2M" -o c.png\n'
        '  accel generate "green apple" --init apple.png --mask mask.png -o half.png\n'
        '  accel generate "a cat" --x steps=8,16 --y sampler=euler,dpmpp_2m -o grid.png\n'
        "  accel generate --from apple.png -o again.png\n"
        "  accel generate --list --models models",
    )
    parser.add_argument("prompt", nargs="?", help="what to show, in A1111's prompt language")
    parser.add_argument("-o", "--output", type=Path, help="PNG, JPEG or WebP")
    parser.add_argument("--overwrite", action="store_true", help="replace existing files")
    parser.add_argument("--no-sheet", action="store_true", help="no sheet of several pictures")
    parser.add_argument("--preview", type=Path, metavar="PNG", help="the picture as it comes")
    parser.add_argument(
        "--from", dest="from_picture", type=Path, metavar="PICTURE", help="repeat a picture"
    )
    for axis in "xyz":
        parser.add_argument(
            f"--{axis}", metavar="NAME=VALUES", help="vary on a sheet: cfg=1,3,7 or prompt=cat,dog"
        )
    models = parser.add_argument_group("models")
    models.add_argument("--model", help="nano (default), a file, folder, name or hash")
    models.add_argument("--vae", help="another autoencoder: a file or name")
    models.add_argument("--decoder", help="a TAESD that decodes in its place: a file or name")
    models.add_argument("--tiny-vae", help="a TAESD for --preview: a file or name")
    models.add_argument(
        "--lora", action="append", default=[], metavar="NAME[=WEIGHT]", help="file or name"
    )
    controls = parser.add_argument_group("steered by pictures, each option once a --control")
    for name, kind, help in CONTROLS:
        controls.add_argument(f"--{name}", action="append", default=[], type=kind, help=help)
    models.add_argument(
        "--models",
        type=Path,
        metavar="DIR",
        help="folder with Stable-diffusion, Lora, VAE, embeddings in it (default: models)",
    )
    models.add_argument("--list", action="store_true", help="list what is there, with hashes")
    models.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    models.add_argument("--dtype", help="float32 (default), float16, bfloat16")
    models.add_argument("--prediction", help="eps or v, against what the model's file says")
    models.add_argument(
        "--zero-terminal-snr",
        action="store_true",
        default=None,
        help="its last level is noise alone",
    )
    models.add_argument(
        "--max-memory", type=float, metavar="MB", help="stay under this: large pictures in tiles"
    )
    models.add_argument("--runtime", help="torch (default) or onnx: export, run by ONNX Runtime")
    for title, settings in SETTINGS.items():
        group = parser.add_argument_group(title)
        for name, kind, help in settings:
            if kind is True:
                group.add_argument(f"--{name}", action="store_true", help=help)
            else:
                group.add_argument(f"--{name}", type=kind, help=help)
    add_marking(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    from accel.pipelines.generate import generate

    if args.list:
        list_models(args)
        return
    if args.output is None:
        raise ConfigError("generate: -o must name the file to write")
    report = with_progress(
        lambda progress, cancel: generate(
            args.prompt,
            args.output,
            model=args.model,
            models=args.models,
            dtype=dtype_of(args.dtype) if args.dtype else None,
            prediction=args.prediction,
            zero_terminal_snr=args.zero_terminal_snr,
            device=args.device,
            vae=args.vae,
            decoder=args.decoder,
            tiny_vae=args.tiny_vae,
            max_memory=args.max_memory,
            runtime=args.runtime,
            from_picture=args.from_picture,
            preview=args.preview,
            x=args.x,
            y=args.y,
            z=args.z,
            overwrite=args.overwrite,
            sheet=not args.no_sheet,
            provenance=marking(args),
            progress=progress,
            cancel=cancel,
            **settings_of(args),
        )
    )
    deliver(report, args.json, describe(report))


def settings_of(args: argparse.Namespace) -> dict[str, Any]:
    """Options that were given; the others keep the defaults of the engine, or of --from."""
    settings: dict[str, Any] = {}
    for name in (n.replace("-", "_") for group in SETTINGS.values() for n, _, _ in group):
        value = getattr(args, name)
        if value is not None and value is not False:
            settings[name] = value
    if "outpaint" in settings:
        settings["outpaint"] = four_pixels(settings["outpaint"])
    if args.lora:
        settings["loras"] = tuple(weighted(text) for text in args.lora)
    controls = controls_of(args)
    if controls:
        settings["controls"] = controls
    return settings


def controls_of(args: argparse.Namespace) -> tuple[tuple[Any, ...], ...]:
    """(file, picture, weight, start, end, mode) for each --control."""
    columns = [getattr(args, name.replace("-", "_")) for name, _, _ in CONTROLS]
    count = len(columns[0])
    if len(columns[1]) != count:
        raise ConfigError(
            f"each --control must have its --control-image, got {count} and {len(columns[1])}"
        )
    for (name, _, _), column, usual in zip(CONTROLS[2:], columns[2:], (1.0, 0.0, 1.0, "balanced")):
        if len(column) > count:
            raise ConfigError(f"--{name} must be given at most once a --control, got {len(column)}")
        column.extend([usual] * (count - len(column)))
    return tuple(zip(*columns))


def weighted(text: str) -> tuple[str, float]:
    name, separator, weight = text.rpartition("=")
    if not separator:
        return text, 1.0
    try:
        return name, float(weight)
    except ValueError:
        raise ConfigError(f"lora must be NAME or NAME=WEIGHT, got {text!r}") from None


def four_pixels(text: str) -> tuple[int, ...]:
    parts = text.replace(",", " ").split()
    if len(parts) != 4 or not all(part.isdecimal() for part in parts):
        raise ConfigError(f"outpaint must be LEFT,TOP,RIGHT,BOTTOM in pixels, got {text!r}")
    return tuple(int(part) for part in parts)


def dtype_of(name: str) -> Any:
    import torch

    known = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
    if name not in known:
        raise ConfigError(f"dtype must be one of {', '.join(known)}, got {name!r}")
    return known[name]


def list_models(args: argparse.Namespace) -> None:
    from accel.pipelines.generate.model_folders import ModelFolders

    folders = ModelFolders(args.models)
    found = folders.listing()
    lines = [
        f"{one['kind']:11} {one['name']}  [{one['autov2']}, {one['autov3']}]"
        if "autov2" in one
        else f"{one['kind']:11} {one['name']}  (folder)"
        for one in found
    ]
    nothing = f"{folders.root}: no models found; the embedded one is called nano"
    deliver({"root": str(folders.root), "models": found}, args.json, "\n".join(lines) or nothing)


def named(report: dict[str, Any]) -> str:
    """The files that were written: the first and last of many, and the sheet of them."""
    count, files = len(report["pictures"]), report["files"]
    alone, sheet = files[:count], files[count:]
    names = ", ".join(alone) if len(alone) < 4 else f"{alone[0]} ... {alone[-1]}"
    return f"{names} and the sheet {sheet[0]}" if sheet else names


def describe(report: dict[str, Any]) -> str:
    stages = ", ".join(f"{k} {v:.1f}" for k, v in report["stage_seconds"].items() if v >= 0.05)
    first = report["pictures"][0]
    lines = [
        f"{named(report)}: {len(report['pictures'])} x {first['width']}x{first['height']}"
        f" in {report['seconds']:.1f} s ({stages})",
        f"seed {first['seed']}, model {report['model']}, {report['device']},"
        f" peak memory {report['peak_memory_mb'] or 0:.0f} MB",
        report["marked"]["line"],
    ]
    return "\n".join(lines + [f"note: {note}" for note in report["notes"]])
