"""The HTML page: complete, well-formed, self-contained, and refused with a clear word."""

import base64
import re
from html.parser import HTMLParser

import pytest
from fake_runs import write_run

from cfdg_jax.errors import UserError
from cfdg_jax.report.build import build_report, flatten

VOID = {"meta", "img", "br", "link"}


class Page(HTMLParser):
    """Checks nesting and collects headings, images and text."""

    def __init__(self, text):
        super().__init__()
        self.open, self.images, self.tags, self.words = [], [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag == "img":
            self.images.append(dict(attrs)["src"])
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A report on a pair of runs, one of them with rows to embed."""
    base = tmp_path_factory.mktemp("report")
    runs = [write_run(base / "iql"), write_run(base / "cfdg", label="IQL + CFDG", samples=25, refreshes=(0, 5000))]
    assert build_report(runs, base / "out" / "deep") == base / "out" / "deep" / "report.html"
    return base / "out" / "deep"


def test_page_is_well_formed_and_complete(folder):
    page = Page((folder / "report.html").read_text())
    for heading in ("Learning curves", "Scores", "Where the rows lie", "Seconds per phase", "What was run",
                    "Provenance", "What the numbers mean"):  # fmt: skip
        assert heading in page.text
    assert page.text.count("IQL, IQL + CFDG on local:hopper-medium-replay-v0") == 2
    for word in ("agent.expectile", "0a1b2c3d", "cpu (2 cores)", "versions.jax", "Interquartile", "Regret"):
        assert word.lower() in page.text.lower()
    assert "$" not in page.text


def test_page_is_self_contained(folder):
    text = (folder / "report.html").read_text()
    page = Page(text)
    assert not {"script", "link", "iframe"} & set(page.tags)
    assert not re.search(r"(?:src|href)\s*=\s*[\"'](?!data:image/png;base64,)|url\(|@import", text)
    embedded = [base64.b64decode(source.split(",", 1)[1]) for source in page.images]
    beside = [path.read_bytes() for path in folder.glob("*.png")]
    assert len(embedded) == 4 and sorted(embedded) == sorted(beside)


def test_tables_lie_beside_the_page(folder):
    assert (folder / "scores.md").read_text().startswith("**local: normalised score**")
    assert (folder / "scores.csv").read_text().startswith("dataset,label,folder,")
    assert not list(folder.glob("*.partial"))


@pytest.mark.parametrize(
    "options",
    [
        {"online": False},
        {"seeds": 1, "episodes": 1},
        {"seeds": 2, "episodes": None, "normalized": False, "dataset": "/some/file.hdf5"},
        {"status": "interrupted"},
        {"label": '<b>&"IQL"$x ${title}'},
    ],
    ids=str,
)
def test_every_kind_of_run_has_a_report(tmp_path, options):
    page = Page(build_report([write_run(tmp_path / "run", **options)]).read_text())
    assert (tmp_path / "run" / "report" / "report.html").is_file()
    assert "Where the rows lie" not in page.text and "b" not in page.tags
    assert options.get("label", "IQL") in page.text
    assert ("numbers are not final" in page.text) == ("status" in options)


def test_many_runs_report_beside_the_first(tmp_path):
    runs = [write_run(tmp_path / name, dataset=f"d4rl:{name}-v2") for name in ("hopper", "ant", "walker2d")]
    path = build_report(runs)
    assert path == tmp_path / "report" / "report.html"
    text = Page(path.read_text()).text
    assert "on 3 datasets" in text and "d4rl: over all datasets" in text and "Fields that differ" in text


def test_same_runs_same_page(tmp_path):
    run = write_run(tmp_path / "run")
    first = build_report([run]).read_bytes()
    assert build_report([run]).read_bytes() == first


def test_bad_input_is_refused_and_an_earlier_report_kept(tmp_path):
    run = write_run(tmp_path / "run")
    earlier = build_report([run]).read_bytes()
    (run / "summary.json").write_text("{")
    with pytest.raises(UserError, match=r"summary\.json: is not JSON"):
        build_report([run])
    assert (run / "report" / "report.html").read_bytes() == earlier
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file: is a file; name a folder"):
        build_report([write_run(tmp_path / "other")], tmp_path / "file")


def test_flatten():
    nested = {"agent": {"tau": 0.7, "hidden": [256, 256]}, "name": "iql", "resume": None}
    assert flatten(nested) == {"agent.tau": "0.7", "agent.hidden": "[256, 256]", "name": "iql", "resume": "null"}
