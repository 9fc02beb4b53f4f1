#!/bin/sh
# install.sh VENV LOCK: a virtual environment with exactly the locked versions.
# With TORCH_INDEX_URL, torch and torchvision come from there and their CUDA libraries are left out.
set -eu

venv=$1
lock=$2
python -m venv --without-pip "$venv"
pip() {
    command=$1
    shift
    python -m pip --python "$venv/bin/python" --disable-pip-version-check "$command" "$@"
}

wanted=$(mktemp -d)
cp "$lock" "$wanted/rest.txt"
if [ -n "${TORCH_INDEX_URL:-}" ]; then
    grep -E '^torch(vision)?==' "$lock" >"$wanted/torch.txt"
    pip install --no-deps --index-url "$TORCH_INDEX_URL" -r "$wanted/torch.txt"
    grep -vE '^(torch|torchvision|triton|nvidia-.*|cuda-.*)==' "$lock" >"$wanted/rest.txt"
fi
# The lock is complete: whatever a package wants beyond it is a mistake, which `check` names.
pip install --no-deps -r "$wanted/rest.txt"
pip check
rm -r "$wanted"

# torch and torchvision of different builds install side by side and fail when they are imported.
"$venv/bin/python" -c "
import torch, torchvision
print('torch', torch.__version__, 'torchvision', torchvision.__version__, 'CUDA:', torch.version.cuda or 'none')
"
