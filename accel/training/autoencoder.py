"""Fitting a face autoencoder to two people's faces, so that it goes on exactly where it stopped.

Everything random is a function of the seed and the number of the step, so a state is weights, the
optimiser's memory and that number; samples may be made ahead by any number of threads.

Loss, optimiser and rhythm are DeepFaceLab's (Quick96, SAEHD), written from their description.
"""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from accel.core import ConfigError
from accel.faces.autoencoder import Autoencoder
from accel.faces.autoencoder_loss import blur_outside, side_loss, soft_mask
from accel.kernels._native import limit_threads
from accel.training.augment import SCALE, Augment, Sampler, Side
from accel.training.faces import FaceSet
from accel.training.gan import Adversary, adversary_loss, adversary_own_loss
from accel.training.optim import LossScale, Optimiser
from accel.training.options import COSINE, DROPOUT, TrainOptions
from accel.training.style import CodeCritic, background_style_loss, face_style_loss, verdict

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
PLAIN_EVERY = 3  # Quick96: every third step sees the last batch again, not bent


class AutoencoderTrainer:
    """A model, its optimiser and where they stand.

    history: the two losses of every step so far. critic: what true_face is learned from.
    adversary: what gan is. foreign: options of the model's file that mean nothing here.
    precision: of the networks' arithmetic; weights and sums are float32 always.
    """

    def __init__(
        self, options: TrainOptions, device: torch.device, *, precision: str = "fp32"
    ) -> None:
        if precision not in PRECISIONS:
            raise ConfigError(
                f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r:.40}"
            )
        if precision == "fp16" and device.type == "cpu":
            raise ConfigError("precision fp16 needs a CUDA device; take bf16 on a CPU")
        self.options, self.device, self.precision = options, device, precision
        generator = torch.Generator().manual_seed(options.seed)
        made = Autoencoder(options.network, generator)
        # Our own convolutions, of float32 on a CPU, have it otherwise than oneDNN and cuDNN.
        plain = device.type == "cpu" and precision == "fp32"
        self.layout = torch.contiguous_format if plain else torch.channels_last
        self.model = made.to(device, memory_format=self.layout)  # type: ignore[call-overload]
        self.optimiser = self._optimiser(self._trained())
        self.critic: CodeCritic | None = None
        if options.true_face:
            self.critic = CodeCritic(options.network, generator).to(device)
            self.critic_optimiser = self._optimiser(
                [(f"code_discriminator.{n}", p) for n, p in self.critic.named_parameters()]
            )
        self.adversary: Adversary | None = None
        if options.gan:
            made_up = Adversary(options.gan_patch_px, options.gan_dims, generator)
            self.adversary = made_up.to(device)
            self.adversary_optimiser = self._optimiser(
                [(f"GAN.{n}", p) for n, p in self.adversary.named_parameters()]
            )
        self.loss_scale = LossScale() if precision == "fp16" else None
        self.iteration = 0
        self.history: list[list[float]] = []
        self.foreign: dict[str, Any] = {}

    def _optimiser(self, weights: Any) -> Optimiser:
        options = self.options
        dropped = options.lr_dropout
        return Optimiser(
            weights,
            options.optimiser,
            lr=options.rate,
            keep=DROPOUT if dropped else 1.0,
            cosine=COSINE if dropped and options.model == "saehd" else 0,
            clip=options.clip,
            seed=options.seed,
        )

    def _trained(self) -> list[tuple[str, nn.Parameter]]:
        """All weights; but inter_AB stays as it is once pictures are no longer bent."""
        frozen = "inter_AB." if not self.options.warp else " "
        return [(n, p) for n, p in self.model.named_parameters() if not n.startswith(frozen)]

    @property
    def parts(self) -> dict[str, nn.Module]:
        """The modules that have a weight file each."""
        parts: dict[str, nn.Module] = dict(self.model.parts)
        if self.critic:
            parts["code_discriminator"] = self.critic
        if self.adversary:
            parts["GAN"] = self.adversary
        return parts

    @property
    def optimisers(self) -> dict[str, Optimiser]:
        """The optimisers that have a file each."""
        found = {"src_dst_opt": self.optimiser}
        if self.critic:
            found["D_code_opt"] = self.critic_optimiser
        if self.adversary:
            found["GAN_opt"] = self.adversary_optimiser
        return found

    def step(self, src: Side, dst: Side) -> tuple[float, float]:
        """Learn from one batch of each; return the mean losses of source and destination."""
        src, dst = src.to(self.device), dst.to(self.device)
        with self._autocast():
            code, faces = self._faces(src.warped, dst.warped)
        losses = [
            side_loss(
                *found,
                blur_outside(side.target, side.mask) if self.options.blur_out_mask else side.target,
                side.mask,
                kind=self.options.model,
                masked=self.options.masked,
                details=side.details if self.options.eyes_mouth else None,
            )
            for found, side in zip(faces, (src, dst))
        ]
        losses[0] = losses[0] + self._style(code, dst)
        total = torch.cat(losses).sum()
        if self.critic:
            with self._autocast():
                believed = verdict(self.critic(code[1]), True)
            total = total + self.options.true_face * believed.sum()
        if self.adversary:
            soft = soft_mask(src.mask, "saehd") if self.options.masked else None
            with self._autocast():
                answers = self.adversary(_shown(faces[0][0], soft))
            fooled = adversary_loss(answers, faces[0][0], src.target, soft, self.options.gan)
            total = total + fooled.sum()
        self._backward(total)
        self._move(self.optimiser)
        if self.critic:
            self._teach_critic(code)
        if self.adversary:
            self._teach_adversary(faces[0][0].detach(), src.target, soft)
        # Waits for the device: the losses are what the user watches.
        source, destination = torch.stack([loss.detach().mean() for loss in losses]).tolist()
        self.history.append([source, destination])
        self.iteration += 1
        return source, destination

    def _faces(
        self, src: Tensor, dst: Tensor
    ) -> tuple[tuple[Tensor, Tensor], list[tuple[Tensor, Tensor]]]:
        """Codes and reconstructions of both. What they share runs once over both batches."""
        model, n = self.model, len(src)
        both = torch.cat([src, dst]).contiguous(memory_format=self.layout)
        code = model.encoder(both)
        if model.config.kind == "df":
            code = model.inter(code)
            codes = code[:n], code[n:]
            return codes, [model.decoder_src(codes[0]), model.decoder_dst(codes[1])]
        ab, b = model.inter_AB(code), model.inter_B(code[n:])
        both_codes = torch.cat([torch.cat([ab[:n], b]), torch.cat([ab[:n], ab[n:]])], 1)
        face, mask = model.decoder(both_codes)
        return (both_codes[:n], both_codes[n:]), [(face[:n], mask[:n]), (face[n:], mask[n:])]

    def _style(self, codes: tuple[Tensor, Tensor], dst: Side) -> Tensor:
        """How far the swapped face's colours are from the destination's. [B], or 0."""
        options = self.options
        if not (options.face_style or options.background_style):
            return torch.zeros((), device=self.device)
        with self._autocast():
            if options.network.kind == "df":
                face, _ = self.model.decoder_src(codes[1].detach())
            else:
                ab = codes[1].detach().chunk(2, 1)[1]
                face, _ = self.model.decoder(torch.cat([ab, ab], 1))
        loss = torch.zeros((), device=self.device)
        if options.face_style:
            loss = loss + options.face_style * face_style_loss(face, dst.target, dst.mask)
        if options.background_style:
            more = background_style_loss(face, dst.target, dst.mask)
            loss = loss + options.background_style * more
        return loss

    def _teach_critic(self, codes: tuple[Tensor, Tensor]) -> None:
        assert self.critic is not None
        with self._autocast():
            source = verdict(self.critic(codes[0].detach()), True)
            other = verdict(self.critic(codes[1].detach()), False)
        # The model's own step left gradients here.
        self.critic.zero_grad(set_to_none=True)
        self._backward(0.5 * (source + other).sum())
        self._move(self.critic_optimiser)

    def _teach_adversary(self, face: Tensor, target: Tensor, soft: Tensor | None) -> None:
        assert self.adversary is not None
        with self._autocast():
            both = torch.cat([_shown(target, soft), _shown(face.to(target.dtype), soft)])
            middle, pixels = (answer.chunk(2) for answer in self.adversary(both))
        self.adversary.zero_grad(set_to_none=True)  # the model's own step left gradients here
        own = adversary_own_loss((middle[0], pixels[0]), (middle[1], pixels[1]))
        self._backward(own.sum())
        self._move(self.adversary_optimiser)

    def _backward(self, loss: Tensor) -> None:
        (loss * self.loss_scale.factor if self.loss_scale else loss).backward()  # type: ignore[no-untyped-call]

    def _move(self, optimiser: Optimiser) -> None:
        if self.loss_scale:
            self.loss_scale.step(optimiser)
        else:
            optimiser.step()

    def _autocast(self) -> AbstractContextManager[Any]:
        if self.precision == "fp32":
            return nullcontext()
        return torch.autocast(self.device.type, PRECISIONS[self.precision])

    @torch.no_grad()
    def swapped(self, pictures: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The source's face, its mask and the destination's; float32."""
        with self._autocast():
            found = self.model(pictures.to(self.device))
        return tuple(t.float() for t in found)  # type: ignore[return-value]

    @torch.no_grad()
    def reconstructed(self, src: Tensor, dst: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Each person's face and mask from their own; float32."""
        with self._autocast():
            found = [
                self.model.reconstruct_src(src.to(self.device)),
                self.model.reconstruct_dst(dst.to(self.device)),
            ]
        return [(face.float(), mask.float()) for face, mask in found]


def _shown(face: Tensor, soft: Tensor | None) -> Tensor:
    return face if soft is None else face * soft


class Batches:
    """Both people's batches in the order of steps, made ahead by threads.

    Step 0, 1, 2.. of Quick96 repeats the batch before, not bent, whenever 3 divides it.
    """

    def __init__(
        self,
        options: TrainOptions,
        src: FaceSet,
        dst: FaceSet,
        first: int,
        *,
        workers: int = 1,
        ahead: int = 4,
    ) -> None:
        augment = Augment(
            bend=options.warp,
            flip=options.flip_dst,
            scale=SCALE[options.model],
            uniform_yaw=options.uniform_yaw,
        )
        # Colours vary on the source's side alone: the destination is what the film shows.
        varied = replace(augment, flip=options.flip_src, color=options.color, hsv=options.hsv)
        self._samplers = [
            Sampler(src, options.batch, varied, options.seed, 0, others=dst),
            Sampler(dst, options.batch, augment, options.seed, 1),
        ]
        self._repeats = options.model == "quick96"
        self._pool = ThreadPoolExecutor(workers, initializer=_one_thread)
        self._next = first
        self._waiting: deque[Future[tuple[Side, Side]]] = deque()
        self._ahead = max(1, ahead)

    def __next__(self) -> tuple[Side, Side]:
        while len(self._waiting) < self._ahead:
            self._waiting.append(self._pool.submit(self.at, self._next))
            self._next += 1
        return self._waiting.popleft().result()

    def at(self, step: int) -> tuple[Side, Side]:
        """The batches of a step."""
        number, plain = batch_of(step) if self._repeats else (step, False)
        src, dst = (sampler(number) for sampler in self._samplers)
        return (_plain(src), _plain(dst)) if plain else (src, dst)

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)


def batch_of(step: int) -> tuple[int, bool]:
    """Number of the batch that a step of Quick96 sees, and whether it is seen not bent."""
    again = step > 0 and step % PLAIN_EVERY == 0
    seen = step - again
    return seen - seen // PLAIN_EVERY, again


def _plain(side: Side) -> Side:
    return Side(side.target, side.target, side.mask, side.details)


def _one_thread() -> None:
    """The cores belong to the networks; a sample thread that forks gets in their way."""
    torch.set_num_threads(1)
    limit_threads(1)
