"""The documents: anchors that comments cite exist, links between documents resolve, nothing points outside."""

import importlib
import importlib.util
import itertools
import json
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
ALGORITHMS = ROOT / "docs" / "algorithms.md"
MARKDOWN = sorted(p for folder in ("", "docs", "benchmarks", "tests") for p in (ROOT / folder).rglob("*.md"))
MARKDOWN = sorted({p for p in MARKDOWN if not any(part.startswith(".") for part in p.relative_to(ROOT).parts)})
TEXT = (".py", ".md", ".toml", ".yaml", ".yml", ".ipynb", ".txt", ".cfg", ".html", "")

CITATION = re.compile(r"docs/algorithms\.md(#[\w-]+)?")
OUTSIDE = re.compile(r"reference section|reference \d|reference check|DECISION|shared/")
NEEDED = {
    "data", "returns", "transforms", "scores", "evaluation", "networks", "initialisation", "iql", "pex", "awac", "sac",
    "redq", "rlpd", "crossq", "cql", "calql", "td3bc", "apl", "edm", "samplers", "guidance", "synther", "edis", "cfdg",
    "refresh", "mix", "oorb", "balanced-replay", "a3rl", "behaviour", "energy", "stratdiff", "adaptive-bc", "checks",
}  # fmt: skip


def anchors(path):
    """What ``#...`` can point to in a document: explicit anchors, and headings as GitHub names them."""
    text = path.read_text()
    headings = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S), flags=re.M)
    slugs = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
    return slugs | set(re.findall(r'<a id="([\w-]+)"></a>', text))


def sources():
    """The text files of the project, as ``git`` would list them, without this one."""
    folders = ("cfdg_jax", "tests", "docs", "benchmarks", "notebooks")
    files = [p for folder in folders for p in (ROOT / folder).rglob("*") if p.is_file() and p.suffix in TEXT]
    files += [p for p in ROOT.iterdir() if p.is_file() and p.suffix in TEXT]
    return sorted(p for p in files if p != pathlib.Path(__file__) and "__pycache__" not in p.parts)


def test_the_page_has_an_anchor_for_every_method_once():
    found = re.findall(r'<a id="([\w-]+)"></a>', ALGORITHMS.read_text())
    assert sorted(found) == sorted(set(found))
    assert set(found) >= NEEDED


def test_cited_anchors_exist():
    known, cited = anchors(ALGORITHMS), 0
    for path in (ROOT / "cfdg_jax").rglob("*.py"):
        for match in CITATION.finditer(path.read_text()):
            anchor = match.group(1)
            assert anchor is None or anchor[1:] in known, f"{path.relative_to(ROOT)}: {match.group()}"
            cited += 1
    assert cited > 10


def test_nothing_cites_what_is_not_in_the_repository():
    found = []
    for path in sources():
        for i, line in enumerate(path.read_text().splitlines(), 1):
            if OUTSIDE.search(line):
                found.append(f"{path.relative_to(ROOT)}:{i}: {line.strip()[:120]}")
    assert not found, "\n".join(found)


@pytest.mark.parametrize("path", MARKDOWN, ids=lambda path: str(path.relative_to(ROOT)))
def test_relative_links_resolve(path):
    text = re.sub(r"^```.*?^```", "", path.read_text(), flags=re.M | re.S)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        linked = (path.parent / file).resolve() if file else path
        assert linked.exists(), f"{target} does not exist"
        if anchor:
            assert anchor in anchors(linked), f"{target}: no such anchor"


@pytest.mark.parametrize("path", sorted((ROOT / "docs").rglob("*.md")), ids=lambda path: path.name)
def test_a_page_has_one_title_and_leaves_out_no_level(path):
    """The site's sidebar shows every title as a page."""
    text = re.sub(r"^```.*?^```", "", path.read_text(), flags=re.M | re.S)
    levels = [len(marks) for marks in re.findall(r"^(#+) ", text, flags=re.M)]
    assert levels[:1] == [1] and 1 not in levels[1:]
    assert all(level <= before + 1 for before, level in itertools.pairwise(levels))


def test_every_row_of_the_fields_says_where_its_default_comes_from(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "docs" / "_ext")
    import field_pages

    text = field_pages.page()
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| `")]
    assert len(rows) > 300 and all(row[-1].strip(" |") for row in rows)
    source = {row[0].partition("<br>")[0].strip("| `"): row[-1] for row in rows}
    assert "this project" in source["log.every"] and "#transforms" in source["transform.reward"]
    assert "[edis](algorithms.md#edis)<br>`augment/edis.py:" in source["augment.kappa"]
    assert "`make_config`" in text and r"make\_config" not in text


def test_the_readme_is_short_and_opens_with_the_commands_and_a_picture():
    text = (ROOT / "README.md").read_text()
    assert len(text.split()) < 900
    head = text[:1500]
    assert head.index("make demo") < head.index("make test") < head.index("![")


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda path: path.stem)
def test_what_a_notebook_imports_is_there(path):
    code = "\n".join(
        "".join(cell["source"]) for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"
    )
    found = re.findall(r"^from (cfdg_jax[\w.]*) import ([\w, ]+)$", code, flags=re.M)
    assert found or "import cfdg_jax" in code
    for module, names in found:
        for name in names.split(", "):
            package = importlib.import_module(module)
            inside = hasattr(package, "__path__") and importlib.util.find_spec(f"{module}.{name}")
            assert hasattr(package, name) or inside, f"{module} has no {name}"
