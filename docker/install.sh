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
    pip install --no-compile --no-deps --index-url "$TORCH_INDEX_URL" -r "$wanted/torch.txt"
    grep -vE '^(torch|torchvision|triton|nvidia-.*|cuda-.*)==' "$lock" >"$wanted/rest.txt"
fi
# The lock is complete: whatever a package wants beyond it is a mistake, which `check` names.
pip install --no-compile --no-deps -r "$wanted/rest.txt"
pip check
rm -r "$wanted"

# What no sweep loads: the packages' own tests, headers for compilers, Ray's Java side.
cd "$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"
find . -type d -name tests -prune -exec rm -r {} +
rm -rf torch/test torch/bin/test_* torch/bin/protoc* torch/include pyarrow/include ray/jars
find . -type f -name '*.js.map' -delete

# torch and torchvision of different builds install side by side and fail when they are imported.
"$venv/bin/python" -c "
import torch, torchvision
print('torch', torch.__version__, 'torchvision', torchvision.__version__, 'CUDA:', torch.version.cuda or 'none')
"
# Bytecode only of what is loaded, which the image cannot write later: Ray's processes here, the rest by its first use.
"$venv/bin/python" -m compileall -q ray/_private ray/_common ray/core ray/dashboard ray/util ray/autoscaler
