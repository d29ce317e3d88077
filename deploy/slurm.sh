#!/usr/bin/env bash
#SBATCH --job-name=vlq
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=16
#SBATCH --mem=128G
#SBATCH --time=12:00:00
#SBATCH --requeue
#SBATCH --signal=B:TERM@120
# One Ray node per machine of the allocation, then `vlq run` over all of them. Paths must be seen by every machine.
#
#     sbatch deploy/slurm.sh IMAGES --model MODEL --cache CACHE
#
# Needs an environment with vlq[cluster] on the PATH. Two minutes before the time is up the run is stopped, and what is done
# is kept; the same command goes on.
set -euo pipefail
head=$(hostname)
here=${SLURMD_NODENAME:-$head}  # as Slurm calls this machine, which may be another name
port=$((20000 + SLURM_JOB_ID % 20000))
export RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0
RAY_AUTH_TOKEN=$(python3 -c 'import secrets; print(secrets.token_hex(32))')
export RAY_AUTH_TOKEN  # srun hands the environment on

started=()
# Without --block the step would end at once, and Slurm would end Ray's processes with it. Since 22.05 a step does not have
# the job's cores unless it asks for them: it would have one.
srun --nodes=1 --ntasks=1 --cpus-per-task="$SLURM_CPUS_PER_TASK" --nodelist="$here" --overlap ray start --head --block --port="$port" \
  --num-cpus="$SLURM_CPUS_PER_TASK" --include-dashboard=false --disable-usage-stats &
started+=($!)
run=
stop() {
  trap - TERM EXIT
  if [ -n "$run" ]; then kill -TERM "$run" 2> /dev/null || true; wait "$run" || true; fi
  kill -TERM "${started[@]}" 2> /dev/null || true
  wait
}
trap 'stop; exit 143' TERM
trap stop EXIT
until (exec 3<> "/dev/tcp/$head/$port") 2> /dev/null; do sleep 1; done
if [ "$SLURM_JOB_NUM_NODES" -gt 1 ]; then
  others=$((SLURM_JOB_NUM_NODES - 1))
  srun --nodes="$others" --ntasks="$others" --cpus-per-task="$SLURM_CPUS_PER_TASK" --exclude="$here" --overlap \
    ray start --block --address="$head:$port" --num-cpus="$SLURM_CPUS_PER_TASK" --disable-usage-stats &
  started+=($!)
fi
until python3 -c 'import ray, sys; ray.init(sys.argv[1], logging_level="ERROR"); sys.exit(len(ray.nodes()) < int(sys.argv[2]))' \
  "$head:$port" "$SLURM_JOB_NUM_NODES"; do sleep 2; done

vlq run "$@" --ray-address "$head:$port" &
run=$!
wait "$run"
