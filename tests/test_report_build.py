"""The HTML page: complete, well-formed, self-contained, and refused with a clear word."""

import base64
import csv
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pytest
from fake_runs import write_run

from cfdg_jax import cli
from cfdg_jax.errors import UserError
from cfdg_jax.report import csvs
from cfdg_jax.report.build import build_report
from cfdg_jax.report.fields import flatten
from cfdg_jax.report.runs import going_on

VOID = {"meta", "img", "br", "link"}


class Page(HTMLParser):
    """Checks nesting and collects headings, images and text."""

    def __init__(self, text):
        super().__init__()
        self.open, self.images, self.tags, self.words = [], [], [], []
        self.feed(text)
        assert self.open == []

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag == "img":
            self.images.append(dict(attrs)["src"])
        if tag not in VOID:
            self.open.append(tag)

    def handle_data(self, data):
        if "script" not in self.open:
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


def test_each_csv_is_made_once(tmp_path, monkeypatch):
    made, lines = [], csvs.lines
    monkeypatch.setattr(csvs, "lines", lambda values: made.append(lines(values)) or made[-1])
    build_report([write_run(tmp_path / "run")])
    assert len([each for each in made if each.startswith("dataset,label,folder,phase,step")]) == 1


def test_page_is_self_contained(folder):
    text = (folder / "report.html").read_text()
    page = Page(text)
    assert not {"link", "iframe"} & set(page.tags)
    own = re.sub(r"<script.*?</script>", "", text, flags=re.S)
    assert not re.search(r"(?:src|href)\s*=\s*[\"'](?!data:(?:image/png|text/csv);base64,)|url\(|@import", own)
    assert not re.search(r"<script[^>]*src", text)
    words = re.findall(r'<img [^>]*alt="([^"]*)"', own) + re.findall(r'role="group" aria-label="([^"]*)"', own)
    shown = (
        "Learning curves on",
        "Last evaluation on",
        "t-SNE map of the rows",
        "Wall-clock time",
        "Interactive: a menu",
    )
    assert len(words) == 5 and all(any(text.startswith(start) for text in words) for start in shown)
    assert "Means at the end: IQL 64.6, IQL + CFDG 63.8." in " ".join(words)
    embedded = [base64.b64decode(source.split(",", 1)[1]) for source in page.images]
    beside = [path.read_bytes() for path in folder.glob("*.png")]
    assert len(embedded) == 4 and sorted(embedded) == sorted(beside)


def test_tables_lie_beside_the_page(folder):
    assert (folder / "scores.md").read_text().startswith("**local: normalised score**")
    assert (folder / "scores.csv").read_text().startswith("dataset,label,folder,")
    rows = list(csv.DictReader((folder / "evaluations.csv").read_text().splitlines()))
    assert {row["seed"] for row in rows} == {"0", "1", "2"} and len(rows) == 2 * 3 * (10 + 11)
    first = json.loads((folder.parents[1] / "iql" / "evaluations.jsonl").read_text().splitlines()[0])
    chosen = next(row for row in rows if (row["folder"], row["seed"], row["step"]) == ("iql", "1", "2000"))
    assert float(chosen["return"]) == pytest.approx(np.mean(first["return"][1]))
    assert not list(folder.glob("*.partial"))


def test_every_table_can_be_taken_away(folder):
    links = re.findall(
        r'<a download="([^"]+)" href="data:text/csv;base64,([^"]+)">', (folder / "report.html").read_text()
    )
    files = {name: base64.b64decode(data).decode() for name, data in links}
    assert set(files) == {
        "evaluations.csv", "local-normalised-score.csv", "local-which-method-ends-higher.csv", "seconds-per-phase.csv",
        "all-fields.csv", "provenance.csv",
    }  # fmt: skip
    assert files["all-fields.csv"].splitlines()[:2] == ["field,IQL,IQL + CFDG", "agent.expectile,0.7,0.7"]
    assert files["seconds-per-phase.csv"].splitlines()[1] == "IQL,12.000,95.000,160.000,70.000,21.000"
    assert files["local-normalised-score.csv"].startswith("Dataset,Method,Seeds,")
    assert files["evaluations.csv"] == (folder / "evaluations.csv").read_text()


def test_a_failed_run_and_one_that_goes_on_are_told_at_the_top(tmp_path):
    runs = [write_run(tmp_path / status, label=status, status=status) for status in ("failed", "running")]
    assert going_on(runs) and not going_on(runs[:1])
    text = build_report(runs, tmp_path / "out", refresh=30).read_text()
    head = text[: text.index("Learning curves")]
    assert (
        "the run failed: its numbers are not final; <code>cfdg-jax train --resume" in head and "the run goes on" in head
    )
    assert '<meta http-equiv="refresh" content="30">' in head
    assert "http-equiv" not in build_report(runs, tmp_path / "out").read_text()[:3000]


def test_watching_writes_the_page_until_all_runs_are_done(tmp_path, monkeypatch, capsys):
    run = write_run(tmp_path / "run", status="running")
    summary = run / "summary.json"
    monkeypatch.setattr(
        "cfdg_jax.commands.runs.time.sleep",
        lambda seconds: summary.write_text(summary.read_text().replace("running", "done")),
    )
    assert cli.main(["report", str(run), "--watch"]) == 0
    assert capsys.readouterr().out.splitlines() == [str(run / "report" / "report.html")] * 2
    assert "http-equiv" not in (run / "report" / "report.html").read_text()[:3000]
    assert cli.main(["report", str(tmp_path / "none"), "--watch"]) == 2
    assert "none: is not a folder" in capsys.readouterr().err


CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
PROBE = """<script>document.querySelectorAll("details").forEach(e => { e.open = true });
addEventListener("load", () => setTimeout(() => {
const all = selector => [...document.querySelectorAll(selector)], box = e => e.getBoundingClientRect();
const range = document.createRange();
const lines = e => { range.selectNodeContents(e); return range.getClientRects().length };
const over = (a, b) => a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom;
parent.postMessage([
  document.documentElement.scrollWidth - document.documentElement.clientWidth,
  all(".scroll").filter(e => e.scrollWidth > e.clientWidth + 1).length,
  all("th").filter(e => !/[\\s-]/.test(e.textContent) && lines(e) > 1).length,
  all(".legend").filter(e => all(".updatemenu-container").some(menu => over(box(e), box(menu)))).length,
  all(".main-svg").length,
].join(" "), "*");
}, 500))</script>"""
FRAME = """<body><iframe src="page.html" width="{width}" height="900" style="border: 0"></iframe>
<script>addEventListener("message", event => {{ document.title = event.data }})</script></body>"""


@pytest.fixture(scope="module")
def eight(tmp_path_factory):
    """A page of eight runs, two of them told apart by their long folders alone, with long values that differ."""
    base = tmp_path_factory.mktemp("eight")
    labels = ("IQL", "IQL + CFDG", "StratDiff on Cal-QL, learning_rate 0.0003", "TD3+BC", "PEX", "AWAC", "RLPD", "RLPD")
    runs = [write_run(base / f"{'local_hopper_medium_replay_v0_' * 4 * (i > 5)}run{i}", label=label)
            for i, label in enumerate(labels)]  # fmt: skip
    for run in runs:
        command = f"/a/place/.venv/bin/cfdg-jax train --out {run} --agent iql"
        edited = json.loads((run / "summary.json").read_text()) | {"command": command, "non_default": {"out": str(run)}}
        (run / "summary.json").write_text(json.dumps(edited))
        (run / "config.yaml").write_text((run / "config.yaml").read_text() + f"out: {run}\n")
    return build_report(runs, base / "out")


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed to look at the page with")
@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_scrolls_sideways_in_a_browser(eight, tmp_path, width):
    """In a frame: a window of Chromium is never narrower than 500 pixels."""
    (tmp_path / "page.html").write_text(eight.read_text().replace("</body>", PROBE + "</body>"))
    frame = tmp_path / "frame.html"
    frame.write_text(FRAME.format(width=width))
    words = [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1400,900"]
    words += ["--virtual-time-budget=5000", "--dump-dom", frame.as_uri()]
    shown = subprocess.run(words, capture_output=True, text=True, check=True, timeout=120).stdout
    page_over, tables_over, broken, covered, plots = map(int, re.search(r"<title>([\d ]+)</title>", shown)[1].split())
    assert page_over <= 0 and plots > 0, "the curves are drawn"
    assert broken == 0 and covered == 0, "words of a table's head are whole, and the menu covers no name"
    assert width < 1280 or tables_over == 0


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


def test_a_run_of_several_values_reports_in_its_own_folder(tmp_path):
    run = write_run(tmp_path / "run", seeds=4)
    lanes = [{"agent.expectile": value} for value in (0.5, 0.5, 0.9, 0.9)]
    edited = json.loads((run / "summary.json").read_text()) | {"seeds": [0, 1, 0, 1], "lanes": lanes}
    (run / "summary.json").write_text(json.dumps(edited))
    page = build_report([run])
    assert page == run / "report" / "report.html"
    assert "1 run, 2 settings, 2 seeds each; offline pre-training, then" in Page(page.read_text()).text


def test_a_page_says_what_its_runs_did(tmp_path):
    run = write_run(tmp_path / "run", dataset="")
    lines = (run / "evaluations.jsonl").read_text().splitlines(keepends=True)
    (run / "evaluations.jsonl").write_text("".join(line for line in lines if '"online"' in line))
    text = Page(build_report([run]).read_text()).text
    assert "1 run, 3 seeds; online training from the first step, without pre-training." in text


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
