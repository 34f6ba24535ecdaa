"""Train the autoencoder of `nano`.

    python -m training.nano.train_vae DATA.npz RUN_DIR [--images N]

Goes on from RUN_DIR/vae.ckpt if there is one; leaves RUN_DIR/vae.safetensors when done.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from accel.models import nano
from accel.nn.vae import Vae
from training.nano.common import Run, composite, cosine, load_pictures, psnr, save_sheet
from training.nano.muon import Muon

BATCH = 8
HELD_OUT = 256
EVALUATE_EVERY = 1600  # pictures
MIN_PSNR_DB = 26.0  # below this the diffusion model would learn the autoencoder's blur
MUON_RATE, ADAM_RATE = 0.03, 2e-3
EDGE_WEIGHT, KL_WEIGHT = 0.25, 1e-5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("run", type=Path)
    parser.add_argument("--images", type=int, default=26_000, help="length of the cosine schedule")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)

    pictures = torch.from_numpy(load_pictures(args.data)["image"]).flatten(0, 1)
    order = torch.randperm(len(pictures), generator=torch.Generator().manual_seed(0))
    held_out, pictures = pictures[order[:HELD_OUT]], pictures[order[HELD_OUT:]]
    wanted = composite(held_out, torch.ones(3))

    run = Run(args.run, "vae")
    torch.manual_seed(0)
    vae = Vae(nano.VAE).to(memory_format=torch.channels_last)
    start_quiet(vae)
    optimiser = Muon(vae, MUON_RATE, ADAM_RATE)
    random = torch.Generator().manual_seed(1)
    seen = 0
    if state := run.load():
        vae.load_state_dict(state["vae"])
        optimiser.load_state_dict(state["optimiser"])
        random.set_state(state["random"])
        seen = state["seen"]
        run.log(f"resumed at {seen} pictures")

    def save() -> None:
        run.save(
            {
                "vae": vae.state_dict(),
                "optimiser": optimiser.state_dict(),
                "random": random.get_state(),
                "seen": seen,
            }
        )

    while seen < args.images and not run.stopping:
        loss = loss_of(vae, draw_batch(pictures, random), random)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimiser.step(cosine(seen, args.images, warm_up=400, last=0.03))
        seen += BATCH
        if seen % EVALUATE_EVERY == 0:
            rebuilt, quality = reconstruct(vae, wanted)
            run.log(f"seen {seen} loss {loss.item():.4f} psnr {quality:.2f} dB")
            save_sheet(args.run / "vae.png", [wanted[:24], rebuilt[:24]])
        if run.should_save:
            save()
    save()
    if run.stopping:
        raise SystemExit("train_vae: stopped; call it again to go on")
    finish(vae, wanted, composite(pictures[::4], torch.ones(3)), run)


def start_quiet(vae: Vae) -> None:
    """Begin with little posterior noise (log-variance -6).

    At log-variance 0 the noise drowns the latents and the first thousands of pictures are lost.
    """
    z = vae.config.latent_channels
    with torch.no_grad():
        vae.quant_conv.bias[z:] = -6.0
        vae.quant_conv.weight[z:] *= 0.1


def draw_batch(pictures: Tensor, random: torch.Generator) -> Tensor:  # [BATCH, 3, 64, 64]
    """Half on white, half on a random colour; half of the batches mirrored."""
    rgba = pictures[torch.randint(len(pictures), (BATCH,), generator=random)]
    if torch.rand((), generator=random) < 0.5:
        rgba = rgba.flip(2)
    on_white = torch.rand(BATCH, 1, generator=random) < 0.5
    colour = torch.rand(BATCH, 3, generator=random)
    return composite(rgba, torch.where(on_white, 1.0, colour))


def loss_of(vae: Vae, image: Tensor, random: torch.Generator) -> Tensor:
    """L1 + L2/2 of the values, L1 of neighbour differences (edges), a touch of KL."""
    mean, log_variance = vae.moments(image)
    noise = torch.randn(mean.shape, generator=random)
    error = vae.decode(mean + noise * (0.5 * log_variance).exp()) - image
    values = error.abs().mean() + 0.5 * error.square().mean()
    edges = error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean()
    kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
    return values + EDGE_WEIGHT * edges + KL_WEIGHT * kl


@torch.no_grad()
def reconstruct(vae: Vae, wanted: Tensor) -> tuple[Tensor, float]:
    rebuilt = torch.cat([vae.decode(vae.encode(part)) for part in wanted.split(32)])
    return rebuilt, psnr(rebuilt, wanted).mean().item()


@torch.no_grad()
def fold(vae: Vae, mean: Tensor, deviation: Tensor) -> None:
    """Rewrite the two 1x1 convolutions so that latents have mean 0 and deviation 1 a channel."""
    z = len(mean)
    into, back = vae.quant_conv, vae.post_quant_conv
    into.weight[:z] /= deviation.view(-1, 1, 1, 1)
    into.bias[:z] = (into.bias[:z] - mean) / deviation
    into.bias[z:] -= 2 * deviation.log()
    back.bias += back.weight[:, :, 0, 0] @ mean
    back.weight *= deviation.view(1, -1, 1, 1)


@torch.no_grad()
def finish(vae: Vae, wanted: Tensor, sample: Tensor, run: Run) -> None:
    before, quality = reconstruct(vae, wanted)
    latents = torch.cat([vae.encode(part) for part in sample.split(32)])
    fold(vae, latents.mean((0, 2, 3)), latents.std((0, 2, 3)))
    change = (reconstruct(vae, wanted)[0] - before).abs().max().item()
    run.log(f"done: psnr {quality:.2f} dB, folding changed pictures by {change:.1e} at most")
    if quality < MIN_PSNR_DB:
        raise SystemExit(f"train_vae: psnr must reach {MIN_PSNR_DB} dB, got {quality:.2f}")
    tensors = {name: t.contiguous() for name, t in vae.state_dict().items()}
    save_file(tensors, run.folder / "vae.safetensors", {"psnr_db": f"{quality:.2f}"})


if __name__ == "__main__":
    main()
