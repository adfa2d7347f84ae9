"""YAML files that people write: read strictly, and every mistake said so that it can be mended.

Both the Snakefile and the commands read studies here. Imports nothing heavy.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from mufree.study.config import Precision, Study, mistakes
from mufree.study.fields import Closed
from mufree.study.reading import UserError

M = TypeVar("M", bound=Closed)


class StudyFileError(UserError):
    """A file can't be used; the message names it, what is wrong, and where."""

    exit_code = 2


MOST_BYTES = 1_000_000
MOST_MERGED = 10_000
"""Larger files, and more keys that mappings get by merging others (<<), are of nobody's study, and could be without end."""


class _Strict(yaml.SafeLoader):
    """Plain values alone, and no key twice: of two, YAML would silently take the last."""

    merged = 0

    def flatten_mapping(self, node: Any) -> None:
        super().flatten_mapping(node)
        self.merged += len(node.value)
        if self.merged > MOST_MERGED:
            raise yaml.MarkedYAMLError(problem="mappings are merged without end", problem_mark=node.start_mark)

    def compose_mapping_node(self, anchor: Any) -> Any:
        # Here, where keys are as written: those of merged mappings (<<), which others override, come later.
        node = super().compose_mapping_node(anchor)
        seen: set[tuple[str, str]] = set()
        for key, _ in node.value:
            name = key.tag, str(key.value)
            if name in seen:
                raise yaml.MarkedYAMLError(problem=f"key '{key.value}' is there twice", problem_mark=key.start_mark)
            seen.add(name)
        return node


_WITH_EXPONENT = re.compile(r"[-+]?([0-9]+(\.[0-9]*)?|\.[0-9]+)[eE][-+]?[0-9]+$")
"""1e-8 is a number, as in YAML 1.2 and everywhere else; in YAML 1.1, which is what PyYAML reads, it is a text."""
_Strict.add_implicit_resolver("tag:yaml.org,2002:float", _WITH_EXPONENT, list("-+.0123456789"))


def read_yaml(path: Path) -> Any:
    """What a YAML file says. Raises `StudyFileError`."""
    try:
        if path.stat().st_size > MOST_BYTES:
            raise yaml.YAMLError(f"it has more than {MOST_BYTES} bytes")
        return yaml.load(path.read_text(encoding="utf-8"), _Strict)
    except OSError as error:
        raise StudyFileError(f"{path} can't be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        where = f"byte {error.object[error.start]:#04x} at {error.start}"
        raise StudyFileError(f"{path} is not UTF-8: {where}; save it as UTF-8") from error
    except RecursionError as error:
        raise StudyFileError(f"{path} is no YAML that anybody needs: its brackets are nested too deeply") from error
    except (yaml.YAMLError, ValueError) as error:  # a ValueError is of a number or a date that can't be one
        raise StudyFileError(f"{path} is no YAML: {error}") from error


def read_model(path: Path, model: type[M]) -> M:
    """What a YAML file says as a checked model. Raises `StudyFileError`, which says every mistake."""
    try:
        return model.model_validate(read_yaml(path))
    except ValidationError as error:
        raise StudyFileError(mistakes(str(path), error)) from error


def load_study(path: Path) -> Study:
    """The study in a file, checked as a whole. Raises `StudyFileError`, also where the file has another name than the study."""
    if not path.exists():
        known = sorted(p.stem for p in path.parent.glob("*.yaml") if not p.stem.endswith("hypotheses"))
        there = (
            f"Known: {', '.join(known)}" if known else "No study is in that folder; those of mufree are in experiments/"
        )
        raise StudyFileError(f"Unknown study '{path.stem}': no file {path}. {there}")
    study = read_model(path, Study)
    if study.name != path.stem:
        raise StudyFileError(
            f"{path} says name: {study.name}; name the file {study.name}.yaml or the study {path.stem}"
        )
    return study


def in_precision(study: Study, precision: Precision) -> Study:
    """The same study with all its runs in a precision, and under a name of its own, since they are others."""
    plain = study.model_dump(mode="json")
    for task in plain["tasks"].values():
        task["training"]["precision"] = precision
    return Study.model_validate(plain | {"name": f"{study.name}_{precision}"})


def to_yaml(study: Study, why: str) -> str:
    """A study file that says the same, under a comment that tells where it comes from."""
    plain = study.model_dump(mode="json", exclude_defaults=True)
    text = yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, default_flow_style=None, width=120)
    return f"# yaml-language-server: $schema=schema.json\n# {why}\n{text}"
