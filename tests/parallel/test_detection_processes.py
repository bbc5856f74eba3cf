"""Two processes evaluate a detector as one does, and each knows all numbers."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from run_small_detection import found, write_files

HERE = Path(__file__).resolve().parent


def test_two_processes_find_what_one_finds(tmp_path):
    write_files(tmp_path)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    environment = {
        **os.environ,
        "XLA_FLAGS": os.environ["XLA_FLAGS"].replace("device_count=8", "device_count=4"),
        "PYTHONPATH": str(HERE.parents[1]),
    }
    command = [sys.executable, str(HERE / "run_small_detection.py"), address, "2"]
    processes = [
        subprocess.Popen(
            [*command, str(index), str(tmp_path)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for index in range(2)
    ]
    said = [process.communicate(timeout=150)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], "\n".join(said)

    numbers, pictures, lines = found(tmp_path)
    assert numbers["ap50"] > 0
    plots = [name for name in pictures if name not in ("found", "mistakes")]
    assert len(plots) == len(pictures) - 2
    for index in range(2):
        one = json.loads((tmp_path / f"{index}.json").read_text())
        assert one[0] == pytest.approx(numbers, rel=1e-6)
        assert one[1] == plots  # images are shown only by a single process
        assert one[2] == lines
    assert not (tmp_path / "of-1").exists()  # the first writes
