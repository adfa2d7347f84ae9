"""Files that people write: every mistake is one clear error, and none is taken for something else."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import yaml
from studies import study, with_grid

from mufree.study.config import Study
from mufree.study.plan import expand
from mufree.study.yaml_files import StudyFileError, in_precision, load_study, read_yaml, to_yaml


def written(folder: Path, content: str | bytes, name: str = "tiny.yaml") -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"name: caf\xe9", "is not UTF-8: byte 0xe9 at 9"),
        ("[" * 5000, "its brackets are nested too deeply"),
        ("name: tiny\ntitle: a\nname: other\n", "key 'name' is there twice"),
        ("grids:\n  - {seeds: [0], seeds: [1]}\n", "key 'seeds' is there twice"),
        ("name: [tiny", "is no YAML"),
        ("name: 2024-13-01", "is no YAML: month must be in 1..12"),
        (f"name: {'9' * 5000}", "is no YAML: Exceeds the limit"),
        ("name: !!python/object/apply:os.getcwd []", "is no YAML"),
        ("", "1 mistake(s)"),
        (yaml.safe_dump(study(name="other")), "says name: other; name the file other.yaml or the study tiny"),
        (yaml.safe_dump(with_grid(log2_lrs=[-(10**30)])), "greater than or equal to -1022"),
        (yaml.safe_dump(with_grid(log2_lrs=[1024])), "less than or equal to 1023"),
        (yaml.safe_dump(with_grid(log2_lrs=[True])), "should be a valid integer (got True)"),
        (yaml.safe_dump(with_grid(seeds=["1"])), "should be a valid integer (got '1')"),
        (yaml.safe_dump(with_grid(seeds=[10**30])), "less than or equal to 2147483647"),
        (yaml.safe_dump(with_grid(widths=[16, 2**31])), "less than or equal to 2147483647"),
        (yaml.safe_dump(with_grid(weight_decays=[math.inf])), "should be a finite number (got inf)"),
    ],
)
def test_a_file_that_is_no_study_says_why(tmp_path: Path, content: str | bytes, said: str) -> None:
    path = written(tmp_path, content)
    with pytest.raises(StudyFileError) as caught:
        load_study(path)
    assert said in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_missing_study_names_those_there_are(tmp_path: Path) -> None:
    for name in ("tiny", "hypotheses"):
        written(tmp_path, "", f"{name}.yaml")
    with pytest.raises(StudyFileError, match=r"Unknown study .tinny.: no file .*\. Known: tiny$"):
        load_study(tmp_path / "tinny.yaml")


def test_keys_that_only_look_alike_are_two_and_aliases_may_merge(tmp_path: Path) -> None:
    text = "{1: a, '1': b, base: &base {x: 1, y: 2}, more: {<<: *base, y: 3}}"
    assert read_yaml(written(tmp_path, text)) == {1: "a", "1": "b", "base": {"x": 1, "y": 2}, "more": {"x": 1, "y": 3}}
    twice = "{first: &a {x: 1}, then: {inner: &b {<<: *a, x: 2}}, last: {<<: *b}}"
    assert read_yaml(written(tmp_path, twice)) == {"first": {"x": 1}, "then": {"inner": {"x": 2}}, "last": {"x": 2}}


def test_numbers_with_an_exponent_are_numbers(tmp_path: Path) -> None:
    assert read_yaml(written(tmp_path, "[1e-8, -2E+3, 1.5e2, .5e1, e5, 1e]")) == [1e-8, -2000.0, 150.0, 5.0, "e5", "1e"]


def test_a_study_is_written_as_it_is_read(tmp_path: Path) -> None:
    plain = Study.model_validate(study())
    assert load_study(written(tmp_path, to_yaml(plain, "Made by a test."))) == plain


def test_another_precision_is_another_study_of_the_same_runs() -> None:
    wide = Study.model_validate(study())
    narrow = in_precision(wide, "bfloat16")
    assert narrow.name == "tiny_bfloat16"
    assert in_precision(narrow, "float32").model_copy(update={"name": "tiny"}) == wide
    before, after = expand(wide), expand(narrow)
    assert not {run.id for run in before} & {run.id for run in after}
    for one, other in zip(before, after, strict=True):
        assert other.training.precision == "bfloat16"
        assert other.model_copy(update={"training": one.training}) == one
