"""Where people train: callbacks for Lightning and for transformers' Trainer. accelerate needs none.

    from mufree.integrations.lightning import ScheduleFreeCallback
    from mufree.integrations.transformers import ScheduleFreeCallback

Each module needs its package alone (`pip install ".[integrations]"` has them all).
"""
