"""The hypotheses decided once more, straight from the intervals of the table of estimates; nothing of the package is used."""

from __future__ import annotations

import math
from fnmatch import fnmatchcase
from typing import Any

import pandas as pd
from scipy.stats import t

Rule = dict[str, Any]


def decide(hypotheses: list[Rule], estimates: pd.DataFrame) -> dict[str, dict[str, str]]:
    """The verdict of each hypothesis in each task, and over `all`."""
    out: dict[str, dict[str, str]] = {h["id"]: {} for h in hypotheses}
    for task, here in estimates.groupby("task"):
        raw = {
            h["id"]: [_condition(c, row, here, h.get("level", 0.05)) for c, row in _parts(h, here)] for h in hypotheses
        }
        alone = {name: _together([verdict for verdict, _, _ in parts]) for name, parts in raw.items()}
        family = [h["id"] for h in hypotheses if h["kind"] == "primary" and alone[h["id"]] != "not_estimable"]
        for kind, place in (("supported", 1), ("refuted", 2)):
            ps = {}
            for name in family:
                known = [part[place] for part in raw[name] if part[0] != "not_estimable"]
                complete = len(known) == len(raw[name])
                if kind == "refuted":
                    ps[name] = min(1.0, min(known) * len(known))
                elif complete:
                    ps[name] = max(known)
            adjusted = _holm(ps)
            for name in family:
                if alone[name] == kind and not adjusted[name] < 0.05:
                    alone[name] = "inconclusive"
        for name, verdict in alone.items():
            out[name][str(task)] = verdict
    for name, by_task in out.items():
        found = set(by_task.values()) - {"not_estimable"}
        out[name]["all"] = found.pop() if len(found) == 1 else "inconclusive" if found else "not_estimable"
    return out


def _parts(hypothesis: Rule, here: pd.DataFrame) -> list[tuple[Rule, Any]]:
    parts: list[tuple[Rule, Any]] = []
    for condition in hypothesis["conditions"]:
        rows = here[here["statistic"] == condition["statistic"]]
        rows = rows[rows["subject"].map(lambda subject, c=condition: fnmatchcase(subject, c["subject"])).astype(bool)]
        if condition.get("width") == "largest":
            rows = rows[rows["width"] == here["width"].max()]
        parts += [(condition, row) for _, row in rows.iterrows()] or [(condition, None)]
    return parts


def _condition(rule: Rule, row: Any, here: pd.DataFrame, level: float) -> tuple[str, float, float]:
    """Verdict, p of the claim, p of its refutation."""
    nothing = ("not_estimable", math.nan, math.nan)
    if row is None or row["status"] != "ok" or math.isnan(row["estimate"]):
        return nothing
    low, high = _range(rule, row, here)
    b, exact = row["estimate"], rule.get("exact", False)
    if math.isnan(low) or math.isnan(high) or (not exact and (row["n_seeds"] < 3 or math.isnan(row["se"]))):
        return nothing
    if exact or (rule["rule"] == "within" and row["se"] == 0):
        return ("supported", 0.0, 1.0) if low <= b <= high else ("refuted", 1.0, 0.0)
    above = {bound: _p(b - bound, row) for bound in (low, high, 0.0)}
    below = {bound: _p(bound - b, row) for bound in (low, high, 0.0)}
    assert level == 0.05
    inside, outside = low < row["low90"] and row["high90"] < high, row["high"] < low or row["low"] > high
    p_inside, p_outside = max(above[low], below[high]), min(1.0, 2 * min(below[low], above[high]))
    if {"against_low", "against_high"} & rule.keys():
        # What contradicts it is a range of its own, which has to hold the 90 % interval.
        low, high = rule.get("against_low", -math.inf), rule.get("against_high", math.inf)
        outside = low < row["low90"] and row["high90"] < high
        p_outside = max(_p(b - low, row), _p(high - b, row))
    if rule["rule"] == "excludes_zero":
        nonzero = row["low"] > 0 or row["high"] < 0
        return (
            "refuted" if inside else "supported" if nonzero else "inconclusive",
            2 * min(above[0.0], below[0.0]),
            p_inside,
        )
    return "refuted" if outside else "supported" if inside else "inconclusive", p_inside, p_outside


def _range(rule: Rule, row: Any, here: pd.DataFrame) -> tuple[float, float]:
    inf = math.inf
    if rule["rule"] == "within":
        return rule.get("low", -inf), rule.get("high", inf)
    margin = rule.get("margin", -inf)
    if "margin_sigmas" in rule:
        best = here[
            (here["statistic"] == "best_loss") & (here["subject"] == row["subject"]) & (here["width"] == row["width"])
        ]
        sigma = (best["se"] * best["n_seeds"] ** 0.5).iloc[0] if len(best) else math.nan
        margin = max(margin, rule["margin_sigmas"] * sigma)
    return {"below": (-inf, margin), "above": (margin, inf)}.get(rule["rule"], (-margin, margin))


def _p(distance: float, row: Any) -> float:
    if row["se"] == 0 or math.isinf(distance):
        return 0.0 if distance > 0 else 1.0
    return float(t.sf(distance / row["se"], row["n_seeds"] - 1))


def _together(found: list[str]) -> str:
    for verdict in ("refuted", "not_estimable", "inconclusive"):
        if verdict in found:
            return verdict
    return "supported"


def _holm(ps: dict[str, float]) -> dict[str, float]:
    adjusted: dict[str, float] = {}
    largest = 0.0
    for place, name in enumerate(sorted(ps, key=lambda name: ps[name])):
        largest = max(largest, min(1.0, ps[name] * (len(ps) - place)))
        adjusted[name] = largest
    return adjusted
