#!/usr/bin/env bash
# make-token.sh [FILE]: a new token for a Ray cluster, in FILE [docker/secrets/ray_token].
#
# The container's user 10001 must be able to read the file, and nobody else on this machine: so the file is
# readable and the folder around it is closed.
set -euo pipefail

file=${1:-"$(cd "$(dirname "$0")" && pwd)/secrets/ray_token"}
[ ! -e "$file" ] || {
    echo "$file is there already; remove it to make another" >&2
    exit 2
}
umask 077
mkdir -p "$(dirname "$file")"
chmod 0700 "$(dirname "$file")"
python3 -c 'import secrets; print(secrets.token_hex(32), end="")' >"$file"
chmod 0444 "$file"
echo "a new token is in $file"
