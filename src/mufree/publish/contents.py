"""What the pages of a study hold: its questions, and by question its figures and tables, each with its caption.

Written here once, for the Snakefile, the report and the supplement. Nothing heavy is imported.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

OVERVIEW = "best_rates"
"""The figure that shows all tasks side by side; the others show one task."""

FIGURES = {
    OVERVIEW: (
        "How far each method's best learning rate moves from its own at the narrowest width, in doublings, a "
        "panel a task. Bars: 95 % intervals. SP falls where the rate does not transfer; a level line is "
        "perfect transfer. Below: the drift, the slope of these lines, and with three tasks or more its mean over tasks."
    ),
    "loss_vs_lr": (
        "Final validation loss against learning rate, a line a width. Small points are seeds, lines the means "
        "of those that did not diverge. Above the upper line: a cross where all seeds diverged, a pale one "
        "where some did. Below the lower line: each width's best rate with its 95 % interval; an open "
        "triangle is at an edge of the grid. Dashed: base width's best rate, and what keeping it costs at the largest width. "
        "The frame ends near the loss at initialisation."
    ),
    "optimum_vs_width": (
        "Best learning rate against width, with 95 % intervals; the drift, its slope, stands in the legend. "
        "Thin lines have slopes 0 and −1. Open markers: no fit, or an optimum at an edge of the grid "
        "(triangles, left out of line and drift). Carets: an interval goes on beyond the frame."
    ),
    "regret_vs_width": (
        "Cross-fitted regret of using the base width's best rate at each width, with 95 % intervals. Grey: below "
        "0.01 nats or twice the standard deviation over seeds. Open markers: one seed, regret on the same seed. "
        "Carets: an interval goes on beyond the frame."
    ),
    "lr_sensitivity": (
        "Left: LR sensitivity, the mean excess loss over a window of rates around the own optimum, with 95 % "
        "intervals. Right: share of runs that diverged by doublings from the best rate, over all widths; open: "
        "not all widths have such a rate."
    ),
    "interaction": (
        "For each statistic the four methods, and below, on a scale of its own, both main effects and the "
        "interaction. The bars are 95 % intervals; an interaction below 0 says that µP lowers the statistic "
        "more under ScheduleFree."
    ),
    "anytime": (
        "Validation loss over the steps of the one schedule-free run, tuned at the full horizon, and where "
        "runs with a schedule end that were trained and tuned for a quarter, a half and all of it. Thin lines and "
        "small points are seeds. Below: the gap between them with its 95 % interval; above 0 the scheduled run is better."
    ),
    "averages": (
        "Validation loss over the steps with the controls for averaging, each method at its best rate of the "
        "grid, at the largest width at which a control was run. Thin lines are seeds, thick ones their means. "
        "Solid at x, what is evaluated; dashed at y, where gradients are taken."
    ),
    "best_of_k": (
        "Expected best validation loss of k rates drawn from the grid, at the largest width, and how far it "
        "is above the best of all."
    ),
    "weight_decay": (
        "Maps of weight decay and learning rate: mean validation loss above the map's best, on one logarithmic "
        "scale. A star: the best cell, open at an edge of its map. A cross: all seeds diverged; k/n: so many did. "
        "What was not run is blank."
    ),
    "coordcheck": (
        "Coordinate check: slope against width (both log2) of the mean size |h| and the mean change |h − h₀| "
        "of each module's activations over the first steps. Solid at x, dashed at y. Embedding, hidden and "
        "readout modules have to stay in the grey band from step 2 on; SP should leave it. Undecided: slopes "
        "fail, and none of their 95 % intervals is wholly outside."
    ),
    "dynamics": (
        "Gradient and update size (RMS, median over the steps after warm-up) against width by layer type, all "
        "widths at the method's best rate at base width. Points are seeds. Above each panel: slopes of log2 "
        "on log2, in the legend's order. Gradients may well scale with width."
    ),
    "validation_curves": (
        "Validation loss over the steps at each method's best rate of the grid, narrowest and widest network. "
        "Thin lines are seeds, thick ones their means. For schedule-free methods: solid at x, the averaged "
        "weights that are evaluated; dashed at y, where gradients are taken."
    ),
}
"""What each figure shows, without its data."""

OF_A_TASK = [name for name in FIGURES if name != OVERVIEW]
"""The figures that show one task."""


def stems(tasks: Iterable[str]) -> list[str]:
    """The names of all figures of a study with these tasks, as those of their files begin."""
    return [OVERVIEW, *(f"{task}.{name}" for task in tasks for name in OF_A_TASK)]


TABLES = {
    "transfer": (
        "Drift: slope of the best log2 rate on log2 width, with 95 % and 90 % intervals. 0 is perfect "
        "transfer; Adam under SP is expected near −1. Equivalent: the 90 % interval is inside ±0.25. Optima "
        "at an edge of the grid are left out; fewer than three widths make it not estimable."
    ),
    "regret": (
        "Regret (nats) of using the base width's best rate at each width, cross-fitted and on the same seeds. "
        "Good: the upper end of the 95 % interval is below 0.01 nats or twice the standard deviation over "
        "seeds."
    ),
    "optima": (
        "Best log2 rate of each method and width: vertex of a parabola near the best rate of the grid; loss "
        "there; runs that diverged. Flags: argmin_only, no parabola fits; edge_low and edge_high, the optimum "
        "is at an end of the grid; all_diverged. Test results are at the rate that validation chose."
    ),
    "transfer_error": (
        "What tuning at one width costs at another (nats), over all ordered pairs of widths, cross-fitted."
    ),
    "wider_is_better": (
        "Share of points after warm-up at which the wider of two neighbouring widths has the higher training "
        "loss by two standard errors (good: 0), and Kendall's τ of width and final training loss (good: −1)."
    ),
    "pooled": (
        "The mean over tasks of each estimate that three tasks or more have, each weighed by its variance and τ², that of the "
        "truth over tasks (random effects; Student's t of tasks − 1 degrees of freedom). i2: share of the estimates' variance "
        "that is not their own noise; p_same: how likely they are to differ so if their truth is one. At each task's largest "
        "width, where there are several. left_out: tasks whose estimate has no error."
    ),
    "fast_transfer": (
        "What the rate tuned at one width (source) costs at a wider one, cross-fitted (lost, nats); how much lower the "
        "best loss is there (gain, nats); and ρ, the first as a share of the second: from base width to each width, and "
        "from each width to the widest. A share of no gain has no meaning and is left empty."
    ),
    "scaling": (
        "How transfer changes with width. Of ρ at the widest width: its trend with the width that was tuned, and the "
        "exponent, below 0 where transfer is fast (Ghosh et al. 2025). In our reading of Kalra & Barkeshli 2026: the "
        "error E of the line of best rates, the exponents of curvature and best loss and their sum κ, and R(∞), the "
        "limit of the best loss less that of µP. Limits reach far beyond the widths: see whether they have intervals."
    ),
    "rate_ratio": ("log2 of the schedule-free best rate over the scheduled one, by width."),
    "stability": (
        "Runs that diverged, by kind, and those that learnt nothing; share diverged in a window of rates of "
        "equal width around each method's own optimum, with Wilson's 95 % interval; largest rate without "
        "divergence; LR sensitivity (nats); basin: doublings of the rate within 0.02 nats of the best."
    ),
    "spikes": ("Share of upward spikes in training loss and gradient norm at the best rate, twice and four times it."),
    "smoothness": (
        "Excess variation of the validation curve at each cell's best rate, at x and at y: the sum of all "
        "rises over the whole fall. 0 is a curve that only falls."
    ),
    "interaction": ("The four cells, both main effects and the difference in differences of each statistic."),
    "anytime": (
        "One schedule-free run read at T/4, T/2 and T against rivals that were trained for that horizon and "
        "tuned at it: gap in nats, above 0 the rival is better."
    ),
    "horizon": (
        "How the best rate moves with the training horizon (doublings per doubling), and what the rate of the "
        "shortest horizon costs at the longest (nats)."
    ),
    "premium": (
        "What a falling schedule is worth against a constant rate (nats), each at its own best rate, cross- fitted."
    ),
    "cost": (
        "Excess of the best of three rates (nats), rates until within ε of the best, and the share of the "
        "search's compute that tuning at base width saves, beside its regret."
    ),
    "weight_decay_optimum": ("The best weight decay of each map, and how many leave-one-seed-out replicates agree."),
    "control": (
        "Negative control: at base width SP and µP are the same network, so each pair of runs must give the "
        "same validation and training loss, bit for bit."
    ),
    "coordcheck_verdict": (
        "Coordinate check by method, at y and at x: how many slopes of embedding, hidden and readout modules, "
        "from step 2 on, are outside ±0.1, how many of these surely (the whole 95 % interval lies outside, or "
        "there is no slope), and the worst one. µP has to pass, SP should fail; failing with no slope surely "
        "outside is undecided."
    ),
    "dynamics": (
        "Slope of log2 of the median RMS of gradients, updates and weights (after warm-up) on log2 width, by "
        "layer type, all widths at the method's best rate at base width. Gradients may well scale with width."
    ),
    "epsilon": (
        "Adam's ε against the median root of the second moment, by layer type. Flagged: ε is no longer small beside it."
    ),
    "arms": (
        "The best rate and loss of every cell, also of those beyond the primary ones: other horizons, momenta "
        "and decays."
    ),
    "loss": (
        "Final validation loss (nats) by method, width and log2 rate: mean and standard error over the seeds "
        "that did not diverge, and how many did."
    ),
    "best_of_k": ("Expected best validation loss of k of the rates that were run."),
    "weight_decay": ("Mean validation loss over weight decay and learning rate."),
    "dynamics_points": (
        "Median RMS of gradients, updates and weights over the steps after warm-up, for each run at the "
        "method's best rate at base width. A run that diverged has none."
    ),
    "coordcheck": (
        "Slope on width, both as log2, of the mean size of each module's activations, of their change since "
        "initialisation, and of the relative change by a weight's update (not judged), over the first steps, "
        "at y and at x."
    ),
    "estimates": ("Every estimate that has an interval, in long form: what the verdicts are decided by."),
}
"""What each table of a study says."""


class Question(NamedTuple):
    """A question that the pages answer for each task: the figures and tables that do so, by name."""

    title: str
    figures: tuple[str, ...]
    tables: tuple[str, ...]


QUESTIONS = (
    Question(
        "Does the best rate transfer?",
        ("loss_vs_lr", "optimum_vs_width", "regret_vs_width"),
        (
            "transfer",
            "regret",
            "optima",
            "transfer_error",
            "fast_transfer",
            "scaling",
            "wider_is_better",
            "rate_ratio",
        ),
    ),
    Question("Is training more stable?", ("lr_sensitivity",), ("stability", "spikes", "smoothness")),
    Question("Do the two factors help each other?", ("interaction",), ("interaction",)),
    Question("Does it depend on the schedule?", ("anytime", "averages"), ("anytime", "horizon", "premium")),
    Question("What does a search cost?", ("best_of_k",), ("cost",)),
    Question("Which weight decay?", ("weight_decay",), ("weight_decay_optimum",)),
    Question(
        "Is the implementation right, and what happens inside?",
        ("coordcheck", "validation_curves", "dynamics"),
        ("control", "coordcheck_verdict", "dynamics", "epsilon", "arms"),
    ),
)
"""In their order on the page. Tables that no question names are for programs: the CSV files alone."""

IN_PRINT = ("loss_vs_lr", "optimum_vs_width", "regret_vs_width", "lr_sensitivity", "interaction", "anytime")
"""The figures of a task that the printed report shows; the page and the supplement have all."""

TABLES_IN_PRINT = ("control", "coordcheck_verdict")
"""And its tables."""

REQUIRED = ("loss_vs_lr", "optimum_vs_width", "regret_vs_width", "coordcheck", "dynamics", "validation_curves")
"""Figures of a task that every study has. The others are left out where they have nothing to show."""
