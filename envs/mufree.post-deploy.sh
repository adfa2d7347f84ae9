#!/usr/bin/env bash
# Installs the lock and then the project into the environment of `python`, called in a checkout of mufree: by `make setup`, and by
# Snakemake, once in each new conda environment.
set -euo pipefail
lock=envs/requirements.lock
into() { python -m pip install --quiet --disable-pip-version-check "$@"; }
# What is published as source alone is built by the lock's setuptools, so that nothing without a hash is downloaded.
sed -n '/^setuptools==/,/[^\\]$/p' "$lock" | into --require-hashes -r /dev/stdin
into --require-hashes --no-build-isolation -r "$lock"
into --no-deps --no-build-isolation --editable .
