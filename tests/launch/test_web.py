"""The web page: forms, answers, and what hostile input becomes."""

import io
import re
import threading
import urllib.request
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from vision.errors import UserError
from vision.launch import web
from vision.launch.web import Painter, application, check_installed, png
from vision.types import Samples

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)


class Pretended(Painter):
    """Notes what it is asked for."""

    def __init__(self, requests=("prompts", "images", "best_of")):
        experiment = SimpleNamespace(requests=requests)
        self.run = SimpleNamespace(experiment=experiment, folder="runs/<decoder>", name="decoder_shapes", images=16)
        self.guidance, self.asked = 2.0, []

    def __call__(self, request, guidance):
        self.asked.append((request, guidance))
        if "dodo" in request.prompts:
            raise UserError("the tokenizer does not know dodo")
        images = np.full((request.count, 4, 4, 3), 7, np.uint8)
        return Samples(images=images, captions=request.prompts * request.count)


@pytest.fixture
def painter():
    return Pretended()


@pytest.fixture
def client(painter):
    return application(painter, hosts=("127.0.0.1", "localhost")).test_client()


def image_file(content=None):
    return (io.BytesIO(png(PIXELS) if content is None else content), "a.png")


def sentence(answer):
    found = re.search(r'<p class="error" role="alert">([^<]*)</p>', answer.get_data(as_text=True))
    return found.group(1) if found else None


def test_the_page_has_a_tab_for_each_thing_that_the_run_can_do(client):
    answer = client.get("/")
    text = answer.get_data(as_text=True)
    assert answer.status_code == 200
    assert "runs/&lt;decoder&gt;, after 16 images" in text
    assert text.count("<nav>") == 1
    assert 'href="?tab=variations"' in text
    assert 'name="sampling.guidance" type="number" step="any" value="2"' in text
    assert "script" not in text
    assert 'type="file"' in client.get("/?tab=variations").get_data(as_text=True)
    alone = application(Pretended(("prompts",))).test_client().get("/")
    assert "variations" not in alone.get_data(as_text=True)
    with pytest.raises(UserError, match="does not generate images for sentences"):
        application(Pretended(()))


def test_sentences_become_images(client, painter):
    sent = {"prompts": "a red star\n\n a <b>blue</b> circle ", "count": "3", "seed": "5", "sampling.guidance": "1.5"}
    answer = client.post("/?tab=text", data=sent)
    text = answer.get_data(as_text=True)
    ((request, guidance),) = painter.asked
    assert answer.status_code == 200
    assert (request.prompts, request.count, request.seed) == (("a red star", "a <b>blue</b> circle"), 3, 5)
    assert guidance == 1.5
    assert text.count("data:image/png;base64,") == 3
    assert "a &lt;b&gt;blue&lt;/b&gt; circle" in text
    assert "<b>blue" not in text
    assert 'value="1.5"' in text  # what was typed stays


def test_an_uploaded_image_is_varied(client, painter):
    answer = client.post("/?tab=variations", data={"image": image_file(), "count": "2"})
    ((request, guidance),) = painter.asked
    assert answer.status_code == 200
    np.testing.assert_array_equal(request.images[0], PIXELS)
    assert (request.count, request.seed, guidance) == (2, 0, None)


@pytest.mark.parametrize(
    ("tab", "data", "said"),
    [
        ("text", {}, "there is no sentence"),
        ("text", {"prompts": " \n\t\n"}, "there is no sentence"),
        ("text", {"prompts": "a\n" * 65}, "there are 65 sentences, and at most 64 are read"),
        ("text", {"prompts": "a" * 1001}, "sentence 1 has 1,001 characters"),
        ("text", {"prompts": "a red\x00star"}, "sentence 1 has characters that are no text"),
        ("text", {"prompts": "dodo"}, "the tokenizer does not know dodo"),
        ("text", {"prompts": "a", "count": "0"}, "count is a whole number within 1 to 64, not 0"),
        ("text", {"prompts": "a", "count": "65"}, "count is a whole number within 1 to 64"),
        ("text", {"prompts": "a", "count": "1e3"}, "count is a whole number"),
        ("text", {"prompts": "a", "count": "9" * 9999}, "count is a whole number"),
        ("text", {"prompts": "a", "count": "\u0663"}, "count is a whole number"),
        ("text", {"prompts": "a", "seed": "-1"}, "seed is a whole number within 0 to 4294967295, not -1"),
        ("text", {"prompts": "a", "seed": "4294967296"}, "seed is a whole number"),
        ("text", {"prompts": "a", "sampling.guidance": "nan"}, "guidance is a number within 0 to 20, not nan"),
        ("text", {"prompts": "a", "sampling.guidance": "inf"}, "guidance is a number within 0 to 20"),
        ("text", {"prompts": "a", "sampling.guidance": "<x>"}, "guidance is a number within 0 to 20, not &lt;x&gt;"),
        ("variations", {}, "there is no image"),
        ("variations", {"image": (io.BytesIO(b""), "a.png")}, "there is no image"),
        ("variations", {"image": (io.BytesIO(b"%PDF-1.4"), "a.png")}, "the file"),
        ("variations", {"image": (io.BytesIO(png(PIXELS)[:60]), "a.png")}, "the file"),
    ],
)
def test_what_makes_no_request_is_one_sentence(client, painter, tab, data, said):
    answer = client.post(f"/?tab={tab}", data=data, content_type="multipart/form-data")
    assert answer.status_code == 400
    assert said in sentence(answer)
    assert "Traceback" not in answer.get_data(as_text=True)
    assert all(request.prompts == ("dodo",) for request, _ in painter.asked)


def test_what_is_too_large_is_refused(client):
    huge = {"image": (io.BytesIO(b"x" * (web.MAX_BYTES + 1)), "a.png")}
    answer = client.post("/?tab=variations", data=huge)
    assert (answer.status_code, sentence(answer)[:40]) == (400, "what was sent has more than 16 MiB: choo")
    answer.request.environ["wsgi.input"].close()  # the test client writes a large body to a file
    bomb = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(bomb, "PNG")
    answer = client.post("/?tab=variations", data={"image": (io.BytesIO(bomb.getvalue()), "a.png")})
    assert answer.status_code == 400
    assert "pixels" in sentence(answer)


def test_pages_of_other_addresses_are_refused(client, painter):
    """A name that leads to this machine, or a form of another page."""
    assert client.get("/", headers={"Host": "evil.example"}).status_code == 400
    other = {"Origin": "http://evil.example"}
    assert client.post("/", data={"prompts": "a"}, headers=other).status_code == 400
    own = {"Host": "127.0.0.1:8000", "Origin": "http://127.0.0.1:8000"}
    assert client.post("/", data={"prompts": "a"}, headers=own).status_code == 200
    assert len(painter.asked) == 1
    assert client.get("/nothing").status_code == 404


def test_a_missing_package_is_one_sentence(monkeypatch):
    monkeypatch.setattr(web.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r'pip install -e "\.\[page\]"'):
        check_installed()


def test_the_page_is_served_on_this_machine(monkeypatch):
    """One request over the network, then Ctrl-C; a port that is taken is one sentence."""
    said, got = [], []

    def once(server):
        address = f"http://127.0.0.1:{server.port}/"
        client = threading.Thread(target=lambda: got.append(urllib.request.urlopen(address).read().decode()))
        client.start()
        server.handle_request()
        client.join()
        with pytest.raises(UserError, match="cannot be listened on"):
            web.serve.__wrapped__(painter.run, overrides=(), host="127.0.0.1", port=server.port)
        raise KeyboardInterrupt

    painter = Pretended()
    monkeypatch.setattr(web, "Painter", lambda run, overrides: painter)
    monkeypatch.setattr(web, "to_stderr", said.append)
    monkeypatch.setattr("werkzeug.serving.BaseWSGIServer.serve_forever", once)
    web.serve.__wrapped__(painter.run, overrides=(), host="127.0.0.1", port=0)
    assert "Images for sentences" in got[0]
    assert said[0].startswith("http://127.0.0.1:")
    assert said[-1] == "stopped"
