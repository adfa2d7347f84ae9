"""What `--config` may say: which study the workflow makes, where, and how. Imports nothing heavy, as the Snakefile does."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field, ValidationError, field_validator

from mufree.study.config import Precision, mistakes
from mufree.study.fields import Closed, Float, Positive
from mufree.study.machine import Device, StudyEngine
from mufree.study.yaml_files import StudyFileError


class Settings(Closed):
    """The settings of a workflow. None of them changes a study but `precision`, which makes another one of it."""

    study: str = "quickstart"
    """The study, experiments/<study>.yaml."""
    data_dir: str = Field(default_factory=lambda: os.environ.get("MUFREE_DATA_DIR", "data"))
    """Where raw data is staged or downloaded to."""
    device: Device = "cpu"
    """What sweeps are trained on."""
    engine: StudyEngine = "serial"
    """How a sweep trains its runs: one by one, or those that differ in numbers alone side by side, compiled if you like."""
    max_minutes: Positive | None = None
    """The longest that a job may ask for: the limit of the partition, such as 1440."""
    minutes: Annotated[Float, Field(gt=0)] | None = None
    """When sweeps stop, the most valuable having been first; the same command goes on from there."""
    shard: tuple[int, int] = (1, 1)
    """Of several allocations that share a study, which one this is: 2/4 trains the second quarter of the sweeps."""
    precision: Precision | None = None
    """All runs in this precision instead of the study's own: a study of its own, with results of its own."""

    @field_validator("shard", mode="before")
    @classmethod
    def _there_is_such_a_shard(cls, text: object) -> tuple[int, int]:
        number, _, count = str(text).partition("/")
        if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
            raise ValueError("give a part and their number, such as 1/4 and up to 4/4")
        return int(number), int(count)


def read(config: Mapping[str, Any]) -> Settings:
    """The settings that a workflow is called with. Raises `StudyFileError`, which tells all that is wrong and what there is."""
    try:
        return Settings.model_validate(config)
    except ValidationError as error:
        raise StudyFileError(f"{mistakes('--config', error)}\nKnown: {', '.join(Settings.model_fields)}") from error
