"""Arrays and frames in, frames and verdicts out. Loads no torch."""
