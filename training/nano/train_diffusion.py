"""Train the text tower and the UNet of `nano` together, on latents of the finished autoencoder.

    python -m training.nano.train_diffusion DATA.npz RUN_DIR [--images N] [--start NANO]

Reads RUN_DIR/vae.safetensors, goes on from RUN_DIR/diffusion.ckpt if there is one, and keeps
RUN_DIR/nano.safetensors (the moving average, see export.py) up to date. Where the checkpoint is
lost, `--start` goes on from such a file, autoencoder included, with an optimiser that starts anew.
"""

from __future__ import annotations

import argparse
import copy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from accel.models import nano
from accel.nn.text import ClipText
from accel.nn.unet import Unet
from accel.nn.vae import Vae
from accel.sampling.schedules import NoiseSchedule
from accel.text.bpe import clip_tokenizer
from accel.text.rows import RowMap
from training.nano.captions import COLOURS, STYLES, Captioner, choose, thumbnails
from training.nano.common import Run, composite, cosine, load_pictures, save_sheet
from training.nano.evaluate import Pair, decode, sample, score
from training.nano.export import Nano
from training.nano.export import load as load_nano
from training.nano.export import save as export
from training.nano.muon import Muon

BATCH = 64
MUON_RATE, ADAM_RATE = 0.02, 2e-3
WARM_UP = 200 * BATCH  # pictures
LAST_RATE = 0.05  # share of the first
AVERAGE = 0.999
NO_CAPTION, ON_COLOUR = 0.1, 0.3  # probabilities
SIGNAL_CAP = 5.0  # largest weight of a picture's error, in units of its signal to noise ratio
HELD_OUT = 0.1  # share of the (concept, style) pairs
LOG_EVERY, EVALUATE_EVERY = 3_200, 32_000  # pictures
EVALUATED = 48  # pairs of each kind


class Nets(nn.Module):
    """What is trained: both parts, so that one optimiser and one average see them."""

    def __init__(self, text: ClipText, unet: Unet):
        super().__init__()
        self.text, self.unet = text, unet

    def forward(self, x: Tensor, t: Tensor, rows: Tensor) -> Tensor:
        return self.unet(x, t, self.text(rows).final)


@dataclass(frozen=True)
class Examples:
    """Latents of every chosen picture on every background, and the pairs that are shown."""

    latents: Tensor  # [concepts, styles, colours, 4, 16, 16]
    captioner: Captioner
    row_map: RowMap
    truth: np.ndarray  # thumbnails
    held_out: list[Pair]
    learnt: list[Pair]

    def rows(self, prompts: list[str]) -> Tensor:  # [B, tokens]
        encode = clip_tokenizer().encode
        length = nano.text_config(0).length
        return torch.tensor([self.row_map.chunk(encode(p), length) for p in prompts])

    def draw(self, random: torch.Generator) -> tuple[Tensor, Tensor]:  # latents, token rows
        names = list(COLOURS)
        latents, prompts = [], []
        for i in torch.randint(len(self.learnt), (BATCH,), generator=random).tolist():
            pair, colour = self.learnt[i], 0
            if torch.rand((), generator=random) < ON_COLOUR:
                colour = int(torch.randint(1, len(names), (), generator=random))
            latents.append(self.latents[pair.concept, pair.style, colour])
            silent = bool(torch.rand((), generator=random) < NO_CAPTION)
            caption = self.captioner.draw(pair.concept, STYLES[pair.style], names[colour], random)
            prompts.append("" if silent else caption)
        return torch.stack(latents), self.rows(prompts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("run", type=Path)
    parser.add_argument("--images", type=int, default=650_000, help="length of the schedule")
    parser.add_argument("--start", type=Path, help="nano.safetensors to go on from")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)

    run = Run(args.run, "diffusion")
    start = load_nano(args.start) if args.start else None
    vae = Vae(nano.VAE).to(memory_format=torch.channels_last).requires_grad_(False)
    vae.load_state_dict(
        start.vae.state_dict() if start else load_file(args.run / "vae.safetensors")
    )
    examples = prepare(load_pictures(args.data), vae)
    run.log(
        f"{len(examples.truth)} concepts, {len(examples.learnt)} pairs shown,"
        f" {len(examples.held_out)} held out, {len(examples.row_map.kept)} tokens kept"
    )
    training = Training(examples, vae, run, args.images)
    if state := run.load():
        training.load_state_dict(state)
        run.log(f"resumed at {training.seen} pictures")
    elif start:
        training.start_from(start)
        run.log(f"started from {args.start} at {training.seen} pictures")
    training.run_until_done()


@torch.no_grad()
def prepare(data: dict[str, np.ndarray], vae: Vae) -> Examples:
    chosen = choose(data)
    keep = [list(data["style"]).index(s) for s in STYLES]
    rgba = torch.from_numpy(data["image"][chosen][:, keep]).flatten(0, 1)
    latents = []
    for colour in COLOURS.values():
        images = composite(rgba, torch.tensor(colour) / 255)
        latents.append(torch.cat([vae.encode(part) for part in images.split(64)]))
    stacked = torch.stack(latents, 1).unflatten(0, (len(chosen), len(STYLES))).contiguous()

    captioner = Captioner.of(data, chosen)
    encode = clip_tokenizer().encode
    kept = sorted({token for text in captioner.words() for token in encode(text)})

    # At most one style of a concept is held out, or nothing would be known of it at all.
    random = torch.Generator().manual_seed(2)
    count = round(HELD_OUT * len(chosen) * len(STYLES))
    concepts = torch.randperm(len(chosen), generator=random)[:count].tolist()
    held_out = [Pair(c, i % len(STYLES)) for i, c in enumerate(sorted(concepts))]
    hidden = set(held_out)
    pairs = [Pair(c, s) for c in range(len(chosen)) for s in range(len(STYLES))]
    learnt = [p for p in pairs if p not in hidden]
    return Examples(
        stacked,
        captioner,
        RowMap(tuple(kept), nano.HASHED_ROWS),
        thumbnails(data)[chosen],
        held_out,
        learnt,
    )


class Training:
    """One run: networks, their average, the optimiser, and the pictures seen so far."""

    def __init__(self, examples: Examples, vae: Vae, run: Run, images: int):
        self.examples, self.vae, self.run, self.images = examples, vae, run, images
        torch.manual_seed(0)
        text = ClipText(nano.text_config(len(examples.row_map.kept)))
        self.nets = Nets(text, Unet(nano.UNET)).to(memory_format=torch.channels_last)
        start_as_identity(self.nets)
        self.average = copy.deepcopy(self.nets).requires_grad_(False)
        self.optimiser = Muon(self.nets, MUON_RATE, ADAM_RATE)
        self.random = torch.Generator().manual_seed(1)
        self.seen = 0
        sigmas = torch.from_numpy(NoiseSchedule.scaled_linear().sigmas)
        self.signal = (1 / (1 + sigmas.square())).float()  # [1000] alpha bar

    def run_until_done(self) -> None:
        total, count, since = 0.0, 0, self.seen
        while self.seen < self.images and not self.run.stopping:
            total, count = total + self.step(), count + 1
            if self.seen // LOG_EVERY != (self.seen - BATCH) // LOG_EVERY:
                self.run.log(f"seen {self.seen} v-loss {total / count:.4f}")
                total, count = 0.0, 0
            due = self.seen // EVALUATE_EVERY != (self.seen - BATCH) // EVALUATE_EVERY
            if due or self.run.should_save:
                self.save()
            if due and not self.run.stopping:
                self.evaluate()
        self.save()
        if self.run.stopping:
            raise SystemExit("train_diffusion: stopped; call it again to go on")
        if self.seen > since:
            self.evaluate()
            self.run.log("done")

    def step(self) -> float:
        """One batch; returns the plain (unweighted) error of the velocity."""
        latents, rows = self.examples.draw(self.random)
        # One timestep from each of BATCH equal intervals: less noise in the loss.
        jitter = torch.rand(BATCH, generator=self.random)
        t = ((torch.arange(BATCH) + jitter) / BATCH * 1000).long().clamp(max=999)
        noise = torch.randn(latents.shape, generator=self.random)
        signal = self.signal[t].view(-1, 1, 1, 1)
        x = signal.sqrt() * latents + (1 - signal).sqrt() * noise
        velocity = signal.sqrt() * noise - (1 - signal).sqrt() * latents

        predicted = self.nets(x.contiguous(memory_format=torch.channels_last), t, rows)
        error = (predicted - velocity).square().mean((1, 2, 3))
        # error * (1 + snr) is the picture's squared error times 1 + snr; the cap keeps the
        # almost clean end from taking over while the layout (high noise) keeps full weight.
        ratio = 1 + signal.flatten() / (1 - signal.flatten())
        loss = (error * ratio.clamp(max=SIGNAL_CAP) / ratio).mean()

        self.optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.nets.parameters(), 1.0)
        self.optimiser.step(cosine(self.seen, self.images, WARM_UP, LAST_RATE))
        self.seen += BATCH
        self.follow()
        return error.mean().item()

    @torch.no_grad()
    def follow(self) -> None:
        """Move the average; it follows more closely while there are few steps to average."""
        steps = self.seen / BATCH
        keep = min(AVERAGE, (1 + steps) / (10 + steps))
        average, current = list(self.average.parameters()), list(self.nets.parameters())
        torch._foreach_lerp_(average, current, 1 - keep)

    def evaluate(self) -> None:
        captions = self.examples.captioner
        sheet = []
        for kind, pairs in (("shown", self.examples.learnt), ("held out", self.examples.held_out)):
            random = torch.Generator().manual_seed(3)
            order = torch.randperm(len(pairs), generator=random)[:EVALUATED].tolist()
            chosen = [pairs[i] for i in order]
            prompts = [captions.plain(p.concept, STYLES[p.style]) for p in chosen]
            noise = torch.randn(len(chosen), *self.examples.latents.shape[3:], generator=random)
            latents = sample(
                self.average.text,
                self.average.unet,
                self.examples.rows(prompts),
                self.examples.rows([""]),
                noise,
            )
            images = decode(self.vae, latents)
            truth = torch.stack([self.examples.latents[p.concept, p.style, 0] for p in chosen])
            sheet += [decode(self.vae, truth[:24]), images[:24]]
            self.run.log(f"seen {self.seen} {kind}: {score(images, chosen, self.examples.truth)}")
        save_sheet(self.run.folder / f"sheet-{self.seen:07d}.png", sheet)

    def save(self) -> None:
        self.run.save(self.state_dict())
        held_out = {(p.concept, p.style) for p in self.examples.held_out}
        average, row_map = self.average, self.examples.row_map
        labels = self.examples.captioner.labels
        model = Nano(average.text, average.unet, self.vae, row_map, labels, held_out, self.seen)
        export(self.run.folder / "nano.safetensors", model)

    def start_from(self, model: Nano) -> None:
        """Take over weights and place in the schedule, not the optimiser's state."""
        if model.row_map != self.examples.row_map:
            raise SystemExit("train_diffusion: --start must have the token rows of these captions")
        for nets in (self.nets, self.average):
            nets.text.load_state_dict(model.text.state_dict())
            nets.unet.load_state_dict(model.unet.state_dict())
        self.seen = model.seen
        self.random.manual_seed(self.seen)  # not the pictures of the first run over again

    def state_dict(self) -> dict:
        return {
            "nets": self.nets.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "random": self.random.get_state(),
            "seen": self.seen,
        }

    def load_state_dict(self, state: dict) -> None:
        self.nets.load_state_dict(state["nets"])
        self.average.load_state_dict(state["average"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.random.set_state(state["random"])
        self.seen = state["seen"]


@torch.no_grad()
def start_as_identity(nets: Nets) -> None:
    """Every residual branch of the UNet begins at zero, embeddings small."""
    for name, p in nets.unet.named_parameters():
        if any(end in name for end in ("out_layers.3.", "proj_out.")) or name.startswith("out.2."):
            p.zero_()
    embeddings = nets.text.text_model.embeddings
    embeddings.token_embedding.weight.normal_(0, 0.05)
    embeddings.position_embedding.weight.normal_(0, 0.02)


if __name__ == "__main__":
    main()
