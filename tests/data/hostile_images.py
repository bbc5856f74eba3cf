"""Mutated image files for the readers of images.

python tests/data/hostile_images.py --inputs 7000 --seed 0
"""

import functools
import io
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from vision.data.annotations.cleaning import open_image
from vision.data.folder import check_images, folder_source

SIZE = (24, 18)
SUFFIXES = ("png", "jpg", "jpeg", "webp", "bmp", "gif", "tif", "tiff", "ppm", "pgm", "avif")
# (format, mode, options of Pillow)
_SAVED = (
    *(("PNG", mode, {}) for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")),
    *(("JPEG", mode, {}) for mode in ("L", "RGB", "CMYK")),
    ("JPEG", "RGB", {"progressive": True}),
    ("JPEG", "RGB", {"exif": "turned"}),
    ("WEBP", "RGB", {}),
    ("WEBP", "RGBA", {"lossless": True}),
    ("WEBP", "RGB", {"save_all": True, "append_images": 2}),
    ("BMP", "RGB", {}),
    ("BMP", "P", {}),
    ("GIF", "P", {}),
    ("GIF", "P", {"save_all": True, "append_images": 2}),
    *(("TIFF", mode, {}) for mode in ("1", "L", "RGB", "RGBA", "CMYK", "F", "I", "I;16")),
    *(("TIFF", "RGB", {"compression": name}) for name in ("tiff_lzw", "tiff_adobe_deflate", "jpeg", "packbits")),
    ("TIFF", "1", {"compression": "group4"}),
    ("TIFF", "L", {"save_all": True, "append_images": 2}),
    ("TIFF", "RGB", {"exif": "turned"}),
    ("PPM", "L", {}),
    ("PPM", "RGB", {}),
    ("PPM", "I;16", {}),
    ("AVIF", "RGB", {}),
    ("AVIF", "RGBA", {}),
    # formats that are not read
    *((name, "RGB", {}) for name in ("EPS", "DDS", "ICO", "JPEG2000", "TGA", "PCX", "SGI", "PDF", "IM", "ICNS")),
)
_NUMBERS = (0, 1, 2, 255, 4097, 0x7FFF, 0x8000, 0xFFFF, 40_000, 1_000_000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


@functools.cache
def originals() -> tuple[bytes, ...]:
    """Sound files of every format and mode."""
    return (*(_saved(*each) for each in _SAVED), b"P3 24 18 255 " + b"7 8 9 " * 432, b"P2 24 18 999 " + b"77 " * 432)


def _saved(form: str, mode: str, options: dict) -> bytes:
    rng = np.random.default_rng(0)
    y, x = np.mgrid[: SIZE[1], : SIZE[0]]
    shades = np.stack([9 * x, 12 * y, 5 * (x + y)], axis=-1).astype(np.uint8)
    shades = shades + rng.integers(0, 20, shades.shape).astype(np.uint8)
    if mode in ("F", "I", "I;16"):
        dtype = {"F": np.float32, "I": np.int32, "I;16": np.uint16}[mode]
        image = Image.fromarray((shades[..., 0] * {"F": 1 / 255, "I": 200, "I;16": 200}[mode]).astype(dtype))
    else:
        image = Image.fromarray(shades).convert(mode)
    options = dict(options)
    if "append_images" in options:
        options["append_images"] = [image.rotate(90)] * options["append_images"]
    if "exif" in options:
        options["exif"] = Image.Exif()
        options["exif"][0x0112] = 6
    encoded = io.BytesIO()
    image.save(encoded, form, **options)
    return encoded.getvalue()


def hostile_image(seed: int, index: int) -> bytes:
    """Input ``index``: a sound file after a few random changes."""
    rng = np.random.default_rng((seed, index))
    if rng.random() < 0.004:
        return _bomb(rng)
    files = originals()
    content = bytearray(files[rng.integers(len(files))])
    for _ in range(rng.integers(1, 5)):
        _mutate(content, files, rng)
    content = bytes(content[: 2**20])
    return _with_checksums(content) if content[:4] == b"\x89PNG" and rng.random() < 0.7 else content


def _mutate(content: bytearray, files: tuple[bytes, ...], rng: np.random.Generator) -> None:
    """One change in place; most are near the beginning, where headers are."""
    size = len(content)
    if size < 8:
        content += rng.bytes(8)
        return
    place = int(rng.integers(min(size, 120) if rng.random() < 0.7 else size))
    match rng.integers(9):
        case 0:
            content[place] = rng.integers(256)
        case 1:
            content[place] ^= 1 << rng.integers(8)
        case 2:
            del content[max(place, 4) :]
        case 3:
            content[place:place] = rng.bytes(rng.integers(1, 40))
        case 4:
            del content[place : place + rng.integers(1, 40)]
        case 5:
            form = rng.choice(["<H", ">H", "<I", ">I"])
            number = _NUMBERS[rng.integers(len(_NUMBERS))] & (0xFFFF if form[1] == "H" else 0xFFFFFFFF)
            content[place : place + struct.calcsize(form)] = struct.pack(form, number)
        case 6:
            other = files[rng.integers(len(files))]
            content[place:] = other[min(place, len(other)) :]
        case 7:
            content[place:place] = content[place : place + rng.integers(1, 200)] * int(rng.integers(1, 20))
        case 8:
            digits = [each for each, byte in enumerate(content[:40]) if chr(byte).isdigit()]
            if digits:
                content[rng.choice(digits) : 0] = b"9" * int(rng.integers(1, 6))


def _with_checksums(content: bytes) -> bytes:
    """A PNG whose chunks have their checksums, so that decoders read on."""
    found, place = content[:8], 8
    while place + 12 <= len(content):
        (length,) = struct.unpack(">I", content[place : place + 4])
        chunk = content[place + 4 : place + 8 + length]
        found += content[place : place + 4] + chunk + struct.pack(">I", zlib.crc32(chunk))
        place += 12 + length
    return found


def png(width: int, height: int, *, depth: int, colour: int) -> bytes:
    """A black PNG, small in the file whatever its size."""
    bits = depth * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    row = bytes(1 + (width * bits + 7) // 8)
    packer = zlib.compressobj(1)
    packed = b"".join([packer.compress(row * 64) for _ in range(height // 64)])
    packed += packer.compress(row * (height % 64)) + packer.flush()
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))]
    chunks += [(b"PLTE", bytes(6)), (b"tRNS", b"\0")] if colour == 3 else []
    chunks += [(b"IDAT", packed), (b"IEND", b"")]
    parts = [
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def _bomb(rng: np.random.Generator) -> bytes:
    """A sound file of many pixels: a square, or a line, which a resize of the shorter side makes enormous."""
    width, height = [(9400, 9400), (7900, 7900), (1, 60_000), (60_000, 1), (2, 4_000_000)][rng.integers(5)]
    depth, colour = [(1, 0), (8, 2), (8, 6), (16, 0), (1, 3), (8, 4)][rng.integers(6)]
    return png(width, height, depth=depth, colour=colour)


def read(seed: int, index: int, folder: Path) -> str:
    """Write an input into a folder and read it in every way that images are read."""
    content = hostile_image(seed, index)
    file = folder / f"x.{SUFFIXES[np.random.default_rng((seed, index, 1)).integers(len(SUFFIXES))]}"
    file.write_bytes(content)
    source = folder_source(folder, resolution=32)
    first = source[0]["image"]
    assert first.shape == (32, 32, 3)
    assert first.dtype == np.uint8
    original = folder_source(folder, resolution=None, shorter_side=16)[0]["image"]
    assert original.ndim == 3
    check_images(source)
    open_image(file, SIZE)
    return "image"


if __name__ == "__main__":
    from hostile_inputs import main

    main(read, "Read mutated image files.")
