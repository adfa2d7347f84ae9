"""A crate of a frozen study, read back, and held to the rules of RO-Crate on its root, its descriptor and its files."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from rocrate.rocrate import ROCrate

from mufree.cli import main

FROZEN = Path(__file__).parents[2] / "paper/confirm"
METADATA = "ro-crate-metadata.json"


def write(frozen: Path, out: Path) -> int:
    return main(["crate", str(frozen), "--published", "2026-01-02", "--out", str(out)])


@pytest.fixture(scope="module")
def crate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("crate") / "crate"
    assert write(FROZEN, out) == 0
    return out


def graph(crate: Path) -> dict[str, dict[str, Any]]:
    """The entities of the metadata by their ids."""
    return {entity["@id"]: entity for entity in json.loads((crate / METADATA).read_text())["@graph"]}


def broken(crate: Path) -> list[str]:
    """Files that are there and not described, or the other way round, or others than described."""
    described = {name: entity for name, entity in graph(crate).items() if entity["@type"] == "File"}
    there = {path.relative_to(crate).as_posix(): path for path in crate.rglob("*") if path.is_file()}
    del there[METADATA]
    return [
        name
        for name in sorted(described.keys() | there.keys())
        if name not in described
        or name not in there
        or described[name]["contentSize"] != str(there[name].stat().st_size)
        or described[name]["sha256"] != hashlib.sha256(there[name].read_bytes()).hexdigest()
    ]


def test_the_root_and_the_descriptor_are_as_the_rules_ask(crate: Path) -> None:
    entities = graph(crate)
    root, descriptor = entities["./"], entities[METADATA]
    assert root["@type"] == "Dataset"
    assert root["name"].endswith("the study confirm")
    assert str(json.loads((FROZEN / "MANIFEST.json").read_text())["runs"]) in root["description"]
    assert root["datePublished"] == "2026-01-02"
    license_of = root["license"]
    assert "Apache-2.0" in (license_of["@id"] if isinstance(license_of, dict) else license_of)
    assert descriptor["@type"] == "CreativeWork"
    assert descriptor["about"] == {"@id": "./"}
    assert descriptor["conformsTo"]["@id"].startswith("https://w3id.org/ro/crate/1.")
    files = {name for name, entity in entities.items() if entity["@type"] == "File"}
    assert {part["@id"] for part in root["hasPart"]} == files


def test_it_is_read_back_with_every_file_of_the_folder(crate: Path) -> None:
    again = ROCrate(crate)
    names = {path.relative_to(FROZEN).as_posix() for path in FROZEN.rglob("*") if path.is_file()}
    assert {entity.id for entity in again.data_entities} == names
    assert again.name == graph(crate)["./"]["name"]
    assert broken(crate) == []


def references(value: Any) -> list[str]:
    """The ids that a part of the metadata points to."""
    if isinstance(value, list):
        return [name for each in value for name in references(each)]
    if isinstance(value, dict):
        return [value["@id"]] if set(value) == {"@id"} else references(list(value.values()))
    return []


def test_it_says_who_made_it_by_what_software_from_what(crate: Path) -> None:
    again, manifest = ROCrate(crate), json.loads((FROZEN / "MANIFEST.json").read_text())
    [author] = again.root_dataset["author"]
    assert (author.type, author["name"]) == ("Organization", "The mufree authors")
    assert again.root_dataset["conformsTo"].id == "https://w3id.org/ro/wfrun/process/0.5"
    action = again.root_dataset["mentions"]
    software = action["instrument"]
    digests = json.loads((FROZEN / "provenance.json").read_text())["code_digests_of_runs"]
    assert len(digests) > 1
    assert (action.type, software.type, action["agent"]) == ("CreateAction", "SoftwareApplication", [author])
    assert software["softwareVersion"] == f"{manifest['versions']['mufree']}, code {', '.join(digests)}"
    assert {each["name"]: each["softwareVersion"] for each in software["softwareRequirements"]} == {
        name: version for name, version in manifest["versions"].items() if name != "mufree"
    }
    data = {each["name"]: each["identifier"] for each in action["object"] if each.type == "Dataset"}
    assert data == {name: f"sha256:{digest}" for name, digest in manifest["data"].items()}
    given = {each.id for each in action["object"] if each.type == "File"}
    assert given == {"study.yaml", "hypotheses.yaml"}
    assert {each.id for each in action["result"]} == set(manifest["files"]) - given


def test_each_reference_resolves(crate: Path) -> None:
    entities = graph(crate)
    pointed = {name for entity in entities.values() for part in entity.values() for name in references(part)}
    assert pointed - set(entities) == {entities[METADATA]["conformsTo"]["@id"]}
    assert set(entities) - pointed == {METADATA}


def test_a_study_that_is_not_judged_has_its_settings_alone_for_a_plan(tmp_path: Path) -> None:
    frozen = FROZEN.parent / "follow_ups"
    assert not (frozen / "hypotheses.yaml").exists()
    assert write(frozen, tmp_path / "crate") == 0
    action = ROCrate(tmp_path / "crate").root_dataset["mentions"]
    assert [each.id for each in action["object"] if each.type == "File"] == ["study.yaml"]


def test_authors_can_be_named(tmp_path: Path) -> None:
    words = ["--published", "2026-01-02", "--author", "A. Body", "--author", "B. Body"]
    assert main(["crate", str(FROZEN), *words, "--out", str(tmp_path / "crate")]) == 0
    authors = ROCrate(tmp_path / "crate").root_dataset["author"]
    assert [(each.type, each["name"]) for each in authors] == [("Person", "A. Body"), ("Person", "B. Body")]


def test_it_is_still_what_was_frozen_and_nothing_else_may_be_there(
    crate: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    check = ["check-frozen", "--out", str(tmp_path / "checked.json")]
    assert main([*check, str(crate)]) == 0
    assert main(["trace", "--folders", str(crate)]) == 0
    for more in ("ro-crate-preview.html", f"tables/{METADATA}"):
        copy = Path(shutil.copytree(crate, tmp_path / Path(more).stem))
        (copy / more).write_text("{}")
        capsys.readouterr()
        assert main([*check, str(copy)]) == 1
        assert f"not in the manifest: {more}" in capsys.readouterr().err
        assert main(["trace", "--folders", str(copy)]) == 1


def test_what_is_changed_missing_or_not_described_breaks_it(crate: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(crate, tmp_path / "copy"))
    table = copy / "tables/transfer.csv"
    table.write_bytes(table.read_bytes()[:-2] + b"x\n")
    (copy / "timings.csv").unlink()
    (copy / "more.csv").write_text("a\n")
    assert broken(copy) == ["more.csv", "tables/transfer.csv", "timings.csv"]


def test_the_same_folder_gives_the_same_bytes(crate: Path, tmp_path: Path) -> None:
    assert write(FROZEN, tmp_path / "again") == 0
    assert (tmp_path / "again" / METADATA).read_bytes() == (crate / METADATA).read_bytes()


def test_a_folder_that_is_not_what_was_frozen_is_not_packed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = Path(shutil.copytree(FROZEN, tmp_path / "frozen"))
    (copy / "timings.csv").write_text("task\n")
    assert write(copy, tmp_path / "out") == 1
    assert "changed: timings.csv" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_what_is_no_crate_is_not_replaced_and_the_frozen_folder_stays_as_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine, empty = tmp_path / "mine", tmp_path / "empty"
    mine.mkdir()
    empty.mkdir()
    (mine / "thesis.txt").write_text("years")
    for out in (mine, mine / "thesis.txt", FROZEN):
        assert write(FROZEN, out) == 1
        assert f"{out} is there and has no {METADATA}, so it isn't replaced" in capsys.readouterr().err
    assert (mine / "thesis.txt").read_text() == "years"
    assert write(FROZEN, FROZEN / "archive") == 1
    assert "stays as it was signed" in capsys.readouterr().err
    assert not (FROZEN / "archive").exists()
    assert write(FROZEN, empty) == write(FROZEN, empty) == 0
