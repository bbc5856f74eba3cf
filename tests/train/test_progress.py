import contextlib
import fcntl
import io
import os
import pty
import struct
import termios

import pytest

from vision.train.progress import Progress


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


class Terminal(io.StringIO):
    def isatty(self):
        return True


def screen(text):
    """What a terminal of unlimited width shows."""
    lines, column = [""], 0
    for character in text:
        if character == "\n":
            lines.append("")
            column = 0
        elif character == "\r":
            column = 0
        else:
            lines[-1] = lines[-1][:column].ljust(column) + character + lines[-1][column + 1 :]
            column += 1
    return [line.rstrip() for line in lines]


def test_rate_and_time_left_are_those_of_the_last_minute():
    clock = Clock()
    progress = Progress(100_000, 20_000, stream=io.StringIO(), clock=clock)
    clock.now += 500  # compilation: before the first update, hence in no rate
    progress.update(20_000, {})
    assert progress.images_per_second() is None
    assert progress.seconds_left() is None
    for _ in range(100):  # 100 seconds at 10 images/s
        clock.now += 1
        progress.update(progress._images + 10, {})
    assert progress.images_per_second() == pytest.approx(10)
    assert progress.seconds_left() == pytest.approx((100_000 - 21_000) / 10)
    for _ in range(30):  # the window then holds 30 s at 10 images/s and 30 s at 50 images/s
        clock.now += 1
        progress.update(progress._images + 50, {})
    assert progress.images_per_second() == pytest.approx(30)
    for _ in range(30):
        clock.now += 1
        progress.update(progress._images + 50, {})
    assert progress.images_per_second() == pytest.approx(50)
    assert progress.seconds_left() == pytest.approx((100_000 - 24_000) / 50)


def test_steps_longer_than_the_window_have_a_rate():
    clock = Clock()
    progress = Progress(1000, 0, stream=io.StringIO(), clock=clock)
    for images in (10, 20, 30):
        clock.now += 100
        progress.update(images, {})
    assert progress.images_per_second() == pytest.approx(0.1)


def test_a_standing_run_has_no_time_left_rather_than_a_division_by_zero():
    clock = Clock()
    progress = Progress(1000, 0, stream=io.StringIO(), clock=clock)
    for _ in range(3):
        clock.now += 1
        progress.update(10, {})
    assert progress.seconds_left() is None


def test_many_fast_updates_keep_few_samples():
    clock = Clock()
    progress = Progress(10**9, 0, stream=io.StringIO(), clock=clock)
    for step in range(20_000):
        clock.now += 0.01
        progress.update(step * 8, {})
    assert len(progress._samples) < 310
    assert progress.images_per_second() == pytest.approx(800, rel=0.01)


def test_a_file_gets_only_plain_permanent_lines():
    clock, stream = Clock(), io.StringIO()
    progress = Progress(50_000, 0, stream=stream, clock=clock)
    for step in range(1, 11):
        clock.now += 1
        progress.update(step * 1250, {"train/loss": 0.5})
    assert stream.getvalue() == ""
    progress.log(12_500, {"train/loss": 0.123456, "train/accuracy": 0.5})
    progress.message("saved step 10")
    progress.close()
    progress.close()
    # 37,500 images at 1,250 images/s are left.
    assert stream.getvalue() == (
        "12.5k/50.0k images 25.0%  1.25k images/s  30s left  train/loss 0.1235  train/accuracy 0.5\nsaved step 10\n"
    )


def test_the_live_line_is_rewritten_in_place():
    clock, terminal = Clock(), Terminal()
    progress = Progress(8_000_000, 0, stream=terminal, clock=clock)
    for step in range(1, 6):
        clock.now += 1
        progress.update(step * 1000, {"train/accuracy": 0.1, "train/loss": 1 / step})
    assert "\n" not in terminal.getvalue()
    assert "\x1b" not in terminal.getvalue()
    # 7,995,000 images at 1,000 images/s are 7,995 s.
    assert screen(terminal.getvalue()) == ["[........] 5.00k/8.00M images 0.1%  1.00k images/s  2h13m left  loss 0.2"]
    progress.close()
    assert screen(terminal.getvalue())[1:] == [""]


def test_permanent_lines_survive_around_the_live_line():
    clock, terminal = Clock(), Terminal()
    progress = Progress(1000, 0, stream=terminal, clock=clock)
    progress.message("before")
    for images in (100, 200):
        clock.now += 1
        progress.update(images, {"loss": 12345.678})
    progress.message("evaluated")
    clock.now += 1
    progress.log(300, {"loss": 0.5})
    progress.close()
    assert screen(terminal.getvalue()) == [
        "before",
        "evaluated",
        "300/1.00k images 30.0%  100 images/s  7s left  loss 0.5",
        "[##......] 300/1.00k images 30.0%  100 images/s  7s left  loss 0.5",
        "",
    ]


def test_the_terminal_is_drawn_at_most_five_times_a_second():
    class Costly:
        converted = 0

        def __float__(self):
            Costly.converted += 1
            return 1.0

    clock, terminal = Clock(), Terminal()
    progress = Progress(100_000, 0, stream=terminal, clock=clock)
    for step in range(1000):  # ten seconds
        clock.now += 0.01
        progress.update(step, {"loss": Costly()})
    assert 40 <= terminal.getvalue().count("\r") <= 51
    assert Costly.converted == terminal.getvalue().count("\r")


def test_without_a_loss_the_first_two_scalars_are_shown():
    clock, terminal = Clock(), Terminal()
    progress = Progress(1000, 0, stream=terminal, clock=clock)
    progress.update(10, {"train/critic": 1.0, "train/generator": 2.0, "train/penalty": 3.0})
    assert screen(terminal.getvalue())[0].endswith("critic 1  generator 2")


@pytest.mark.parametrize("columns", [20, 60, 100])
def test_the_width_of_a_real_terminal_is_honoured(columns):
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    clock = Clock()
    with os.fdopen(theirs, "w") as terminal:
        progress = Progress(50_000_000, 0, stream=terminal, clock=clock)
        for step in range(1, 4):
            clock.now += 1
            progress.update(step * 10_000, {"train/loss": 0.25})
        progress.close()
    shown = b""
    with contextlib.suppress(OSError):  # that of Linux once the other end is closed and nothing is left
        while part := os.read(ours, 10_000):
            shown += part
    os.close(ours)
    lines = [part for part in shown.decode().replace("\n", "").split("\r") if part.strip()]
    assert len(lines) >= 3
    assert all(len(line) < columns for line in lines)
    assert ("[" in lines[-1]) == (columns > 80)
    assert lines[-1].startswith(("[", "30.0k/50.0M images"))


def test_a_run_past_its_end_and_an_empty_run_are_complete():
    for total, images in ((100, 150), (0, 0)):
        stream = io.StringIO()
        progress = Progress(total, 0, stream=stream, clock=Clock())
        progress.log(images, {})
        assert "100.0%" in stream.getvalue()
