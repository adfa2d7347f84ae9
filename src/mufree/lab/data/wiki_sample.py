"""The extract of the English Wikipedia that gensim ships for its tests, as plain text split by article. Needs no network."""

from __future__ import annotations

import bz2
import re
from collections.abc import Iterator
from importlib.metadata import version
from importlib.resources import files
from itertools import islice
from pathlib import Path

from mufree.lab.data.prepared import Built, DataError
from mufree.lab.data.text import build_text
from mufree.study.files import sha256
from mufree.study.parts import WikiSample

PATTERN = "enwiki-latest-pages-articles1.xml-*-shortened.bz2"
LEAST_CHARACTERS = 1000
"""Shorter pages are redirects and stubs."""


def build(settings: WikiSample, data_dir: Path) -> Built:
    """Parse the extract and split it by article, 80/10/10. `data_dir` is not used."""
    extract = _extract()
    pages = list(islice(articles(extract), settings.articles))
    if len(pages) < (settings.articles or 0):
        raise DataError(f"articles is {settings.articles}, and the extract has {len(pages)}")
    split_of = split_articles(pages)
    texts = {split: "".join(f"{title}\n\n{text}\n\n" for title, text in chosen) for split, chosen in split_of.items()}
    about = {
        "source": "extract of the English Wikipedia shipped with gensim",
        "version": f"gensim {version('gensim')}",
        "licence": "CC BY-SA 3.0 and GFDL (Wikipedia)",
        "inputs": {extract.name: {"sha256": sha256(extract)}},
        "articles": {split: len(chosen) for split, chosen in split_of.items()},
    }
    return build_text(texts, settings.vocab_size, about)


def split_articles(pages: list[tuple[str, str]]) -> dict[str, list[tuple[str, str]]]:
    """Pages to splits, by turns: of every ten, the fifth validates and the tenth tests."""
    turns = {4: "valid", 9: "test"}
    found: dict[str, list[tuple[str, str]]] = {"train": [], "valid": [], "test": []}
    for number, page in enumerate(pages):
        found[turns.get(number % 10, "train")].append(page)
    return found


def articles(extract: Path) -> Iterator[tuple[str, str]]:
    """Title and plain text of each article in a bz2 dump, in the dump's order; case and punctuation are kept.

    Redirects, pages outside the article namespace and pages under LEAST_CHARACTERS are left out.
    """
    from gensim.corpora.wikicorpus import extract_pages, filter_wiki

    with bz2.open(extract) as dump:
        for title, markup, _ in extract_pages(dump, filter_namespaces=("0",)):
            if markup.lstrip()[:9].lower() != "#redirect":
                text = tidy(filter_wiki(markup))
                if len(text) >= LEAST_CHARACTERS:
                    yield title, text


def tidy(text: str) -> str:
    """Take out what gensim leaves of the markup: quotes for bold and italic, and lines that have no letter or digit."""
    lines = (line.strip() for line in re.sub("'{2,}", "", text).splitlines())
    return "\n".join(line for line in lines if any(character.isalnum() for character in line))


def _extract() -> Path:
    folder = Path(str(files("gensim") / "test" / "test_data"))
    found = sorted(folder.glob(PATTERN))
    if len(found) != 1:
        raise DataError(
            f"Expected one file {PATTERN} in {folder}, found {len(found)}; install gensim {version('gensim')} again"
        )
    return found[0]
