#!/bin/sh
# Starts a trial of a sweep: in a SLURM job as a job step on all of its tasks, elsewhere as a process.
#   sh experiments/sweeps/trial.sh python -m experiments.run fit ...
export WANDB_MODE="${WANDB_MODE:-online}" # the sweep waits for the metrics of its trials
test -n "$SLURM_JOB_ID" || exec "$@"
exec srun "$@" --trainer.devices="$SLURM_NTASKS_PER_NODE" --trainer.num_nodes="$SLURM_NNODES"
