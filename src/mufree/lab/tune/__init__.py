"""Training trials of a model of one's own: `mufree.tuning` says which, and judges what they show."""

from mufree.lab.tune.functions import Functions
from mufree.lab.tune.training import Here, Trained
from mufree.lab.tune.workers import Workers

__all__ = ["Functions", "Here", "Trained", "Trainer", "Workers"]

Trainer = Here | Workers
"""Where trials are trained."""
