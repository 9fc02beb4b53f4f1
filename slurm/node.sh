#!/usr/bin/env bash
# One node of a job's Ray cluster, until SIGTERM or USR2: `node.sh head` or `node.sh worker`. Called by lib.sh's
# functions, which export the settings.
set -uo pipefail
# shellcheck source=slurm/lib.sh
. "$GRADSWEEP_HOME/slurm/lib.sh"

role=$1
# Ray's sockets lie below this folder and their paths may have 107 bytes, so it must be short.
base=${GRADSWEEP_SCRATCH:-${SLURM_TMPDIR:-/tmp}}
if [ ${#base} -gt 25 ]; then
    say "'$base' is too long for Ray's sockets: /tmp is taken"
    base=/tmp
fi
export GS_SCRATCH=$base/gs$GS_JOB.$GS_INDEX
[ ! -O "$GS_SCRATCH" ] || rm -rf "$GS_SCRATCH" # of an earlier start of this job that was killed
mkdir -m 700 "$GS_SCRATCH" || die "cannot make $GS_SCRATCH."
export TMPDIR=$GS_SCRATCH/tmp && mkdir "$TMPDIR"

memory=${SLURM_MEM_PER_NODE:-$((${SLURM_MEM_PER_CPU:-0} * GS_CPUS))}
store=$((memory / 5))
[ "$memory" -gt 0 ] || store=1000
[ "$store" -le 4000 ] || store=4000
[ "$store" -ge 100 ] || store=100
store=${GRADSWEEP_STORE_MB:-$store}

ray_node() {
    set -- --block --disable-usage-stats --log-style=record --log-color=false --temp-dir="$GS_SCRATCH" \
        --num-cpus="$GS_CPUS" --object-store-memory="$((store * 1000000))" --dashboard-agent-listen-port="$agent"
    # Under Slurm the allocation says how many GPUs there are; elsewhere Ray looks for itself, Apple's included.
    [ -z "${SLURM_JOB_ID:-}" ] || set -- "$@" --num-gpus="$(gpus)"
    say "$role: $GS_CPUS CPUs, $(if [ -n "${SLURM_JOB_ID:-}" ]; then gpus; else echo any; fi) GPUs, object store $store MB"
    if [ "$role" = head ]; then
        inside ray start --head --node-ip-address="$GS_IP" --port="$GS_PORT" --ray-client-server-port="$((GS_PORT + 1))" \
            --include-dashboard=false "$@"
    else
        inside ray start --address="$GS_IP:$GS_PORT" "$@"
    fi
}

# Ray's processes form a group of their own, led by `ray start`, which ends them on SIGTERM; this is for the rest.
# shellcheck disable=SC2317 # called by the trap
end() {
    kill -KILL -- "-$ray" 2>/dev/null
    # Workers have groups of their own; they notice within a second or two, and may write until then.
    for _ in 1 2 3 4 5; do
        rm -rf "$GS_SCRATCH" 2>/dev/null && return
        sleep 1
    done
}

trap 'on_signal TERM' TERM USR2
ray=''
trap end EXIT
for try in 1 2 3; do
    agent=$((GS_PORT + 2))
    while (exec 3<>"/dev/tcp/127.0.0.1/$agent") 2>/dev/null; do agent=$((agent + 1)); done
    ray_node &
    ray=$!
    await "$ray" 15
    [ -z "$caught" ] || exit 0
    say "ray start ended with exit code $status (try $try of 3)"
    sleep $((try * 3))
done
exit 1
