"""From texts to token streams: a byte-level BPE, trained on the training split alone, that both text sets share."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mufree.lab.data.prepared import Built, DataError, Split

if TYPE_CHECKING:
    from tokenizers import Tokenizer

LINES = 10_000
"""Lines that are encoded at a time: a line's encoding takes a hundred times the memory of its tokens."""


def build_text(texts: Mapping[str, str], vocab_size: int, about: Mapping[str, Any]) -> Built:
    """Train the tokenizer on `texts["train"]`, encode every split with it, and say how many bytes a token has in each.

    `bytes_per_token` in the manifest turns nats a token into bits a byte: nats / ln 2 / bytes_per_token.
    Raises DataError if the training text is too short for the vocabulary.
    """
    tokenizer = train_tokenizer(texts["train"], vocab_size)
    streams = {split: encode(tokenizer, text) for split, text in texts.items()}
    for split, tokens in streams.items():
        if len(tokens) < 2:
            raise DataError(f"The {split} text has {len(tokens)} tokens; at least 2 are needed")
    sizes = {split: len(text.encode()) for split, text in texts.items()}
    details = {
        "tokenizer": f"byte-level BPE, tokenizers {version('tokenizers')}, trained on the training split",
        "bytes": sizes,
        "bytes_per_token": {split: sizes[split] / len(tokens) for split, tokens in streams.items()},
    }
    return Built(
        kind="text",
        classes=vocab_size,
        splits={split: Split(tokens[:-1], tokens[1:]) for split, tokens in streams.items()},
        about={**about, **details},
        texts={"tokenizer.json": tokenizer.to_str(pretty=True)},
    )


def train_tokenizer(text: str, vocab_size: int) -> Tokenizer:
    """A byte-level BPE: the 256 bytes and `vocab_size` − 256 merges, no special tokens; so nothing is out of vocabulary.

    Raises DataError if the text has too few pairs for so many merges.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(_lines(text), trainer)
    if tokenizer.get_vocab_size() != vocab_size:
        raise DataError(
            f"The training text gives a vocabulary of {tokenizer.get_vocab_size()} tokens, vocab_size asks for "
            f"{vocab_size}; lower vocab_size or train on more text"
        )
    return tokenizer


def encode(tokenizer: Tokenizer, text: str) -> NDArray[np.uint16]:
    """The token stream of a text, uint16 [N]; `tokenizer.decode` gives the text back exactly."""
    lines, tokens = _lines(text), [np.empty(0, np.uint16)]
    for first in range(0, len(lines), LINES):
        encodings = tokenizer.encode_batch_fast(lines[first : first + LINES])
        tokens.append(np.array([token for line in encodings for token in line.ids], dtype=np.uint16))
    return np.concatenate(tokens)


def _lines(text: str) -> list[str]:
    """The text in pieces that join to it again: as one piece it would take the library much more memory."""
    return text.splitlines(keepends=True)
