"""Train a small KL autoencoder: pictures to latents of a quarter the side, and back."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import torch as safetensors
from torch import Tensor

from accel.core import ConfigError
from accel.models import nano
from accel.nn.vae import Vae
from accel.training.diffusion.muon import Muon
from accel.training.diffusion.pictures import Pictures
from accel.training.diffusion.run import Run, channels_last, composite, cosine, psnr, save_sheet
from accel.unfinished import write_whole

BATCH = 8
MOST_HELD_OUT = 256
EVALUATE_EVERY = 1600  # pictures
MIN_PSNR_DB = 26.0  # below this the diffusion model would learn the autoencoder's blur
MUON_RATE, ADAM_RATE = 0.03, 2e-3
EDGE_WEIGHT, KL_WEIGHT = 0.25, 1e-5
FILE = "vae.safetensors"


def train_vae(
    pictures: Pictures, run: Run, *, images: int, min_psnr_db: float = MIN_PSNR_DB
) -> Path:
    """Train, or go on from the run's last save; return the file of the finished autoencoder.

    images: length of the schedule, in pictures shown. Raises ConfigError when the finished
    autoencoder does not reach `min_psnr_db` on pictures that it never saw.
    """
    order = torch.randperm(len(pictures), generator=torch.Generator().manual_seed(0))
    aside = min(MOST_HELD_OUT, len(order) // 10)
    held_out, rgba = pictures.rgba[order[:aside]], pictures.rgba[order[aside:]]
    wanted = composite(held_out if aside else rgba[:8], torch.ones(3))

    torch.manual_seed(0)
    vae = channels_last(Vae(nano.VAE))
    start_quiet(vae)
    optimiser = Muon(vae, MUON_RATE, ADAM_RATE)
    random = torch.Generator().manual_seed(1)
    seen = 0
    if state := run.load(pictures=len(rgba)):
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

    while seen < images and not run.stopping:
        loss = loss_of(vae, draw_batch(rgba, random), random)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimiser.step(cosine(seen, images, warm_up=400, last=0.03))
        seen += BATCH
        run.tell(seen, images)
        if seen % EVALUATE_EVERY == 0 or seen >= images:
            rebuilt, quality = reconstruct(vae, wanted)
            run.log(f"seen {seen} loss {loss.item():.4f} psnr {quality:.2f} dB")
            run.plot(seen, loss.item())
            save_sheet(run.folder / "vae.png", [wanted[:24], rebuilt[:24]])
        if run.should_save:
            save()
    save()
    if not run.stopping:
        _finish(vae, wanted, composite(rgba[::4], torch.ones(3)), run, min_psnr_db)
    return run.folder / FILE


def start_quiet(vae: Vae) -> None:
    """Begin with little posterior noise (log-variance -6).

    At log-variance 0 the noise drowns the latents and the first thousands of pictures are lost.
    """
    z = vae.config.latent_channels
    assert vae.quant_conv.bias is not None
    with torch.no_grad():
        vae.quant_conv.bias[z:] = -6.0
        vae.quant_conv.weight[z:] *= 0.1


def draw_batch(rgba: Tensor, random: torch.Generator) -> Tensor:  # [BATCH, 3, H, W]
    """Half on white, half on a random colour; half of the batches mirrored."""
    drawn = rgba[torch.randint(len(rgba), (BATCH,), generator=random)]
    if torch.rand((), generator=random) < 0.5:
        drawn = drawn.flip(2)
    on_white = torch.rand(BATCH, 1, generator=random) < 0.5
    colour = torch.rand(BATCH, 3, generator=random)
    return composite(drawn, torch.where(on_white, 1.0, colour))


def loss_of(vae: Vae, image: Tensor, random: torch.Generator) -> Tensor:
    """L1 + L2/2 of the values, L1 of neighbour differences (edges), a touch of KL."""
    mean, log_variance = vae.moments(image)
    noise = torch.randn(mean.shape, generator=random)
    error = vae.decode(mean + noise * (0.5 * log_variance).exp()) - image
    values = error.abs().mean() + 0.5 * error.square().mean()
    edges = error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean()
    kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
    loss: Tensor = values + EDGE_WEIGHT * edges + KL_WEIGHT * kl
    return loss


@torch.no_grad()
def reconstruct(vae: Vae, wanted: Tensor) -> tuple[Tensor, float]:
    """Pictures through the autoencoder, and their mean PSNR in dB."""
    rebuilt = torch.cat([vae.decode(vae.encode(part)) for part in wanted.split(32)])
    return rebuilt, psnr(rebuilt, wanted).mean().item()


@torch.no_grad()
def fold(vae: Vae, mean: Tensor, deviation: Tensor) -> None:
    """Rewrite the two 1x1 convolutions so that latents have mean 0 and deviation 1 a channel."""
    z = len(mean)
    into, back = vae.quant_conv, vae.post_quant_conv
    assert into.bias is not None
    assert back.bias is not None
    into.weight[:z] /= deviation.view(-1, 1, 1, 1)
    into.bias[:z] = (into.bias[:z] - mean) / deviation
    into.bias[z:] -= 2 * deviation.log()
    back.bias += back.weight[:, :, 0, 0] @ mean
    back.weight *= deviation.view(1, -1, 1, 1)


@torch.no_grad()
def _finish(vae: Vae, wanted: Tensor, sample: Tensor, run: Run, min_psnr_db: float) -> None:
    before, quality = reconstruct(vae, wanted)
    latents = torch.cat([vae.encode(part) for part in sample.split(32)])
    fold(vae, latents.mean((0, 2, 3)), latents.std((0, 2, 3)))
    change = (reconstruct(vae, wanted)[0] - before).abs().max().item()
    run.log(f"done: psnr {quality:.2f} dB, folding changed pictures by {change:.1e} at most")
    if quality < min_psnr_db:
        raise ConfigError(
            f"train-diffusion vae: psnr must reach {min_psnr_db} dB, got {quality:.2f}; "
            "train on more pictures"
        )
    tensors = {name: t.contiguous() for name, t in vae.state_dict().items()}
    write_whole(run.folder / FILE, safetensors.save(tensors, {"psnr_db": f"{quality:.2f}"}))
