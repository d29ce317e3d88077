#!/usr/bin/env bash
# A caching job on a running Ray cluster, from beginning to end: here a cluster of one node on the loopback interface.
# Needs an environment with vlq[workers], whose vlq and ray are on the PATH.
#
#     deploy/smoke.sh ~/.cache/vlq/demo/scenes workers/demo/model       # the demo's images and model, after vlq demo
set -euo pipefail
port=${RAY_PORT:-6390}
images=${1:?usage: deploy/smoke.sh IMAGES MODEL}
model=${2:?usage: deploy/smoke.sh IMAGES MODEL}
cache=$(mktemp -d)/cache
export RAY_USAGE_STATS_ENABLED=0
# Ray's nodes and jobs trust each other by a token that all of them are given.
RAY_AUTH_TOKEN=$(python3 -c 'import secrets; print(secrets.token_hex(16))')
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN

# In a process group of its own, so that it alone is stopped: `ray stop` would stop every node on the machine.
setsid ray start --head --block --node-ip-address 127.0.0.1 --port "$port" --include-dashboard false \
  --disable-usage-stats > /dev/null 2>&1 &
node=$!
trap 'kill -TERM "$node"; wait "$node" || true; kill -KILL -- "-$node" 2> /dev/null || true; rm -rf "$(dirname "$cache")"' EXIT
until (exec 3<> "/dev/tcp/127.0.0.1/$port") 2> /dev/null; do sleep 0.2; done

vlq run "$images" --model "$model" --cache "$cache" --limit 64 --ray-address "127.0.0.1:$port"
vlq "first_layer(token='dog')" --cache "$cache" --format json > /dev/null
vlq verify --cache "$cache"
