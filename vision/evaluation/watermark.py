"""How well a watermark survives what happens to images, and how rarely one is found where there is none."""

import functools
import io
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image, ImageEnhance, ImageFilter

from vision.metrics.reconstruction.signal_to_noise import peak_signal_to_noise
from vision.ops.pixels import to_float, to_uint8
from vision.ops.watermark import WatermarkConfig, least_agreement, marked, read_mark

Pixels = UInt8[np.ndarray, "h w 3"]
Attack = Callable[[Pixels, float], np.ndarray]
"""(an image, a level) -> the changed image."""


@dataclass(frozen=True)
class Change:
    """A kind of change with the levels at which it is tried."""

    attack: Attack
    levels: tuple[float, ...]
    unit: str
    """What the level is."""
    cropping: bool = False
    """Whether the image becomes smaller."""


def jpeg(image: Pixels, quality: float) -> Pixels:
    """Encoded and decoded, with chroma subsampled."""
    encoded = io.BytesIO()
    Image.fromarray(image).save(encoded, "JPEG", quality=int(quality))
    return np.asarray(Image.open(encoded))


def resized(image: Pixels, factor: float) -> Pixels:
    """Reduced by a factor and enlarged again, bicubic."""
    height, width = image.shape[:2]
    small = (max(1, round(width * factor)), max(1, round(height * factor)))
    reduced = Image.fromarray(image).resize(small, Image.Resampling.BICUBIC)
    return np.asarray(reduced.resize((width, height), Image.Resampling.BICUBIC))


def halved_as_jpeg(image: Pixels, quality: float) -> Pixels:
    """Reduced to half, encoded at that size, and enlarged again."""
    height, width = image.shape[:2]
    small = np.asarray(Image.fromarray(image).resize((width // 2, height // 2), Image.Resampling.BICUBIC))
    return np.asarray(Image.fromarray(jpeg(small, quality)).resize((width, height), Image.Resampling.BICUBIC))


def cropped(image: Pixels, share: float) -> UInt8[np.ndarray, "rows columns 3"]:
    """A part with this share of both sides, from a place that is no multiple of anything."""
    height, width = image.shape[:2]
    rows, columns = round(height * share), round(width * share)
    top, left = (height - rows) * 3 // 7, (width - columns) * 4 // 7
    return image[top : top + rows, left : left + columns]


def noisy(image: Pixels, sigma: float) -> Pixels:
    """With Gaussian noise of this deviation in levels, the same for all images of a size."""
    noise = np.random.default_rng(0).normal(0.0, sigma, image.shape)
    return np.clip(np.round(image + noise), 0, 255).astype(np.uint8)


def blurred(image: Pixels, radius: float) -> Pixels:
    """By a Gaussian of this deviation in pixels."""
    return np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(radius)))


def _enhanced(kind: type) -> Attack:
    return lambda image, factor: np.asarray(kind(Image.fromarray(image)).enhance(factor))


CHANGES: Mapping[str, Change] = {
    "none": Change(lambda image, _: image, (0.0,), ""),
    "JPEG": Change(jpeg, (90, 80, 70, 60, 50, 30), "quality"),
    "reduced and back": Change(resized, (0.9, 0.75, 0.5, 0.4, 0.3), "factor"),
    "half as JPEG, and back": Change(halved_as_jpeg, (90, 80, 70, 60, 50), "quality"),
    "crop": Change(cropped, (0.9, 0.75, 0.5), "share of a side", cropping=True),
    "blur": Change(blurred, (0.5, 1.0, 1.5, 2.0), "deviation, pixels"),
    "noise": Change(noisy, (5, 10, 20, 30), "deviation, levels"),
    "brightness": Change(_enhanced(ImageEnhance.Brightness), (0.5, 0.8, 1.25, 1.5), "factor"),
    "contrast": Change(_enhanced(ImageEnhance.Contrast), (0.5, 0.8, 1.25, 1.5), "factor"),
    "saturation": Change(_enhanced(ImageEnhance.Color), (0.0, 0.5, 1.5, 2.0), "factor"),
}
"""What images meet on their way."""


@dataclass(frozen=True)
class Survival:
    """What is left of the mark after a change."""

    change: str
    level: float
    unit: str
    bits: float
    """Mean share of message bits that are right."""
    least: float
    """The same of the worst image."""
    detected: float
    """Share of images in which enough bits agree with the message."""


@dataclass(frozen=True)
class Robustness:
    """The whole measurement."""

    psnr: float
    """Of marked images in dB, over RGB of 8 bits, the mean over images."""
    least_psnr: float
    threshold: int
    """Bits that must agree."""
    survival: tuple[Survival, ...]


def robustness(
    images: Sequence[Pixels],
    messages: Bool[np.ndarray, "n bits"],
    config: WatermarkConfig,
    *,
    false_positives: float = 1e-6,
    changes: Mapping[str, Change] = CHANGES,
) -> Robustness:
    """Mark images of one size, round them to 8 bits, change them, read them.

    Changes whose result is smaller than a tile are left out.

    Args:
      images: of one size.
      messages: the bits of each.
      config: the mark.
      false_positives: rate for which the threshold is chosen (``least_agreement``).
      changes: by name.
    """
    given = [to_float(jnp.asarray(image[None])) for image in images]
    made = [np.asarray(to_uint8(marked(x, row[None], config)[0])) for x, row in zip(given, messages, strict=True)]
    written = [to_float(jnp.asarray(image[None])) for image in made]
    psnr = np.array([peak_signal_to_noise(one, other)[0] for one, other in zip(written, given, strict=True)])
    threshold = least_agreement(config.bits, false_positives)
    rows = []
    for name, change in changes.items():
        for level in change.levels:
            after = np.stack([change.attack(image, level) for image in made])
            if min(after.shape[1:3]) < config.tile:
                continue
            right = np.array([(bits == row).sum() for bits, row in zip(read(after, config), messages, strict=True)])
            share = right / config.bits
            detected = float((right >= threshold).mean())
            rows.append(Survival(name, level, change.unit, float(share.mean()), float(share.min()), detected))
    return Robustness(float(psnr.mean()), float(psnr.min()), threshold, tuple(rows))


def most_agreement(images: Iterable[Pixels], message: Bool[np.ndarray, " bits"], config: WatermarkConfig) -> list[int]:
    """For each unmarked image, how many bits agree with a message that was never put there."""
    batches = iter(functools.partial(_taken, iter(images)), [])
    return [int((bits == message).sum()) for batch in batches for bits in read(np.stack(batch), config)]


def _taken(images: Iterator[Pixels]) -> list[Pixels]:
    return list(itertools.islice(images, _BATCH))


_BATCH = 8


def read(images: UInt8[np.ndarray, "n h w 3"], config: WatermarkConfig) -> list[Bool[np.ndarray, " bits"]]:
    """The bits of each image, in batches of bounded memory."""
    found: list[Bool[np.ndarray, " bits"]] = []
    for first in range(0, len(images), _BATCH):
        part = images[first : first + _BATCH]
        padded = np.concatenate([part, np.repeat(part[-1:], _BATCH - len(part), axis=0)])  # one shape, one program
        found += [reading.message for reading in read_mark(to_float(jnp.asarray(padded)), config)[: len(part)]]
    return found
