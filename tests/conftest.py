"""What all tests share."""

from __future__ import annotations

import torch

# As in every run; with more threads than cores, small networks crawl.
torch.set_num_threads(1)
