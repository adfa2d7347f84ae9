"""Study files with something wrong in them, made up at random: each is a valid study or one error that says where.

A seed gives the same files. What is tried is the real command, in this process.
"""

from __future__ import annotations

import copy
import math
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from finished_study import call
from studies import study
from survival import Tally

Path_ = tuple[str | int, ...]

STRANGE: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2, 3, 2**31, -(2**63), 10**30, 0.5, -0.5, 1e308, 5e-324),
    *(math.nan, math.inf, -math.inf, "", " ", "1", "nan", "x" * 5000, "µ∂ 名前 🙂", "a\nb", "../..", "{}", "\x07"),
    *([], {}, [[]], [None], [1, 1], [{}], {"a": 1}, {"name": "mlp"}, {"": ""}, {1: 2}, ["mup_adamw"] * 3),
)
TAGS = ("!!python/name:os.system ", "!!binary ", "!!set ", "<<: ", "1:30 ")
KEYS = ("", "x", "Steps", "steps ", "µ", "name", 1, None, True, "k" * 3000)


def full_study() -> dict[str, Any]:
    """A study that has every kind of key."""
    plain = study()
    plain["tasks"]["photo"] |= {
        "optimizers": {"adamw": {"beta1": 0.9, "beta2": 0.95, "weight_decay": 0.1}},
        "coordinate_check": {"steps": 3, "seeds": [0, 1], "batch_size": 4, "widths": [16, 32]},
        "note": "made up",
    }
    gpt = {"name": "gpt", "depth": 1, "head_dim": 16, "context_length": 8}
    text = plain["tasks"]["photo"] | {"dataset": {"name": "wiki_sample", "vocab_size": 300}, "model": gpt}
    plain["tasks"] |= {"text": text, "net": plain["tasks"]["photo"] | {"model": {"name": "resnet"}}}
    plain["methods"] = {"sp_wsd": {"parametrization": "sp", "optimizer": "adamw", "schedule": "wsd", "average": "ema"}}
    axes = {"horizons": [1, 2], "beta1s": [0.9], "weight_decays": [0.0, 0.1], "weight_decay_scalings": ["coupled"]}
    plain["grids"].append(plain["grids"][0] | {"tasks": ["text", "net"], "methods": ["sp_wsd", "sp_adamw"], **axes})
    return plain | {"seeds_per_sweep": 2, "mixed": False}


def places(value: Any, path: Path_ = ()) -> list[Path_]:
    """The paths of all values in a study."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(deeper for key, child in inner for deeper in places(child, (*path, key)))]


def changed(plain: dict[str, Any], rng: random.Random) -> Path_:
    """Change a study at one place; return the path."""
    path = rng.choice(places(plain)[1:])
    parent: Any = plain
    for key in path[:-1]:
        parent = parent[key]
    match rng.choice(("replace", "replace", "replace", "remove", "add", "scale", "swap")):
        case "remove":
            del parent[path[-1]]
        case "add" if isinstance(parent, dict):
            parent[key := rng.choice(KEYS)] = rng.choice(STRANGE)
            return (*path[:-1], str(key))
        case "scale" if isinstance(parent[path[-1]], int | float):
            parent[path[-1]] *= rng.choice((-1, 0, 0.5, 10, 1e6, 10**12))
        case "swap":
            other: Any = plain
            for key in rng.choice(places(plain)):
                other = other[key]
            parent[path[-1]] = copy.deepcopy(other)
        case _:
            parent[path[-1]] = copy.deepcopy(rng.choice(STRANGE))
    return path


def as_text(plain: dict[str, Any], rng: random.Random) -> bytes:
    """A study as YAML that is damaged as text."""
    text = yaml.safe_dump(plain, allow_unicode=True)
    lines, at = text.splitlines(), rng.randrange(len(text))
    line = rng.randrange(len(lines))
    match rng.randrange(9):
        case 0:  # a key twice
            return "\n".join([*lines[: line + 1], *lines[line:]]).encode()
        case 1:
            return text[:at].encode()
        case 2:
            return (text[:at] + rng.choice("[]{}:,&*!|>'\"%@`#\t\0-?") + text[at:]).encode()
        case 3:
            return text.encode(rng.choice(("utf-16", "utf-32", "utf-8-sig", "utf-16-le")))
        case 4:
            return text[:at].encode() + bytes([rng.randrange(128, 256)]) + text[at:].encode()
        case 5:
            return ("&a " + text[:at] + " *a " + text[at:]).encode()
        case 6:
            return (
                text[:at] + rng.choice(("!!python/name:os.system ", "!!binary ", "!!set ", "<<: ", "1:30 ")) + text[at:]
            ).encode()
        case 7:
            return "\r".join(lines).encode() if rng.random() < 0.5 else "\t".join(lines).encode()
        case _:
            del lines[line]
            return "\n".join(lines).encode()


def tried(folder: Path, data: bytes, capsys: pytest.CaptureFixture[str]) -> str | None:
    """The one error that a study file is, or None if it is a valid study."""
    (folder / "tiny.yaml").write_bytes(data)
    capsys.readouterr()
    # It asks for a task that no study has, so that nothing is made of a valid one.
    assert call(folder, "data --study @/tiny.yaml --task no-such-task --out @/data") == 2
    said = capsys.readouterr().err
    assert said.startswith("mufree data: ")
    assert said.count("mufree data: ") == 1
    assert "Traceback" not in said
    assert len(said) < 20_000
    if said.startswith("mufree data: Unknown task 'no-such-task'"):
        return None
    assert str(folder / "tiny.yaml") in said
    return said


@pytest.mark.parametrize(("seed", "count"), [(0, 300), pytest.param(1, 3000, marks=pytest.mark.whole)])
def test_a_study_file_is_valid_or_one_error_that_says_where(
    tmp_path: Path, seed: int, count: int, tally: Tally, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = random.Random(seed)
    valid = 0
    base = full_study()
    assert tried(tmp_path, yaml.safe_dump(base).encode(), capsys) is None
    for _ in range(count):
        plain = copy.deepcopy(base)
        if rng.random() < 0.25:
            valid += tried(tmp_path, as_text(plain, rng), capsys) is None
            continue
        path = changed(plain, rng)
        said = tried(tmp_path, yaml.safe_dump(plain, allow_unicode=rng.random() < 0.5).encode(), capsys)
        valid += said is None
        # A rule between two values names the place that holds both.
        assert said is None or any(str(key)[:60].rstrip("s") in said for key in path), (path, said)
    tally.inputs("a study file, changed at random", count - valid)
    with capsys.disabled():
        print(f" {count} study files tried: {valid} valid, {count - valid} with one error each", end="")
    assert count * 0.05 < valid < count * 0.6


NINE = range(9)
BOMBS: dict[str, Callable[[], str]] = {
    "lists": lambda: "a0: &a0 [x, x]\n" + "".join(f"a{i + 1}: &a{i + 1} [{', '.join([f'*a{i}'] * 9)}]\n" for i in NINE),
    "as a value": lambda: BOMBS["lists"]() + "grids: *a9\ntasks: *a9\nname: *a9\n",
    "mappings": lambda: (
        "a0: &a0 {x: y}\n"
        + "".join(f"a{i + 1}: &a{i + 1} {{{', '.join(f'k{j}: *a{i}' for j in NINE)}}}\n" for i in NINE)
        + "tasks: *a9\n"
    ),
    "merged": lambda: (
        "a0: &a0 {x: y}\n" + "".join(f"a{i + 1}: &a{i + 1} {{<<: [{', '.join([f'*a{i}'] * 9)}]}}\n" for i in NINE)
    ),
    "around itself": lambda: "name: &a [*a]\ntasks: &b {photo: *b}\n",
    "merged into itself": lambda: "tasks: &b {photo: 1, <<: *b}\n",
    "deep": lambda: "grids: " + "[" * 300 + "]" * 300,
    "too deep": lambda: "grids: " + "[" * 100_000,
    "large": lambda: "title: " + "x" * 5_000_000,
    "one long list": lambda: "grids: [" + "0, " * 100_000 + "0]\n",
    "many keys": lambda: "".join(f"k{i}: 0\n" for i in range(40_000)),
}
LONG_TO_READ = ("one long list", "many keys")
CALL = """
import resource, sys, time
from mufree.cli import main
def call(path):
    code = main(["data", "--study", path, "--task", "t", "--out", "out"])
    return code, time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
_, start, before = call("absent.yaml")
code, end, after = call(sys.argv[1])
print(code, end - start, after - before)
"""


@pytest.mark.bad_input("a study file that unfolds without end")
@pytest.mark.parametrize(
    "bomb", [pytest.param(bomb, marks=pytest.mark.whole if bomb in LONG_TO_READ else ()) for bomb in BOMBS]
)
def test_a_file_that_unfolds_without_end_takes_little_time_and_memory(tmp_path: Path, bomb: str) -> None:
    path = tmp_path / "tiny.yaml"
    path.write_text(BOMBS[bomb]())
    done = subprocess.run([sys.executable, "-c", CALL, path], capture_output=True, text=True, timeout=120)
    code, seconds, megabytes = done.stdout.split()
    assert code == "2"
    assert done.stderr.count("mufree data: ") == 2
    assert str(path) in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr) < 20_000
    assert float(seconds) < 20
    assert int(megabytes) < 300
