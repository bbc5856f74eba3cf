"""Two processes evaluate a detector as one does, and each knows all numbers."""

import json

import pytest
from run_small_detection import found, write_files
from several_processes import two_processes


def test_two_processes_find_what_one_finds(tmp_path):
    write_files(tmp_path)
    codes, said = two_processes(
        "run_small_detection.py", lambda address, index: [address, "2", str(index), str(tmp_path)]
    )
    assert codes == [0, 0], "\n".join(said)

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
