"""Published files from a server on this machine: whole, continued, cut off, refused, and not what was published."""

import hashlib
import http.server
import threading
from dataclasses import replace

import pytest

from vision.errors import UserError
from vision.launch import verbs
from vision.pretrained import download as module
from vision.pretrained.download import FILES, PublishedFile, download

CONTENT = bytes(range(256)) * 40
SUM = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def server():
    """A server of one file, with what was asked of it in ``asked`` and how it answers in ``how``."""

    class Handler(http.server.BaseHTTPRequestHandler):
        asked, how = [], {"ranges": True, "sent": None, "code": None}

        def do_GET(self):
            wanted, how = self.headers.get("Range"), self.how
            self.asked.append(wanted)
            start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and how["ranges"] else 0
            if how["code"] or (start and start >= len(CONTENT)):
                self.send_error(how["code"] or 416)
                return
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(CONTENT) - start))
            self.end_headers()
            self.wfile.write(CONTENT[start : how["sent"]])

        def log_message(self, *arguments):
            """Say nothing."""

    Handler.asked, Handler.how = [], dict(Handler.how)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as made:
        thread = threading.Thread(target=made.serve_forever)
        thread.start()
        made.file = PublishedFile(f"http://127.0.0.1:{made.server_port}/net-{SUM[:8]}.pth", "--model resnet18", 1.0)
        made.asked, made.how = Handler.asked, Handler.how
        yield made
        made.shutdown()
        thread.join()


def test_a_file_comes_whole_and_is_checked_when_it_is_there(server, tmp_path):
    said = []
    folder = tmp_path / "new" / "weights"
    assert download(server.file, folder, report=said.append) == SUM
    assert [path.name for path in folder.iterdir()] == [f"net-{SUM[:8]}.pth"]
    assert (folder / server.file.name).read_bytes() == CONTENT
    assert said == [f"{server.file.url}: 0.0 MB"]
    assert download(server.file, folder) == SUM
    assert server.asked == [None]
    (folder / server.file.name).write_bytes(b"other")
    with pytest.raises(
        UserError, match=r"is not what was published: its SHA-256 begins with \w{8}, not .*: remove the"
    ):
        download(server.file, folder)
    assert (folder / server.file.name).read_bytes() == b"other"


@pytest.mark.parametrize("ranges", [True, False])
def test_one_that_was_cut_off_is_continued(server, tmp_path, ranges):
    server.how["sent"] = 5_000
    with pytest.raises(UserError, match=r"ended after 5,000 of 10,240 bytes: run the same command again"):
        download(server.file, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [f".{server.file.name}.part"]
    server.how |= {"sent": None, "ranges": ranges}
    assert download(server.file, tmp_path) == SUM
    assert server.asked == [None, "bytes=5000-"]
    assert [path.name for path in tmp_path.iterdir()] == [server.file.name]


@pytest.mark.parametrize("before", [len(CONTENT), len(CONTENT) + 7])
def test_a_part_that_is_long_enough_and_wrong_starts_anew(server, tmp_path, before):
    (tmp_path / f".{server.file.name}.part").write_bytes(b"x" * before)
    assert download(server.file, tmp_path) == SUM


def test_other_content_is_refused_and_removed(server, tmp_path):
    file = replace(server.file, url=server.file.url.replace(SUM[:8], "0123abcd"))
    with pytest.raises(
        UserError, match=f"net-0123abcd.pth is not what was published: its SHA-256 .* {SUM[:8]}, not 01"
    ):
        download(file, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_reached_is_one_sentence(server, tmp_path):
    server.how["code"] = 404
    with pytest.raises(UserError, match=r"is refused \(404 Not Found\)"):
        download(server.file, tmp_path)
    with pytest.raises(UserError, match=r"127.0.0.1:9/net.pth cannot be reached \(.*refused.*check the network"):
        download(PublishedFile("http://127.0.0.1:9/net.pth", "--model resnet18", 1.0), tmp_path)


def test_from_the_command_line(tmp_path, monkeypatch, capsys):
    """By a file's address; nothing is asked of the network."""
    (tmp_path / "there.pth").write_bytes(CONTENT)
    file = PublishedFile((tmp_path / "there.pth").as_uri(), "--model resnet18", 1.0)
    monkeypatch.setattr(module, "FILES", None)
    monkeypatch.setattr("vision.launch.download.FILES", {"resnet18": file})
    monkeypatch.chdir(tmp_path)
    assert verbs.main(["download", "resnet18"]) == 0
    said = capsys.readouterr().out
    assert said.splitlines() == [
        "weights/there.pth",
        f"SHA-256 {SUM} (its publisher states none to compare it with)",
        "--model resnet18 --init-from weights/there.pth",
    ]
    assert (tmp_path / "weights" / "there.pth").read_bytes() == CONTENT
    assert verbs.main(["download"]) == 0
    assert file.url in capsys.readouterr().out
    for words, message in {
        ("resnet81",): "there is no file of weights resnet81: did you mean resnet18?",
        ("resnet18", "a", "b"): "b is one word too many",
        ("resnet18", "there.pth"): "there.pth cannot be written: ",
    }.items():
        assert verbs.main(["download", *words]) == 2
        assert message in capsys.readouterr().err


def test_names_carry_the_sums_that_are_checked():
    without = {name for name, file in FILES.items() if not file.sha256}
    assert without == {"convnext_xlarge"}
    assert FILES["resnet50"].sha256 == "11ad3fa6"
