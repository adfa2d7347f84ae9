#!/usr/bin/env bash
# One allocation that works through a study by itself. What follows is `--config`:
#   sbatch profiles/slurm-node/job.sh study=quickstart                 all of it, on one node
#   sbatch --array=1-4 profiles/slurm-node/job.sh study=quickstart     the sweeps alone, a quarter of them on each of four nodes
# Data is prepared before, where there is a network (docs/cluster.md). Options of sbatch go before the script's name:
# --partition, --account, --gpus, and those below.
#SBATCH --job-name=mufree
#SBATCH --nodes=1
#SBATCH --ntasks=1
# One sweep a core.
#SBATCH --cpus-per-task=16
# About 1.5 GB a core for small networks; `mufree plan STUDY --cost` says more.
#SBATCH --mem=32G
#SBATCH --time=12:00:00
# After a node's failure or a preemption SLURM starts it anew, and it goes on from the run store.
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail

target=all
part=()
if [ -n "${SLURM_ARRAY_TASK_ID:-}" ]; then
  target=shard
  part=("shard=$((SLURM_ARRAY_TASK_ID - SLURM_ARRAY_TASK_MIN + 1))/$SLURM_ARRAY_TASK_COUNT")
fi
limits=("gpu=${SLURM_GPUS_ON_NODE:-0}")
if [ "${SLURM_MEM_PER_NODE:-0}" != 0 ]; then
  limits+=("mem_mb=$SLURM_MEM_PER_NODE")
fi
# exec, so that SLURM's signals reach Snakemake.
exec snakemake --profile profiles/slurm-node --cores "$SLURM_CPUS_ON_NODE" --resources "${limits[@]}" \
  --config "$@" "${part[@]}" -- "$target"
