"""What is read of a processor, and the warning where a precision is slow on it."""

from __future__ import annotations

import logging

import pytest

from mufree.study.machine import Processor, bfloat16_cost, held_back, parse_cpuinfo, this_processor, warn_of_cost

INTEL = "processor\t: 0\nvendor_id\t: GenuineIntel\nmodel name\t: Xeon: 8\nflags\t: avx2 avx512f amx_bf16\n\nprocessor\t: 1\n"
AMD = "processor\t: 0\nvendor_id\t: AuthenticAMD\nflags\t\t: fpu avx2 avx512f avx512_bf16\n"
OLD = "processor\t: 0\nvendor_id\t: AuthenticAMD\nflags\t\t: fpu avx2 avx512fp16_like\n"


def test_processors_are_told_apart_by_vendor_and_flags() -> None:
    assert parse_cpuinfo(INTEL) == Processor("Xeon: 8", intel=True, avx512=True, bfloat16=True)
    assert parse_cpuinfo(AMD) == Processor(avx512=True, bfloat16=True)
    assert parse_cpuinfo(OLD) == Processor()
    assert parse_cpuinfo("") == parse_cpuinfo("Features\t: fp asimd bf16\n") == Processor()
    assert this_processor() is this_processor()


def test_a_limit_on_onednn_takes_away_what_is_newer() -> None:
    new = parse_cpuinfo(AMD)
    for name in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"):
        assert held_back(new, {name: "AVX2"}) == held_back(new, {name: "sse41"}) == Processor()
        for enough in ("", "DEFAULT", "AVX512_CORE_BF16", "AVX10_1_512"):
            assert held_back(new, {name: enough}) == new
    assert held_back(new, {}) == new


def test_bfloat16_warns_of_its_cost_only_where_it_is_slow(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        warn_of_cost("float32", Processor())
        warn_of_cost("bfloat16", Processor(bfloat16=True))
        assert not caplog.records
        warn_of_cost("bfloat16", Processor())
        warn_of_cost("bfloat16", Processor(avx512=True))
    assert len(caplog.records) == 2
    old, newer = (record.getMessage() for record in caplog.records)
    assert old != newer
    assert str(bfloat16_cost(Processor())) in old
    assert "float32" in old
