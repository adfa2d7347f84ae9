"""Training: one run (`run`), many at once (`stack`), a sweep of them (`sweep`), interrupted and resumed (`checkpoints`)."""
