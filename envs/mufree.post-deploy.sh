#!/usr/bin/env bash
# Snakemake runs this once in the new conda environment, from the folder that it was called in: a checkout of mufree.
set -euo pipefail
python -m pip install --no-deps --editable .
