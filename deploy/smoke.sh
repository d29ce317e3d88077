#!/usr/bin/env bash
# A caching job on a running Ray cluster, from beginning to end: here a cluster of one node on the loopback interface.
# Needs an environment with vlq[workers], whose vlq and ray are on the PATH, and the demo's images: vlq demo.
set -euo pipefail
port=${RAY_PORT:-6390}
images=${1:?usage: deploy/smoke.sh IMAGES MODEL}
model=${2:?usage: deploy/smoke.sh IMAGES MODEL}
cache=$(mktemp -d)/cache
export RAY_USAGE_STATS_ENABLED=0

ray start --head --node-ip-address 127.0.0.1 --port "$port" --include-dashboard false --disable-usage-stats > /dev/null
trap 'ray stop --force > /dev/null; rm -rf "$(dirname "$cache")"' EXIT

vlq run "$images" --model "$model" --cache "$cache" --limit 64 --ray-address "127.0.0.1:$port"
vlq "first_layer(token='dog')" --cache "$cache" --format json > /dev/null
vlq verify --cache "$cache"
