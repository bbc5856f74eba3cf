"""Users without a home directory, and caches that cannot be written."""

import os
from pathlib import Path

import pytest

from vision.home import cache_folder, expanded


@pytest.fixture
def homeless(monkeypatch):
    """No HOME, and a user id that no password file knows."""
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr("pwd.getpwuid", lambda uid: {}[uid])


def test_home(monkeypatch):
    monkeypatch.setenv("HOME", "/home/ada")
    assert expanded("~/data") == Path("/home/ada/data")
    assert expanded(Path("data")) == Path("data")


def test_without_a_home_paths_stay(homeless):
    assert expanded("~/data") == Path("~/data")


def test_the_cache_is_the_users(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert cache_folder("x") == tmp_path / "cache" / "x"
    assert (tmp_path / "cache" / "x").is_dir()


def test_without_a_home_or_with_one_that_cannot_be_written_it_is_a_temporary_folder(homeless, monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert cache_folder("x") == tmp_path / f"x-{os.getuid()}"
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nowhere")
    assert cache_folder("x") == tmp_path / f"x-{os.getuid()}"
    (tmp_path / f"x-{os.getuid()}").rmdir()
    (tmp_path / f"x-{os.getuid()}").write_text("in the way")
    folder = cache_folder("x")
    assert folder.is_dir()
    assert folder.parent == tmp_path
