"""Small valid studies, as plain dictionaries that tests change."""

from __future__ import annotations

from typing import Any


def study(**changes: Any) -> dict[str, Any]:
    """A small valid study, with some keys replaced."""
    task = {
        "description": "MLP on photo patches",
        "dataset": {"name": "photo_patches"},
        "model": {"name": "mlp"},
        "base_width": 16,
        "training": {"steps": 40, "batch_size": 8},
    }
    grid = {"tasks": ["photo"], "methods": ["mup_adamw"], "widths": [16, 32], "log2_lrs": [-9, -8], "seeds": [0]}
    return {"name": "tiny", "title": "Tiny", "tasks": {"photo": task}, "grids": [grid]} | changes


def with_task(**changes: Any) -> dict[str, Any]:
    plain = study()
    plain["tasks"]["photo"] |= changes
    return plain


def with_grid(**changes: Any) -> dict[str, Any]:
    plain = study()
    plain["grids"][0] |= changes
    return plain
