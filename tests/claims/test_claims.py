"""Each claim of the article, checked against the frozen tables; a test a claim."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from decide import decide
from evidence import ROOT, Paper, shows

from mufree.publish.figures import display_names
from mufree.publish.numbers.method import CALIBRATED

WORDS = {
    "supported": "supported",
    "refuted": "refuted",
    "inconclusive": "inconclusive",
    "not_estimable": "not estimable",
}
QUESTIONS = {
    "transfer": "H1a",
    "synergy": "H1b",
    "schedule": "H2",
    "stability": "H3",
    "search": "H4",
    "decay": "H5",
    "rate": "H6",
    "loss": "H7",
    "embedding": "H8",
}
SOURCES = ("paper.typ", "template.typ")


def _verdicts(paper: Paper) -> dict[str, dict[str, str]]:
    return decide(paper.hypotheses, paper.table("estimates"))


def _number(paper: Paper, key: str) -> Any:
    return paper.numbers["numbers"][key]


# --- the claims as a whole -------------------------------------------------------------------------------------------


def test_every_claim_has_a_test_and_every_test_a_claim() -> None:
    marked = [
        claim for name in SOURCES for claim in re.findall(r'#claim\("([^"]+)"\)', (ROOT / "paper" / name).read_text())
    ]
    assert len(set(marked)) == len(marked)
    tested = [
        name.removeprefix("test_claim_").replace("_", "-") for name in globals() if name.startswith("test_claim_")
    ]
    assert sorted([*tested, *QUESTIONS]) == sorted(marked)


def test_no_result_is_typed() -> None:
    """In the prose a digit stands only in names, in fixed terms of the method, and in what Typst computes."""
    text = (ROOT / "paper/paper.typ").read_text()
    prose = re.sub(r"^//.*$|^#(set|show|import|counter|let|bibliography).*$|```.*?```", "", text, flags=re.M | re.S)
    prose = re.sub(r'#show-(table|figures)\([^\n]*|#(said|n|claim)\("[^"]*"\)|@[a-z0-9]+|"[a-z0-9.]+"', "", prose)
    prose = re.sub(r"\d+(\.\d+)?(pt|em|fr)\b|CIFAR-10|WikiText-2|log2|95 %", "", prose)
    assert re.findall(r"\S*\d\S*", prose) == []


def test_every_estimate_is_the_tables(paper: Paper) -> None:
    table = paper.table("estimates")
    keys = set()
    for row in table.to_dict("records"):
        width = f"/w{row['width']:.0f}" if row["width"] == row["width"] else ""
        key = f"{row['task']}/{row['subject']}/{row['statistic']}{width}"
        keys.add(key)
        number = _number(paper, key)
        assert (number["value"] is None) == (row["estimate"] != row["estimate"])
        if number["value"] is not None:
            assert number["value"] == row["estimate"]
            assert shows(number["text"], row["estimate"])
        if row["low"] == row["low"]:
            assert shows(number["interval"], row["low"])
            assert shows(number["interval"], row["high"])
    assert keys == {key for key in paper.numbers["numbers"] if "/" in key and not key.endswith(("/least", "/most"))}


def test_every_caption_names_its_runs(paper: Paper) -> None:
    captions = [
        table["caption"] for name, table in paper.numbers["tables"].items() if name not in ("calibration", "power")
    ]
    captions += [text for figures in paper.numbers["captions"].values() for text in figures.values()]
    for caption in captions:
        assert f"run set {paper.manifest['run_set']}." in caption
        assert re.search(r"n = \d+ (runs?|seeds? a method and width); [^;]*(intervals are|no error bars)", caption)
        assert "data: " in caption


# --- what the study is -----------------------------------------------------------------------------------------------


def test_claim_stand_in(paper: Paper) -> None:
    complete = paper.manifest["complete"]
    assert paper.numbers["complete"] is complete
    assert bool(paper.numbers["missing"]) is not complete
    assert paper.manifest["study"] == "cifar_wikitext" or not complete
    assert paper.numbers["part"] is (paper.numbers["missing"].startswith("This is a part of the full study"))


def test_claim_size(paper: Paper) -> None:
    (text,) = paper.said("size")
    rows = paper.rows
    assert f"{len(rows)} runs of {rows['method'].nunique()} methods" in text
    assert f"{(rows['status'] == 'diverged').sum()} of the runs diverged" in text
    assert shows(text, paper.manifest["core_hours"])


def test_claim_cost(paper: Paper) -> None:
    assert _number(paper, "runs")["value"] == len(paper.rows)
    assert _number(paper, "core_hours")["value"] == paper.manifest["core_hours"]


def test_claim_scope(paper: Paper) -> None:
    for task in paper.tasks:
        runs = paper.primary[paper.primary["task"] == task]
        text = paper.about("scope", task)
        assert all(shows(text, value) for value in (runs["width"].min(), runs["width"].max(), runs["steps"].iloc[0]))


def test_claim_seeds(paper: Paper) -> None:
    least = paper.least_seeds
    (text,) = paper.said("seeds")
    assert ("exploratory" in text) is bool(least < 5)
    assert shows(text, least)


def test_claim_detectable(paper: Paper) -> None:
    from scipy.stats import t

    least = paper.least_seeds
    assert _number(paper, "least_seeds")["value"] == least
    if least > 1:
        wanted = (t.ppf(0.975, least - 1) + t.ppf(0.8, least - 1)) * (4 / least) ** 0.5
        assert _number(paper, "detectable")["value"] == pytest.approx(wanted)


def test_claim_wilson(paper: Paper) -> None:
    n, z = paper.least_seeds, 1.959963984540054
    assert _number(paper, "wilson_none")["value"] == pytest.approx(z**2 / (n + z**2))


# --- verdicts --------------------------------------------------------------------------------------------------------


def test_claim_headline(paper: Paper) -> None:
    """The sentence that names a task is the one for the task's verdict."""
    openings = {
        "supported": "moves by less than ±0.25 doublings",
        "refuted": "it is not true",
        "inconclusive": "stays open",
        "not_estimable": "can't be estimated",
    }
    verdicts = _verdicts(paper)["H1a"]
    alone = decide([h for h in paper.hypotheses if h["id"] == "H1a"], paper.table("estimates"))["H1a"]
    (headline,) = paper.said("headline")
    clauses = headline.removeprefix("On ").split("; on ")  # what the correction took away stays with the clause before
    for task in paper.tasks:
        (text,) = [clause for clause in clauses if task in re.split(r"under µP|it is not|whether", clause)[0]]
        assert openings[verdicts[task]] in text
        lost = verdicts[task] == "inconclusive" and alone[task] == "supported"
        assert (re.search(rf"both parts hold( on [^;]*{task}[^;]*)? when tested alone", text) is not None) is lost
    for outcome, tasks in _on_other_seeds(paper).items():
        said = {True: "both parts hold again on other seeds of", False: "not so on other seeds of"}[outcome]
        (clause,) = [text for text in headline.split("; ") if text.startswith(said)] or [""]
        assert [task for task in paper.tasks if task in clause] == tasks


def _on_other_seeds(paper: Paper) -> dict[bool, list[str]]:
    """Tasks of the study that were run again on other seeds, by whether both parts of H1a hold there."""
    outcomes: dict[bool, list[str]] = {True: [], False: []}
    later = paper.follow_ups
    for task in later.tasks if later else []:
        mine = later.primary[later.primary["task"] == task]
        same = paper.primary.merge(
            mine[["dataset", "model", "steps", "batch_size", "precision", "beta1", "beta2", "method"]].drop_duplicates()
        )
        if same.empty or set(same["seed"]) & set(mine["seed"]):
            continue
        drifts = later.table("estimates").query("task == @task and statistic == 'drift'").set_index("subject")
        sp, mup = drifts.loc["sp_schedulefree"], drifts.loc["mup_schedulefree"]
        held = (sp["low"] > 0 or sp["high"] < 0) and mup["low90"] > -0.25 and mup["high90"] < 0.25
        outcomes[bool(held)].append(same["task"].iloc[0])
    return {outcome: sorted(tasks) for outcome, tasks in outcomes.items()}


def test_claim_follow_ups(paper: Paper) -> None:
    """Their questions are the study file's, their drifts the tables', and who failed is counted again from the rows."""
    later = paper.follow_ups
    if later is None:
        assert paper.numbers["follow_ups"] is None
        return
    assert later.numbers["run_set"] == later.manifest["run_set"]
    settings = yaml.safe_load((later.frozen / "study.yaml").read_text())["tasks"]
    assert [each["name"] for each in later.numbers["tasks"]] == later.tasks
    for each in later.numbers["tasks"]:
        task = each["name"]
        assert each["question"] == (settings[task].get("note") or "").strip()
        runs = later.primary[later.primary["task"] == task].assign(failed=_failed)
        drifts = [text for text in each["findings"] if text.startswith("Drift of")]
        estimates = later.table("estimates").query("task == @task and statistic == 'drift'").dropna(subset="estimate")
        widths = runs.groupby("method")["width"].nunique()
        estimates = estimates[estimates["subject"].map(widths) > 2]
        assert len(drifts) == len(estimates)
        for text, row in zip(drifts, estimates.to_dict("records"), strict=True):
            assert all(shows(text, row[column]) for column in ("estimate", "low", "high"))
        losses = [text for text in each["findings"] if text.startswith("Best loss of")]
        best = _widest_inside(later, task)
        assert len(losses) == len(best)
        for text in losses:
            (row,) = (r for name, r in best.items() if text.startswith(f"Best loss of {display_names(runs)[name]} at"))
            assert f"at width {row['width']:.0f} " in text
            assert all(shows(text, value) for value in row[["estimate", "low", "high"]].dropna())
        failures = [text for text in each["findings"] if " fails, by divergence" in text]
        assert len(failures) == runs["method"].nunique()
        for (_, mine), text in zip(runs.groupby("method", sort=False), _in_order(failures, runs), strict=True):
            for width, there in mine.groupby("width"):
                bad = there[there["failed"]]["log2_lr"]
                edge = "at no log2 rate up to" if bad.empty else "from log2 rate"
                lowest = there["log2_lr"].max() if bad.empty else bad.min()
                assert f"width {width}: {edge} {lowest}".replace("-", "−") in text
            before = paper.primary.assign(failed=_failed)
            both = mine.merge(before, on=["model", "dataset", "method", "width", "log2_lr", "seed"])
            if len(both):
                assert f"Of the {len(both)} runs" in text
                assert f"{both['failed_x'].sum()} fail here and {both['failed_y'].sum()} there" in text


def _widest_inside(paper: Paper, task: str) -> dict[str, Any]:
    """Of each method the best loss at its largest width, if its rate is inside the grid there."""
    estimates = paper.table("estimates").query("task == @task and statistic == 'best_loss'").dropna(subset="estimate")
    inside = paper.table("optima").query("task == @task and not flag.str.startswith('edge')")
    widest = {str(name): rows.loc[rows["width"].idxmax()] for name, rows in estimates.groupby("subject")}
    return {
        name: row
        for name, row in widest.items()
        if ((inside["method"] == name) & (inside["width"] == row["width"])).any()
    }


def _failed(rows: pd.DataFrame) -> pd.Series[bool]:
    return (rows["status"] == "diverged") | (rows["train_loss"] > rows["initial_loss"] - 0.01)


def _in_order(texts: list[str], runs: pd.DataFrame) -> list[str]:
    """Sentences in the order in which their methods come in the rows."""
    names = display_names(runs)
    return [next(text for text in texts if text.startswith(f"{names[m]} fails")) for m in runs["method"].unique()]


def test_claim_in_short(paper: Paper) -> None:
    """The least and the greatest estimate over tasks: of drifts, regrets, the ratio of rates and the loss."""
    said = " ".join(paper.said("in-short"))
    assert ("task to task" in said) is (len(paper.tasks) > 1 and bool(re.search("drifts by|costs it", said)))
    for pattern, name, subject in (
        (r"drifts by (.+?) doublings", "drift", "mup_schedulefree"),
        (r"under µP and by (.+?) under SP", "drift", "sp_schedulefree"),
        (r"costs it (.+?) nats", "regret_cf", "mup_schedulefree"),
        (r"nats at the largest width under µP and (.+?) under SP", "regret_cf", "sp_schedulefree"),
        (r"methods' by (.+?) nats", "loss_vs_best", "mup_schedulefree - best other"),
    ):
        found = pd.concat(_at_widest(paper, task, name, subject) for task in paper.tasks)["estimate"].dropna()
        _shows_range(re.search(pattern, said), found)
    ratios = paper.table("rate_ratio").query("numerator == 'mup_schedulefree' and denominator == 'mup_adamw'")
    _shows_range(re.search(r"best rate is (.+?) times AdamW's", said), 2 ** ratios["log2_ratio"].dropna())

    gaps = (
        paper.table("anytime")
        .query("horizon == 1 and method == 'mup_schedulefree' and rival != 'mup_adamw'")
        .dropna(subset="gap")
    )
    shown = {
        task: text
        for text, task in re.findall(
            r"([+−\d.]+ \[[^]]+\]) nats on ([\w-]+) \(", said.partition("other than cosine")[2]
        )
    }
    assert set(shown) == set(gaps["task"])
    for task, text in shown.items():
        worst = gaps[gaps["task"] == task].nlargest(1, "gap").iloc[0]
        assert all(shows(text, worst[column]) for column in ("gap", "gap_low", "gap_high"))


def _shows_range(found: re.Match[str] | None, values: pd.Series[float]) -> None:
    assert (found is not None) is bool(len(values))
    if found:
        ends = re.split(" to ", found[1])
        assert shows(ends[0], values.min())
        assert shows(ends[-1], values.max())


def _at_widest(paper: Paper, task: str, name: str, subject: str) -> pd.DataFrame:
    """Estimates of a task that have no width, or the task's largest."""
    estimates = paper.table("estimates").query("task == @task and statistic == @name and subject == @subject")
    widest = paper.primary[paper.primary["task"] == task]["width"].max()
    return estimates[estimates["width"].isna() | (estimates["width"] == widest)]


def test_claim_answer(paper: Paper) -> None:
    """Each cell of the first table has the estimate of its task and its interval, or a dash where there is none."""
    shown = paper.shown("answer").set_index("Task")
    assert sorted(shown.index) == paper.tasks
    for task in paper.tasks:
        for column, name, subject in (
            ("Drift, µP", "drift", "mup_schedulefree"),
            ("Drift, SP", "drift", "sp_schedulefree"),
            ("Regret, µP", "regret_cf", "mup_schedulefree"),
            ("Regret, SP", "regret_cf", "sp_schedulefree"),
            ("Loss, µP", "loss_vs_best", "mup_schedulefree - best other"),
        ):
            found = _at_widest(paper, task, name, subject).dropna(subset="estimate")
            cell = shown.loc[task, column]
            assert (cell == "—") is found.empty
            for row in found[["estimate", "low", "high"]].to_dict("records"):
                assert all(shows(cell, value) for value in row.values() if value == value)
        ratios = (
            paper.table("rate_ratio")
            .query("task == @task and numerator == 'mup_schedulefree' and denominator == 'mup_adamw'")["log2_ratio"]
            .dropna()
        )
        assert (shown.loc[task, "Rate ratio, µP"] == "—") is ratios.empty
        assert all(
            shows(shown.loc[task, "Rate ratio, µP"], 2**end) for end in (ratios.min(), ratios.max()) if len(ratios)
        )
        widths = sorted(paper.primary[paper.primary["task"] == task]["width"].unique())
        assert shown.loc[task, "Widths"] == ", ".join(map(str, widths))


def test_claim_tally(paper: Paper) -> None:
    primary = [h["id"] for h in paper.hypotheses if h["kind"] == "primary"]
    found = [_verdicts(paper)[name]["all"] for name in primary]
    (text,) = paper.said("tally")
    assert f"Of the {len(primary)} hypotheses" in text
    for verdict, word in WORDS.items():
        assert _number(paper, f"primary_{verdict}")["value"] == found.count(verdict)
        assert (f"{found.count(verdict)} {word}" in text) is (verdict in found)


@pytest.mark.parametrize("claim", QUESTIONS)
def test_answers(paper: Paper, claim: str) -> None:
    """The overall word, the word of each task, and the numbers that decide."""
    name = QUESTIONS[claim]
    (hypothesis,) = [h for h in paper.hypotheses if h["id"] == name]
    verdicts = _verdicts(paper)[name]
    overall, *_ = paper.said(claim)
    assert overall.lower().startswith(WORDS[verdicts["all"]])
    estimates = paper.table("estimates")
    for task in paper.tasks:
        if verdicts[task] == "not_estimable":
            assert not [line for line in paper.said(claim) if line.startswith(f"{task}:")]
            continue
        text = paper.about(claim, task)
        assert text.startswith(f"{task}: {WORDS[verdicts[task]]}")
        for condition in hypothesis["conditions"]:
            same = (estimates["task"] == task) & (estimates["statistic"] == condition["statistic"])
            rows = estimates[same & (estimates["subject"] == condition["subject"])]
            if condition.get("width") == "largest":
                rows = rows[rows["width"] == estimates[estimates["task"] == task]["width"].max()]
            for value in rows["estimate"].dropna():
                assert shows(text, value), (text, value)


def test_claim_embedding_own_rate(paper: Paper) -> None:
    """Drifts fitted anew, the arm's on the optima of its own rate, and the losses at its largest width."""
    rows, optima, losses = (
        paper.primary,
        paper.table("optima"),
        paper.table("estimates").query("statistic == 'best_loss'"),
    )
    for (task, arm), runs in rows[rows["embedding_lr"] == "times_width"].groupby(["task", "method"]):
        if runs["width"].nunique() < 3:
            continue
        text = paper.about("embedding-own-rate", task)
        drifts, best = text.split("Best loss")
        for method in (arm, "sp_adamw", "mup_adamw"):
            mine = optima[(optima["task"] == task) & (optima["method"] == method)].dropna(subset="log2_lr_opt")
            log2_width = np.log2(mine["width"])
            rate = mine["log2_lr_opt"] + (log2_width if method == arm else 0)
            assert shows(drifts, np.polyfit(log2_width, rate, 1)[0])
            at = losses[
                (losses["task"] == task) & (losses["subject"] == method) & (losses["width"] == runs["width"].max())
            ]
            assert shows(best, at["estimate"].item())


def test_claim_replications(paper: Paper) -> None:
    _short_answers(paper, "replications", "replication")


def test_claim_positive_controls(paper: Paper) -> None:
    _short_answers(paper, "positive-controls", "control")


def _short_answers(paper: Paper, claim: str, kind: str) -> None:
    wanted = [h for h in paper.hypotheses if h["kind"] == kind]
    verdicts = _verdicts(paper)
    for h, text in zip(wanted, paper.said(claim), strict=True):
        assert text.startswith(f"{h['id']}. {h['claim']}")
        assert WORDS[verdicts[h["id"]]["all"]].capitalize() + " " in text.removeprefix(f"{h['id']}. {h['claim']}")


def test_claim_surprises(paper: Paper) -> None:
    verdicts = _verdicts(paper)
    against = {"supported": "refuted", "refuted": "supported"}
    wanted = {
        h["id"]: [task for task in paper.tasks if verdicts[h["id"]][task] == against.get(h["expects"])]
        for h in paper.hypotheses
    }
    said = {text.split()[0]: text for text in paper.said("surprises") if re.match(r"[HRC]\d", text)}
    assert set(said) == {name for name, tasks in wanted.items() if tasks}
    assert all(task in said[name] for name in said for task in wanted[name])
    control = paper.table("control")
    broken = bool((control["n_equal"] != control["n_pairs"]).any())
    assert any("differ at base width" in text for text in paper.said("surprises")) is broken


# --- tables ----------------------------------------------------------------------------------------------------------


def test_claim_drift(paper: Paper) -> None:
    transfer = paper.table("transfer")
    for task in paper.tasks:
        parts = paper.about("drift", task).partition(": ")[2].split("; ")
        runs = paper.primary[paper.primary["task"] == task]
        several = [method for method, mine in runs.groupby("method") if mine["width"].nunique() > 1]
        mine = transfer[(transfer["task"] == task) & transfer["method"].isin(several)]
        assert len(parts) == len(mine)
        for part, row in zip(parts, mine.to_dict("records"), strict=True):
            excludes = row["drift_low"] > 0 or row["drift_high"] < 0
            inside = str(row["equivalent"]) == "True"
            if row["status"] != "ok":
                word = "not estimable"
            elif inside:
                word = "small" if excludes else "no drift"
            else:
                word = "drifts" if excludes else "undecided"
            assert part.rstrip(".").endswith(word)
            assert row["status"] != "ok" or shows(part, row["drift"])


def test_claim_regret(paper: Paper) -> None:
    regret = paper.table("regret")
    for task in paper.tasks:
        mine = regret[regret["task"] == task]
        widest = mine[mine["width"] == mine["width"].max()]
        text = paper.about("regret", task)
        assert all(shows(text, value) for value in widest["regret_cf"].dropna())


def test_claim_recipe(paper: Paper) -> None:
    """The numbers of each part are the tables', the lowest loss comes first, and what was not measured is not said."""
    regret, ratio, arms = (paper.table(name) for name in ("regret", "rate_ratio", "arms"))
    decay = paper.table("weight_decay_optimum")
    largest = paper.table("weight_decay")["weight_decay"].max()
    rows = paper.rows
    for task in paper.tasks:
        text = paper.about("recipe", task)
        base = int(rows[rows["task"] == task]["base_width"].iloc[0])
        mine = regret[(regret["task"] == task) & (regret["method"] == "mup_schedulefree")]
        last = mine[mine["width"] == mine["width"].max()]
        for value in last["regret_cf"].dropna():
            assert f"best at width {base}," in text
            assert shows(text, value)
        ratios = 2 ** ratio[(ratio["task"] == task) & (ratio["numerator"] == "mup_schedulefree")]["log2_ratio"].dropna()
        assert ("times AdamW's" in text) is bool(len(ratios))
        assert all(shows(text, value) for value in [ratios.min(), ratios.max()] if len(ratios))
        here = arms[(arms["task"] == task) & (arms["method"] == "mup_schedulefree") & (arms["width"] == base)]
        here = here[(here["horizon"] == 1) & (here["weight_decay"] == 0)].sort_values("best_loss")
        assert ("Of β₁" in text) is (here["beta1"].nunique() > 1)
        if here["beta1"].nunique() > 1:
            said = text.partition("Of β₁")[2].partition("standard error: ")[2]
            assert said.startswith(f"{here['beta1'].iloc[0]:g} ")
            assert all(shows(said, value) for value in here["best_loss"])
        decays = decay[(decay["task"] == task) & (decay["weight_decay_scaling"] == "coupled")]
        for row in decays[decays["method"] == "mup_schedulefree"].to_dict("records"):
            edge = " (the largest tried)" if row["weight_decay"] == largest else ""
            assert f"{row['weight_decay']:g}{edge} at width {row['width']}" in text


def test_claim_best(paper: Paper) -> None:
    optima = paper.table("optima")
    for task in paper.tasks:
        mine = optima[optima["task"] == task]
        losses = mine[mine["width"] == mine["width"].max()]["best_loss"].dropna().sort_values()
        text = paper.about("best", task)
        assert ("diverged" in text) is losses.empty
        for value in losses.iloc[:2]:
            assert shows(text, value)
        if len(losses):
            assert shows(text.partition(";")[0], losses.iloc[0])
        elsewhere = mine[~mine["method"].isin(mine[mine["width"] == mine["width"].max()]["method"])]
        lower = elsewhere[elsewhere["best_loss"] < losses.min()].groupby("method")["best_loss"].min()
        said = text.partition("Lower still, and not run at that width: ")[2]
        assert said.count("at width") == len(lower)
        assert all(shows(said, value) for value in lower)


def test_claim_diverged(paper: Paper) -> None:
    rows = paper.primary
    for task in paper.tasks:
        mine = rows[rows["task"] == task]
        text = paper.about("diverged", task)
        for _, runs in mine.groupby("method"):
            diverged = runs["status"] == "diverged"
            stuck = (~diverged & (runs["train_loss"] > runs["initial_loss"] - 0.01)).sum()
            besides = f", and {stuck} learnt nothing" if stuck else ""
            assert re.search(rf" {diverged.sum()} of {len(runs)}{besides}[;.]", text)


def test_claim_anytime(paper: Paper) -> None:
    gaps = paper.table("anytime")
    names = display_names(paper.rows)
    for (task, width), here in gaps.groupby(["task", "width"]):
        (text,) = [line for line in paper.said("anytime") if line.startswith(f"{task}, width {width}. ")]
        for (method, rival), mine in here.groupby(["method", "rival"]):
            (part,) = [each for each in text.split(". ") if f"{names[method]} against {names[rival]}: " in each]
            known = mine.dropna(subset="gap")
            assert ("not estimable" in part) is known.empty
            if known.empty:
                continue
            worst = known.loc[known["gap"].idxmax()]
            assert shows(part, worst["gap"])
            assert ("no worse" in part) is bool(worst["gap_high90"] < 0.01)
            assert (": worse" in part) is bool(worst["gap_low"] > 0.01)


def test_claim_negative_control(paper: Paper) -> None:
    control = paper.table("control")
    for task in paper.tasks:
        mine = control[control["task"] == task]
        pairs, equal = mine["n_pairs"].sum(), mine["n_equal"].sum()
        text = paper.about("negative-control", task)
        assert ("in doubt" in text) is bool(equal < pairs)
        assert shows(text, pairs) if pairs else "not checked" in text


def test_claim_coordinate_check(paper: Paper) -> None:
    verdict = paper.table("coordcheck_verdict")
    methods = paper.rows.drop_duplicates("method").set_index("method")["parametrization"]
    for task in paper.tasks:
        text = paper.about("coordinate-check", task)
        for kind, name in (("mup", "µP"), ("sp", "SP")):
            mine = verdict[(verdict["task"] == task) & (verdict["method"].map(methods) == kind)]
            passed = (mine["passed"].astype(str) == "True").sum()
            assert f"{name} passes {passed} of {len(mine)}" in text
            if kind == "sp":
                assert ("does not tell" in text) is bool(passed > 0)
                continue
            surely_failed = mine.groupby("method")["n_sure"].sum() > 0
            fails = (mine["passed"].astype(str) != "True").groupby(mine["method"]).any()
            assert ("in doubt" in text) is bool((fails & surely_failed).any())
            assert ("too few to decide" in text) is bool((fails & ~surely_failed).any())


def test_claim_calibration(paper: Paper) -> None:
    import pandas as pd

    path = paper.frozen / "calibration.csv"
    if not path.exists():
        (text,) = paper.said("calibration")
        assert text.startswith("No simulation")
        return
    table = pd.read_csv(path)
    table = table[table["n_seeds"] == paper.least_seeds]
    for name, rows in table.groupby("statistic"):
        (text,) = [line for line in paper.said("calibration") if line.startswith(CALIBRATED[str(name)] + ", ")]
        assert all(shows(text, 100 * bound) for bound in (rows["coverage"].min(), rows["coverage"].max()))
