"""µP for any module built from a width: `parametrize`, and `describe` to see what it understood."""

from mufree.optim import describe, export, parametrize

__all__ = ["describe", "export", "parametrize"]
