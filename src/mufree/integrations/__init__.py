"""Where people train: callbacks for Lightning and for transformers' Trainer. accelerate needs none.

`mufree.integrations.lightning.ScheduleFreeCallback` and `mufree.integrations.transformers.ScheduleFreeCallback`; each needs its
package alone (`pip install ".[integrations]"` has them all).
"""
