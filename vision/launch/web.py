"""A local web page that generates images with a run: ``python -m vision page RUN``.

Tabs are the entries of `TABS`: a form, and a function from what was typed to a request. A run has those whose fields it
can follow, so that a tab for edits is one more entry, for generators that take images and masks.
"""

import importlib.util
import io
import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from vision.data.image_file import opened
from vision.errors import UserError
from vision.launch.load_run import LoadedRun, open_run, to_stderr
from vision.launch.options import flatten
from vision.report.web_page import Field, TabForm, web_page
from vision.train.experiment import Sample
from vision.types import SampleRequest, Samples

MAX_BYTES = 16 * 2**20
"""Of what is sent to the page."""
MAX_PIXELS = 16_000_000
MAX_COUNT = 64
MAX_PROMPTS = 64
MAX_CHARACTERS = 1_000
"""Of a sentence."""
MAX_GUIDANCE = 20.0
GUIDANCE = "sampling.guidance"
"""The field of a configuration that the page sets."""
_KEPT = 4
"""Guidance scales whose programs are kept."""
_PROMPTS = Field(name="prompts", label="Sentences, one a line", kind="text")
_IMAGE = Field(name="image", label="An image", kind="file")
_COUNT = Field(name="count", label="Images", kind="number")
_SEED = Field(name="seed", label="Seed", kind="number")
_GUIDANCE = Field(name=GUIDANCE, label="Guidance", kind="number", step="any")
DEFAULTS: Mapping[str, str] = {"count": "8", "seed": "0"}


@dataclass(frozen=True, kw_only=True)
class Sent:
    """What a form sent."""

    texts: Mapping[str, str]
    files: Mapping[str, bytes]


@dataclass(frozen=True, kw_only=True)
class Tab:
    """A way to generate images."""

    form: TabForm
    needs: frozenset[str]
    """Fields of a request that the run must be able to follow."""
    request: Callable[[Sent], SampleRequest]
    """Raises ``UserError`` for what makes no request."""


def prompts_of(sent: Sent) -> tuple[str, ...]:
    """The sentences of a form, without empty lines. Raises ``UserError`` for too many, too long ones, or none."""
    lines = tuple(line.strip() for line in sent.texts.get("prompts", "").splitlines() if line.strip())
    if not lines:
        raise UserError("there is no sentence: type one a line")
    if len(lines) > MAX_PROMPTS:
        raise UserError(f"there are {len(lines)} sentences, and at most {MAX_PROMPTS} are read: remove some")
    for number, line in enumerate(lines, 1):
        if len(line) > MAX_CHARACTERS:
            raise UserError(f"sentence {number} has {len(line):,} characters, and at most {MAX_CHARACTERS:,} are read")
        if not line.isprintable():
            raise UserError(f"sentence {number} has characters that are no text: type it again")
    return lines


def image_of(sent: Sent) -> UInt8[np.ndarray, "h w 3"]:
    """The image of a form. Raises ``UserError`` where there is none, or it is none."""
    content = sent.files.get("image", b"")
    if not content:
        raise UserError("there is no image: choose a file")
    with opened(io.BytesIO(content), max_pixels=MAX_PIXELS, name="the file", adjustable=False) as image:
        return np.asarray(image.convert("RGB"))


def whole(sent: Sent, name: str, *, least: int, most: int) -> int:
    """A whole number of a form. Raises ``UserError`` for anything else, or one out of range."""
    said = sent.texts.get(name, "").strip() or DEFAULTS[name]
    if not (said.isascii() and said.isdecimal() and len(said) <= 12 and least <= int(said) <= most):
        raise UserError(f"{name} is a whole number within {least} to {most}, not {said[:40]}")
    return int(said)


def _numbers(sent: Sent) -> dict[str, Any]:
    count = whole(sent, "count", least=1, most=MAX_COUNT)
    return {"count": count, "seed": whole(sent, "seed", least=0, most=2**32 - 1)}


TABS = (
    Tab(
        form=TabForm(name="text", title="Sentences", fields=(_PROMPTS, _COUNT, _SEED, _GUIDANCE)),
        needs=frozenset({"prompts"}),
        request=lambda sent: SampleRequest(prompts=prompts_of(sent), **_numbers(sent)),
    ),
    Tab(
        form=TabForm(name="variations", title="Variations of an image", fields=(_IMAGE, _COUNT, _SEED, _GUIDANCE)),
        needs=frozenset({"images"}),
        request=lambda sent: SampleRequest(images=(image_of(sent),), **_numbers(sent)),
    ),
)
"""In the order of the page."""


class Painter:
    """A run that generates for one request at a time, with any guidance scale; programs are kept."""

    def __init__(self, run: LoadedRun, overrides: Sequence[str] = ()):
        self.run = run
        self._overrides = tuple(overrides)
        self._lock = threading.Lock()
        self._samples: OrderedDict[float | None, Sample] = OrderedDict()
        self.guidance: float | None = flatten(run.config).get(GUIDANCE)
        """Of the run; None where its sampler has no scale."""

    def __call__(self, request: SampleRequest, guidance: float | None) -> Samples:
        """Images for a request. Raises ``UserError`` for one that the run cannot follow."""
        # of few sizes, so that few programs are compiled; samples do not depend on how many there are
        size = 2 ** math.ceil(math.log2(request.count))
        larger = SampleRequest(**{**vars(request), "count": size})
        with self._lock:
            made = self._sample(guidance)(self.run.state, larger)
        return Samples(images=made.images[: request.count], captions=made.captions[: request.count])

    def _sample(self, guidance: float | None) -> Sample:
        chosen = self.guidance if guidance is None else guidance
        if chosen not in self._samples:
            experiment = self.run.experiment
            if chosen != self.guidance:
                assert self.run.folder is not None
                words = (*self._overrides, f"--{GUIDANCE}", str(chosen))
                experiment = open_run(self.run.folder, overrides=words).experiment
            assert experiment.sampling is not None
            self._samples[chosen] = experiment.sampling(self.run.compiler)
            while len(self._samples) > _KEPT:
                self._samples.popitem(last=False)
        self._samples.move_to_end(chosen)
        return self._samples[chosen]


def guidance_of(sent: Sent, default: float | None) -> float | None:
    """The guidance scale of a form; None for that of the run. Raises ``UserError`` for one out of range."""
    said = sent.texts.get(GUIDANCE, "").strip()
    if not said or default is None:
        return None
    try:
        number = float(said)
    except ValueError:
        number = math.nan
    if not 0.0 <= number <= MAX_GUIDANCE:
        raise UserError(f"guidance is a number within 0 to {MAX_GUIDANCE:g}, not {said[:40]}")
    return number


def check_installed() -> None:
    """Raise ``UserError`` where the optional extra "page" is not installed."""
    if importlib.util.find_spec("flask") is None:
        raise UserError('the page needs a package that is not installed: pip install -e ".[page]"')


def application(painter: Painter, *, hosts: Sequence[str] = ("127.0.0.1", "localhost")) -> Any:
    """The web application, a ``flask.Flask``.

    Args:
      painter: what generates.
      hosts: names under which the page may be asked for; a page of another name could not read what this one says, and
        so cannot make a browser here send it requests either.

    Raises:
      UserError: the run takes no sentences.
    """
    import flask
    from werkzeug.exceptions import HTTPException, RequestEntityTooLarge

    tabs = [tab for tab in TABS if tab.needs <= set(painter.run.experiment.requests)]
    if not tabs:
        raise UserError(f"{painter.run.name} does not generate images for sentences, so that there is no page for it")
    app = flask.Flask("vision")
    app.config["MAX_CONTENT_LENGTH"] = MAX_BYTES
    app.config["MAX_FORM_MEMORY_SIZE"] = MAX_BYTES
    words = f"{painter.run.folder or painter.run.name}, after {painter.run.images:,} images"
    guidance = {} if painter.guidance is None else {GUIDANCE: f"{painter.guidance:g}"}

    def page(tab: Tab, status: int = 200, **of: Any) -> Any:
        typed = {name: value for name, value in of.pop("typed", {}).items() if len(value) <= MAX_BYTES // 64}
        values = {**DEFAULTS, **guidance, **typed}
        return web_page(words, [each.form for each in tabs], tab.form, values=values, **of), status

    def chosen() -> Tab:
        name = flask.request.args.get("tab", tabs[0].form.name)
        return next((tab for tab in tabs if tab.form.name == name), tabs[0])

    @app.before_request
    def only_from_here() -> Any:
        name = flask.request.host.rsplit(":", 1)[0]
        origin = flask.request.headers.get("Origin")
        if name not in hosts or (origin is not None and origin.split("://", 1)[-1] != flask.request.host):
            return "This page answers only to its own address.\n", 400
        return None

    @app.get("/")
    def form() -> Any:
        return page(chosen())

    @app.post("/")
    def generate() -> Any:
        tab = chosen()
        typed: dict[str, str] = {}
        try:
            typed = flask.request.form.to_dict()
            files = {}
            for name, file in flask.request.files.items():
                with file.stream:
                    files[name] = file.read()
            sent = Sent(texts=typed, files=files)
            samples = painter(tab.request(sent), guidance_of(sent, painter.guidance))
        except RequestEntityTooLarge:
            return page(tab, 400, error=f"what was sent has more than {MAX_BYTES >> 20} MiB: choose a smaller file")
        except UserError as error:
            return page(tab, 400, error=" ".join(str(error).split()), typed=typed)
        return page(tab, typed=typed, images=[png(image) for image in samples.images], captions=samples.captions)

    @app.errorhandler(HTTPException)
    def refused(error: HTTPException) -> Any:
        return f"{error.description}\n", error.code

    return app


def png(image: UInt8[np.ndarray, "h w 3"]) -> bytes:
    """The bytes of a PNG file."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


def serve(run: LoadedRun, *, overrides: Sequence[str], host: str, port: int) -> None:
    """Serve the page of a run until Ctrl-C.

    Args:
      run: what generates.
      overrides: options of its experiment that it was loaded with.
      host: address to listen on.
      port: to listen on; 0 for any that is free.

    Raises:
      UserError: the run takes no sentences, or the address cannot be listened on.
    """
    from werkzeug.serving import make_server

    own = host in ("127.0.0.1", "localhost", "::1")
    app = application(Painter(run, overrides), hosts=("127.0.0.1", "localhost", "[::1]", host))
    try:
        server = make_server(host, port, app, threaded=True)
    except (OSError, SystemExit) as error:
        raise UserError(f"{host}:{port} cannot be listened on ({error}): choose another --port") from error
    if not own:
        to_stderr(f"everyone who reaches {host} can generate images with this run")
    to_stderr(f"http://{host}:{server.port}/ until Ctrl-C")
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        to_stderr("stopped")
    finally:
        server.server_close()
