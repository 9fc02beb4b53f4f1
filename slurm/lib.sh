# shellcheck shell=bash
# A Ray cluster of one job's own, and a sweep on it: the functions behind sweep.sbatch, sweep_array.sbatch,
# elastic.sbatch, elastic_worker.sbatch and local.sh. Runs on bash 3.2 as well, which macOS has.
#
# What can be set from outside (docs/cluster.md says more):
#   GRADSWEEP_HOME      the checkout of the project
#   GRADSWEEP_VENV      its Python environment                   [GRADSWEEP_HOME/.venv]
#   GRADSWEEP_IMAGE     an Apptainer image to run everything in  [none]
#   GRADSWEEP_BIND      more folders for it, SRC[:DST],...       [none]
#   GRADSWEEP_RUN       token and logs; every node must see it   [./gradsweep-JOB]
#   GRADSWEEP_SCRATCH   where each node puts what is temporary   [SLURM_TMPDIR, else /tmp]
#   GRADSWEEP_HEAD_IP   the first node's address for the others  [what Slurm reaches it by]
#   GRADSWEEP_STORE_MB  Ray's object store on each node          [a fifth of the job's memory, at most 4000]
#   GRADSWEEP_WAIT      seconds to wait for all nodes            [180]
#   GRADSWEEP_PATIENCE  seconds that an elastic worker waits for its head  [900]
#   GRADSWEEP_REQUEUES  how often a job may requeue itself       [20]

STOPPED=75     # what `gradsweep sweep` ends with when it was told to stop and can be resumed
caught='' current='' status=0 nodes_pids='' requeued=''
elastic='' joined='' # whether other jobs may join this one's head, and whether this one joins another's

say() { echo "$(date +%H:%M:%S) gradsweep: $*"; }

die() {
    say "$*" >&2
    exit 2
}

# begin SWEEP OUT: check both, make the token, choose ports, and export what node.sh needs.
begin() {
    [ -f "$1" ] || die "there is no sweep file '$1'."
    [ -n "$2" ] || die "the second argument must be the results folder."
    job=${SLURM_JOB_ID:-$$}
    export GRADSWEEP_HOME GS_JOB=$job
    export GS_RUN=${GRADSWEEP_RUN:-$PWD/gradsweep-$job}
    mkdir -p "$2" "$GS_RUN" && chmod 700 "$GS_RUN"
    GS_OUT=$(cd "$2" && pwd) && export GS_OUT
    set_up

    # One secret for each start of the job, in a file that only its owner reads; it is never an argument.
    rm -f "$RAY_AUTH_TOKEN_PATH" "$GS_RUN/done" "$GS_RUN/address"
    (umask 077 && od -An -N32 -tx1 /dev/urandom | tr -d ' \n' >"$RAY_AUTH_TOKEN_PATH")

    count=1 GS_IP=127.0.0.1
    if [ "${SLURM_JOB_NUM_NODES:-1}" -gt 1 ] && [ -z "${GS_ONE_NODE:-}" ]; then
        count=$SLURM_JOB_NUM_NODES GS_IP=$(head_ip)
    elif [ -n "$elastic" ]; then
        GS_IP=$(head_ip)
    fi
    # A block of ports for each job, below those that the system hands out: two jobs may share a node.
    GS_PORT=$((20000 + job % 600 * 20))
    while listening "$GS_PORT"; do GS_PORT=$((20000 + (GS_PORT - 20000 + 20) % 12000)); done
    export GS_IP GS_PORT

    say "job $job, start $((${SLURM_RESTART_COUNT:-0} + 1)), $count node(s), head at $GS_IP:$GS_PORT, logs in $GS_RUN"
}

# begin_elastic SWEEP OUT: the same for a head that other jobs join.
begin_elastic() {
    elastic=yes
    begin "$@"
}

# What a job that starts a head and one that joins it have in common: environment, Ray's settings, traps.
set_up() {
    [ -n "${GRADSWEEP_IMAGE:-}" ] || export PATH="${GRADSWEEP_VENV:-$GRADSWEEP_HOME/.venv}/bin:$PATH"
    unset RAY_AUTH_TOKEN RAY_ADDRESS RAY_API_SERVER_ADDRESS
    export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$GS_RUN/token RAY_USAGE_STATS_ENABLED=0
    # A busy node may take longer than Ray's 30 s to start the raylet's agents; the raylet would give up.
    export RAY_agent_register_timeout_ms=120000
    # Ray's monitor counts the whole node, other people's jobs too; Slurm watches this job's memory itself.
    [ -z "${SLURM_JOB_ID:-}" ] || export RAY_memory_monitor_refresh_ms=0
    trap 'on_signal USR1' USR1
    trap 'on_signal TERM' TERM
    trap 'on_signal INT' INT
    trap at_exit EXIT
}

# Slurm's notice (USR1) and every other wish to stop reach the sweep as SIGTERM; it then ends with $STOPPED.
on_signal() {
    caught=$1
    say "$1: stopping"
    [ -z "$current" ] || kill -TERM "$current" 2>/dev/null || true
}

# await PID SECONDS: wait for a child to its end; `status` is its exit code. After a signal it has so many seconds.
await() {
    local left=$2
    current=$1 status=0
    wait "$1" || status=$? # a signal ends this wait too, but only for a moment
    if [ -n "$caught" ]; then
        while kill -0 "$1" 2>/dev/null && [ "$left" -gt 0 ]; do
            sleep 1
            left=$((left - 1))
        done
        kill -KILL "$1" 2>/dev/null || true
        status=0
        wait "$1" || status=$?
    fi
    current=''
}

# inside COMMAND...: becomes the command, in the container where there is one. Call it in the background.
inside() {
    [ -n "${GRADSWEEP_IMAGE:-}" ] || exec "$@"
    local binds=$GRADSWEEP_HOME,$PWD,$GS_RUN,$GS_OUT${GS_SCRATCH:+,$GS_SCRATCH}${GRADSWEEP_BIND:+,$GRADSWEEP_BIND}
    if [ "$(gpus)" -gt 0 ]; then set -- --nv "$GRADSWEEP_IMAGE" "$@"; else set -- "$GRADSWEEP_IMAGE" "$@"; fi
    exec apptainer exec --bind "$binds" --pwd "$PWD" "$@"
}

# How many GPUs Slurm gave this job on this node.
gpus() {
    case ${CUDA_VISIBLE_DEVICES:-} in
        '' | NoDevFiles) echo 0 ;;
        *) echo "$CUDA_VISIBLE_DEVICES" | tr ',' '\n' | wc -l | tr -d ' ' ;;
    esac
}

# cpus_of I: how many CPUs Slurm gave this job on its node number I, counted from 0, such as "8(x2),4".
cpus_of() {
    local group times i=0
    if [ -n "${GS_ONE_NODE:-}" ] && [ -n "${SLURM_CPUS_ON_NODE:-}" ]; then
        echo "$SLURM_CPUS_ON_NODE" # of this step, which may be less than the job's
        return
    fi
    for group in $(echo "${SLURM_JOB_CPUS_PER_NODE:-}" | tr ',' ' '); do
        times=$(echo "$group" | sed -n 's/.*(x\([0-9]*\))/\1/p')
        i=$((i + ${times:-1}))
        if [ "$1" -lt "$i" ]; then
            echo "${group%%(*}"
            return
        fi
    done
    # Without Slurm: what this process may use, which is less than the machine has where it was pinned.
    nproc 2>/dev/null || getconf _NPROCESSORS_ONLN
}

listening() { (exec 3<>"/dev/tcp/$GS_IP/$1") 2>/dev/null; }

# The address by which the other nodes reach this one: Slurm's own, where it is not a loopback name.
head_ip() {
    local name address
    if [ -n "${GRADSWEEP_HEAD_IP:-}" ]; then
        echo "$GRADSWEEP_HEAD_IP"
        return
    fi
    name=$(scontrol show node "${SLURMD_NODENAME:-$(hostname)}" | sed -n 's/.*NodeAddr=\([^ ]*\).*/\1/p')
    for address in $(getent ahostsv4 "$name" | awk '{print $1}') $(hostname -I); do
        case $address in
            127.*) ;;
            *)
                echo "$address"
                return
                ;;
        esac
    done
    die "no address for '$name' that other nodes can reach; set GRADSWEEP_HEAD_IP."
}

start_head() {
    local waited=0
    GS_INDEX=0 GS_CPUS=$(cpus_of 0) bash "$GRADSWEEP_HOME/slurm/node.sh" head >>"$GS_RUN/head.log" 2>&1 &
    head=$! nodes_pids=$!
    while ! listening "$GS_PORT"; do
        [ -z "$caught" ] || return 0
        kill -0 "$head" 2>/dev/null || die "Ray's head did not start; see $GS_RUN/head.log."
        [ "$waited" -lt 240 ] || die "Ray's head does not answer after 240 s; see $GS_RUN/head.log."
        sleep 1 && waited=$((waited + 1))
    done
}

# One step for each further node: a node that dies takes no other with it.
start_workers() {
    local node index=0
    for node in $(scontrol show hostnames "$SLURM_JOB_NODELIST"); do
        if [ "$index" -gt 0 ]; then
            GS_INDEX=$index GS_CPUS=$(cpus_of "$index") srun --export=ALL --nodelist="$node" --nodes=1 --ntasks=1 \
                --cpus-per-task="$(cpus_of "$index")" --overlap --no-kill --kill-on-bad-exit=0 --input=none \
                bash "$GRADSWEEP_HOME/slurm/node.sh" worker >>"$GS_RUN/$node.log" 2>&1 &
            nodes_pids="$nodes_pids $!"
        fi
        index=$((index + 1))
    done
}

# Wait until the nodes are in; those that are late or lost are gone without.
await_nodes() {
    [ -z "$caught" ] || return 0
    inside python "$GRADSWEEP_HOME/slurm/await_nodes.py" "$GS_IP:$GS_PORT" "$count" "${GRADSWEEP_WAIT:-180}" &
    await $! 5
    [ "$status" = 0 ] || [ -n "$caught" ] || die "no Ray cluster at $GS_IP:$GS_PORT; see the logs in $GS_RUN."
}

# drive ARGUMENTS...: run `gradsweep sweep` on the cluster; `status` is its exit code.
drive() {
    status=$STOPPED
    [ -z "$caught" ] || return 0
    inside gradsweep sweep "$@" --address "$GS_IP:$GS_PORT" &
    await $! 60
    say "the sweep ended with exit code $status"
}

# Say to elastic workers where the head is, and which start of the job it is of: they leave when that changes.
announce() {
    [ -z "$caught" ] || return 0
    echo "$GS_IP:$GS_PORT start ${SLURM_RESTART_COUNT:-0}" >"$GS_RUN/_address" && mv "$GS_RUN/_address" "$GS_RUN/address"
}

# attend HEAD: be a node of the cluster of the elastic job HEAD for as long as there is work; `status` is the exit code.
attend() {
    local since=$SECONDS began address patience=${GRADSWEEP_PATIENCE:-900}
    job=$SLURM_JOB_ID joined=yes
    export GRADSWEEP_HOME GS_JOB=$job GS_INDEX=0 GS_RUN=${GRADSWEEP_RUN:-$PWD/gradsweep-$1}
    GS_CPUS=$(cpus_of 0) && export GS_CPUS GS_OUT=$GS_RUN
    set_up
    say "job $job, start $((${SLURM_RESTART_COUNT:-0} + 1)), a worker of job $1, logs in $GS_RUN"
    while [ -z "$caught" ] && [ ! -e "$GS_RUN/done" ]; do
        if address=$(cat "$GS_RUN/address" 2>/dev/null) && [ -n "$address" ]; then
            began=$SECONDS GS_IP=${address%%:*} GS_PORT=${address#*:}
            export GS_IP GS_PORT=${GS_PORT%% *}
            say "joining $GS_IP:$GS_PORT"
            bash "$GRADSWEEP_HOME/slurm/node.sh" worker >>"$GS_RUN/worker-$job.log" 2>&1 &
            nodes_pids=$!
            while [ -z "$caught" ] && [ "$(cat "$GS_RUN/address" 2>/dev/null)" = "$address" ] &&
                kill -0 "$nodes_pids" 2>/dev/null; do pause 1; done
            end_nodes
            [ $((SECONDS - began)) -lt 60 ] || since=$SECONDS
        elif [ $((SECONDS - since)) -ge "$patience" ]; then
            say "no head of job $1 for $patience s: submit this again when it runs."
            status=$STOPPED
            return
        fi
        [ -n "$caught" ] || [ -e "$GS_RUN/done" ] || pause 2
    done
    status=0
    [ -z "$caught" ] || status=$STOPPED
}

# A sleep that a signal ends.
pause() {
    sleep "$1" &
    wait $! || true
}

# Clean up, and tell elastic workers that there is no more to do, unless this job begins anew.
at_exit() {
    cleanup
    [ -z "$elastic" ] || [ -n "$requeued" ] || : >"$GS_RUN/done"
}

# End everything, and remove what only a running job has. Safe to call twice.
cleanup() {
    [ -n "$joined" ] || rm -f "$GS_RUN/address"
    end_nodes
    [ -n "$joined" ] || rm -f "$RAY_AUTH_TOKEN_PATH"
}

# End head and workers by their ids, within 30 seconds.
end_nodes() {
    local pid left=60
    # USR2, because srun hands it on, while TERM makes it kill its step at once.
    # shellcheck disable=SC2086 # a list of numbers
    [ -z "$nodes_pids" ] || kill -USR2 $nodes_pids 2>/dev/null || true
    for pid in $nodes_pids; do
        while kill -0 "$pid" 2>/dev/null && [ "$left" -gt 0 ]; do
            sleep 0.5
            left=$((left - 1))
        done
        kill -KILL "$pid" 2>/dev/null || true
    done
    nodes_pids=''
}

# Queue this job again. Slurm then sends TERM to every process of the job: one that has not heard the answer yet
# would die of it and look like a refusal.
requeue() (
    trap '' TERM
    exec scontrol requeue "$GS_JOB"
)

# Clean up; after Slurm's notice queue the job again, which resumes the sweep; end with the sweep's exit code.
finish() {
    cleanup
    # 0, 1 and 2 are ends of its own. Killed counts as stopped: what is finished is on disk either way.
    if [ "$caught" = USR1 ] && [ "$status" -gt 2 ]; then
        if [ "${SLURM_RESTART_COUNT:-0}" -ge "${GRADSWEEP_REQUEUES:-20}" ]; then
            say "requeued $SLURM_RESTART_COUNT times already; submit the same again to resume."
        elif requeue; then
            requeued=yes
            say "queued again"
            sleep 60 & # Slurm ends this script meanwhile; an exit code of its own would look like the job's.
            wait $! || true
        else
            say "this cluster does not requeue; submit the same again to resume."
        fi
    fi
    exit "$status"
}
