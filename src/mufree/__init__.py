"""Schedule-free optimizers under the Maximal Update Parametrization (µP).

The optimizer library is `mufree.optim`; it needs torch, mup and schedulefree alone. The other wings are the study: `study` says
what is run and keeps it, `lab` runs it, `analysis` turns runs into numbers, `publish` turns numbers into pages.
"""
