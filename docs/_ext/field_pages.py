"""The page of all config fields, written from the dataclasses and presets whenever the site is built."""

import pathlib
import re

from cfdg_jax import catalog
from cfdg_jax.fields import leaf_paths
from cfdg_jax.presets import make_config
from cfdg_jax.values import PRESETS

HEAD = """# Config fields

Written from the source. Every field is a flag of `cfdg-jax train` and a keyword of `cfdg_jax.make_config`;
`cfdg-jax train --explain FIELD` says the same for a dataset of your choice. A preset is named where its value is
another than the class default, here on `local:hopper-medium-replay-v0`. A method's fields stand in its section.
The source is the default's: a section of [the formulas](algorithms.md) and the line of the package that holds it.
"""
PAPERS = {name for choice in ("agent", "augment") for name in catalog.methods(choice)} - {"none"} | {"apl", "corl"}


def page() -> str:
    """Markdown of every field, room by room."""
    parts = [HEAD, "## The run\n", _table(catalog.run_fields(), {})]
    for choice, plural in catalog.LISTS.items():
        parts.append(f"## {plural.capitalize()}\n")
        for name, method in catalog.methods(choice).items():
            fields = catalog.method_fields(choice, name)
            inherited = [each for field in fields.values() for each in catalog.sources(field.about)]
            source = _links([*method.sources, *inherited])
            parts.append(f"### `--{choice} {name}`\n\n{method.about}. {source and f'Source: {source}.'}\n")
            parts.append(_table(fields, {choice: name}) if fields else "No fields.\n")
    return "\n".join(parts)


def _links(sources) -> str:
    """Of sections of the documents; papers stand there."""
    pages = [each.removeprefix("docs/") for each in dict.fromkeys(sources) if each.startswith("docs/")]
    return ", ".join(f"[{page.partition('#')[2] or page}]({page})" for page in pages)


def _source(field, chosen) -> str:
    """Where a default comes from, as far as the source says it: a section, a paper in words, or this project."""
    if not chosen:
        named = {word.replace("-", "") for word in re.findall(r"[\w-]+", field.meaning.lower())} & PAPERS
        return _links(catalog.sources(field.meaning)) or ("as it says" if named else "this project")
    methods = [source for choice, name in chosen.items() for source in catalog.methods(choice)[name].sources]
    said = (catalog.sources(text) for text in (field.meaning, field.about))
    return f"{_links(next(filter(None, said), methods))}<br>`{field.place.partition('/')[2]}`".removeprefix("<br>")


def _table(fields, chosen) -> str:
    values = {preset: leaf_paths(make_config(preset=preset, **chosen)) for preset in PRESETS}
    defaults = {path: eval(field.default) for path, field in fields.items()}
    lines = ["| field | meaning | default | presets | source |", "|---|---|---|---|---|"]
    for path, field in fields.items():
        others = {preset: values[preset][path] for preset in PRESETS if values[preset][path] != defaults[path]}
        shown = "<br>".join(f"{preset} `{value!r}`" for preset, value in others.items())
        kind, meaning = _plain(field.kind), _plain(field.meaning)
        meaning = re.sub(r"docs/(algorithms\.md#[\w-]+)", r"[\1](\1)", meaning)
        lines.append(f"| `{path}`<br>{kind} | {meaning} | `{field.default}` | {shown} | {_source(field, chosen)} |")
    return "\n".join(lines) + "\n"


def _plain(words: str) -> str:
    """Words whose signs mean nothing to Markdown; code, between backticks, stays code."""
    return re.sub(r"(`[^`]*`)|([*_|])", lambda found: found[1] or f"\\{found[2]}", words)


def write(app) -> None:
    folder = pathlib.Path(app.srcdir) / "_generated"
    folder.mkdir(exist_ok=True)
    target = folder / "fields.md"
    text = page().replace("](algorithms.md", "](../algorithms.md")
    if not target.exists() or target.read_text() != text:
        target.write_text(text)


def setup(app):
    app.connect("builder-inited", write)
    return {"parallel_read_safe": True}
