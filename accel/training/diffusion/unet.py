"""Train the text tower and the UNet of a `nano` together, on latents of a finished autoencoder."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from accel.core import ConfigError, InputError
from accel.models import nano
from accel.nn.text import ClipText
from accel.nn.unet import Unet
from accel.nn.vae import Vae
from accel.sampling.schedules import NoiseSchedule
from accel.text.bpe import clip_tokenizer
from accel.text.rows import RowMap
from accel.training.diffusion import vae as autoencoder
from accel.training.diffusion.emoji import STYLES, Emoji
from accel.training.diffusion.muon import Muon
from accel.training.diffusion.nano_file import Nano, save, token_rows
from accel.training.diffusion.pictures import Pictures
from accel.training.diffusion.retrieval import decode, sample, score
from accel.training.diffusion.run import Run, channels_last, composite, cosine, save_sheet

BATCH = 64
MUON_RATE, ADAM_RATE = 0.02, 2e-3
WARM_UP = 200  # batches
LAST_RATE = 0.05  # share of the first
AVERAGE = 0.999
NO_CAPTION, ON_COLOUR = 0.1, 0.3  # probabilities
SIGNAL_CAP = 5.0  # largest weight of a picture's error, in units of its signal to noise ratio
LOG_EVERY, EVALUATE_EVERY = 3_200, 32_000  # pictures
EVALUATED = 48  # pictures of each kind
FILE = "nano.safetensors"


class Nets(nn.Module):
    """What is trained: both parts, so that one optimiser and one average see them."""

    def __init__(self, text: ClipText, unet: Unet):
        super().__init__()
        self.text, self.unet = text, unet

    def forward(self, x: Tensor, t: Tensor, rows: Tensor) -> Tensor:
        predicted: Tensor = self.unet(x, t, self.text(rows).final)
        return predicted


@dataclass(frozen=True)
class Examples:
    """Latents of every picture on every background, and the pictures that are shown."""

    latents: Tensor  # [pictures, colours, 4, h, w]
    pictures: Pictures
    row_map: RowMap
    learnt: list[int]

    def draw(self, batch: int, random: torch.Generator) -> tuple[Tensor, Tensor]:
        """Latents [B, 4, h, w] and token rows [B, tokens]."""
        names = list(self.pictures.backgrounds)
        latents, prompts = [], []
        for i in torch.randint(len(self.learnt), (batch,), generator=random).tolist():
            picture, colour = self.learnt[i], 0
            if len(names) > 1 and torch.rand((), generator=random) < ON_COLOUR:
                colour = int(torch.randint(1, len(names), (), generator=random))
            latents.append(self.latents[picture, colour])
            silent = bool(torch.rand((), generator=random) < NO_CAPTION)
            caption = self.pictures.caption(picture, names[colour], random)
            prompts.append("" if silent else caption)
        return torch.stack(latents), token_rows(self.row_map, prompts)


def train_unet(
    pictures: Pictures,
    run: Run,
    *,
    images: int,
    vae: Path | None = None,
    start: Nano | None = None,
    batch: int = BATCH,
) -> Path:
    """Train, or go on from the run's last save; return the model's file (the moving average).

    images: length of the schedule, in pictures shown; keep it when going on.
    vae: the autoencoder; default RUN/vae.safetensors. start: a model to go on from where there is
    no save: autoencoder, weights and place in the schedule are taken, the optimiser starts anew.
    """
    encoder = channels_last(Vae(nano.VAE)).requires_grad_(False)
    if start:
        encoder.load_state_dict(start.vae.state_dict())
    else:
        path = vae or run.folder / autoencoder.FILE
        if not path.exists():
            raise InputError(
                f"{path}: the autoencoder must be trained first: accel train-diffusion vae"
            )
        encoder.load_state_dict(load_file(path))
    training = Training(prepare(pictures, encoder), encoder, run, images, batch)
    examples = training.examples
    run.log(
        f"{len(pictures)} pictures, {len(examples.learnt)} shown, {len(pictures.held_out)} held"
        f" out, {len(examples.row_map.kept)} tokens kept"
    )
    if state := run.load(pictures=len(pictures), tokens=len(examples.row_map.kept)):
        training.load_state_dict(state)
        run.log(f"resumed at {training.seen} pictures")
    elif start:
        training.start_from(start)
        run.log(f"started from a model that has seen {training.seen} pictures")
    training.run_until_done()
    return run.folder / FILE


@torch.no_grad()
def prepare(pictures: Pictures, vae: Vae) -> Examples:
    """Encode all pictures on all backgrounds, and settle the token table."""
    latents = []
    for colour in pictures.backgrounds.values():
        images = composite(pictures.rgba, torch.tensor(colour) / 255)
        latents.append(torch.cat([vae.encode(part) for part in images.split(64)]))
    encode = clip_tokenizer().encode
    kept = sorted({token for text in pictures.words() for token in encode(text)})
    learnt = [i for i in range(len(pictures)) if i not in pictures.held_out]
    if not kept or not learnt:
        raise InputError("train-diffusion unet: captions must hold words, and pictures be shown")
    row_map = RowMap(tuple(kept), nano.HASHED_ROWS)
    return Examples(torch.stack(latents, 1).contiguous(), pictures, row_map, learnt)


class Training:
    """One run: networks, their average, the optimiser, and the pictures seen so far."""

    def __init__(self, examples: Examples, vae: Vae, run: Run, images: int, batch: int = BATCH):
        self.examples, self.vae, self.run, self.images = examples, vae, run, images
        self.batch = batch
        torch.manual_seed(0)
        text = ClipText(nano.text_config(len(examples.row_map.kept)))
        self.nets = channels_last(Nets(text, Unet(nano.UNET)))
        start_as_identity(self.nets)
        self.average = copy.deepcopy(self.nets).requires_grad_(False)
        self.optimiser = Muon(self.nets, MUON_RATE, ADAM_RATE)
        self.random = torch.Generator().manual_seed(1)
        self.seen = 0
        sigmas = torch.from_numpy(NoiseSchedule.scaled_linear().sigmas)
        self.signal = (1 / (1 + sigmas.square())).float()  # [1000] alpha bar

    def run_until_done(self) -> None:
        """Steps, log, curve, sheets and saves, until the schedule ends or a stop is asked for."""
        total, count, since = 0.0, 0, self.seen
        while self.seen < self.images and not self.run.stopping:
            total, count = total + self.step(), count + 1
            self.run.tell(self.seen, self.images)
            if self._passed(LOG_EVERY):
                self.run.log(f"seen {self.seen} v-loss {total / count:.4f}")
                self.run.plot(self.seen, total / count)
                total, count = 0.0, 0
            due = self._passed(EVALUATE_EVERY)
            if due or self.run.should_save:
                self.save()
            if due and not self.run.stopping:
                self.evaluate()
        self.save()
        if not self.run.stopping and self.seen > since:
            self.evaluate()
            self.run.log("done")

    def _passed(self, every: int) -> bool:
        return self.seen // every != (self.seen - self.batch) // every

    def step(self) -> float:
        """One batch; returns the plain (unweighted) error of the velocity."""
        latents, rows = self.examples.draw(self.batch, self.random)
        # One timestep from each of as many equal intervals: less noise in the loss.
        jitter = torch.rand(self.batch, generator=self.random)
        t = ((torch.arange(self.batch) + jitter) / self.batch * 1000).long().clamp(max=999)
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
        self.optimiser.step(cosine(self.seen, self.images, WARM_UP * self.batch, LAST_RATE))
        self.seen += self.batch
        self.follow()
        return float(error.mean().item())

    @torch.no_grad()
    def follow(self) -> None:
        """Move the average; it follows more closely while there are few steps to average."""
        steps = self.seen / self.batch
        keep = min(AVERAGE, (1 + steps) / (10 + steps))
        average: list[Tensor] = list(self.average.parameters())
        current: list[Tensor] = list(self.nets.parameters())
        torch._foreach_lerp_(average, current, 1 - keep)

    def evaluate(self) -> None:
        """Sample, judge by retrieval, and write a sheet: truth and samples, shown and held out."""
        pictures, examples, sheet = self.examples.pictures, self.examples, []
        for kind, numbers in (("shown", examples.learnt), ("held out", sorted(pictures.held_out))):
            if not numbers:
                continue
            random = torch.Generator().manual_seed(3)
            order = torch.randperm(len(numbers), generator=random)[:EVALUATED].tolist()
            asked = [numbers[i] for i in order]
            prompts = [pictures.plain(i) for i in asked]
            noise = torch.randn(len(asked), *examples.latents.shape[2:], generator=random)
            rows, empty = (token_rows(examples.row_map, p) for p in (prompts, [""]))
            latents = sample(self.average.text, self.average.unet, rows, empty, noise)
            images = decode(self.vae, latents)
            truth = torch.stack([examples.latents[i, 0] for i in asked])
            sheet += [decode(self.vae, truth[:24]), images[:24]]
            self.run.log(f"seen {self.seen} {kind}: {score(images, asked, pictures)}")
        save_sheet(self.run.folder / f"sheet-{self.seen:07d}.png", sheet)

    def save(self) -> None:
        """Save the run, and the average as a model that can be used."""
        self.run.save(self.state_dict())
        pictures = self.examples.pictures
        styles = len(STYLES) if isinstance(pictures, Emoji) else 1
        held_out = {divmod(number, styles) for number in pictures.held_out}
        labels = pictures.labels
        model = Nano(
            self.average.text, self.average.unet, self.vae, self.examples.row_map, labels,
            held_out, self.seen,
        )  # fmt: skip
        save(self.run.folder / FILE, model)

    def start_from(self, model: Nano) -> None:
        """Take over weights and place in the schedule, not the optimiser's state."""
        if model.row_map != self.examples.row_map:
            raise ConfigError(
                "train-diffusion unet: the model to start from must have the token rows of these"
                " captions"
            )
        for nets in (self.nets, self.average):
            nets.text.load_state_dict(model.text.state_dict())
            nets.unet.load_state_dict(model.unet.state_dict())
        self.seen = model.seen
        self.random.manual_seed(self.seen)  # not the pictures of the first run over again

    def state_dict(self) -> dict[str, Any]:
        return {
            "nets": self.nets.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "random": self.random.get_state(),
            "seen": self.seen,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        try:
            self.nets.load_state_dict(state["nets"])
            self.average.load_state_dict(state["average"])
            self.optimiser.load_state_dict(state["optimiser"])
        except (RuntimeError, KeyError, ValueError) as error:
            first = str(error).splitlines()[0][:120]
            raise ConfigError(
                f"{self.run.checkpoint}: must be of the same pictures and model ({first})"
            ) from None
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
