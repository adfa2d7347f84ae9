"""Each statement of the README's answer that has a direction, against the frozen tables; and that each test can fail."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace

import pandas as pd
import pytest
from decide import decide
from evidence import ROOT, Paper

OPTIMIZERS = ("schedulefree", "adamw")


@dataclass(frozen=True)
class Found:
    """The tables that the answer rests on, and the hypothesis on transfer with its family."""

    estimates: pd.DataFrame
    again: pd.DataFrame
    """Estimates of the follow-ups."""
    ratios: pd.DataFrame
    anytime: pd.DataFrame
    hypotheses: list[dict]  # type: ignore[type-arg]

    def drift(self, subject: str, table: str = "estimates") -> pd.DataFrame:
        return getattr(self, table).query("statistic == 'drift' and subject == @subject").set_index("task")

    def regret(self, subject: str) -> pd.Series[float]:
        """At each task's largest width."""
        rows = self.estimates.query("statistic == 'regret_cf' and subject == @subject").sort_values("width")
        return rows.groupby("task")["estimate"].last()


def level(drifts: pd.DataFrame) -> pd.Series[bool]:
    return (drifts["low90"] > -0.25) & (drifts["high90"] < 0.25)


def drifts_under_sp(found: Found) -> bool:
    """Surely down in every task under SP, and less than half as far under µP, with both optimizers."""
    pairs = [(found.drift(f"sp_{o}"), found.drift(f"mup_{o}")) for o in OPTIMIZERS]
    return all((sp["high"] < 0).all() and (mup["estimate"].abs() < sp["estimate"].abs() / 2).all() for sp, mup in pairs)


def verdicts(found: Found) -> tuple[dict[str, str], dict[str, str]]:
    """On transfer, with Holm's correction over all hypotheses, and of it alone."""
    alone = [h for h in found.hypotheses if h["id"] == "H1a"]
    return tuple(decide(some, found.estimates)["H1a"] for some in (found.hypotheses, alone))  # type: ignore[return-value]


def mlp_alone_passes(found: Found) -> bool:
    corrected = verdicts(found)[0]
    return [task for task, verdict in corrected.items() if verdict == "supported" and task != "all"] == ["cifar10-mlp"]


def vit_and_gpt_pass_uncorrected(found: Found) -> bool:
    alone = verdicts(found)[1]
    return alone["cifar10-vit"] == alone["wikitext2-gpt"] == "supported"


def again_on_other_seeds(found: Found) -> bool:
    mup, sp = (found.drift(f"{p}_schedulefree", "again").filter(regex="seeds", axis=0) for p in ("mup", "sp"))
    return len(mup) == 2 and bool(level(mup).all()) and bool((sp["high"] < 0).all())


def resnet_is_too_noisy(found: Found) -> bool:
    return verdicts(found)[1]["cifar10-resnet"] == "inconclusive"


def keeping_the_rate_is_cheaper_under_mup(found: Found) -> bool:
    return found.regret("mup_schedulefree").max() < 0.02 < found.regret("sp_schedulefree").max()


def higher_rates_than_adamw(found: Found) -> bool:
    rows = found.ratios.query("numerator == 'mup_schedulefree' and denominator == 'mup_adamw'")
    return bool((rows["log2_ratio"].dropna() > 0).all())


def averaged_adamw_is_better_on_gpt(found: Found) -> bool:
    rows = found.anytime.query(
        "task == 'wikitext2-gpt' and method == 'mup_schedulefree' and rival == 'mup_adamw_constant_ema'"
    )
    return bool((rows[rows["horizon"] == 1]["gap_low"] > 0).all())


def flipped(table: pd.DataFrame) -> pd.DataFrame:
    """Every number turned round."""
    out = table.copy()
    for low, high in (("low", "high"), ("low90", "high90"), ("gap_low", "gap_high"), ("gap_low90", "gap_high90")):
        if low in out:
            out[low], out[high] = -table[high], -table[low]
    for column in ("estimate", "gap", "log2_ratio"):
        if column in out:
            out[column] = -table[column]
    return out


def swapped(table: pd.DataFrame) -> pd.DataFrame:
    """SP and µP in each other's place."""
    names = {f"{a}_{o}": f"{b}_{o}" for a, b in (("sp", "mup"), ("mup", "sp")) for o in OPTIMIZERS}
    return table.assign(subject=table["subject"].replace(names))


def without_the_resnets_noise(table: pd.DataFrame) -> pd.DataFrame:
    out = table.copy()
    noisy = (out["task"] == "cifar10-resnet") & (out["statistic"] == "drift")
    for column in ("low", "high", "low90", "high90"):
        out.loc[noisy, column] = out.loc[noisy, "estimate"] + (out.loc[noisy, column] - out.loc[noisy, "estimate"]) / 50
    out.loc[noisy, "se"] /= 50
    return out


Change = Callable[[Found], Found]


def estimates(change: Callable[[pd.DataFrame], pd.DataFrame]) -> Change:
    return lambda found: replace(found, estimates=change(found.estimates))


CLAIMS: dict[str, tuple[Callable[[Found], bool], Change]] = {
    "AdamW's moves alike": (drifts_under_sp, estimates(swapped)),
    "Only the MLP passes our pre-set test": (mlp_alone_passes, estimates(swapped)),
    "ViT and GPT pass uncorrected": (vit_and_gpt_pass_uncorrected, estimates(swapped)),
    "and again on other seeds": (again_on_other_seeds, lambda found: replace(found, again=swapped(found.again))),
    "the ResNet is too noisy to tell": (resnet_is_too_noisy, estimates(without_the_resnets_noise)),
    "keeping the base width's rate costs ScheduleFree at most": (
        keeping_the_rate_is_cheaper_under_mup,
        estimates(swapped),
    ),
    "Look for ScheduleFree's at one to three times AdamW's": (
        higher_rates_than_adamw,
        lambda found: replace(found, ratios=flipped(found.ratios)),
    ),
    "AdamW with averaged weights does better": (
        averaged_adamw_is_better_on_gpt,
        lambda found: replace(found, anytime=flipped(found.anytime)),
    ),
}
"""Words of the answer, what has to be true for them, and a change of the tables under which it isn't."""


@pytest.fixture
def found(paper: Paper) -> Found:
    """The frozen tables; the answer is about the full study alone."""
    if paper.manifest["study"] != "cifar_wikitext":
        pytest.skip("another study is frozen, of which the README says nothing")
    later = paper.follow_ups
    assert later is not None
    return Found(
        paper.table("estimates"),
        later.table("estimates"),
        paper.table("rate_ratio"),
        paper.table("anytime"),
        paper.hypotheses,
    )


@pytest.mark.parametrize("words", CLAIMS)
def test_the_answer_says_what_the_tables_say(words: str, found: Found) -> None:
    text = re.sub(r"\s+", " ", (ROOT / "paper/answer.md").read_text(encoding="utf-8"))
    assert words in text
    holds, _ = CLAIMS[words]
    assert holds(found)


@pytest.mark.parametrize("words", CLAIMS)
def test_a_claim_fails_when_its_numbers_are_turned_round(words: str, found: Found) -> None:
    holds, change = CLAIMS[words]
    assert not holds(change(found))


def test_every_number_of_the_answer_is_computed() -> None:
    """Digits stand in keys, and in names, widths and numbers of the design."""
    text = re.sub(r"\{[^}]*\}", "", (ROOT / "paper/answer.md").read_text(encoding="utf-8"))
    text = re.sub(r"CIFAR-10|WikiText-2|95 %|\bto (width )?\d+ \|", "", text)
    assert not re.findall(r"\d", text)
