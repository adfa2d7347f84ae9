"""How the workflow's time grows: `python benchmarks/scaling.py`.

Copies the checkout to a temporary folder and, there,
1. runs the quickstart with 1, 2 and 4 seeds from nothing, and prints how far each wall time is from the straight line through
   them (fixed cost and cost a seed);
2. plans a study of 10,000 sweeps (`mufree plan`, and the part of Snakemake's planning that is ours), and times Snakemake when
   all of its outputs are there and nothing is to be done, beside a Snakefile of one rule and as many files.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from mufree.study import record

ROOT = Path(__file__).parents[1]
BARE = """
rule all:
    input: expand("bare/{i}.txt", i=range(%d))

rule one:
    output: "bare/{i}.txt"
    shell: "touch {output}"
"""


def timed(command: list[str], where: Path) -> float:
    """Wall seconds of a command that has to succeed."""
    began = time.perf_counter()
    done = subprocess.run(command, cwd=where, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
    return time.perf_counter() - began


def checkout(folder: Path) -> Path:
    """A copy of the files under version control."""
    names = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    return folder


def write_study(where: Path, name: str, plain: dict[str, Any]) -> None:
    """A study file of that name."""
    (where / f"experiments/{name}.yaml").write_text(yaml.safe_dump({**plain, "name": name}), encoding="utf-8")


def seeds(where: Path, counts: list[int], cores: int) -> None:
    """Time the quickstart from nothing, at several numbers of seeds."""
    plain = yaml.safe_load((ROOT / "experiments/quickstart.yaml").read_text(encoding="utf-8"))
    snakemake = [sys.executable, "-m", "snakemake", "--cores", str(cores), "--config"]
    taken = []
    for n in counts:
        grids = [{**grid, "seeds": list(range(n))} for grid in plain["grids"]]
        write_study(where, f"scaling_{n}", {**plain, "grids": grids, "seeds_per_sweep": n})
        shutil.rmtree(where / "results", ignore_errors=True)
        taken.append(timed([*snakemake, f"study=scaling_{n}"], where))
    slope, fixed = np.polyfit(counts, taken, 1)
    print(f"wall seconds: {fixed:.0f} + {slope:.0f} a seed, on {cores} cores")
    for n, seconds in zip(counts, taken, strict=True):
        print(f"{n} seeds: {seconds:6.1f} s, {seconds / (fixed + slope * n) - 1:+.1%} from the line")


def sweeps(where: Path, n: int) -> None:
    """Time planning, and a workflow with nothing to do, for n sweeps of one run."""
    plain = yaml.safe_load((ROOT / "experiments/quickstart.yaml").read_text(encoding="utf-8"))
    task = {"photo-mlp": plain["tasks"]["photo-mlp"]}
    grid = {"tasks": ["photo-mlp"], "methods": ["mup_adamw"], "widths": [32], "log2_lrs": [-8], "seeds": list(range(n))}
    write_study(where, "many", {"title": "Many", "tasks": task, "grids": [grid], "seeds_per_sweep": 1})
    mufree = [sys.executable, "-c", "from mufree.cli import main; raise SystemExit(main())"]
    print(f"{n} sweeps: mufree plan {timed([*mufree, 'plan', 'experiments/many.yaml'], where):.1f} s")
    snakemake = [sys.executable, "-m", "snakemake", "--cores", "1", "--config", "study=many"]
    print(f"  snakemake, rules read and nothing asked for: {timed([*snakemake, '--list-rules'], where):.1f} s")
    print(f"  snakemake --dry-run, all to do: {timed([*snakemake, '--dry-run', '--quiet', 'all'], where):.1f} s")
    fake_outputs(where)
    touched = timed([*snakemake, "--touch", "--quiet", "all", "--", "sweeps"], where)
    nothing = timed([*snakemake, "--quiet", "all", "--", "sweeps"], where)
    print(f"  snakemake, nothing to do: {nothing:.1f} s (--touch before it {touched:.0f} s)")
    (where / "bare.smk").write_text(BARE % n, encoding="utf-8")
    (where / "bare").mkdir()
    for i in range(n):
        (where / f"bare/{i}.txt").touch()
    bare = [sys.executable, "-m", "snakemake", "-s", "bare.smk", "--cores", "1", "--quiet", "all"]
    print(f"  snakemake alone, one rule and {n} files, nothing to do: {timed(bare, where):.1f} s")


def fake_outputs(where: Path) -> None:
    """Put an empty file where each sweep's outputs go; nothing opens them but what says how long training took."""
    listed = [sys.executable, "-m", "snakemake", "--cores", "1", "--config", "study=many", "--summary", "--", "sweeps"]
    told = subprocess.run(listed, cwd=where, capture_output=True, text=True, check=True).stdout.splitlines()[1:]
    for line in told:
        path = where / line.split("\t")[0]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    record.write_table(where / "results/many/timings.parquet", record.TIMING_SCHEMA.empty_table())


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="*", default=[1, 2, 4])
    parser.add_argument("--sweeps", type=int, default=10_000, help="0: leave this out")
    parser.add_argument("--cores", type=int, default=2)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        where = checkout(Path(name))
        if arguments.seeds:
            seeds(where, arguments.seeds, arguments.cores)
        if arguments.sweeps:
            sweeps(where, arguments.sweeps)


if __name__ == "__main__":
    main()
