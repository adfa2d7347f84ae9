"""Schedule-free optimizers under the Maximal Update Parametrization (µP).

The optimizer library is `mufree.optim` and needs torch, mup and schedulefree alone. The other modules are the study:
`config` and `plan` say what is run, `data`, `models`, `parametrization`, `optim` and `train` run it, `record` keeps it, and
`metrics`, `tables`, `figures` and `report` turn it into an answer.
"""
