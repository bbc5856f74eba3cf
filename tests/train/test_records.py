import errno
import io
import json
import math
import re
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vision.errors import UserError
from vision.train.records import Records, read_metrics

LAST_WORDS = """
import os, pathlib, signal, sys
from vision.train.records import Records
records = Records(sys.argv[1], 0, True)
for step in range(1, 9):
    records.write_scalars(step, 4 * step, {"train/loss": 1 / step})
    if step in (5, 8):
        records.flush()
with (pathlib.Path(sys.argv[1]) / "metrics.jsonl").open("ab") as file:
    file.write(b'{"step": 9, "images": 36, "ti')
os.kill(os.getpid(), signal.SIGKILL)
"""


def _train(workdir, start, stop):
    with Records(workdir, start, True) as records:
        for step in range(start + 1, stop + 1):
            records.write_scalars(step, 4 * step, {"train/loss": 1 / step})


def _without_times(path):
    return re.sub(r'"time": [\d.]+', '"time": 0', path.read_text())


def _events(workdir):
    """The events that TensorBoard keeps: a session that starts at step s drops those of steps >= s."""
    from tensorboardX.proto.event_pb2 import Event, SessionLog

    kept = []
    for path in sorted((Path(workdir) / "tensorboard").iterdir()):
        stream = io.BytesIO(path.read_bytes())
        while len(header := stream.read(12)) == 12:
            data = stream.read(struct.unpack("<Q", header[:8])[0])
            if len(stream.read(4)) < 4:
                break
            event = Event.FromString(data)
            if event.session_log.status == SessionLog.START:
                kept = [other for other in kept if other.step < event.step]
            kept += [event] if event.HasField("summary") else []
    return kept


def _scalars(workdir):
    return [(e.step, e.summary.value[0].tag, e.summary.value[0].simple_value) for e in _events(workdir)]


def test_a_line_holds_what_was_written(tmp_path):
    with Records(tmp_path / "new" / "run", 0, True) as records:
        records.write_scalars(3, 96, {"train/loss": np.float32(0.5), "train/accuracy": 1})
    lines = (tmp_path / "new" / "run" / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == 1
    record = json.loads(lines[0])
    assert list(record) == ["step", "images", "time", "train/loss", "train/accuracy"]
    assert record["time"] == pytest.approx(time.time(), abs=60)
    del record["time"]
    assert record == {"step": 3, "images": 96, "train/loss": 0.5, "train/accuracy": 1.0}
    assert _scalars(tmp_path / "new" / "run") == [(3, "train/loss", 0.5), (3, "train/accuracy", 1.0)]


def test_values_that_are_not_finite_stay_valid_json(tmp_path):
    with Records(tmp_path, 0, True) as records:
        records.write_scalars(1, 4, {"a": math.nan, "b": math.inf, "c": -math.inf})

    def refuse(name):
        raise AssertionError(f"{name} is not JSON")

    raw = json.loads((tmp_path / "metrics.jsonl").read_text(), parse_constant=refuse)
    assert (raw["a"], raw["b"], raw["c"]) == ("nan", "inf", "-inf")
    (record,) = read_metrics(tmp_path / "metrics.jsonl")
    assert math.isnan(record["a"])
    assert (record["b"], record["c"]) == (math.inf, -math.inf)


@pytest.mark.parametrize("name", ["step", "images", "time"])
def test_a_scalar_cannot_hide_a_key_of_the_line(tmp_path, name):
    with Records(tmp_path, 0, True) as records, pytest.raises(ValueError, match=name):
        records.write_scalars(1, 4, {name: 1.0})
    assert (tmp_path / "metrics.jsonl").read_bytes() == b""


def test_a_killed_and_resumed_run_leaves_what_an_uninterrupted_one_does(tmp_path):
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    done = subprocess.run([sys.executable, "-c", LAST_WORDS, str(killed)], check=False, timeout=60)
    assert done.returncode == -9
    assert [r["step"] for r in read_metrics(killed / "metrics.jsonl")] == list(range(1, 9))
    _train(killed, 5, 10)
    _train(whole, 0, 10)
    assert _without_times(killed / "metrics.jsonl") == _without_times(whole / "metrics.jsonl")
    assert _scalars(killed) == _scalars(whole)
    assert len(_scalars(whole)) == 10
    assert not [p for p in killed.iterdir() if p.name.startswith(".")]


def test_several_resumes_within_a_second_keep_all_events(tmp_path):
    for start in range(0, 12, 3):
        _train(tmp_path, start, start + 3)
    assert len(list((tmp_path / "tensorboard").iterdir())) == 4
    assert [step for step, _, _ in _scalars(tmp_path)] == list(range(1, 13))


def test_a_run_from_step_0_has_no_history(tmp_path):
    for _ in range(2):
        with Records(tmp_path, 0, True) as records:
            records.write_scalars(0, 0, {"eval/accuracy": 0.1})
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == 1
    assert len(_scalars(tmp_path)) == 1


def test_every_tear_is_read_past_and_repaired(tmp_path):
    _train(tmp_path, 0, 3)
    path = tmp_path / "metrics.jsonl"
    whole = path.read_bytes()
    ends = [i for i in range(len(whole)) if whole[i : i + 1] == b"\n"]
    for cut in range(ends[0] + 1, len(whole) + 1):
        path.write_bytes(whole[:cut])
        # An object is complete at its closing brace, with or without the line end.
        steps = [step for step, end in enumerate(ends, start=1) if end <= cut]
        assert [r["step"] for r in read_metrics(path)] == steps
    for cut in (ends[1], ends[1] + 1, ends[1] + 20, len(whole)):
        path.write_bytes(whole[:cut])
        Records(tmp_path, 2, True).close()
        assert path.read_bytes() == whole[: ends[1] + 1]


def test_zeros_that_a_power_cut_left_are_a_tear(tmp_path):
    _train(tmp_path, 0, 2)
    path = tmp_path / "metrics.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + bytes(100))
    assert len(read_metrics(path)) == 2
    _train(tmp_path, 2, 3)
    assert [r["step"] for r in read_metrics(path)] == [1, 2, 3]


def test_damage_elsewhere_is_named_and_nothing_is_touched(tmp_path):
    _train(tmp_path, 0, 3)
    path = tmp_path / "metrics.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    damaged = lines[0] + lines[1][:20] + b"\n" + lines[2]
    path.write_bytes(damaged)
    with pytest.raises(UserError, match=r"Line 2 of .*metrics\.jsonl is damaged"):
        read_metrics(path)
    with pytest.raises(UserError, match="Line 2"):
        Records(tmp_path, 2, True)
    assert path.read_bytes() == damaged


def test_other_processes_write_nothing(tmp_path):
    with Records(tmp_path / "run", 3, False) as records:
        records.write_scalars(4, 16, {"train/loss": 1.0})
        records.write_images(4, 16, {"samples": np.zeros((4, 4, 3), np.uint8)})
        records.flush()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "line",
    [
        *('{"step": 2, "images": "8"}', '{"step": 2, "a": null}', '{"step": 2, "a": [1]}', '{"step": 2, "a": "many"}'),
        *('{"step": -1}', '{"step": true}', '{"step": 2, "a": NaN}', '{"step": 2, "a": true}', "[" * 100_000, "2"),
    ],
)
def test_lines_of_other_types_are_damaged(tmp_path, line):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "images": 4, "time": 1.5, "a": "nan"}\n' + line + '\n{"step": 3}\n')
    with pytest.raises(UserError, match=r"Line 2 of .*metrics\.jsonl is damaged"):
        read_metrics(path)


def test_names_that_differ_in_any_character_are_different_tags(tmp_path):
    names = [f"eval/class_accuracy/{name}" for name in ("a b", "a_b", "a+b", "á_b", "/a_b", "a,b")]
    with Records(tmp_path, 0, True) as records:
        records.write_scalars(1, 4, {name: float(number) for number, name in enumerate(names)})
        records.write_images(1, 4, {name: np.zeros((4, 4, 3), np.uint8) for name in names})
    tags = [event.summary.value[0].tag for event in _events(tmp_path)]
    assert tags == [*names, *names]


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_arrive_as_they_are(tmp_path, channels):
    picture = np.random.default_rng(0).integers(0, 256, (5, 7, channels), np.uint8)
    with Records(tmp_path, 0, True) as records:
        records.write_images(2, 8, {"samples": picture})
        with pytest.raises(ValueError, match="samples"):
            records.write_images(2, 8, {"samples": picture.astype(np.float32)})
    (event,) = _events(tmp_path)
    assert (event.step, event.summary.value[0].tag) == (2, "samples")
    with Image.open(io.BytesIO(event.summary.value[0].image.encoded_image_string)) as decoded:
        np.testing.assert_array_equal(np.array(decoded.convert("RGB")), np.broadcast_to(picture, (5, 7, 3)))


def test_a_full_disk_is_one_sentence_and_leaves_no_half_line(tmp_path):
    class Full(io.FileIO):
        room = 40

        def write(self, data):
            if Full.room == 0:
                raise OSError(errno.ENOSPC, "No space left on device")
            written = super().write(bytes(data)[: Full.room])
            Full.room -= written
            return written

    records = Records(tmp_path, 0, True)
    records.write_scalars(1, 4, {"train/loss": 1.0})
    whole = (tmp_path / "metrics.jsonl").read_bytes()
    records._metrics.close()
    records._metrics = Full(tmp_path / "metrics.jsonl", "ab")
    with pytest.raises(UserError, match=r"full at .*free some space"):
        records.write_scalars(2, 8, {"train/loss": 0.5})
    assert (tmp_path / "metrics.jsonl").read_bytes() == whole
    records.close()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's /dev/full")
def test_a_disk_too_full_for_tensorboard_neither_hangs_nor_leaks(tmp_path):
    records = Records(tmp_path, 0, True)
    records._events.close()
    records._events._writer = Path("/dev/full").open("wb")  # noqa: SIM115
    for step in range(1, 100):
        records.write_scalars(step, step, {"a": 1.0})
    with pytest.raises(UserError, match="full"):
        records.flush()
    with pytest.raises(UserError, match="full"):
        records.close()
    records.close()


def test_a_folder_that_is_a_file_is_explained(tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        Records(tmp_path / "run", 0, True)
