#!/bin/sh
# install.sh LOCK: the locked versions, by the command in PIP.
# With TORCH_INDEX_URL, torch and torchvision come from there and PyTorch's CUDA libraries are left out.
set -eu

lock=$1
if [ -z "${TORCH_INDEX_URL:-}" ]; then
    case $(uname -s) in
    Linux) echo "Installing about 6 GB, most of it CUDA libraries; an index of CPU wheels in TORCH_INDEX_URL leaves them out." ;;
    *) echo "Installing about 2 GB." ;;
    esac
    exec $PIP install -r "$lock"
fi
echo "Installing about 2 GB, with torch and torchvision from TORCH_INDEX_URL."
wanted=$(mktemp -d)
trap 'rm -r "$wanted"' EXIT
grep -E '^torch(vision)?==' "$lock" >"$wanted/torch.txt"
grep -vE '^(torch|torchvision|triton|nvidia-.*|cuda-.*)==' "$lock" >"$wanted/rest.txt"
PIP_INDEX_URL=$TORCH_INDEX_URL PIP_EXTRA_INDEX_URL='' $PIP install --no-deps -r "$wanted/torch.txt"
# The lock is complete, so that nothing has to be looked for beyond it.
$PIP install --no-deps -r "$wanted/rest.txt"
