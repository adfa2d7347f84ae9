"""What `mufree tune` found: a page with verdict, rate, figure and a snippet to paste; JSON, and a table of the trials."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from mufree.analysis.coordcheck import Outcome
from mufree.analysis.metrics.statistics import Interval, at_level
from mufree.analysis.tables import COLUMNS
from mufree.analysis.tuned import SURE, At, Judgement, Reason, Result, Tuned, Verdict, seeds_needed
from mufree.publish import figures
from mufree.publish.report import to_html
from mufree.publish.report.blocks import Block, figure, joined, show, table, text
from mufree.publish.report.pages import section
from mufree.publish.words import MISSING, interval, known, number
from mufree.study import files
from mufree.study.limits import MIN_SEEDS
from mufree.study.trials import TUNABLE, Settings

TONES: dict[Verdict, str] = {"transfers": "good", "does not transfer": "bad", "can't tell": "open"}
ANSWERS: dict[Verdict, str] = {
    "transfers": "The learning rate transfers.",
    "does not transfer": "The learning rate does not transfer.",
    "can't tell": "Whether the learning rate transfers can't be told yet.",
}
NONE_KEPT = pd.DataFrame(columns=COLUMNS["regret"])
"""What the page says of the cost of a rate that is kept it says below the figure, by the rate that is recommended."""

SAID = {
    "kept": "At {widths} keeping the rate surely costs less than the margin. As far as the best rate's slope tells, it can be "
    "kept up to width {trusted}.",
    "kept_here": "At {widths} keeping the rate surely costs less than the margin. With these seeds nothing is sure beyond: "
    "take more, or a wider check.",
    "costs": "At width {width} keeping the rate costs {cost}, surely more than {margin}: the best one there is {distance}.",
    "lost": "At width {width} every seed diverged at the rate of base width.",
    "unsure": "At width {width} keeping the rate costs {cost}, between {low} and {high}, and the margin is {margin}. {advice}",
    "few": "At width {width} keeping the rate costs {cost}. Nothing is judged by {seeds} seed(s): take {enough} or more.",
    "some": "At width {width} {diverged} of {seeds} seeds diverged at this rate. Half of it is safer; more seeds can tell.",
    "beyond": "At {widths} keeping the rate surely costs less than the margin. By the slope of the best rate that is sure up "
    "to width {trusted}, and {target} is asked for: check a wider network, or take more seeds.",
    "unchecked": "No wider network was trained.",
    "check_unsure": "The coordinate check is unsure with {seeds} seeds: nothing surely grows or shrinks with width, and not "
    "all is surely level.",
    "check_failed": "The coordinate check fails, first in {failure}. So nothing was trained: the model isn't in µP. "
    "Mend it, or go on without the check (--unchecked) to see what it costs.",
    "warned": "The model may not be in µP, so that no trial at these widths can vouch for wider ones: {failure}",
    "argmin_only": "At base width the loss has no valley against the rate: train for more steps, or take more seeds.",
    "edge_low": "At base width the loss still falls at the smallest rate that a search tries: look at model and loss.",
    "edge_high": "At base width the loss still falls at the largest rate that a search tries: look at model and loss.",
    "all_diverged": "At base width every rate diverged: look at model and loss.",
    "stopped": "It was stopped {stopped}, after {trials} trials. The same command goes on from there.",
}
ADVICE = "About {needed} seeds would settle it."
AS_LARGE = "The cost is about as large as the margin, so that more seeds would hardly tell."
HOW = (
    "It keeps its worth where the interval of its cost lies below the margin, and costs where it lies above. The cost "
    "follows from how far the best rate has moved and from the valley's curvature; where a rate two doublings away or "
    "more is better, it is the difference of their losses, the better one chosen on other seeds than the one that is "
    "judged. Intervals: delete-one-seed jackknife."
)


def write(result: Result, folder: Path) -> None:
    """Write tune.html, tune.json and runs.parquet into a folder."""
    files.write_json(folder / "tune.json", result.as_dict())
    with files.atomic(folder / "runs.parquet") as path:
        result.rows.to_parquet(path, index=False)
    with tempfile.TemporaryDirectory() as name:
        drawn = draw(result, Path(name))
        files.write_text(folder / "tune.html", to_html(page(result, drawn), Path(name)))


def draw(result: Result, folder: Path) -> set[str]:
    """Draw what there is to show; the stems of the figures."""
    drawn = set()
    shown = kept_rows(result)
    if len(shown):
        losses: Any = shown.assign(mean_loss=shown["val_loss"].where(shown["status"].eq("ok")))
        loss = losses.groupby(["method", "width", "log2_lr"], as_index=False)["mean_loss"].mean()
        tables = {"rows": shown, "loss": loss, "optima": optima(result), "regret": NONE_KEPT}
        figures.save(*figures.draw("loss_vs_lr", tables, result.name, "Loss against learning rate"), folder / "loss")
        drawn.add("loss")
    for each in result.tuned:
        if (check := each.check) is not None:
            title, stem = f"Coordinate check of {result.name}", f"check-{each.method}"
            picture = figures.draw_coordcheck(check.table, check.verdicts, title=title, name=each.method)
            figures.save(picture, pd.DataFrame(), folder / stem)
            drawn.add(stem)
    return drawn


def page(result: Result, drawn: set[str]) -> dict[str, Any]:
    """What stands where (see `report.pages`)."""
    settings = result.settings
    names = {each.method: each.method for each in result.tuned} | figures.display_names(result.rows)
    lead: list[Block] = [answer(result), *(text(sentence) for sentence in sentences(result))]
    if result.tuned and known(result.lr):
        lead.append(snippet(result))
    if "loss" in drawn:
        caption = "Final validation loss against log2 of the rate that base width has; a line a width, a point a seed."
        lead.append(figure("loss", caption))
    tested = [each for each in result.tuned if each.judgement.checks]
    if tested:
        lead.append(widths_table(tested, names))
    if len(result.tuned) > 1:
        lead.append(methods_table(result.tuned, names))
    checks = [
        (
            f"{names[each.method]}: {each.check.word}",
            [figure(f"check-{each.method}", CHECK_CAPTION), slopes(each.check)],
        )
        for each in result.tuned
        if each.check is not None
    ]
    sections = [
        section("asked", "What was asked for", [("", [asked(settings)])]),
        section("check", "Coordinate check", checks),
        section("trials", "All trials", [("Table", [trials(result.rows)])] if len(result.rows) else []),
    ]
    return {
        "title": f"Learning rate of {result.name}",
        "subtitle": f"Tuned at width {settings.base_width}, checked at {', '.join(map(str, settings.check_widths))}",
        "lead": lead,
        "sections": [each for each in sections if each["groups"]],
    }


CHECK_CAPTION = "Slope of log2 of activations, and of their change, on log2 width, by module: level under µP."


def answer(result: Result) -> Block:
    """The verdict in a sentence, with the rate."""
    said = ANSWERS[result.verdict]
    if known(result.lr):
        judgement = result.tuned[0].judgement
        ends = [
            f"{2.0 ** float(end):.2g}" for end in (judgement.interval.low, judgement.interval.high) if known(float(end))
        ]
        said += f" Best at width {result.settings.base_width}: {result.lr:.3g}"
        said += f" (between {ends[0]} and {ends[1]})." if len(set(ends)) > 1 else "."
    return {"kind": "verdict", "text": said, "tone": TONES[result.verdict]}


def sentences(result: Result) -> list[str]:
    """Why the verdict is what it is, and for what can't be told what would settle it."""
    stopped = [SAID["stopped"].format(stopped=result.stopped, trials=len(result.rows))] if result.stopped else []
    if not result.tuned:
        return stopped
    judgement = result.tuned[0].judgement
    widths = [check.width for check in judgement.checks]
    numbers = {
        "widths": f"width{'s' if len(widths) > 1 else ''} {', '.join(map(str, widths))}",
        "trusted": f"{judgement.trusted_width:.0f}",
        "target": result.settings.target_width,
        "seeds": len(judgement.seeds),
        "enough": MIN_SEEDS,
    }
    said = (
        SAID[_said(reason, judgement)].format(failure=reason.failure, **numbers, **_numbers(reason.check))
        for reason in judgement.reasons
    )
    check = result.tuned[0].check
    unsure = [SAID["check_unsure"].format(seeds=check.seeds)] if check and check.word == "unsure" else []
    return [*said, *unsure, *stopped]


def _said(reason: Reason, judgement: Judgement) -> str:
    """Which of `SAID` says it."""
    if reason.kind == "kept" and judgement.trusted_width <= judgement.checks[-1].width:
        return "kept_here"
    if reason.kind == "unsure" and len(judgement.seeds) < MIN_SEEDS:
        return "few"
    if reason.check is None or not reason.check.diverged:
        return reason.kind
    return "lost" if reason.check.diverged == len(judgement.seeds) else "some"


def _numbers(check: At | None) -> dict[str, Any]:
    if check is None:
        return {}
    (low, high), moved = check.cost.ends(), float(check.moved.estimate)
    way = "lower" if moved < 0 else "higher"
    needed = seeds_needed(check)
    return {
        "width": check.width,
        "cost": f"{check.cost.estimate:.3g}",
        "low": f"{low:.3g}",
        "high": f"{high:.3g}",
        "margin": f"{check.margin:.2g}",
        "distance": f"{'' if check.flag == 'ok' else 'at least '}{abs(moved):.1f} doublings {way}",
        "advice": ADVICE.format(needed=needed) if needed else AS_LARGE,
        "diverged": check.diverged,
    }


def snippet(result: Result) -> Block:
    """Python that makes the wide model and its optimizer with the numbers found."""
    tuned, settings = result.tuned[0], result.settings
    method = TUNABLE[tuned.method]
    free = method.schedule_free
    warmup = max(1, round(settings.warmup_fraction * settings.steps))
    constructor = "MuAdamW_ScheduleFree" if free else "MuAdamW"
    arguments = [
        f"lr={result.lr:.4g}",
        f"betas=({settings.beta1:g}, {tuned.beta2:g})",
        "eps=1e-12",
        *([f"weight_decay={settings.weight_decay:g}"] if settings.weight_decay else []),
        *([f"warmup_steps={warmup}"] if free else []),
    ]
    kind = "" if method.parametrization == "mup" else ', "sp"'
    lines = [
        "from mufree import parametrize",
        f"from mufree.optim import {constructor}{', evaluating' if free else ''}",
        "",
        f"model = parametrize(make_model, width, {settings.base_width}{kind})  # any width",
        f"optimizer = {constructor}(",
        f"    model.parameters(), {', '.join(arguments)}",
        ")",
    ]
    if free:
        lines += [
            "optimizer.train()",
            "…  # train",
            "with evaluating(optimizer, model):  # validate, and save, at the average",
            "    …  # with BatchNorm: evaluating(optimizer, model, batches)",
        ]
    else:
        average = ", evaluated at an average (EMA)" if method.average == "ema" else ""
        lines.append(f"# {method.schedule} schedule after {warmup} steps of linear warm-up{average}")
    caption = "make_model is your own, of a width alone. The warm-up is the tuning's; give a longer run a longer one."
    return {"kind": "code", "text": "\n".join(lines), "caption": caption}


def widths_table(tuned: Sequence[Tuned], names: dict[str, str]) -> Block:
    """What keeping the rate costs, by method and width."""
    rows = []
    for each in tuned:
        judgement = each.judgement
        for check in judgement.checks:
            sure = at_level(check.moved, SURE)
            ends = (float(sure.low), float(sure.high))
            moved = number(float(check.moved.estimate), 2, sign=True)
            rows.append(
                [
                    names[each.method],
                    str(check.width),
                    joined(moved, interval(*ends, 2, sign=True)) if check.flag == "ok" else f"{moved} or more",
                    joined(number(check.cost.estimate, 4), interval(*check.cost.ends(), 4)),
                    f"{check.margin:.3g}",
                    check.word + (f", {check.diverged} diverged" if check.diverged else ""),
                ]
            )
    heads = ["Method", "Width", "Best rate moved (doublings)", "Cost of keeping the rate", "Margin", "The rate"]
    return table("What the rate of base width is worth at wider ones, with 90 % intervals. " + HOW, heads, rows)


def methods_table(tuned: Sequence[Tuned], names: dict[str, str]) -> Block:
    """All methods side by side."""
    rows = []
    for each in tuned:
        judgement = each.judgement
        rows.append(
            [
                names[each.method],
                judgement.verdict,
                f"{2.0**judgement.log2_lr:.3g}" if known(judgement.log2_lr) else MISSING,
                f"{each.beta2:g}",
                number(judgement.optimum.loss, 4),
                joined(
                    number(float(judgement.slope.estimate), 2, sign=True),
                    interval(judgement.slope.low, judgement.slope.high, 2, sign=True),
                ),
            ]
        )
    heads = ["Method", "Verdict", "Rate", "β₂", "Loss at base width", "Doublings of the rate for one of width"]
    return table("Methods", heads, rows)


def asked(settings: Settings) -> Block:
    """The settings as a table."""
    shown = {name: value for name, value in vars(settings).items() if value is not None}
    rows = [
        [name.replace("_", " "), ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)]
        for name, value in shown.items()
    ]
    return table("Settings", ["Setting", "Value"], rows)


def slopes(check: Outcome) -> Block:
    """Each module's steepest slope at a step that is judged."""
    judged = check.table[check.table["judged"] & (check.table["step"] >= check.first_step)]
    steepest = judged.loc[judged["slope"].abs().fillna(float("inf")).groupby([judged["module"], judged["at"]]).idxmax()]
    order = {name: place for place, name in enumerate(check.modules)}
    steepest = steepest.sort_values("module", key=lambda names: names.map(order), kind="stable")
    columns = ["module", "layer", "at", "step", "quantity", "slope", "slope_low", "slope_high"]
    return show("The steepest slope of each module", steepest[columns], {})


def trials(rows: pd.DataFrame) -> Block:
    """All trials."""
    columns = ["method", "beta2", "width", "log2_lr", "seed", "val_loss", "train_loss", "status", "divergence"]
    return show("One row a trial", rows.sort_values(columns[:5])[columns], {})


def kept_rows(result: Result) -> pd.DataFrame:
    """The trials of each method with the β₂ that was kept."""
    if not len(result.rows):
        return result.rows
    kept = [
        result.rows[result.rows["method"].eq(each.method) & result.rows["beta2"].eq(each.beta2)]
        for each in result.tuned
    ]
    return pd.concat(kept) if kept else result.rows


def optima(result: Result) -> pd.DataFrame:
    """The best rate of each method and width, with its interval, as `figures` has it."""
    rows = []
    for each in result.tuned:
        judgement = each.judgement
        at: list[tuple[int, float, Interval, str]] = [
            (result.settings.base_width, 0.0, judgement.interval, judgement.optimum.flag)
        ]
        at += [(check.width, judgement.log2_lr, check.moved, check.flag) for check in judgement.checks]
        for width, added, found, flag in at:
            ends = (float(end) + added for end in (found.estimate, found.low, found.high))
            rows.append((each.method, width, *ends, flag))
    columns = ["method", "width", "log2_lr_opt", "log2_lr_opt_low", "log2_lr_opt_high", "flag"]
    return pd.DataFrame(rows, columns=columns)
