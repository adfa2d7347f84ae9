"""A frozen study as an RO-Crate: a copy of its files, each with size and digest, described for archives. No torch."""

from __future__ import annotations

from datetime import date
from pathlib import Path

from rocrate.rocrate import ROCrate

from mufree.publish import freeze
from mufree.study.files import replacing, sha256

LICENSE = "https://spdx.org/licenses/Apache-2.0"
FORMATS = {
    ".csv": "text/csv",
    ".json": "application/json",
    ".yaml": "application/yaml",
    ".parquet": "application/vnd.apache.parquet",
}


def write(folder: Path, out: Path, published: date) -> int:
    """Write a frozen folder and its ro-crate-metadata.json into `out`, in place of what is there; return the count of files.

    The same folder and date give the same bytes. Raises `RecordError` where the folder isn't what its manifest says.
    """
    manifest = freeze.verify(folder)
    crate = ROCrate()
    crate.name = f"mufree: the study {manifest['study']}"
    crate.description = (
        f"{manifest['runs']} training runs (run set {manifest['run_set']}): rows, curves, coordinate checks, tables, "
        "and the versions, code, data and machine that they come from."
    )
    crate.license = LICENSE
    crate.root_dataset["datePublished"] = published.isoformat()  # a date of its own, or no two crates would be equal
    names = [*manifest["files"], freeze.MANIFEST]
    for name in names:
        path = folder / name
        about = {"name": name, "contentSize": str(path.stat().st_size), "sha256": sha256(path)}
        crate.add_file(path, name, properties=about | {"encodingFormat": FORMATS[path.suffix]})
    with replacing(out) as new:
        crate.write(new)
    return len(names)
