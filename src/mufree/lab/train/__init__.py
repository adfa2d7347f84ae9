"""Training: one run (`run`), many at once (`stack`), a sweep of them (`sweeping`), interrupted and resumed (`checkpoints`)."""
