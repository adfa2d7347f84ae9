"""What each figure shows, without its data. Figures are by name as in `mufree.publish.figures.FIGURES`."""

from __future__ import annotations

FIGURE_CAPTIONS = {
    "loss_vs_lr": "Final validation loss against learning rate, a line a width. Small points are seeds, lines the means of "
    "those that did not diverge. Above the upper line: a cross where all seeds diverged, else how many did. Below the lower "
    "line: each width's best rate with its interval; an open triangle is at an edge of the grid. The frame ends near the loss "
    "at initialisation.",
    "optimum_vs_width": "Best learning rate against width. The drift, its slope, stands at the line's end. Thin grey lines "
    "have slopes 0 and −1. Open markers: no fit, or an optimum at an edge of the grid (triangles, left out of line and drift). "
    "Carets: an interval goes on beyond the frame.",
    "regret_vs_width": "Cross-fitted regret of using the base width's best rate at each width. Grey: below 0.01 nats or twice "
    "the standard deviation over seeds. Open markers: one seed, regret on the same seed. Carets: an interval goes on beyond "
    "the frame.",
    "coordcheck": "Coordinate check: slope against width (both log2) of the mean size |h| and the mean change |h − h₀| of each "
    "module's activations over the first steps. Solid at x, dashed at y. Embedding, hidden and readout modules have to "
    "stay in the grey band from step 2 on; SP should leave it. Undecided: slopes fail, and none of their 95 % intervals is "
    "wholly outside.",
    "dynamics": "Gradient and update size (RMS, median over the steps after warm-up) against width by layer type, all widths "
    "at the method's best rate at base width. Points are seeds. Above each panel: slopes of log2 on log2, in the legend's "
    "order. Gradients may well scale with width.",
    "validation_curves": "Validation loss over the steps at each method's best rate of the grid, narrowest and widest network. "
    "Thin lines are seeds, thick ones their means. For schedule-free methods: solid at x, the averaged weights that are "
    "evaluated; dashed at y, where gradients are taken.",
    "lr_sensitivity": "Left: LR sensitivity, the mean excess loss over a window of rates around the own optimum, against "
    "width. Right: share of runs that diverged by the distance of their rate from the best one, over all widths.",
    "best_of_k": "Expected best validation loss of k rates drawn from the grid, at the largest width, and how far it is above "
    "the best of all.",
    "interaction": "For each statistic the four methods, and below, on a scale of its own, both main effects and the "
    "interaction. The bars are 95 % intervals; an interaction below 0 says that µP lowers the statistic more under "
    "ScheduleFree.",
    "anytime": "Validation loss over the steps of the one schedule-free run, tuned at the full horizon, and where runs with a "
    "schedule end that were trained and tuned for a quarter, a half and all of it. Below: the gap between them; above 0 the "
    "scheduled run is better.",
    "averages": "Validation loss over the steps with the controls for averaging, each method at its best rate of the grid, at "
    "the largest width at which a control was run. Thin lines are seeds, thick ones their means. Solid at x, what is "
    "evaluated; dashed at y, where gradients are taken.",
    "weight_decay": "Maps of weight decay and learning rate: mean validation loss above the map's best. The best cell of each "
    "map is marked; what was not run is blank.",
}

REQUIRED = ("loss_vs_lr", "optimum_vs_width", "regret_vs_width", "coordcheck", "dynamics", "validation_curves")
"""The figures that every study has. The others are left out where they have nothing to show."""
