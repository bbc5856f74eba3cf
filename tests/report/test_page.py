import base64
import io
import math
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from vision.report.page import write_page

NASTY = "<script>alert(\"1\")</script> & 'two' \\ <b>"


class Page(HTMLParser):
    """The elements of a page, its text, its images and the cells of its table rows."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.images, self.rows, self.open = [], [], [], [], []
        self.words = {}
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in ("meta", "img", "wbr"):
            self.open.append(tag)
        if tag == "img":
            self.images.append(dict(attrs))
        if tag == "tr":
            self.rows.append((dict(attrs).get("class"), []))
        if tag in ("td", "th"):
            self.rows[-1][1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> closes something else"

    def handle_data(self, data):
        for tag in set(self.open):
            self.words[tag] = self.words.get(tag, "") + data
        if "td" in self.open or "th" in self.open:
            self.rows[-1][1][-1] += data

    def row(self, first):
        (found,) = [(kind, cells) for kind, cells in self.rows if cells[0] == first]
        return found


def _arguments(**changes):
    return {
        "title": "a run",
        "command": "python -m experiments.x",
        "config": {},
        "environment": {},
        "metrics": [],
        "protocol": {},
        "sample_paths": [],
        "curves_path": None,
        "summary": {},
        "description": "",
    } | changes


def _page(tmp_path, **changes):
    write_page(tmp_path / "report.html", **_arguments(**changes))
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    assert page.open == []
    return page


def _picture(path, width=64, height=48, noise=False, seed=0):
    pixels = np.full((height, width, 3), seed, np.uint8)
    if noise:
        pixels = np.random.default_rng(seed).integers(0, 256, pixels.shape, np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def _decoded(image):
    head, data = image["src"].split(",", 1)
    return head, base64.b64decode(data, validate=True)


def test_whatever_is_in_the_texts_is_text(tmp_path):
    page = _page(
        tmp_path,
        title=NASTY,
        status=NASTY,
        command=NASTY,
        config={"a": {NASTY: NASTY}},
        environment={NASTY: NASTY},
        metrics=[{"step": 1, "images": 4, "time": 0.0, NASTY: 1.0}],
        protocol={NASTY: NASTY},
        summary={NASTY: NASTY},
        description=NASTY,
        sample_paths=[_picture(tmp_path / 'a&b<i>"c.png'), tmp_path / "<u>&.png"],
        changed={f"a.{NASTY}"},
    )
    assert not {"script", "i", "u"} & set(page.tags)
    assert page.tags.count("b") == 1  # the one number in the table of results
    assert page.words["title"] == NASTY
    assert page.words["h1"] == NASTY
    assert page.words["code"] == NASTY
    assert page.words["dt"] == page.words["dd"] == NASTY
    assert page.row(f"a.{NASTY}") == ("changed", [f"a.{NASTY}", NASTY + "changed"])
    results, environment = [cells for _, cells in page.rows if cells[0] == NASTY]
    assert results == [NASTY, "1", "4", "1 to 1", NASTY]
    assert environment == [NASTY, NASTY]
    assert page.images[0]["alt"] == 'Latest samples, a&b<i>"c'


def test_the_page_is_self_contained(tmp_path):
    page = _page(
        tmp_path,
        sample_paths=[_picture(tmp_path / "s.png")],
        curves_path=_picture(tmp_path / "c.png"),
        description="See https://example.org/paper.",
    )
    for name, content in page.attributes:
        assert name not in ("href", "srcset", "onclick", "onload")
        assert name != "src" or content.startswith("data:image/")
    style = page.words["style"]
    assert "url(" not in style
    assert "@import" not in style
    for need in ("prefers-color-scheme: dark", "@media print"):
        assert need in style
    assert ("name", "viewport") in page.attributes
    assert sorted(p.name for p in tmp_path.iterdir()) == ["c.png", "report.html", "s.png"]


def test_images_are_inlined_as_they_are(tmp_path):
    samples = [_picture(tmp_path / f"samples_{k}.png", seed=k) for k in (30, 20, 10)]
    curves = _picture(tmp_path / "curves.png", seed=99)
    page = _page(tmp_path, sample_paths=samples, curves_path=curves)
    for image, path in zip(page.images, [curves, *samples], strict=True):
        head, content = _decoded(image)
        assert head == "data:image/png;base64"
        with Image.open(io.BytesIO(content)) as picture, Image.open(path) as original:
            assert picture.format == "PNG"
            assert (int(image["width"]), int(image["height"])) == picture.size
            np.testing.assert_array_equal(np.array(picture), np.array(original))
    assert page.words["figcaption"] == "samples_30samples_20samples_10"


def test_large_images_and_many_samples_stay_below_3_megabytes(tmp_path):
    samples = [_picture(tmp_path / f"{k}.png", 1000, 900, noise=True, seed=k) for k in range(3)] * 10
    page = _page(tmp_path, sample_paths=samples, curves_path=samples[0])
    assert (tmp_path / "report.html").stat().st_size < 3_000_000
    assert len(page.images) == 1 + 1 + 12
    for image in page.images:
        head, content = _decoded(image)
        with Image.open(io.BytesIO(content)) as picture:
            picture.load()
            assert head == f"data:image/{picture.format.lower()};base64"
            assert (int(image["width"]), int(image["height"])) == picture.size
    assert int(page.images[1]["width"]) > 700  # the latest stays large
    assert all(int(image["width"]) <= 280 for image in page.images[2:])


def test_earlier_samples_are_evenly_spaced(tmp_path):
    samples = [_picture(tmp_path / f"{k:02d}.png", seed=k) for k in range(40, 0, -1)]
    page = _page(tmp_path, sample_paths=samples)
    shown = [image["alt"].split()[-1] for image in page.images]
    assert shown[:2] == ["40", "39"]
    assert shown[-1] == "01"
    assert len(set(shown)) == 13
    gaps = -np.diff([int(name) for name in shown[1:]])
    assert gaps.min() >= 3
    assert gaps.max() <= 4


def test_a_image_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "torn.png").write_bytes(_picture(tmp_path / "x.png", noise=True).read_bytes()[:300])
    page = _page(tmp_path, sample_paths=[tmp_path / "torn.png"], curves_path=tmp_path / "gone.png")
    assert page.images == []
    assert "gone.png could not be read: No such file or directory." in page.words["p"]
    assert "torn.png could not be read" in page.words["p"]


def test_results_are_the_last_values_with_their_protocol(tmp_path):
    page = _page(
        tmp_path,
        metrics=[
            {"step": 1, "images": 1000, "time": 0.0, "train/loss": 2.0},
            {"step": 2, "images": 2000, "time": 0.0, "train/loss": math.nan},
            {"step": 2, "images": 2000, "time": 0.0, "eval/fid": 9.123456, "eval/loss": 3.0},
            {"step": 3, "images": 30_000, "time": 0.0, "train/loss": 0.5},
        ],
        protocol={"eval/fid": "FID of 50,000 samples"},
    )
    assert [cells for _, cells in page.rows[1:]] == [
        ["eval/fid", "9.123", "2.00k", "9.123 to 9.123", "FID of 50,000 samples"],
        ["eval/loss", "3", "2.00k", "3 to 3", ""],
        ["train/loss", "0.5", "30.0k", "0.5 to 2", ""],
    ]


def test_a_run_without_scalars_says_so(tmp_path):
    page = _page(tmp_path, metrics=[{"step": 0, "images": 0, "time": 0.0}])
    assert "No scalars have been logged yet." in page.words["p"]


def test_configuration_is_dotted_and_changes_are_marked(tmp_path):
    config = {
        "lr": 2e-4,
        "model": {"width": 64, "norm": {"eps": 1e-5}, "stages": (1, 2), "extra": {}},
        "x": None,
    }
    page = _page(tmp_path, config=config, changed={"model.norm.eps"}, environment={"jax": "0.10", "mesh": {"data": 8}})
    assert page.rows == [
        (None, ["lr", "0.0002"]),
        (None, ["model.width", "64"]),
        ("changed", ["model.norm.eps", "1e-05changed"]),
        (None, ["model.stages", "[1, 2]"]),
        (None, ["model.extra", "{}"]),
        (None, ["x", "None"]),
        (None, ["jax", "0.10"]),
        (None, ["mesh.data", "8"]),
    ]
    assert "1 of 6 values differ from the defaults." in page.words["p"]


def test_a_change_of_an_unknown_key_is_refused_and_writes_nothing(tmp_path):
    with pytest.raises(ValueError, match=r"'model\.depth' is marked as changed"):
        write_page(tmp_path / "report.html", **_arguments(config={"model": {}}, changed={"model.depth"}))
    assert not list(tmp_path.iterdir())


def test_the_docstring_keeps_its_paragraphs_and_commands(tmp_path):
    page = _page(
        tmp_path,
        description="""A paper.

        One paragraph with ``code``
        over two lines.

            python -m experiments.x
              --more
        """,
    )
    assert page.words["p"].startswith("A paper.One paragraph with code\nover two lines.No scalars")
    assert page.words["pre"] == "python -m experiments.x\n  --more" + "python -m experiments.x"
    assert page.words["code"] == "code" + "python -m experiments.x"


def test_summary_numbers_are_rounded(tmp_path):
    page = _page(tmp_path, summary={"FID": 3.14159, "images": 12_345_678, "wall time": "1h02m", "lost": math.nan})
    assert page.words["dd"] == "3.142" + "12.3M" + "1h02m" + "nan"


def test_time_is_summed_over_all_starts_and_shown_as_shares(tmp_path):
    metrics = [
        {"step": 1, "images": 8, "time/step_seconds": 50.0, "time/input_seconds": 1.0},
        {"step": 2, "images": 16, "time/step_seconds": 40.0, "time/evaluation_seconds": 9.0},
    ]
    page = _page(tmp_path, metrics=metrics)
    assert page.row("step")[1][1:3] == ["1m30s", "90.0 %"]
    assert page.row("evaluation")[1][2] == "9.0 %"
    assert not any(cells[0].startswith("time/") for _, cells in page.rows)  # not among the results as well


def test_replicas_have_a_row_each(tmp_path):
    page = _page(tmp_path, replicas={"seed-0": {"accuracy": 0.5}, "seed-1": {"accuracy": 0.75, "loss": 2.0}})
    assert page.row("seed-0")[1] == ["seed-0", "0.5", ""]
    assert page.row("seed-1")[1] == ["seed-1", "0.75", "2"]
