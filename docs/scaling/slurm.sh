#!/bin/bash
#SBATCH --job-name=pictures
#SBATCH --array=1-8
#SBATCH --gres=gpu:1
# Eight parts of a file of requests, one on each GPU: sbatch slurm.sh jobs.jsonl pictures
# A part that was stopped goes on where it was: what is there is not made again.
set -euo pipefail
exec unmist batch "$1" --output "$2" --shard "$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT"
