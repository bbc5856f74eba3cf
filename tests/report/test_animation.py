"""Animations, as decoded by a reader of GIFs."""

import numpy as np
import pytest
from PIL import Image

from vision.report.animation import animate_files, save_animation
from vision.report.grid import save_png


def frames_of(path):
    with Image.open(path) as animation:
        for number in range(animation.n_frames):
            animation.seek(number)
            yield np.array(animation.convert("RGB")), animation.info["duration"]


@pytest.mark.parametrize("channels", [1, 3])
def test_frames_come_back_in_order(tmp_path, channels):
    """Flat frames of few colours are exact; the last one is shown for longer."""
    frames = np.repeat(np.arange(0, 250, 50, dtype=np.uint8), 20 * 30 * channels).reshape(5, 20, 30, channels)
    save_animation(tmp_path / "animation.gif", frames, seconds=0.2, last=1.0)
    found = list(frames_of(tmp_path / "animation.gif"))
    assert [duration for _, duration in found] == [200, 200, 200, 200, 1000]
    for (pixels, _), frame in zip(found, frames, strict=True):
        np.testing.assert_allclose(pixels, np.broadcast_to(frame, (20, 30, 3)), atol=2)


def test_what_does_not_change_does_not_flicker(tmp_path):
    generator = np.random.default_rng(0)
    frames = np.repeat(generator.integers(0, 256, (1, 16, 16, 3), dtype=np.uint8), 4, axis=0)
    frames[:, :4, :4] = generator.integers(0, 256, (4, 4, 4, 3))
    save_animation(tmp_path / "animation.gif", frames)
    still = [pixels[4:] for pixels, _ in frames_of(tmp_path / "animation.gif")]
    for pixels in still[1:]:
        np.testing.assert_array_equal(pixels, still[0])
    assert np.abs(still[0].astype(int) - frames[0, 4:]).mean() < 12


def test_invalid_frames(tmp_path):
    with pytest.raises(ValueError, match="An animation needs uint8"):
        save_animation(tmp_path / "animation.gif", np.zeros((0, 4, 4, 3), np.uint8))


def test_an_animation_of_images(tmp_path):
    for number in range(100):
        save_png(tmp_path / f"{number:03d}.png", np.full((8, 8, 3), 2 * number, np.uint8))
    paths = sorted(tmp_path.glob("*.png"))
    animate_files(tmp_path / "animation.gif", paths, max_frames=8)
    values = [int(pixels[0, 0, 0]) for pixels, _ in frames_of(tmp_path / "animation.gif")]
    assert len(values) == 8
    assert (values[0], values[-1]) == (0, 198)
    animate_files(tmp_path / "one.gif", paths[:1])
    save_png(tmp_path / "large.png", np.zeros((9, 8, 3), np.uint8))
    animate_files(tmp_path / "sizes.gif", [paths[0], tmp_path / "large.png"])
    assert not (tmp_path / "one.gif").exists()
    assert not (tmp_path / "sizes.gif").exists()
