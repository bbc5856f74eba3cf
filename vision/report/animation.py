"""Animations: images one after another, as a GIF that every browser shows."""

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
    """Writes frames (uint8 in [0, 255], ``c`` 1 or 3) as a GIF that repeats without end, atomically.

    All frames share one palette of 256 colours, chosen for all of them together, so that what stands still does not
    flicker.

    Args:
        path: the file.
        frames: at least one.
        seconds: how long a frame is shown; GIF counts hundredths.
        last: how long the last one is.

    Raises:
        ValueError: when the array is not uint8 [t h w 1|3], or is empty.
        OSError: when the file cannot be written; a file that was there before is then unchanged.
    """
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] not in (1, 3) or 0 in frames.shape:
        raise ValueError(
            f"A animation needs uint8 of shape [t, h, w, 1 or 3], not {frames.dtype} {list(frames.shape)}."
        )
    pictures = [Image.fromarray(frame[..., 0] if frame.shape[-1] == 1 else frame).convert("RGB") for frame in frames]
    # an evenly spaced choice of frames, side by side, stands for all when the palette is chosen
    some = [pictures[place] for place in np.unique(np.linspace(0, len(pictures) - 1, 8).round().astype(int))]
    width, height = pictures[0].size
    strip = Image.new("RGB", (width, height * len(some)))
    for place, picture in enumerate(some):
        strip.paste(picture, (0, place * height))
    palette = strip.quantize(256, method=Image.Quantize.MEDIANCUT)
    drawn = [picture.quantize(palette=palette, dither=Image.Dither.NONE) for picture in pictures]
    durations = [round(1000 * seconds)] * (len(drawn) - 1) + [round(1000 * last)]
    encoded = io.BytesIO()
    drawn[0].save(encoded, "GIF", save_all=True, append_images=drawn[1:], duration=durations, loop=0, optimize=True)
    write_atomically(Path(path), encoded.getvalue())


def animate_files(path: str | Path, pictures: Sequence[Path], *, most: int = 60) -> None:
    """Writes the animation of image files, ``most`` of them at most, evenly chosen: how samples change over training.

    Nothing is written of fewer than two, or where they differ in size.
    """
    chosen = np.unique(np.linspace(0, len(pictures) - 1, min(len(pictures), most)).round().astype(int))
    frames = []
    for place in chosen if len(pictures) > 1 else ():
        with Image.open(pictures[place]) as image:
            frames.append(np.array(image.convert("RGB")))
    if len(frames) > 1 and len({frame.shape for frame in frames}) == 1:
        save_animation(path, np.stack(frames), seconds=0.2)
