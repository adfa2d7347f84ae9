"""WikiText-2 (Merity et al. 2016), the tokenised version with `<unk>`: staged text files, or the published data set."""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path

from mufree.lab.data.prepared import Built, DataError
from mufree.lab.data.text import build_text
from mufree.study.files import sha256
from mufree.study.parts import WikiText2

REPOSITORY = "Salesforce/wikitext"
REVISION = "b08601e04326c79dfdd32d625aee71d232d685c3"
PUBLISHED_NAMES = {"train": "train", "valid": "validation", "test": "test"}

logger = logging.getLogger(__name__)


def build(settings: WikiText2, data_dir: Path) -> Built:
    """Read the splits that the settings name: all staged in `data_dir/wikitext-2/`, or, if none is, all downloaded.

    Raises DataError if only some are staged, or if the download fails or isn't what the hub says it is.
    """
    splits = {"train": settings.train_split, "valid": settings.valid_split, "test": settings.test_split}
    roles = {role: split for role, split in splits.items() if split is not None}
    staged = {role: data_dir / "wikitext-2" / f"{split}.txt" for role, split in roles.items()}
    missing = [str(path) for path in staged.values() if not path.exists()]
    if not missing:
        paths, source = staged, "staged wikitext-2/*.txt"
        texts = {role: _read_text(path) for role, path in staged.items()}
    elif len(missing) < len(staged):
        raise DataError(
            f"WikiText-2 is staged in part, {', '.join(missing)} is missing; staged and downloaded text are never mixed. "
            f"Stage the missing file too, or remove {data_dir / 'wikitext-2'} to download all of it"
        )
    else:
        paths = {role: _download(split, data_dir) for role, split in roles.items()}
        source = f"Hugging Face data set {REPOSITORY}, wikitext-2-v1"
        texts = {role: _read_parquet(path) for role, path in paths.items()}
    logger.info("wikitext2: %s, %s", source, ", ".join(f"{role} on {split}" for role, split in roles.items()))
    about = {
        "source": source,
        "version": "as staged" if paths is staged else f"revision {REVISION}",
        "licence": "CC BY-SA 3.0 and GFDL (Wikipedia)",
        "inputs": {path.name: {"sha256": sha256(path)} for path in paths.values()},
        "published_splits": roles,
    }
    return build_text(texts, settings.vocab_size, about)


def _read_text(path: Path) -> str:
    try:
        return path.read_bytes().decode()
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text: {error}. Stage it again") from error


def _download(split: str, data_dir: Path) -> Path:
    """A parquet file of the pinned revision, in the hub's cache under `data_dir`; HF_ENDPOINT names another server.

    The hub's ETag of a large file is its SHA-256, and the cache names the file by it: that is checked here.
    """
    from huggingface_hub import hf_hub_download

    name = f"wikitext-2-v1/{PUBLISHED_NAMES[split]}-00000-of-00001.parquet"
    try:
        path = Path(
            hf_hub_download(
                REPOSITORY,
                name,
                repo_type="dataset",
                revision=REVISION,
                cache_dir=data_dir / "huggingface",
                endpoint=os.environ.get("HF_ENDPOINT"),
            )
        )
    except Exception as error:  # the hub's client raises its own, its HTTP library's and the system's errors
        raise DataError(
            f"Could not download {name} of {REPOSITORY}: {error}\n"
            f"Without a network, stage the text as {data_dir / 'wikitext-2' / split}.txt, and the other splits that the "
            "task names beside it. The study `quickstart` needs no download"
        ) from error
    expected, found = path.resolve().name, sha256(path)
    if not re.fullmatch("[0-9a-f]{64}", expected) or found != expected:
        raise DataError(
            f"{path} is corrupt: expected SHA-256 {expected}, found {found}. Delete {data_dir / 'huggingface'}"
        )
    return path


def _read_parquet(path: Path) -> str:
    """The published rows as the original text: a row is a line with its newline, or empty for a line that is one blank."""
    from pyarrow import parquet

    rows = parquet.read_table(path, columns=["text"]).column("text").to_pylist()
    return "".join(row or " \n" for row in rows)
