"""What is declared of statistics, beside the tables of a study that has them."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from mufree.study.statistics import ALL, DECLARED, STATISTICS, Statistic, declared

FROZEN = Path(__file__).parents[2] / "paper/data/tables"


def test_names_differ_and_words_are_words() -> None:
    assert len({statistic.name for statistic in ALL}) == len(ALL)
    assert len(STATISTICS) == len({statistic.words for statistic in STATISTICS.values()})
    assert not [statistic.name for statistic in STATISTICS.values() if "_" in statistic.words or "{" in statistic.words]


@pytest.mark.parametrize("statistic", [each for each in ALL if each.table], ids=lambda statistic: statistic.name)
def test_its_columns_are_in_its_table(statistic: Statistic) -> None:
    table = pd.read_csv(FROZEN / f"{statistic.table}.csv")
    estimate, low, high = statistic.columns
    spread = {"best_loss_low", "best_loss_high"} if statistic.name == "best_loss" else set()  # from its standard error
    assert {name for name in (estimate, low, high) if name} - spread <= set(table)
    assert (low == high == "") == (statistic.interval == "none")
    assert len(table.query(statistic.where) if statistic.where else table)


def test_all_estimates_of_a_study_are_declared_in_their_unit() -> None:
    estimates = pd.read_csv(FROZEN / "estimates.csv")
    units = {name: set(group) for name, group in estimates.groupby("statistic")["unit"]}
    found = {name: declared(str(name)) for name in units}
    assert {name: {each.table_unit} for name, each in found.items() if each is not None} == {
        name: {str(unit) for unit in values} for name, values in units.items()
    }
    assert not [each.name for each in DECLARED if "{" not in each.name and each.name not in units]


def test_a_kind_that_no_hypothesis_may_name_is_found_by_the_beginning_of_its_name() -> None:
    bias = declared("grad_slope_bias")
    assert bias is not None
    assert (bias.words, bias.question) == ("slope of the bias layers' gradient size", "inside")
    assert "grad_slope_bias" not in STATISTICS
    assert declared("regret_of_nothing") is None


def test_an_effect_stands_in_the_unit_of_what_it_is_on_and_shows_its_sign() -> None:
    effect, on = STATISTICS["effect_mup_lr_sensitivity"], STATISTICS["lr_sensitivity"]
    assert (effect.unit, effect.question, effect.digits) == (on.unit, on.question, on.digits)
    assert effect.sign
    assert STATISTICS["did_abs_drift"].question == "interaction"
