#!/usr/bin/env bash
# One sweep on this machine alone, with a Ray of its own: a laptop (CPU, or Apple's GPU), a GPU box, or one
# node of Slurm's (`srun --nodes=1 --cpus-per-task=8 slurm/local.sh ...`).
#
#   slurm/local.sh SWEEP.yaml OUT [FLAGS]
#
# FLAGS go to `gradsweep sweep`. The CPUs are those that this process may use; on Apple silicon Ray counts one
# GPU, and `execution.device: auto` takes it. Ctrl-C stops the sweep; the same command resumes it.
# The settings from outside are listed in lib.sh, which has the functions.
set -euo pipefail
GRADSWEEP_HOME=${GRADSWEEP_HOME:-$(cd "$(dirname "$0")/.." && pwd)}
# shellcheck source=slurm/lib.sh
. "$GRADSWEEP_HOME/slurm/lib.sh"

[ $# -ge 2 ] || die "usage: slurm/local.sh SWEEP.yaml OUT [flags of gradsweep sweep]"
sweep=$1 out=$2
shift 2

export GS_ONE_NODE=1 # within a larger allocation, too: what this step has
begin "$sweep" "$out"
start_head
await_nodes
drive "$sweep" --out "$out" "$@"
cleanup
exit "$status"
