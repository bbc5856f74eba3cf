"""Animations: sequences of images as GIF files, which every browser shows."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from vision.atomic import write_atomically


def save_animation(
    path: str | Path, frames: UInt8[np.ndarray, "t h w c"], *, seconds: float = 0.1, last: float = 1.5
) -> None:
    """Writes frames (uint8 in [0, 255], ``c`` 1 or 3) as a GIF that repeats endlessly, atomically.

    All frames share one palette of 256 colours, so that parts that do not change do not flicker.

    Args:
        path: the file.
        frames: at least one.
        seconds: how long a frame is shown; GIF has a resolution of 1/100 s.
        last: how long the last frame is shown.

    Raises:
        ValueError: when the array is not uint8 [t h w 1|3], or is empty.
        OSError: when the file cannot be written; an existing file is then unchanged.
    """
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] not in (1, 3) or 0 in frames.shape:
        raise ValueError(
            f"An animation needs uint8 of shape [t, h, w, 1 or 3], not {frames.dtype} {list(frames.shape)}."
        )
    images = [Image.fromarray(frame[..., 0] if frame.shape[-1] == 1 else frame).convert("RGB") for frame in frames]
    # The palette is computed from a few evenly spaced frames
    palette_frames = [images[place] for place in np.unique(np.linspace(0, len(images) - 1, 8).round().astype(int))]
    width, height = images[0].size
    strip = Image.new("RGB", (width, height * len(palette_frames)))
    for place, image in enumerate(palette_frames):
        strip.paste(image, (0, place * height))
    palette = strip.quantize(256, method=Image.Quantize.MEDIANCUT)
    paletted = [image.quantize(palette=palette, dither=Image.Dither.NONE) for image in images]
    durations = [round(1000 * seconds)] * (len(paletted) - 1) + [round(1000 * last)]
    encoded = io.BytesIO()
    paletted[0].save(
        encoded, "GIF", save_all=True, append_images=paletted[1:], duration=durations, loop=0, optimize=True
    )
    write_atomically(Path(path), encoded.getvalue())


def animate_files(path: str | Path, images: Sequence[Path], *, max_frames: int = 60) -> None:
    """Writes an animation of at most ``max_frames`` evenly spaced image files: how samples change over training.

    Nothing is written for fewer than two images, or if they differ in size.
    """
    chosen = np.unique(np.linspace(0, len(images) - 1, min(len(images), max_frames)).round().astype(int))
    frames = []
    for place in chosen if len(images) > 1 else ():
        with Image.open(images[place]) as image:
            frames.append(np.array(image.convert("RGB")))
    if len(frames) > 1 and len({frame.shape for frame in frames}) == 1:
        save_animation(path, np.stack(frames), seconds=0.2)
