"""A folder by which a machine with a GPU, PyTorch and no network trains a part of a study, and the script there that does it.

Three archives lie in it, beside the study and the script: `packages` (what `mufree sweep` imports, but for PyTorch), `data`
(the prepared data sets of the part) and `source` (this package). What comes back are packs (`mufree.study.packs`).
"""

from __future__ import annotations

import lzma
import shlex
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from importlib.resources import files
from pathlib import Path

from mufree.lab import data as datasets
from mufree.lab.lock import pinned
from mufree.study.config import Study
from mufree.study.files import replacing
from mufree.study.plan import dataset_id, expand
from mufree.study.reading import UserError
from mufree.study.sources import PACKAGE

NEEDED = (
    "annotated-types",
    "attrs",
    "cyclopts",
    "mup",
    "numpy",
    "pyarrow",
    "pydantic",
    "pydantic-core",
    "pyyaml",
    "schedulefree",
    "tqdm",
    "typing-extensions",
    "typing-inspection",
)
"""What `mufree sweep` imports besides PyTorch, as the lock spells it; a test runs it with nothing else. What these ask for is
not installed: mup asks for plots."""

BUILT_HERE = ("mup",)
"""Those of them that are published as source alone, and are the same everywhere."""

UNUSED = (
    "bin/*",
    "numpy/f2py/*",
    "numpy/_core/include/*",
    "pyarrow/include/*",
    "pyarrow/src/*",
    "pyarrow/*flight*",
    "pyarrow/*s3*",
    "pyarrow/_azurefs*",
    "pyarrow/_gcsfs*",
    "pyarrow/_hdfs*",
    "pyarrow/libarrow_python.so",
    "pyarrow/libarrow_python.so.*.*",
    "*/tests/*",
    "*.py[xi]",
    "*.pxd",
)
"""Files of packages that are left out: remote file systems, servers, headers, tests, second copies; a third of pyarrow."""

PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")
WINDOW = 2**26
"""Bytes in which data's compression looks for what has come before: the targets of a text are its inputs, one token on."""


class LeaseError(UserError):
    """The folder can't be made as it is asked for; the message says what to do."""


@dataclass(frozen=True)
class Target:
    """The machine that the folder is for."""

    python: str = "3.12"
    """Its Python, major and minor."""
    packages: bool = True
    """Whether it lacks what is `NEEDED`."""
    there: tuple[str, ...] = ()
    """Packages of `NEEDED` that it has all the same."""
    most_mb: float = 60.0
    """Megabytes that can be sent there."""


@dataclass(frozen=True)
class Lease:
    """What is to be trained there."""

    study: Study
    """The study, with the grids of the part alone."""
    file: Path
    """Its file, which has all grids."""
    part: int | None
    minutes: float
    """Minutes from the start of the script after which training stops."""


def prepare(lease: Lease, target: Target, out: Path, *, prepared: Path, data_dir: Path, lock: Path) -> dict[str, int]:
    """Write the folder `out`, whole or not at all; return the bytes of each file in it.

    Data sets are taken from `prepared`, or made there. Raises `LeaseError` if `out` is something else, if packages can't be
    had, or if the folder is larger than the target takes; `DataError` for data.
    """
    if out.exists() and not (out / "run.sh").is_file():
        raise LeaseError(f"{out} exists and is no folder of a lease; it won't be replaced. Remove it or choose another")
    with replacing(out) as folder, tempfile.TemporaryDirectory() as name:
        work = Path(name)
        _archive(folder / "source.tar.xz", PACKAGE.parent, sorted(PACKAGE.rglob("*")), unused=("*/__pycache__/*",))
        _archive_data(folder / "data.tar.xz", lease.study, prepared, data_dir)
        if target.packages:
            _install(work / "packages", target, lock)
            _archive(folder / "packages.tar.xz", work / "packages", sorted((work / "packages").rglob("*")), UNUSED)
        shutil.copyfile(lease.file, folder / f"{lease.study.name}.yaml")
        (folder / "run.sh").write_text(script(lease, target), encoding="utf-8")
        (folder / "run.sh").chmod(0o755)
        sizes = {path.name: path.stat().st_size for path in sorted(folder.iterdir())}
        if sum(sizes.values()) > 1e6 * target.most_mb:
            raise LeaseError(_too_large(sizes, target))
    return sizes


def script(lease: Lease, target: Target) -> str:
    """`run.sh`: the template beside this module, with what is said of this lease at its top."""
    tasks = dict.fromkeys(run.task for run in expand(lease.study))
    what = f"study {lease.study.name}" if lease.part is None else f"part {lease.part} of study {lease.study.name}"
    settings = {
        "what": what,
        "study": f"{lease.study.name}.yaml",
        "part": "" if lease.part is None else str(lease.part),
        "python_version": target.python if target.packages else "",
        "default_minutes": f"{lease.minutes:g}",
        "tasks": " ".join(f"{task}={dataset_id(lease.study.tasks[task].dataset)}" for task in tasks),
    }
    lines = "".join(f"{name}={shlex.quote(value)}\n" for name, value in settings.items())
    return (files("mufree.lab") / "lease.sh").read_text(encoding="utf-8").replace("# settings\n", lines)


def _too_large(sizes: dict[str, int], target: Target) -> str:
    listed = ", ".join(f"{name} {size / 1e6:.1f}" for name, size in sorted(sizes.items(), key=lambda each: -each[1]))
    return (
        f"The folder would have {sum(sizes.values()) / 1e6:.1f} MB, and {target.most_mb:g} can be sent: {listed}. Leave out "
        "packages that the machine has (--there numpy pyarrow), give the task less data (train_bytes), or send more (--most-mb)"
    )


def _archive_data(path: Path, study: Study, prepared: Path, data_dir: Path) -> None:
    """The prepared data sets of a study's runs; those that `prepared` lacks are made there."""
    used = {dataset_id(run.dataset): run.dataset for run in expand(study)}
    for name, settings in used.items():
        if not (prepared / name / "manifest.json").is_file():
            datasets.prepare(settings, prepared / name, data_dir)
        datasets.load(prepared / name)  # raises where a file isn't what its manifest says
    _archive(path, prepared, sorted(file for name in used for file in (prepared / name).iterdir()), window=WINDOW)


def _archive(path: Path, root: Path, found: Iterable[Path], unused: Sequence[str] = (), *, window: int = 2**22) -> None:
    """Files below `root` as a tar archive, compressed; of equal files, equal bytes."""
    how = [{"id": lzma.FILTER_LZMA2, "preset": 3, "dict_size": window}]  # 6 takes twice as long, for a tenth
    with lzma.open(path, "wb", filters=how) as compressed, tarfile.open(fileobj=compressed, mode="w") as archive:
        for file in found:
            name = file.relative_to(root).as_posix()
            if file.is_file() and not any(fnmatch(name, pattern) for pattern in unused):
                archive.add(file, name, filter=_plain)


def _plain(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = entry.mtime = 0
    entry.uname = entry.gname = ""
    return entry


def _install(folder: Path, target: Target, lock: Path) -> None:
    """The needed packages for the target's Python, in files that the lock has digests of, as a folder to import."""
    try:
        pins = pinned(lock)
    except OSError as error:
        raise LeaseError(
            f"{lock} can't be read ({error}); call this from the project's folder, or give --lock"
        ) from error
    unknown = sorted(set(target.there) - set(NEEDED))
    if unknown:
        raise LeaseError(f"--there names {', '.join(unknown)}. Known: {', '.join(NEEDED)}")
    where = [f"--python-version={target.python}", "--implementation=cp", *(f"--platform={each}" for each in PLATFORMS)]
    install = ["install", "--no-deps", "--no-compile", "--only-binary=:all:", f"--target={folder}", *where]
    with tempfile.TemporaryDirectory() as name:
        as_wheels, from_source = Path(name) / "wheels.txt", Path(name) / "source.txt"
        for file, needed in ((as_wheels, set(NEEDED) - set(BUILT_HERE)), (from_source, set(BUILT_HERE))):
            file.write_text("\n".join(pin.entry for key, pin in pins.items() if key in needed - set(target.there)))
        _pip(*install, f"--requirement={as_wheels}")
        if from_source.stat().st_size:
            # By the setuptools that is here: pip would download another, of which the lock has no digest.
            _pip("wheel", "--no-deps", "--no-build-isolation", f"--wheel-dir={name}", f"--requirement={from_source}")
            _pip(*install, *map(str, Path(name).glob("*.whl")))


def _pip(*arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pip", arguments[0], "--quiet", "--disable-pip-version-check", *arguments[1:]],
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines()
        raise LeaseError(
            f"pip can't get the packages: {' '.join(said[-2:]) or 'it says nothing'}\nWithout a network, put their wheels into "
            "a folder and set PIP_FIND_LINKS to it; or leave them out (--without-packages) if the machine has them all"
        )
