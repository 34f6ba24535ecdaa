"""Which encoder, with which settings, for which film: the table and the choice.

Sources: the option lists of libx264, libx265, SVT-AV1, libvpx and FFmpeg's own encoders; SMPTE
ST 2086 and CTA-861.3 for what HDR10 needs written into the stream.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from functools import lru_cache

import av
from av.codec.codec import PixFmtLoss, find_best_pix_fmt_of_list

from accel.core import ConfigError
from accel.video.info import MasteringDisplay, VideoInfo

X26X_PRESETS = (
    "ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow",
    "placebo",
)  # fmt: skip
_NVENC_PRESETS = tuple(f"p{speed}" for speed in range(1, 8))


@dataclass(frozen=True, kw_only=True)
class Encoder:
    """One encoder: what its quality and speed settings are called, their ranges and defaults.

    crf: (lowest, default, highest) of the quality option `crf_option`, None without one.
    lossless: options that make it lossless, None when it cannot be; it is anyway when empty.
    params: the option that takes `name=value:...` lists of the library's own settings.
    """

    codec: str
    crf: tuple[int, int, int] | None = None
    crf_option: str = "crf"
    presets: tuple[str, ...] = ()
    preset: str = ""
    preset_option: str = "preset"
    lossless: Mapping[str, str] | None = None
    params: str = ""
    options: Mapping[str, str] = field(default_factory=dict)


ENCODERS = {
    "libx264": Encoder(
        codec="h264", crf=(0, 18, 51), presets=X26X_PRESETS, preset="medium",
        lossless={"qp": "0"}, params="x264-params",
    ),
    "libx264rgb": Encoder(
        codec="h264", crf=(0, 18, 51), presets=X26X_PRESETS, preset="medium",
        lossless={"qp": "0"}, params="x264-params",
    ),
    "libx265": Encoder(
        codec="hevc", crf=(0, 20, 51), presets=X26X_PRESETS, preset="medium",
        lossless={"x265-params": "lossless=1"}, params="x265-params",
        options={"x265-params": "log-level=error"},
    ),
    "libsvtav1": Encoder(
        codec="av1", crf=(1, 24, 63), presets=tuple(map(str, range(14))), preset="8",
        lossless={"svtav1-params": "lossless=1"}, params="svtav1-params",
    ),
    "libvpx-vp9": Encoder(
        codec="vp9", crf=(0, 24, 63), presets=tuple(map(str, range(9))), preset="4",
        preset_option="cpu-used", lossless={"lossless": "1"},
        options={"b": "0", "row-mt": "1", "deadline": "good"},
    ),
    "ffv1": Encoder(codec="ffv1", lossless={}, options={"level": "3", "slicecrc": "1"}),
    "prores_ks": Encoder(
        codec="prores", presets=("proxy", "lt", "standard", "hq", "4444", "4444xq"), preset="hq",
        preset_option="profile", options={"vendor": "apl0"},
    ),
    "mjpeg": Encoder(
        codec="mjpeg", crf=(2, 2, 31), crf_option="qscale", options={"strict": "unofficial"}
    ),
    "mpeg4": Encoder(codec="mpeg4", crf=(1, 2, 31), crf_option="qscale"),
    "gif": Encoder(codec="gif"),
    "h264_nvenc": Encoder(
        codec="h264", crf=(1, 19, 51), crf_option="cq", presets=_NVENC_PRESETS, preset="p5",
        options={"rc": "vbr", "b": "0"},
    ),
    "hevc_nvenc": Encoder(
        codec="hevc", crf=(1, 21, 51), crf_option="cq", presets=_NVENC_PRESETS, preset="p5",
        options={"rc": "vbr", "b": "0"},
    ),
    "av1_nvenc": Encoder(
        codec="av1", crf=(1, 27, 63), crf_option="cq", presets=_NVENC_PRESETS, preset="p5",
        options={"rc": "vbr", "b": "0"},
    ),
}  # fmt: skip
ALIASES = {
    "h264": "libx264", "avc": "libx264", "x264": "libx264", "h265": "libx265", "hevc": "libx265",
    "x265": "libx265", "av1": "libsvtav1", "vp9": "libvpx-vp9", "prores": "prores_ks",
}  # fmt: skip
MUXERS = {
    ".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm",
    ".avi": "avi", ".gif": "gif",
}  # fmt: skip
_MATCHES = {
    "h264": "libx264", "hevc": "libx265", "av1": "libsvtav1", "vp8": "libvpx-vp9",
    "vp9": "libvpx-vp9", "prores": "prores_ks", "ffv1": "ffv1", "mjpeg": "mjpeg", "gif": "gif",
    "dnxhd": "prores_ks", "rawvideo": "ffv1", "huffyuv": "ffv1", "ffvhuff": "ffv1",
    "utvideo": "ffv1", "magicyuv": "ffv1", "qtrle": "ffv1", "png": "ffv1", "lagarith": "ffv1",
}  # fmt: skip
# An encoder holds some forty frames to look ahead, and more to predict from: gigabytes at 8K, where
# these take about half of that.
HUGE_PX = 2 * 4096 * 2304
_FEW_FRAMES = {
    "libx264": "rc-lookahead=8:sync-lookahead=0:bframes=0:ref=1:weightp=0",
    "libx265": "rc-lookahead=5:bframes=0:ref=1:frame-threads=1:weightp=0:b-adapt=0",
}
_FALLBACKS = ("libx264", "libx265", "libvpx-vp9", "libsvtav1", "ffv1", "mjpeg", "gif")
_AVI_FALLBACKS = ("mpeg4", "mjpeg", "ffv1")  # AVI has no presentation times for B-frames


@lru_cache(maxsize=1)
def offered() -> tuple[str, ...]:
    """Return the encoders of the table that this build of FFmpeg has."""
    return tuple(name for name in ENCODERS if name in av.codecs_available and _encodes(name))


@dataclass(frozen=True, kw_only=True)
class EncodeConfig:
    """How a film is encoded. What is left out follows the input.

    codec: an encoder (`accel doctor` lists them) or h264, hevc, av1, vp9, prores, ffv1, mjpeg, gif;
        None takes the input's own codec where the container allows it.
    crf: quality; lower is better and larger. The range depends on the encoder.
    preset: speed against size, in the encoder's own names; for ProRes its profile.
    lossless: every sample comes back as it was.
    threads: 0 takes as many as the encoder thinks good.
    faststart: put the index of an MP4 or MOV at its front, so that it plays while it loads.
    options: further options of the encoder, as FFmpeg names them.
    """

    codec: str | None = None
    crf: int | None = None
    preset: str | None = None
    lossless: bool = False
    threads: int = 0
    faststart: bool = True
    options: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        if self.threads < 0:
            raise ConfigError(f"threads must be 0 or more, got {self.threads}")
        if self.codec is None:
            return
        if self.encoder not in offered():
            raise ConfigError(
                f"codec must be one of {', '.join([*ALIASES, *offered()])}, got {self.codec!r}"
            )
        self.check(self.encoder or "")

    @property
    def encoder(self) -> str | None:
        return ALIASES.get(self.codec, self.codec) if self.codec else None

    def check(self, encoder: str) -> None:
        """Raise ConfigError where a setting does not fit `encoder`."""
        row = ENCODERS[encoder]
        if self.crf is not None:
            if row.crf is None:
                raise ConfigError(f"crf must be left out for {encoder}, which has no such setting")
            if not row.crf[0] <= self.crf <= row.crf[2]:
                raise ConfigError(
                    f"crf must lie in {row.crf[0]}..{row.crf[2]} for {encoder}, got {self.crf}"
                )
        if self.preset is not None and self.preset not in row.presets:
            allowed = f"one of {', '.join(row.presets)}" if row.presets else "left out"
            raise ConfigError(f"preset must be {allowed} for {encoder}, got {self.preset!r}")
        if self.lossless and row.lossless is None:
            able = ", ".join(n for n in offered() if ENCODERS[n].lossless is not None)
            raise ConfigError(f"lossless needs one of {able}, got {encoder}")


DEFAULT_CONFIG = EncodeConfig()


def choose_muxer(suffix: str) -> str:
    """Return FFmpeg's name of the container for a file name suffix; raises ConfigError."""
    if suffix.lower() not in MUXERS:
        raise ConfigError(
            f"the output's name must end in one of {', '.join(MUXERS)}, ends in {suffix!r}"
        )
    return MUXERS[suffix.lower()]


def choose_encoder(info: VideoInfo, muxer: str, config: EncodeConfig) -> tuple[str, list[str]]:
    """Return the encoder for a film and what the user should know about that choice."""
    taken = _taken_by(muxer)
    if config.encoder:
        if config.encoder not in taken:
            fitting = ", ".join(name for name in offered() if name in taken)
            raise ConfigError(f"codec must be one of {fitting} in {muxer}, got {config.codec}")
        encoder, notes = config.encoder, []
    else:
        match = _match(info, muxer)
        others = _AVI_FALLBACKS if muxer == "avi" else _FALLBACKS
        usable = [n for n in (match, *others) if n in taken and n in offered()]
        if config.lossless:
            usable = [n for n in usable if n and ENCODERS[n].lossless is not None]
        if not usable:
            raise ConfigError(f"no encoder of this build fits {muxer}")
        encoder = str(usable[0])
        same = ENCODERS[encoder].codec == info.codec
        notes = (
            []
            if same or _is_still(info)
            else [f"{info.codec} is encoded as {ENCODERS[encoder].codec}"]
        )
    if encoder == "libx264" and info.pixel_format.startswith("gbr") and info.codec == "h264":
        encoder = "libx264rgb"
    config.check(encoder)
    return encoder, notes


def _match(info: VideoInfo, muxer: str) -> str | None:
    match = _MATCHES.get(info.codec)
    is_kept = info.codec == "ffv1" or muxer in ("matroska", "avi")
    if _is_still(info) or (match == "ffv1" and not is_kept):  # few players know FFV1 in MP4
        return None
    return match


def _is_still(info: VideoInfo) -> bool:
    return info.is_image or info.is_folder


def choose_format(encoder: str, info: VideoInfo) -> tuple[str, list[str]]:
    """Return the pixel format to encode in: the film's own wherever the encoder takes it."""
    if encoder == "gif":
        return "pal8", []
    if encoder == "libx264rgb":
        return "rgb24", []
    formats = [f.name for f in av.Codec(encoder, "w").video_formats or []]
    mine = info.pixel_format
    if not formats or mine in formats:
        return mine, []
    if mine.startswith("yuvj") and mine.replace("yuvj", "yuv") in formats:
        return mine.replace("yuvj", "yuv"), []  # the same samples, full range told by its tag
    best, loss = find_best_pix_fmt_of_list(formats, mine, "a" in mine.removeprefix("yuv")[:4])
    if best is None:
        raise ConfigError(f"{encoder} takes no pixel format close to {mine}")
    lost = [f"{flag.name}".lower() for flag in PixFmtLoss if flag & loss]
    detail = f" (loses {', '.join(lost)})" if lost else ""
    return best.name, [f"{encoder} does not take {mine}: encoded as {best.name}{detail}"]


def encoder_options(encoder: str, info: VideoInfo, config: EncodeConfig) -> dict[str, str]:
    """Return the options for the encoder: quality, speed, and what HDR and siting need."""
    row = ENCODERS[encoder]
    options = dict(row.options)
    if config.lossless and row.lossless is not None:
        _merge(options, row.lossless, row.params)
    elif row.crf:
        value = row.crf[1] if config.crf is None else config.crf
        if row.crf_option == "qscale":
            options |= {"flags": "+qscale", "global_quality": str(118 * value)}  # FF_QP2LAMBDA
        else:
            options[row.crf_option] = str(value)
    if row.presets:
        default = "4444" if encoder == "prores_ks" and "444" in info.pixel_format else row.preset
        options[row.preset_option] = config.preset or default
    if row.params:
        _merge(options, {row.params: _stream_params(encoder, info)}, row.params)
        if info.width * info.height > HUGE_PX:
            _merge(options, {row.params: _FEW_FRAMES.get(encoder, "")}, row.params)
    _merge(options, dict(config.options), row.params)
    return options


def _merge(options: dict[str, str], more: Mapping[str, str], params: str) -> None:
    for name, value in more.items():
        if name == params and value:
            options[name] = ":".join(filter(None, [options.get(name, ""), value]))
        elif value:
            options[name] = value


def _stream_params(encoder: str, info: VideoInfo) -> str:
    params = []
    location = info.color.chroma_location
    codes = ("left", "center", "topleft", "top", "bottomleft", "bottom")
    if "420" in info.pixel_format and location in codes[1:]:
        if encoder in ("libx264", "libx265"):
            params.append(f"chromaloc={codes.index(location)}")
        elif encoder == "libsvtav1" and location == "topleft":
            params.append("chroma-sample-position=topleft")
    display, light = info.mastering_display, info.content_light
    if encoder == "libx265":
        params += [f"master-display={_x26x_display(display)}"] if display else []
        params += [f"max-cll={light[0]},{light[1]}"] if light else []
        params += ["hdr10=1", "repeat-headers=1"] if display or light else []
    elif encoder == "libx264":
        params += [f"mastering-display={_x26x_display(display)}"] if display else []
        params += [f"cll={light[0]},{light[1]}"] if light else []
    elif encoder == "libsvtav1":
        params += [f"mastering-display={_svt_display(display)}"] if display else []
        params += [f"content-light={light[0]},{light[1]}"] if light else []
    return ":".join(params)


def _x26x_display(display: MasteringDisplay) -> str:
    def point(xy: tuple[Fraction, Fraction]) -> str:
        return f"({round(xy[0] * 50000)},{round(xy[1] * 50000)})"

    top, bottom = round(display.max_luminance * 10000), round(display.min_luminance * 10000)
    return (
        f"G{point(display.green)}B{point(display.blue)}R{point(display.red)}"
        f"WP{point(display.white)}L({top},{bottom})"
    )


def _svt_display(display: MasteringDisplay) -> str:
    def point(xy: tuple[Fraction, Fraction]) -> str:
        return f"({float(xy[0]):.5f},{float(xy[1]):.5f})"

    return (
        f"G{point(display.green)}B{point(display.blue)}R{point(display.red)}"
        f"WP{point(display.white)}"
        f"L({float(display.max_luminance):.4f},{float(display.min_luminance):.4f})"
    )


def _encodes(name: str) -> bool:
    try:
        return bool(av.Codec(name, "w").is_encoder)
    except ValueError:
        return False


@lru_cache(maxsize=16)
def _taken_by(muxer: str) -> frozenset[str]:
    """The encoders whose codec a container takes."""
    trial = av.open(io.BytesIO(), "w", format=muxer)
    names = set(trial.supported_codecs)
    if muxer == "gif":
        names &= {"gif"}
    return frozenset(names)
