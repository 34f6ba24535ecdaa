"""What the approximations of `accel generate` save, and how far off their pictures are.

    python -m benchmarks.pipelines.approximations          nano, 20 steps: time, error, retrieval
    python -m benchmarks.pipelines.approximations full 32  the sizes of Stable Diffusion 1.5: time
    python -m benchmarks.pipelines.approximations picture  docs/pictures/approximations.png

Times are CPU time on one thread; each picture is made by all settings in turn, and the median of
the ratios is given. Errors are of pictures of the same seed: PSNR, and the relative error of the
latent. Retrieval is as in tests/models/test_nano_quality.py, with one seed. Full-size weights are
random: of them only times mean something; the number is the side of the latent.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from accel.nn.reuse import Answers, Levels, Prompts, ReusingUnet
from accel.nn.unet import Cut, Unet, UnetConfig
from accel.pipelines.generate import Model, load
from benchmarks.harness import RESULTS, Call, conditions, save
from benchmarks.pipelines.networks import random_weights

TRUTH = Path("tests/data/nano_truth.npz")
PICTURE = Path("docs/pictures/approximations.png")
PAIRS, STEPS, CFG = 24, 20, 5.0
SETTINGS: list[dict[str, Any]] = [
    {},
    *({"deepcache": n, "deepcache_branch": b} for b in (0, 2) for n in (2, 3, 5)),
    *({"tgate": share} for share in (0.8, 0.6, 0.5, 0.4)),
    *({"token_merging": ratio} for ratio in (0.25, 0.5, 0.75)),
    {"deepcache": 3, "deepcache_branch": 2, "tgate": 0.6},
]
ROUNDS = 3


def label(settings: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in settings.items()) or "exact"


def pairs() -> tuple[list[str], list[tuple[int, int]], np.ndarray]:
    """Prompts, (concept, style) of each, and the thumbnails of all concepts in all styles."""
    with np.load(TRUTH) as file:
        truth = {name: file[name] for name in file.files}
    styles, hidden = truth["styles"].tolist(), set(truth["held_out"].tolist())
    shown = [i for i in range(truth["thumbnails"][..., 0].size) if i not in hidden]
    chosen = [divmod(shown[i * len(shown) // PAIRS], len(styles)) for i in range(PAIRS)]
    prompts = [f"{truth['labels'][c]}, {styles[s]} style, white background" for c, s in chosen]
    return prompts, chosen, truth["thumbnails"] / 255.0


def made(model: Model, prompt: str, seed: int, settings: dict[str, Any]) -> tuple[float, Tensor]:
    """Seconds of CPU time of the sampling, and the latent."""
    start = time.process_time()
    latent = model.sample(prompt, seed=seed, steps=STEPS, cfg=CFG, output="latent", **settings)
    return time.process_time() - start, latent


def psnr_db(a: Tensor, b: Tensor) -> float:
    """Of pictures in -1..1."""
    error = float((a.clamp(-1, 1) - b.clamp(-1, 1)).square().mean()) / 4
    return -10 * float(np.log10(max(error, 1e-10)))


def nano() -> None:
    model = load("nano")
    prompts, chosen, thumbnails = pairs()
    found: dict[str, dict[str, list[float]]] = {label(s): {} for s in SETTINGS}
    made(model, prompts[0], 0, {})  # a warm start
    for seed, (prompt, (concept, style)) in enumerate(zip(prompts, chosen, strict=True)):
        exact_s, exact = 0.0, torch.empty(0)
        for settings in SETTINGS:
            seconds, latent = made(model, prompt, seed, settings)
            if not settings:
                exact_s, exact = seconds, latent
            image, truth = model.decode(latent), model.decode(exact)
            small = F.avg_pool2d(image.clamp(-1, 1), 4).permute(0, 2, 3, 1).flatten(1).numpy()
            distance = np.abs(thumbnails[:, style] - (small / 2 + 0.5)).mean(-1)
            values = {
                "ratio": exact_s / seconds,
                "psnr_db": psnr_db(image, truth),
                "latent_error": float((latent - exact).norm() / exact.norm()),
                "retrieved": float(distance.argmin() == concept),
            }
            for name, value in values.items():
                found[label(settings)].setdefault(name, []).append(value)
    rows = [summary(name, values) for name, values in found.items()]
    for row in rows:
        print(row)
    about = {"what": f"nano, {STEPS} steps, cfg {CFG}, {PAIRS} prompts", "rows": rows}
    keep("nano", about)


def summary(name: str, values: dict[str, list[float]]) -> dict[str, Any]:
    exact = name == "exact"
    return {
        "setting": name,
        "times_as_fast": round(statistics.median(values["ratio"]), 3),
        "psnr_db": None if exact else round(statistics.median(values["psnr_db"]), 2),
        "psnr_db_worst": None if exact else round(min(values["psnr_db"]), 2),
        "latent_error": round(statistics.median(values["latent_error"]), 4),
        "retrieved": round(statistics.mean(values["retrieved"]), 3),
    }


def keep(part: str, about: dict[str, Any]) -> None:
    path = RESULTS / "approximations.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    save("approximations", known | {part: {**about, **conditions(threads=1)}})


def full(side: int) -> None:
    """One call of the UNet of Stable Diffusion 1.5, by the kind of call each setting makes."""
    unet = random_weights(lambda: Unet(UnetConfig()))
    context, x = torch.randn(2, 77, 768), torch.randn(2, 4, side, side)
    prompts, alone, levels = Prompts(context), Prompts(context[1:]), Levels(unet, torch.float32)
    levels.add([500.0])
    reusing = ReusingUnet(unet)
    cuts, answers = {branch: Cut(branch) for branch in (0, 1, 3, 6)}, Answers()
    for cut in cuts.values():
        reusing(x, 500.0, prompts, levels, cut=cut)
    reusing(x, 500.0, prompts, levels, answers=answers)
    answers.freeze()
    times = torch.full((2,), 500.0)
    calls: dict[str, Call] = {
        "nothing looked up": lambda: unet(x, times, context),
        "exact": lambda: reusing(x, 500.0, prompts, levels),
        "beyond the gate": lambda: reusing(x[:1], 500.0, alone, levels, answers=answers),
    }
    for branch, cut in cuts.items():
        calls[f"step cache, branch {branch}"] = partial(reusing, x, 500.0, prompts, levels, cut=cut)
    for ratio in (0.25, 0.5, 0.75):
        merging = ReusingUnet(unet, ratio)
        calls[f"token merging {ratio}"] = partial(merging, x, 500.0, prompts, levels)
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(ROUNDS):
        for name, call in calls.items():
            start = time.process_time()
            call()
            seconds[name].append(time.process_time() - start)
    exact = statistics.median(seconds["exact"])
    rows = []
    for name, series in seconds.items():
        median = statistics.median(series)
        rows.append(
            {"call": name, "seconds": round(median, 3), "times_as_fast": round(exact / median, 3)}
        )
        print(rows[-1])
    keep(f"sd1 {side}x{side}", {"what": f"one call, {side}x{side} latents x2", "rows": rows})


def picture() -> None:
    """Each row a prompt, each column a setting."""
    model = load("nano")
    columns = [SETTINGS[0], SETTINGS[1], SETTINGS[2], SETTINGS[4], SETTINGS[5], *SETTINGS[7:]]
    names = ("red apple", "whale", "sun", "a green tree", "a house", "strawberry")
    side, letters, gap = 128, 58, 4
    size = len(columns) * (side + gap), letters + len(names) * (side + gap)
    sheet = Image.new("RGB", size, "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    for column, settings in enumerate(columns):
        at = column * (side + gap)
        pen.text((at + 2, 2), "\n".join(label(settings).split(", ")), "black", font)
        for row, prompt in enumerate(names):
            _, latent = made(model, prompt, 1, settings)
            values = (model.decode(latent)[0].clamp(-1, 1) * 127.5 + 127.5).round()
            rgb = Image.fromarray(values.permute(1, 2, 0).to(torch.uint8).numpy())
            down = letters + row * (side + gap)
            sheet.paste(rgb.resize((side, side), Image.Resampling.NEAREST), (at, down))
    sheet.save(PICTURE, optimize=True)


@torch.inference_mode()
def main(arguments: list[str] | None = None) -> None:
    torch.set_num_threads(1)
    kind, *rest = arguments or ["nano"]
    if kind == "full":
        full(int(rest[0]) if rest else 32)
    elif kind == "picture":
        picture()
    else:
        nano()


if __name__ == "__main__":
    main(sys.argv[1:])
