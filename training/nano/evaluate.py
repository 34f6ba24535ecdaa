"""Judge a `nano` file by retrieval, as accel.training.diffusion.retrieval defines it.

    python -m training.nano.evaluate DATA.npz nano.safetensors [SHEET.png] [--pairs N] [--seeds N]

With several seeds a pair counts as right when most of its samples are (majority).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

from accel.training.diffusion.emoji import STYLES, Emoji, load_data
from accel.training.diffusion.nano_file import Nano, load
from accel.training.diffusion.retrieval import Score, decode, sample, score
from accel.training.diffusion.run import save_sheet


def judge(
    model: Nano, pictures: Emoji, numbers: list[int], seeds: int
) -> tuple[dict[str, float], list[torch.Tensor]]:
    """Shares over `numbers` of the majority of seeds; and each seed's first pictures."""
    prompts = [pictures.plain(number) for number in numbers]
    concept, style, quality, sheets = [], [], [], []
    for seed in range(seeds):
        noise = torch.randn(len(numbers), 4, 16, 16, generator=torch.Generator().manual_seed(seed))
        latents = sample(model.text, model.unet, model.rows(prompts), model.rows([""]), noise)
        images = decode(model.vae, latents)
        sheets.append(images[:24])
        each: list[Score] = [
            score(images[i : i + 1], [number], pictures) for i, number in enumerate(numbers)
        ]
        concept.append([s.concept for s in each])
        style.append([s.style or 0.0 for s in each])
        quality.append([s.psnr_db for s in each])
    most = torch.tensor([concept, style]).mean(1) > 0.5  # [2, pairs]
    return {
        "pairs": len(numbers),
        "concept@1": round(float(most[0].float().mean()), 3),
        "style@1": round(float(most[1].float().mean()), 3),
        "psnr_db": round(float(torch.tensor(quality).mean()), 2),
    }, sheets


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("model", type=Path)
    parser.add_argument("sheet", type=Path, nargs="?")
    parser.add_argument("--pairs", type=int, default=96, help="of each kind, at most")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    model, pictures = load(args.model), Emoji(load_data(args.data))
    held_out = sorted(c * len(STYLES) + s for c, s in model.held_out)
    shown = [i for i in range(len(pictures)) if i not in set(held_out)]
    report: dict = {"images_seen": model.seen, "seeds": args.seeds}
    rows = []
    kinds = {"shown": shown, "held out": held_out}
    for style in STYLES:
        kinds[f"held out, {style}"] = [i for i in held_out if pictures.style_of(i) == style]
    for kind, numbers in kinds.items():
        order = torch.randperm(len(numbers), generator=torch.Generator().manual_seed(0)).tolist()
        chosen = [numbers[i] for i in order[: args.pairs]]
        report[kind], sheets = judge(model, pictures, chosen, args.seeds)
        rows += sheets[:1]
        print(kind, report[kind], flush=True)
    if args.sheet:
        save_sheet(args.sheet, rows)
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
