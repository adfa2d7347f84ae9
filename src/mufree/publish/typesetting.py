"""Typst, with the fonts it brings along: no network, no date, the same input the same bytes."""

from __future__ import annotations

from pathlib import Path

from mufree.study.reading import UserError


class TypesettingError(UserError):
    """A document can't be set; the message is Typst's."""


def typeset(source: Path) -> bytes:
    """The PDF of a document, which may read what lies beside it. Raises `TypesettingError`, also for a warning."""
    import typst

    try:
        pdf, warnings = typst.compile_with_warnings(source, root=source.parent, ignore_system_fonts=True)
    except typst.TypstError as error:
        raise TypesettingError(f"Typst: {error}") from error
    if warnings:
        raise TypesettingError("Typst warns: " + "; ".join(map(str, warnings)))
    return bytes(pdf)
