"""From rows to verdicts: a study whose answer is known gets it, and one in which nothing differs gets none."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from surfaces import NO_CURVES, make_rows, parabolas

from mufree.analysis import tables
from mufree.analysis.tables.cases import CANONICAL
from mufree.analysis.verdicts import OVERALL, judge
from mufree.study.hypotheses import Hypotheses

HYPOTHESES = Path(__file__).parents[2] / "experiments/hypotheses.yaml"
RATES = range(-13, -3)
SEEDS = 5


def verdicts(drifts: dict[str, float], rng_seed: int = 0) -> pd.Series:
    """The overall verdict of every hypothesis on one made-up task; optima at −7 at base width, noise of 0.01 nats."""
    rng = np.random.default_rng(rng_seed)
    shape = (4, len(RATES), SEEDS)
    rows = [
        make_rows(
            parabolas(
                [-7.2 + drifts[name] * k for k in range(4)],
                log2_lrs=RATES,
                seeds=SEEDS,
                noise=0.01 * rng.normal(size=shape),
            ),
            method=name,
        )
        for name in CANONICAL
    ]
    hypotheses = Hypotheses.model_validate(yaml.safe_load(HYPOTHESES.read_text()))
    found = judge(tables.build(pd.concat(rows, ignore_index=True), NO_CURVES)["estimates"], hypotheses)
    return found[found["task"] == OVERALL].set_index("id")["verdict"]


def test_where_mup_transfers_and_sp_drifts_the_verdicts_say_so() -> None:
    found = verdicts({name: -1.0 if name.startswith("sp") else 0.0 for name in CANONICAL})
    assert found["H1a"] == "supported"
    assert found["R5"] == "supported"  # SP drifts by −1
    assert found["C1"] == "refuted"  # that SP does not drift
    assert found["C2"] == "supported"
    assert found["H1b"] != "supported"  # the two factors only add up here


@pytest.mark.parametrize("rng_seed", range(4))
def test_where_nothing_differs_the_verdicts_find_no_difference(rng_seed: int) -> None:
    found = verdicts(dict.fromkeys(CANONICAL, 0.0), rng_seed)
    for claim_of_a_difference in ("H1a", "H1b", "H3", "R5"):
        assert found[claim_of_a_difference] != "supported"
    assert found["C1"] == "supported"  # and here SP does not drift


def test_where_all_drift_mup_is_not_said_to_transfer() -> None:
    found = verdicts(dict.fromkeys(CANONICAL, -1.0))
    assert found["H1a"] == "refuted"
    assert found["C2"] == "refuted"
