"""What a swap run asks of its files before it opens a network for them."""

from __future__ import annotations

from pathlib import Path

from accel.core import ConfigError, InputError
from accel.pipelines.swap_config import SwapConfig
from accel.provenance.c2pa import sidecar_of
from accel.video.stills import check_still


def check_paths(input: Path, output: Path, config: SwapConfig) -> None:
    """Raise InputError or ConfigError, one line, where a name cannot be read or written."""
    if not input.exists():
        raise InputError(f"{input}: no such file or folder")
    for path in (output, sidecar_of(output), config.preview):
        if path is None:
            continue
        if path.resolve() == input.resolve():
            raise ConfigError(f"{path}: output must not be the input")
        if path is config.preview and path.resolve() == output.resolve():
            raise ConfigError(f"{path}: the preview must not be the output")
        if path.exists() and not config.overwrite:
            raise ConfigError(f"{path} exists; choose another name, remove it, or overwrite")
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise ConfigError(f"{path}: output must be a file or a folder, is a pipe or device")
        if not path.absolute().parent.is_dir():
            raise ConfigError(f"{path}: its folder must exist")
    check_sources(config)


def check_sources(config: SwapConfig) -> None:
    """Raise InputError or ConfigError where a picture of a face cannot be one."""
    reference = [config.reference] if config.reference else []
    for path in (*config.sources, *reference):
        if not path.is_dir():
            check_still(path)
