"""What is measured on finished runs: pure functions of arrays, and none of them reads a file or imports torch.

`surface` holds the losses of one method on one task and finds optima; `transfer`, `stability`, `dynamics`, `schedule`, `cost`
and `interaction` are the metrics; `statistics` gives their intervals, and `calibration` shows on
made-up surfaces what these intervals cover. `mufree.analysis.tables` puts them together.
"""
