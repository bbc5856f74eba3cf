"""Runs that come back with their data and files in other places, or with other data in the same place."""

import json
import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vision.data.content import content_of
from vision.data.dataset import DataConfig, open_dataset
from vision.errors import UserError
from vision.launch.inputs import check_data, data_changes, file_hash, keep_inputs, read_inputs
from vision.launch.run_folder import claim, write_config


@dataclass(frozen=True)
class Config:
    """A recipe."""

    data: DataConfig = DataConfig(name="folder", resolution=4)
    init_from: Path | None = None
    """Weights."""


def pictures(folder, count=30):
    for index in range(count):
        place = folder / ("cat", "dog")[index % 2]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((4, 4, 3), index, np.uint8)).save(place / f"{index}.png")
    return folder


def contents(config):
    return {split: content_of(open_dataset(config.data, split)) for split in ("train", "test")}


def at(config, **fields):
    return replace(config, data=replace(config.data, **fields))


@pytest.fixture
def start(tmp_path, monkeypatch):
    """What a start of a run does with its inputs; gives what is reported."""
    run = tmp_path / "run"

    def call(config, *, step):
        from vision.data.dataset import _folder

        _folder.cache_clear()  # another process
        places, said = ["data.dir", "data.test_dir", "init_from"], []
        lock = claim(run, "x", config, places=places)
        try:
            keep_inputs(run, config, elsewhere=(), contents=contents(config), step=step, report=said.append)
            write_config(run, "x", config)
        finally:
            os.close(lock)
        (run / "checkpoints" / str(step + 5)).mkdir(parents=True, exist_ok=True)
        return said

    return call


def test_data_may_move(start, tmp_path):
    config = at(Config(), dir=pictures(tmp_path / "a"))
    assert start(config, step=0) == []
    kept = read_inputs(tmp_path / "run")
    assert kept.data[0].splits == contents(config)
    assert sum(content.count for content in kept.data[0].splits.values()) == 30
    (tmp_path / "a").rename(tmp_path / "b")
    moved = at(config, dir=tmp_path / "b")
    (said,) = start(moved, step=5)
    assert said == f"data.dir was {tmp_path / 'a'} and is {tmp_path / 'b'}, with the same content"
    assert start(moved, step=10) == []
    assert data_changes(tmp_path / "run") == []
    assert json.loads((tmp_path / "run" / "config.json").read_text())["config"]["data"]["dir"] == str(tmp_path / "b")


def test_other_data_in_another_place_is_refused(start, tmp_path):
    config = at(Config(), dir=pictures(tmp_path / "a"))
    start(config, step=0)
    before = (tmp_path / "run" / "config.json").read_bytes()
    with pytest.raises(UserError, match=r"is not the data that the run in .* began with \(.* training images where"):
        start(at(config, dir=pictures(tmp_path / "b", 40)), step=5)
    assert (tmp_path / "run" / "config.json").read_bytes() == before
    with pytest.raises(UserError, match="name a copy of the same data"):
        check_data(tmp_path / "run", at(config, dir=tmp_path / "b"), contents(at(config, dir=tmp_path / "b")))
    assert start(config, step=5) == []


def test_a_change_in_the_same_place_is_reported_and_kept(start, tmp_path):
    config = at(Config(), dir=pictures(tmp_path / "a"))
    start(config, step=0)
    for number in range(9):
        shutil.copy(tmp_path / "a" / "cat" / "0.png", tmp_path / "a" / "cat" / f"x{number}.png")
    (said,) = start(config, step=5)
    assert "the data has changed since the run was started" in said
    assert "training images where there were" in said
    assert start(config, step=10) == []
    (change,) = data_changes(tmp_path / "run")
    assert change.startswith("after step 5: ")
    (tmp_path / "a" / "cat" / "x3.png").rename(tmp_path / "a" / "dog" / "x3.png")
    (said,) = start(config, step=15)
    assert "not the same files or labels" in said
    assert len(data_changes(tmp_path / "run")) == 2


def test_a_fresh_start_forgets_what_another_has_found(start, tmp_path):
    config = at(Config(), dir=pictures(tmp_path / "a"))
    start(config, step=0)
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    pictures(tmp_path / "a", 40)
    assert start(config, step=0) == []
    assert data_changes(tmp_path / "run") == []


def test_weights_are_known_by_their_content(start, tmp_path):
    weights = tmp_path / "a.safetensors"
    weights.write_bytes(b"abc")
    config = replace(at(Config(), dir=pictures(tmp_path / "a")), init_from=weights)
    start(config, step=0)
    shutil.copy(weights, tmp_path / "b.safetensors")
    (said,) = start(replace(config, init_from=tmp_path / "b.safetensors"), step=5)
    assert "with the same content" in said
    weights.write_bytes(b"abcd")
    with pytest.raises(UserError, match=r"init_from is .*b.safetensors there and .*a.safetensors here"):
        start(replace(config, init_from=weights), step=5)
    weights.unlink()
    (tmp_path / "b.safetensors").unlink()  # the run needs it no longer
    assert start(replace(config, init_from=tmp_path / "b.safetensors"), step=5) == []
    with pytest.raises(UserError, match=r"--init-from names .*a.safetensors, which cannot be read"):
        start(replace(config, init_from=weights), step=5)


def test_a_run_folder_is_known_by_its_configuration_and_newest_checkpoint(tmp_path):
    for name in ("a", "b"):
        os.close(claim(tmp_path / name, "x", Config()))
        (tmp_path / name / "checkpoints" / "7").mkdir(parents=True)
    assert file_hash(tmp_path / "a", "init_from") == file_hash(tmp_path / "b" / "checkpoints", "init_from")
    (tmp_path / "b" / "checkpoints" / "9").mkdir()
    assert file_hash(tmp_path / "a", "init_from") != file_hash(tmp_path / "b", "init_from")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"files": {}, "data": [{"step": "x"}]}', '{"files": [], "data": 3}'])
def test_a_damaged_file_is_one_sentence(tmp_path, text):
    (tmp_path / "inputs.json").write_text(text)
    with pytest.raises(UserError, match="cannot be read"):
        read_inputs(tmp_path)
