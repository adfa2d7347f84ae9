"""A frozen study as an RO-Crate: a copy of its files, each with size and digest, and how they came to be. No torch.

By RO-Crate 1.1 and the profile Process Run Crate: the software made the results from the study file and the data sets.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from importlib.metadata import metadata
from pathlib import Path
from typing import Any

from rocrate.model.contextentity import ContextEntity
from rocrate.model.softwareapplication import SoftwareApplication
from rocrate.rocrate import ROCrate

from mufree.publish import freeze
from mufree.study import record
from mufree.study.files import replacing, sha256
from mufree.study.reading import RecordError, read_json

METADATA = "ro-crate-metadata.json"
PROFILE = "https://w3id.org/ro/wfrun/process/0.5"
LICENSE = "https://spdx.org/licenses/Apache-2.0"
FORMATS = {
    ".csv": "text/csv",
    ".json": "application/json",
    ".yaml": "application/yaml",
    ".parquet": "application/vnd.apache.parquet",
}
PLANS = ("study.yaml", freeze.HYPOTHESES)
"""What a study is made by; all other files are made by it."""


def write(folder: Path, out: Path, published: date, authors: tuple[str, ...] = ()) -> int:
    """Write a frozen folder and its ro-crate-metadata.json into `out`, in place of a crate there; return the count of files.

    The same folder and date give the same bytes. Without `authors` they are the package's. Raises `RecordError` where the
    folder isn't what its manifest says, or `out` is in it or is something else than a crate.
    """
    freeze.may_replace(out, METADATA)
    if out.resolve().is_relative_to(folder.resolve()):
        raise RecordError(f"{out} is in {folder}, which stays as it was signed. Choose another --out")
    manifest = freeze.verify(folder)
    crate = ROCrate(version="1.1")
    names = [*manifest["files"], freeze.MANIFEST]
    for name in names:
        path = folder / name
        about = {"name": name, "contentSize": str(path.stat().st_size), "sha256": sha256(path)}
        crate.add_file(path, name, properties=about | {"encodingFormat": FORMATS[path.suffix]})
    by = [
        _add(crate, f"#author-{place}", "Person" if authors else "Organization", name=name)
        for place, name in enumerate(authors or [metadata("mufree")["Author"]], start=1)
    ]
    _describe(crate, manifest, published, by)
    _tell_how(crate, folder, manifest, by)
    with replacing(out) as new:
        crate.write(new)
    return len(names)


def _describe(crate: ROCrate, manifest: Mapping[str, Any], published: date, by: list[ContextEntity]) -> None:
    crate.name = f"mufree: the study {manifest['study']}"
    crate.description = (
        f"{manifest['runs']} training runs (run set {manifest['run_set']}): rows, curves, coordinate checks, tables, "
        "and the versions, code, data and machine that they come from."
    )
    crate.license = _add(crate, LICENSE, "CreativeWork", name="Apache License 2.0", identifier="Apache-2.0")
    root = crate.root_dataset
    root["author"] = by
    root["datePublished"] = published.isoformat()  # a date of its own, or no two crates would be equal
    root["conformsTo"] = _add(crate, PROFILE, "CreativeWork", name="Process Run Crate", version="0.5")


def _tell_how(crate: ROCrate, folder: Path, manifest: Mapping[str, Any], by: list[ContextEntity]) -> None:
    """The run of the study as an action: its software, what that was given, and what it made."""
    versions = dict(manifest["versions"])
    made_by = read_json(folder / "provenance.json", record.PROVENANCE)
    code = made_by.get("code_digests_of_runs", [made_by["code_digest"]])
    version = f"{versions.pop('mufree')}, code {', '.join(code)}"
    needs = [_software(crate, name, said) for name, said in versions.items() if said is not None]
    mufree = _software(crate, "mufree", version, softwareRequirements=needs, license={"@id": LICENSE})
    data = [
        _add(
            crate,
            f"#data-{each['digest'][:12]}",
            "Dataset",
            name=each["settings"]["name"],
            identifier=f"sha256:{each['digest']}",
            description=f"{each.get('source', 'source not told')}, {each.get('version', 'version not told')}",
        )
        for each in made_by["data"]
    ]
    given = [crate.get(name) for name in PLANS if name in manifest["files"]]
    made = [crate.get(name) for name in manifest["files"] if name not in PLANS]
    machine = manifest["machine"]
    on = f"on {', '.join(machine['device'])}, {', '.join(machine['cpus_of_runs'])}, {machine['system']}"
    about = {"name": f"{manifest['runs']} runs {on}", "agent": by}
    crate.root_dataset["mentions"] = crate.add_action(
        mufree, "#run", object=[*given, *data], result=made, properties=about
    )


def _software(crate: ROCrate, name: str, version: str, **more: Any) -> SoftwareApplication:
    about = {"name": name, "softwareVersion": version, **more}
    return crate.add(SoftwareApplication(crate, f"#software-{name}", properties=about))


def _add(crate: ROCrate, at: str, kind: str, /, **about: Any) -> ContextEntity:
    return crate.add(ContextEntity(crate, at, properties={"@type": kind, **about}))
