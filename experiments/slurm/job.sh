# What every job begins with: python of the checkout's .venv where there is one, else of the active environment.
test -x .venv/bin/python && PATH=$PWD/.venv/bin:$PATH
python -c 'import importlib.util as util; raise SystemExit(not util.find_spec("lightning"))' ||
  { echo "error: no .venv in $PWD (make test makes it), and the active python has no lightning" >&2; exit 1; }
ID=${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}${SLURM_ARRAY_TASK_ID:+_$SLURM_ARRAY_TASK_ID} # the same after a requeue
export PYTHONUNBUFFERED=1
export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1} # as of 22.05 srun does not take it from the job
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$SRUN_CPUS_PER_TASK}
unset WANDB_RUN_ID                                  # of the shell that submitted: all its jobs would share a folder
echo "job $ID on $SLURM_JOB_NODELIST, start $((${SLURM_RESTART_COUNT:-0} + 1)), $(date)"
scontrol show job "$ID" | sed -n 's/^ *StdOut=/log: /p'
