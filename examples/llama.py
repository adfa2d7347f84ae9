"""A small Llama of transformers, as it is, that learns to continue text byte by byte: for `mufree tune`.

The text is the file that TEXT names, or else the sources of Python's own library; its last tenth validates.

    mufree tune examples/llama.py --base-width 64 --check-widths 128,256 --steps 200
"""

import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

VOCABULARY, CONTEXT, BATCH = 256, 64, 8
LAYERS, HEAD_DIM = 2, 32  # heads grow in number with width, and not in size
VALID_SHARE, VALID_WINDOWS = 0.1, 64


def make_model(width: int) -> nn.Module:
    """Bytes [B, T] → an output with logits [B, T, 256]; `width` is a multiple of 32."""
    heads = {"num_attention_heads": width // HEAD_DIM, "num_key_value_heads": width // HEAD_DIM, "head_dim": HEAD_DIM}
    sizes = {"hidden_size": width, "intermediate_size": 2 * width, "num_hidden_layers": LAYERS}
    config = LlamaConfig(**sizes, **heads, vocab_size=VOCABULARY, max_position_embeddings=CONTEXT, use_cache=False)
    return LlamaForCausalLM(config)


@cache
def text() -> tuple[Tensor, Tensor]:
    """The bytes to train on, and those after them to validate on."""
    named = os.environ.get("TEXT")
    files = [Path(named)] if named else sorted(Path(os.__file__).parent.glob("*.py"))
    found = torch.frombuffer(bytearray(b"".join(file.read_bytes() for file in files)), dtype=torch.uint8)
    end = round((1 - VALID_SHARE) * len(found))
    if len(found) - end <= CONTEXT:
        raise ValueError(
            f"the text has {len(found)} bytes, of which {len(found) - end} validate: too few for {CONTEXT + 1}"
        )
    return found[:end], found[end:]


def windows(source: Tensor, starts: Tensor) -> tuple[Tensor, Tensor]:
    """Inputs and targets [B, T] of the windows that begin at `starts`; targets are one byte ahead."""
    found = source[starts[:, None] + torch.arange(CONTEXT + 1)].long()
    return found[:, :-1], found[:, 1:]


def train_batches(seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Windows at random, without end; the order follows from the seed."""
    generator = torch.Generator().manual_seed(seed)
    source, _ = text()
    while True:
        yield windows(source, torch.randint(len(source) - CONTEXT, (BATCH,), generator=generator))


def valid_batches() -> list[tuple[Tensor, Tensor]]:
    """Windows spread evenly over the text that training doesn't see."""
    _, source = text()
    starts = torch.arange(VALID_WINDOWS) * (len(source) - CONTEXT - 1) // (VALID_WINDOWS - 1)
    return [windows(source, part) for part in starts.split(BATCH)]
