"""DeepFaceLab's autoencoders: one encoder for two people, and what tells them apart after it.

`df`: encoder, inter, one decoder a person; one's face through the other's decoder is the swap.
`liae`: encoder, two inters (AB for both, B for the destination), one decoder; the swap is the
destination's face with both halves of the code from AB. Quick96 is `df-ud` at 96 pixels.

Pictures are [B, 3, H, W], channels blue, green, red, values 0..1: weights and pictures of existing
models are ordered so. Names of layers are those of DeepFaceLab's weight files, which
`accel.weights.dfl` reads; the arithmetic was written from its description. Where TensorFlow's
depth-to-space orders channels (dy, dx, channel) and torch's pixel shuffle (channel, dy, dx), the
convolution's output channels are put in torch's order once, by `from_dfl_order`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from accel.core import ConfigError, InputError
from accel.faces.face_types import FaceType
from accel.nn.conv import Conv2d

FLAGS = "udtc"
NORM_EPS = 1e-6


@dataclass(frozen=True, kw_only=True)
class AutoencoderConfig:
    """The shape of a model.

    resolution: side of the pictures, 64 to 640 in steps of 16, of 32 with `d` or `t`.
    archi: `df` or `liae`, and behind a dash any of u (the code has length one), d (twice the
        output for the same work), t (a deeper encoder and decoder), c (x·cos x for leaky ReLU).
    ae_dims, e_dims, d_dims, d_mask_dims: channels of the code, encoder, decoder, mask decoder.
    face_type: how much of a head its pictures show.
    """

    resolution: int = 128
    archi: str = "liae-ud"
    ae_dims: int = 256
    e_dims: int = 64
    d_dims: int = 64
    d_mask_dims: int = 22
    face_type: FaceType = FaceType.WHOLE

    def __post_init__(self) -> None:
        kind, _, flags = self.archi.partition("-")
        if (
            kind not in ("df", "liae")
            or not set(flags) <= set(FLAGS)
            or len(set(flags)) < len(flags)
        ):
            raise ConfigError(
                f"archi must be df or liae, a dash and some of {FLAGS}, got {self.archi!r:.40}"
            )
        step = 32 if self.has("d") or self.has("t") else 16
        if not 64 <= self.resolution <= 640 or self.resolution % step:
            raise ConfigError(
                f"resolution must be 64 to 640 in steps of {step} for {self.archi}, "
                f"got {self.resolution}"
            )
        for name in ("ae_dims", "e_dims", "d_dims", "d_mask_dims"):
            if not 2 <= getattr(self, name) <= 1024:
                raise ConfigError(f"{name} must lie in 2..1024, got {getattr(self, name)}")

    @property
    def kind(self) -> str:
        return self.archi.partition("-")[0]

    def has(self, flag: str) -> bool:
        return flag in self.archi.partition("-")[2]

    @property
    def dense_px(self) -> int:
        """The side of the smallest grid, where the code becomes a picture again."""
        return self.resolution // (32 if self.has("d") else 16)

    @property
    def encoded_dims(self) -> int:
        """How many numbers the encoder gives a picture."""
        side = self.resolution // (32 if self.has("t") else 16)
        return 8 * self.e_dims * side * side


QUICK96 = AutoencoderConfig(
    resolution=96,
    archi="df-ud",
    ae_dims=128,
    e_dims=64,
    d_dims=64,
    d_mask_dims=16,
    face_type=FaceType.FULL,
)


class Autoencoder(nn.Module):
    """Two people's faces through one bottleneck."""

    def __init__(self, config: AutoencoderConfig, generator: torch.Generator | None = None):
        """Make a model with new weights, drawn from `generator`."""
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        if config.kind == "df":
            self.inter = Inter(config, config.ae_dims)
            self.decoder_src = Decoder(config, config.ae_dims)
            self.decoder_dst = Decoder(config, config.ae_dims)
        else:
            self.inter_AB = Inter(config, 2 * config.ae_dims)
            self.inter_B = Inter(config, 2 * config.ae_dims)
            self.decoder = Decoder(config, 4 * config.ae_dims)
        initialise(self, generator)

    def reconstruct_src(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """The source's face and mask [B, 1, H, W] from the source's, as in training."""
        if self.config.kind == "df":
            return _two(self.decoder_src(self.inter(self.encoder(pictures))))
        ab = self.inter_AB(self.encoder(pictures))
        return _two(self.decoder(torch.cat([ab, ab], 1)))

    def reconstruct_dst(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """The destination's face and mask from the destination's, as in training."""
        if self.config.kind == "df":
            return _two(self.decoder_dst(self.inter(self.encoder(pictures))))
        code = self.encoder(pictures)
        return _two(self.decoder(torch.cat([self.inter_B(code), self.inter_AB(code)], 1)))

    def forward(
        self,
        pictures: Tensor,  # [B, 3, R, R] the destination's faces, BGR 0..1
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Swap: the source's face [B, 3, R, R], its mask and the destination's, [B, 1, R, R]."""
        code = self.encoder(pictures)
        if self.config.kind == "df":
            code = self.inter(code)
            face, mask = _two(self.decoder_src(code))
            return face, mask, self.decoder_dst.mask(code)
        ab, b = self.inter_AB(code), self.inter_B(code)
        face, mask = _two(self.decoder(torch.cat([ab, ab], 1)))
        return face, mask, self.decoder.mask(torch.cat([b, ab], 1))

    @property
    def parts(self) -> dict[str, nn.Module]:
        """The modules that have a weight file each, by the file's name."""
        return dict(self.named_children())


class Encoder(nn.Module):
    def __init__(self, config: AutoencoderConfig):
        super().__init__()
        self.config, e = config, config.e_dims
        self.down1: nn.Module
        if config.has("t"):
            self.down1 = Downscale(config, 3, e)
            self.res1 = Residual(config, e)
            self.down2 = Downscale(config, e, 2 * e)
            self.down3 = Downscale(config, 2 * e, 4 * e)
            self.down4 = Downscale(config, 4 * e, 8 * e)
            self.down5 = Downscale(config, 8 * e, 8 * e)
            self.res5 = Residual(config, 8 * e)
        else:
            sizes = (3, e, 2 * e, 4 * e, 8 * e)
            downs = nn.Sequential()
            for i in range(4):
                downs.add_module(f"downs_{i}", Downscale(config, sizes[i], sizes[i + 1]))
            self.down1 = downs

    def forward(self, x: Tensor) -> Tensor:  # [B, 3, R, R] -> [B, encoded_dims]
        x = self.down1(x)
        if self.config.has("t"):
            x = self.res5(self.down5(self.down4(self.down3(self.down2(self.res1(x))))))
        x = x.flatten(1)
        if self.config.has("u"):
            x = x * (x.square().mean(1, keepdim=True) + NORM_EPS).rsqrt()
        return x


class Inter(nn.Module):
    def __init__(self, config: AutoencoderConfig, out_channels: int):
        super().__init__()
        self.config, self.out_channels = config, out_channels
        self.dense1 = nn.Linear(config.encoded_dims, config.ae_dims)
        self.dense2 = nn.Linear(config.ae_dims, out_channels * config.dense_px**2)
        if not config.has("t"):
            self.upscale1 = Upscale(config, out_channels, out_channels)

    def forward(self, x: Tensor) -> Tensor:  # [B, encoded_dims] -> [B, C, side, side]
        side = self.config.dense_px
        x = self.dense2(self.dense1(x)).unflatten(1, (self.out_channels, side, side))
        return x if self.config.has("t") else _one(self.upscale1(x))


class Decoder(nn.Module):
    def __init__(self, config: AutoencoderConfig, in_channels: int):
        super().__init__()
        self.config = config
        widths = (8, 8, 4, 2) if config.has("t") else (8, 4, 2)
        d, m = config.d_dims, config.d_mask_dims
        self.steps = len(widths)
        before, before_mask = in_channels, in_channels
        for i, width in enumerate(widths):
            self.add_module(f"upscale{i}", Upscale(config, before, width * d))
            self.add_module(f"res{i}", Residual(config, width * d))
            self.add_module(f"upscalem{i}", Upscale(config, before_mask, width * m))
            before, before_mask = width * d, width * m
        self.out_conv = Conv2d(before, 3, 1)
        if config.has("d"):
            self.out_conv1, self.out_conv2, self.out_conv3 = (
                Conv2d(before, 3, 3, padding=1) for _ in range(3)
            )
            self.add_module(f"upscalem{self.steps}", Upscale(config, before_mask, m))
            before_mask = m
        self.out_convm = Conv2d(before_mask, 1, 1)

    def forward(self, code: Tensor) -> tuple[Tensor, Tensor]:  # -> [B, 3, R, R], [B, 1, R, R]
        return self.face(code), self.mask(code)

    def face(self, code: Tensor) -> Tensor:
        x = code
        for i in range(self.steps):
            x = self.get_submodule(f"res{i}")(self.get_submodule(f"upscale{i}")(x))
        if not self.config.has("d"):
            return convolve(self.out_conv, x).sigmoid()
        # One convolution for each of the four pixels that a place becomes.
        convs = [self.out_conv, self.out_conv1, self.out_conv2, self.out_conv3]
        pixels = torch.stack([convolve(conv, x) for conv in convs], 2).flatten(1, 2)
        return F.pixel_shuffle(pixels, 2).sigmoid()

    def mask(self, code: Tensor) -> Tensor:
        x = code
        for i in range(self.steps + self.config.has("d")):
            x = self.get_submodule(f"upscalem{i}")(x)
        return convolve(self.out_convm, x).sigmoid()


class Downscale(nn.Module):
    def __init__(self, config: AutoencoderConfig, in_channels: int, out_channels: int):
        super().__init__()
        self.curved = config.has("c")
        self.conv1 = Conv2d(in_channels, out_channels, 5, stride=2, padding=2)

    def forward(self, x: Tensor) -> Tensor:
        return convolve(self.conv1, x, 0.1, self.curved)


class Upscale(nn.Module):
    def __init__(self, config: AutoencoderConfig, in_channels: int, out_channels: int):
        super().__init__()
        self.curved = config.has("c")
        self.conv1 = Conv2d(in_channels, 4 * out_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return F.pixel_shuffle(convolve(self.conv1, x, 0.1, self.curved), 2)


class Residual(nn.Module):
    def __init__(self, config: AutoencoderConfig, channels: int):
        super().__init__()
        self.curved = config.has("c")
        self.conv1 = Conv2d(channels, channels, 3, padding=1)
        self.conv2 = Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        inner = convolve(self.conv1, x, 0.2, self.curved)
        return convolve(self.conv2, inner, 0.2, self.curved, x)


def convolve(
    conv: Conv2d,
    x: Tensor,
    slope: float = 1.0,  # of the leaky ReLU behind it
    curved: bool = False,  # x·cos x in its place
    residual: Tensor | None = None,  # added before it
) -> Tensor:
    # Our kernel has float32 on the CPU alone.
    if x.device.type != "cpu" or torch.is_autocast_enabled("cpu"):
        x = nn.Conv2d.forward(conv, x)
        x = x if residual is None else x + residual
        return x * x.cos() if curved else F.leaky_relu(x, slope) if slope != 1 else x
    x = conv(x, residual=residual, slope=1.0 if curved else slope)
    return x * x.cos() if curved else x


def initialise(model: nn.Module, generator: torch.Generator | None = None) -> None:
    """Draw weights uniformly after Glorot and Bengio 2010; biases are zero."""
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.xavier_uniform_(module.weight, generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


# --- weight files -------------------------------------------------------------------------------


def from_dfl_order(part: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of a file, in torch's layout, to the state of `part`: see the module's docstring.

    Raises InputError, one line, if they are not this part's weights.
    """
    state = part.state_dict()
    missing = [name for name in state if name not in tensors]
    unknown = [name for name in tensors if name not in state]
    if missing or unknown:
        raise InputError(
            f"weights must fit the model: {len(missing)} are missing ({', '.join(missing[:3])}), "
            f"{len(unknown)} are unknown ({', '.join(unknown[:3])})"
        )
    found = {}
    for name, wanted in state.items():
        tensor = tensors[name].float()
        if tensor.shape != wanted.shape:
            raise InputError(
                f"weights must fit the model: {name} must be {list(wanted.shape)}, "
                f"got {list(tensor.shape)}"
            )
        found[name] = _reorder(tensor, 4) if _shuffled(part, name) else tensor.contiguous()
    return found


def to_dfl_order(part: nn.Module, tensors: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """The inverse of `from_dfl_order`, of the part's weights or of tensors shaped like them."""
    return {
        name: _reorder(tensor, len(tensor) // 4) if _shuffled(part, name) else tensor.clone()
        for name, tensor in (tensors or part.state_dict()).items()
    }


def _shuffled(part: nn.Module, name: str) -> bool:
    """Whether a pixel shuffle follows the layer that this weight belongs to."""
    return isinstance(part.get_submodule(name.rpartition(".conv1.")[0]), Upscale) and (
        ".conv1." in name
    )


def _reorder(tensor: Tensor, groups: int) -> Tensor:
    """Channels counted (group, member) become (member, group)."""
    split = tensor.reshape(groups, len(tensor) // groups, *tensor.shape[1:])
    return split.transpose(0, 1).reshape(tensor.shape).contiguous()


def _one(x: Tensor) -> Tensor:
    """Says to a type checker what torch's modules return."""
    return x


def _two(x: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    return x
