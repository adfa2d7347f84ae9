"""The paper and the README's answer: people wrote the words, numbers are put in from numbers.json."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from mufree.publish.typesetting import typeset
from mufree.study.reading import UserError

ANSWER = ("<!-- answer -->", "<!-- /answer -->")
"""What the answer stands between in the README."""


class PaperError(UserError):
    """A text wants what isn't there."""


def to_pdf(source: Path, numbers: Path, figures: Iterable[Path]) -> bytes:
    """The article as PDF.

    `source` is the folder of paper.typ, template.typ and references.bib; a figure of `<study>/figures` is found in `<study>`.
    Raises `TypesettingError`, as for a number that numbers.json lacks.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for file in ("paper.typ", "template.typ", "references.bib"):
            shutil.copyfile(source / file, folder / file)
        shutil.copyfile(numbers, folder / "numbers.json")
        for figure in figures:
            study = folder / figure.parent.parent.name
            study.mkdir(exist_ok=True)
            shutil.copyfile(figure, study / figure.name)
        return typeset(folder / "paper.typ")


def answered(readme: str, answer: str, numbers: Mapping[str, Mapping[str, str]], name: str = "the text") -> str:
    """The README with the answer between its marks. Raises `PaperError` where it lacks these, or a number is missing."""
    before, opening, rest = readme.partition(f"{ANSWER[0]}\n")
    _, closing, after = rest.partition(ANSWER[1])
    if not (opening and closing):
        raise PaperError(f"{name} lacks the lines {ANSWER[0]} and {ANSWER[1]} that the answer goes between")
    return before + opening + filled(answer, numbers).rstrip("\n") + "\n" + closing + after


def filled(text: str, numbers: Mapping[str, Mapping[str, str]]) -> str:
    """The text with each `{key}` replaced by that number, and each `{key:}` by it and its interval."""

    def shown(match: re.Match[str]) -> str:
        key, colon = match[1], match[2]
        if key not in numbers:
            raise PaperError(f"the answer wants the number {key}, which the frozen study doesn't have")
        number = numbers[key]
        return f"{number['digits']} {number['interval']}" if colon else number["digits"]

    return re.sub(r"\{([^{}:]+)(:?)\}", shown, text)
