"""Where runs are trained: kinds of device and engine, what this processor can do, what the C library is told about memory."""

from __future__ import annotations

import logging
import os
import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Literal

log = logging.getLogger(__name__)

Device = Literal["cpu", "cuda"]
Engine = Literal["serial", "stack", "auto"]
StudyEngine = Literal["serial", "stack", "compiled", "auto"]


@dataclass(frozen=True)
class Processor:
    """Its name as the kernel gives it, and what decides between kernels: one that isn't x86, or isn't known, has none of it."""

    name: str = ""
    intel: bool = False
    avx512: bool = False
    bfloat16: bool = False
    """Products of bfloat16 in hardware: avx512_bf16 or AMX."""


def parse_cpuinfo(text: str) -> Processor:
    """Read Linux's /proc/cpuinfo, of which the first processor counts."""
    lines = [line.partition(":") for line in text.split("\n\n")[0].splitlines()]
    fields = {name.strip(): value.strip() for name, _, value in lines}
    flags = fields.get("flags", "").split()
    return Processor(
        name=fields.get("model name", ""),
        intel=fields.get("vendor_id") == "GenuineIntel",
        avx512="avx512f" in flags,
        bfloat16="avx512_bf16" in flags or "amx_bf16" in flags,
    )


def held_back(processor: Processor, environment: Mapping[str, str]) -> Processor:
    """The processor as oneDNN uses it where ONEDNN_MAX_CPU_ISA, or DNNL_MAX_CPU_ISA, holds it to older instructions."""
    limit = environment.get("ONEDNN_MAX_CPU_ISA", environment.get("DNNL_MAX_CPU_ISA", "")).upper()
    if limit.startswith(("SSE", "AVX")) and not limit.startswith(("AVX512", "AVX10")):
        return replace(processor, avx512=False, bfloat16=False)
    return processor


@cache
def this_processor() -> Processor:
    """The processor of this machine, as far as oneDNN may use it."""
    try:
        return held_back(parse_cpuinfo(Path("/proc/cpuinfo").read_text(encoding="utf-8")), os.environ)
    except OSError:
        return Processor()


def cpu_name() -> str:
    """The processor's model name, or what Python knows of it."""
    return this_processor().name or platform.processor() or platform.machine()


def bfloat16_cost(processor: Processor) -> str | None:
    """What a step in bfloat16 takes beside one in float32, in words, where the processor lacks it; None where it doesn't.

    Measured over models and widths with oneDNN held to AVX-512, and with oneDNN and torch held to AVX2 (docs/performance.md).
    """
    if processor.bfloat16:
        return None
    return "1.6 to 2.1 times" if processor.avx512 else "3 to 16 times"


def warn_of_cost(precision: str, processor: Processor) -> None:
    """Log a warning where `precision` is slow on the processor; it is used all the same, being part of a run's identity."""
    cost = bfloat16_cost(processor) if precision == "bfloat16" else None
    if cost is not None:
        log.warning(
            "precision: bfloat16 on a processor with neither avx512_bf16 nor AMX: a step takes %s as long as with precision: "
            "float32 (docs/performance.md). The numbers are as good.",
            cost,
        )


@cache
def keep_freed_memory() -> None:
    """Have the C library keep the memory of freed tensors, which the next step asks for again.

    glibc gives large blocks back to the system at once, and each comes back as pages to be filled with zeros one by one:
    up to a fifth of a step. Does nothing with other C libraries. The process keeps its peak of memory until it ends.
    """
    import ctypes  # not for every command

    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        trim_threshold, mmap_threshold = -1, -3  # malloc.h
        mallopt(trim_threshold, 2**31 - 1)
        mallopt(mmap_threshold, 2**30)
