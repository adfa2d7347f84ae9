"""Margins and limits: what counts as none, as small, as enough. Each with its unit, and where it comes from.

`docs/metrics.md` tells how they are used. A hypothesis has its own margins, in `experiments/hypotheses.yaml`. When a run is
called diverged is decided while it trains, by `lab.train.run`.
"""

from __future__ import annotations

# --- how much is none ------------------------------------------------------------------------------------------------

EQUIVALENCE_MARGIN = 0.25
"""Doublings of the rate per doubling of width. A drift whose 90 % interval lies inside ± this is none. Our choice, a quarter of
the drift of Adam under SP."""

NEGLIGIBLE_LOSS = 0.01
"""Nats. A regret or a gap below this is small; a regret also if it is below `SIGMAS` standard deviations. Our choice."""

SIGMAS = 2
"""Standard deviations over seeds below which a regret is no more than noise. Our choice."""

MAX_SLOPE = 0.1
"""Of log2 activation on log2 width, in the coordinate check: a slope of a smaller size counts as none. Our choice."""

LEARNT_NOTHING = 0.01
"""Nats below the loss at initialisation that a run has to reach, or it learnt nothing. Our choice."""

EPSILON_FLAG = 0.1
"""Of Adam's ε to the median √v of a layer: above this ε shortens steps noticeably. Our choice."""

# --- how metrics are defined -----------------------------------------------------------------------------------------

FIT_WINDOW = 2
"""Doublings on either side of the grid's best rate in which the loss is close to a quadratic (Lourie et al. 2025)."""

MIN_POINTS = 3
"""Points that a slope or a fit needs: two always lie on a line."""

LAW_POINTS = 4
"""Widths that a power law with a limit needs: its three parameters go through any three losses."""

LAW_EXPONENTS = (1 / 16, 4.0)
"""Exponents between which a power law of the loss in width is sought. Below, few widths can't tell it from a fall without a
limit; above, all but the narrowest are at the limit. Our choice."""

BASIN_TOLERANCE = 0.02
"""Nats above the best loss at which a basin ends, and ε of k_ε. Our choice."""

BEST_OF = 3
"""k of the best-of-k that hypotheses are about: a search that most people can pay for. Our choice."""

SPIKE_DEVIATIONS = 7.0
"""Standard deviations above the rolling mean that make a spike (OLMo 2)."""

SPIKE_FACTORS = (1, 2, 4)
"""Multiples of the best rate at which spikes are counted. Our choice."""

SPIKE_WINDOW = (50, 1000)
"""Least and most points of the rolling window, which else is a tenth of the run. OLMo 2 has 1000; runs here are short."""

FIRST_STEP = 2
"""First step that a coordinate check judges: with a zero readout no gradient reaches the other layers at the first."""

# --- how many seeds, and how sure ------------------------------------------------------------------------------------

MIN_SEEDS = 3
"""With fewer nothing is judged: an interval over two seeds is one degree of freedom."""

MIN_TASKS = 3
"""With fewer nothing is pooled: the spread between two tasks is one degree of freedom."""

PRIMARY_SEEDS = 5
"""With fewer a verdict is exploratory, and says so."""

POWER = 0.8
"""Probability with which an effect that is called detectable is found."""

POWER_WANTED = 0.9
"""Probability with which a planned study is to decide what it is made for. Our choice."""

MOST_SEEDS = 1000
"""More seeds than anybody trains; a hypothesis that needs them is beyond reach."""

DRIFT_TO_DETECT = -0.5
"""Doublings per doubling, of which a power table tells how often it would be found: half of SP's drift under Adam."""

COVERAGE_BOUNDS = (0.92, 0.985)
"""Coverage of nominal 95 % intervals, in simulations, that is as wanted. Our choice."""

BIAS_BOUND = 0.1
"""Grid steps of bias, in simulations, that are as wanted. Our choice."""
