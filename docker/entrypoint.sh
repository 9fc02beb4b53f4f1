#!/usr/bin/env bash
# What a gradsweep container does, by its first argument:
#
#   head                 a Ray head: port 6379, dashboard on port 8265
#   worker               a Ray node that joins GRADSWEEP_HEAD (HOST:PORT)
#   sweep FILE [flags]   gradsweep sweep; with GRADSWEEP_HEAD it runs on that cluster, else in this container
#   report DIR           gradsweep report
#   shell                a shell
#   help                 this text; any other gradsweep command (doctor, data, run, ...) works too
#
# Head, worker and a sweep on a cluster need RAY_AUTH_TOKEN_PATH, the file of the cluster's token.
#
#   GRADSWEEP_HEAD            the head's address, such as head:6379
#   GRADSWEEP_WAIT            seconds to wait for the head [300]
#   GRADSWEEP_CPUS            CPUs that this node offers [what Ray finds]
#   GRADSWEEP_DASHBOARD_HOST  the address that the head's dashboard binds to [127.0.0.1]
set -euo pipefail

PORT=6379
DASHBOARD_PORT=8265
ROLE=${TMPDIR:-/tmp}/gradsweep-role # read by the health check, which is a process of its own

fail() {
    echo "gradsweep: $*" >&2
    exit 2
}

usage() {
    sed -n '2,/^set -/{/^set -/d; s/^# \{0,1\}//; p}' "$0"
}

need_token() {
    [ -n "${RAY_AUTH_TOKEN_PATH:-}" ] ||
        fail "RAY_AUTH_TOKEN_PATH is not set: a cluster needs the file of its token, mounted into the container."
    [ -n "$(cat "$RAY_AUTH_TOKEN_PATH" 2>/dev/null)" ] ||
        fail "RAY_AUTH_TOKEN_PATH=$RAY_AUTH_TOKEN_PATH: user $(id -u) finds no token there that it can read."
}

# Ray plans with a share of the memory, and takes the slow /tmp where that is more than /dev/shm has.
fit_object_store() {
    local free
    free=$(df --output=avail -B1 /dev/shm | tail -n 1)
    if [ "$free" -ge 268435456 ]; then
        export RAY_DEFAULT_OBJECT_STORE_MAX_MEMORY_BYTES=$((free * 9 / 10))
    else
        echo "gradsweep: /dev/shm has only $((free / 1048576)) MB free; give the container --shm-size=2g" >&2
    fi
}

wait_for_head() {
    [ -n "${GRADSWEEP_HEAD:-}" ] || fail "GRADSWEEP_HEAD is not set: must be the head's HOST:PORT, such as head:$PORT."
    local host=${GRADSWEEP_HEAD%:*} port=${GRADSWEEP_HEAD##*:} limit=$((SECONDS + ${GRADSWEEP_WAIT:-300}))
    until (exec 3<>"/dev/tcp/$host/$port") 2>/dev/null; do
        [ "$SECONDS" -lt "$limit" ] || fail "GRADSWEEP_HEAD=$GRADSWEEP_HEAD: nobody answered for ${GRADSWEEP_WAIT:-300} s."
        sleep 1
    done
}

# A raylet gives up when its agent is slow to start, as on a busy machine; a second try then works.
# A node that ran for a while and ended is not started again here: that is the restart policy's to decide.
run_node() {
    local began=$SECONDS code=0 child
    ray start --block --disable-usage-stats "$@" &
    child=$!
    trap 'trap - TERM INT; kill -TERM "$child"; wait "$child" || true; exit 143' TERM INT
    wait "$child" || code=$?
    [ $((SECONDS - began)) -lt 120 ] || exit "$code"
    echo "gradsweep: the Ray node did not start (exit code $code); trying once more" >&2
    trap - TERM INT
    exec ray start --block --disable-usage-stats "$@"
}

# The driver of a sweep must be on a node of the cluster: one that offers nothing, so that no trial lands here.
join_as_driver() {
    local node=(ray start --disable-usage-stats --address "$GRADSWEEP_HEAD" --num-cpus 0 --num-gpus 0)
    "${node[@]}" >&2 || {
        echo "gradsweep: the driver's node did not start; trying once more" >&2
        "${node[@]}" >&2 || fail "cannot join the cluster at $GRADSWEEP_HEAD; the lines above say why."
    }
}

healthy() {
    case "$(cat "$ROLE" 2>/dev/null)" in
    head) ray health-check --address "127.0.0.1:$PORT" ;;
    worker) grep -qsx raylet /proc/[0-9]*/comm && ray health-check --address "$GRADSWEEP_HEAD" ;;
    *) true ;;
    esac
}

role=${1:-help}
case $role in
health) healthy; exit ;;
help | -h | --help) usage; exit ;;
esac

[ -w "${ROLE%/*}" ] || fail "${ROLE%/*} is not writable: with a read-only root give the container --tmpfs /tmp."
echo "$role" >"$ROLE"
fit_object_store
cpus=(${GRADSWEEP_CPUS:+--num-cpus "$GRADSWEEP_CPUS"})
shift
case $role in
head)
    need_token
    run_node --head --port "$PORT" --include-dashboard true --dashboard-port "$DASHBOARD_PORT" \
        --dashboard-host "${GRADSWEEP_DASHBOARD_HOST:-127.0.0.1}" "${cpus[@]}" "$@"
    ;;
worker)
    need_token
    wait_for_head
    run_node --address "$GRADSWEEP_HEAD" "${cpus[@]}" "$@"
    ;;
sweep)
    [ -n "${GRADSWEEP_HEAD:-}" ] || exec gradsweep sweep "$@"
    need_token
    wait_for_head
    join_as_driver
    exec gradsweep sweep --address auto "$@"
    ;;
shell) exec bash "$@" ;;
*) exec gradsweep "$role" "$@" ;;
esac
