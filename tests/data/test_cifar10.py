import functools
import hashlib
import http.server
import io
import subprocess
import sys
import tarfile
import threading
from pathlib import Path

import numpy as np
import pytest

from vision.data.cifar10 import CLASS_NAMES, prepare
from vision.data.source import in_memory
from vision.data.tfds import tfds_source
from vision.errors import UserError


def samples(seed, count):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8), rng.integers(0, 10, count, dtype=np.uint8)


def binary(images, labels):
    planes = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
    return np.concatenate([labels[:, None], planes], axis=1).tobytes()


def miniature():
    """The files of the official archive, with 3 images in each batch, and what they hold."""
    parts = [samples(i, 3) for i in range(6)]
    files = {f"data_batch_{i + 1}.bin": binary(*parts[i]) for i in range(5)}
    files["test_batch.bin"] = binary(*parts[5])
    files["batches.meta.txt"] = ("\n".join(CLASS_NAMES) + "\n\n").encode()
    files["readme.html"] = b"<a>"
    train = tuple(np.concatenate([part[k] for part in parts[:5]]) for k in range(2))
    return files, {"train": train, "test": parts[5]}


def write_archive(path, files):
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module", autouse=True)
def _no_proxy():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("no_proxy", "127.0.0.1")
        yield


class Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A folder and the address at which its files are served."""
    folder = tmp_path_factory.mktemp("served")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield folder, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def prepared(served, tmp_path_factory):
    folder, address = served
    root = tmp_path_factory.mktemp("tfds")
    files, expected = miniature()
    checksum = write_archive(folder / "official.tar.gz", files)
    directory = prepare(root, url=f"{address}/official.tar.gz", sha256=checksum)
    return root, directory, expected


def test_what_is_prepared_is_read_back_exactly(prepared):
    root, directory, expected = prepared
    assert directory == root / "cifar10" / "3.0.2"
    for split, (images, labels) in expected.items():
        source = tfds_source("cifar10", split, data_dir=root)
        assert source.class_names == CLASS_NAMES
        assert len(source) == len(images)
        read = in_memory(source).arrays
        # TFDS shuffles, so samples are paired by their pixels.
        order = [int(np.flatnonzero((images == image).all(axis=(1, 2, 3)))[0]) for image in read["image"]]
        assert sorted(order) == list(range(len(images)))
        np.testing.assert_array_equal(read["label"], labels[order])
        assert read["label"].dtype == np.int32


def test_identifiers_are_those_of_the_tfds_builder(prepared):
    import tensorflow_datasets as tfds

    root, _, expected = prepared
    records = tfds.data_source("cifar10", data_dir=root, split="train")
    images, labels = expected["train"]
    assert sorted(record["id"] for record in records) == [f"train_{i:05d}".encode() for i in range(15)]
    for record in records:
        number = int(record["id"].decode().removeprefix("train_"))
        np.testing.assert_array_equal(record["image"], images[number])
        assert record["label"] == labels[number]


def test_preparing_again_needs_no_archive(prepared):
    root, directory, _ = prepared
    before = sorted((path, path.stat().st_mtime_ns) for path in directory.iterdir())
    assert prepare(root, url="http://127.0.0.1:9/gone", sha256="0") == directory
    assert sorted((path, path.stat().st_mtime_ns) for path in directory.iterdir()) == before


def test_an_archive_at_hand_is_not_downloaded(served, tmp_path):
    (tmp_path / "downloads").mkdir()
    checksum = write_archive(tmp_path / "downloads" / "cifar-10-binary.tar.gz", miniature()[0])
    assert prepare(tmp_path, url="http://127.0.0.1:9/gone", sha256=checksum).is_dir()


def test_features_are_those_of_the_tfds_set(prepared, real_data):
    stock = real_data / "tfds" / "cifar10" / "3.0.2"
    for file in ("features.json", "label.labels.txt"):
        assert (prepared[1] / file).read_text().split() == (stock / file).read_text().split()


def test_the_tfds_set_is_read_as_tfds_reads_it(real_data):
    import tensorflow_datasets as tfds

    stock = tfds.data_source("cifar10", data_dir=real_data / "tfds", split="test")
    ours = tfds_source("cifar10", "test", data_dir=real_data / "tfds")
    assert len(ours) == len(stock)
    assert ours.class_names == CLASS_NAMES
    for index in range(0, len(ours), 97):
        np.testing.assert_array_equal(ours[index]["image"], stock[index]["image"])
        assert ours[index]["label"] == stock[index]["label"]


def test_a_wrong_checksum_is_refused_and_the_file_deleted(served, tmp_path):
    folder, address = served
    (folder / "other.tar.gz").write_bytes(b"something else")
    found = hashlib.sha256(b"something else").hexdigest()
    with pytest.raises(UserError, match=f"other.tar.gz has SHA-256 {found} instead of 00ff"):
        prepare(tmp_path, url=f"{address}/other.tar.gz", sha256="00ff")
    assert list((tmp_path / "downloads").iterdir()) == []


def test_a_failing_network_is_reported(served, tmp_path):
    _, address = served
    with pytest.raises(UserError, match=r"absent.tar.gz cannot be downloaded \(.*not found.*\); check the network"):
        prepare(tmp_path, url=f"{address}/absent.tar.gz")
    with pytest.raises(UserError, match=r"127.0.0.1:9/x cannot be downloaded \(.*refused.*\)"):
        prepare(tmp_path, url="http://127.0.0.1:9/x")
    with pytest.raises(UserError, match="nowhere cannot be downloaded"):
        prepare(tmp_path, url="nowhere")


def test_a_download_that_breaks_off_is_reported(tmp_path):
    class Short(Handler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", "100")
            self.end_headers()
            self.wfile.write(b"x" * 40)

    with http.server.HTTPServer(("127.0.0.1", 0), Short) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        with pytest.raises(UserError, match="broke off after 40 of 100 bytes"):
            prepare(tmp_path, url=f"http://127.0.0.1:{server.server_port}/x")
        thread.join()


def damaged_archives():
    files = miniature()[0]
    without = {name: content for name, content in files.items() if name != "data_batch_3.bin"}
    short = {**files, "data_batch_2.bin": files["data_batch_2.bin"][:-1]}
    eleventh = {**files, "test_batch.bin": b"\x0a" + files["test_batch.bin"][1:]}
    fine = {**files, "batches.meta.txt": b"apple\nbear\n"}
    return {
        "lacks cifar-10-batches-bin/data_batch_3.bin; it is not": without,
        "data_batch_2.bin in .* has 9218 bytes, which is not a multiple of 3073: it is truncated": short,
        "test_batch.bin in .* has a class number above 9": eleventh,
        "has the classes apple, bear, which are not": fine,
    }


@pytest.mark.parametrize("message", damaged_archives())
def test_an_archive_with_other_contents_is_refused(message, tmp_path):
    (tmp_path / "downloads").mkdir()
    archive = tmp_path / "downloads" / "cifar-10-binary.tar.gz"
    checksum = write_archive(archive, damaged_archives()[message])
    with pytest.raises(UserError, match=message):
        prepare(tmp_path, url="http://127.0.0.1:9/gone", sha256=checksum)
    assert not (tmp_path / "cifar10" / "3.0.2").exists()


@pytest.mark.parametrize("kept", [0.5, 0.999])
def test_a_truncated_archive_is_refused(kept, tmp_path):
    (tmp_path / "downloads").mkdir()
    archive = tmp_path / "downloads" / "cifar-10-binary.tar.gz"
    write_archive(archive, miniature()[0])
    archive.write_bytes(archive.read_bytes()[: int(kept * archive.stat().st_size)])
    checksum = hashlib.sha256(archive.read_bytes()).hexdigest()
    with pytest.raises(UserError, match=r"The archive .*cifar-10-binary.tar.gz is damaged \(.*\); delete it"):
        prepare(tmp_path, url="http://127.0.0.1:9/gone", sha256=checksum)


def test_a_place_that_cannot_be_written_is_reported(tmp_path):
    (tmp_path / "file").write_text("not a directory")
    with pytest.raises(UserError, match=r"CIFAR-10 cannot be written below .*file: .*Not a directory"):
        prepare(tmp_path / "file", url="http://127.0.0.1:9/gone")


def test_the_command_line_prints_one_line_and_exits_2(tmp_path):
    command = [
        sys.executable,
        "-m",
        "vision.data.cifar10",
        "--data-dir",
        str(tmp_path),
        "--url",
        "http://127.0.0.1:9/x",
    ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2], check=False)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "cannot be downloaded" in done.stderr
