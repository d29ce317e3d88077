#!/usr/bin/env bash
# A run on a cluster from beginning to end, on one machine: a Ray head and three workers as processes of their own, with a
# token; an S3 server where one is installed (`weed`); `ray job submit` of `vlq run`; an answer; the service's health check.
# Needs an environment with vlq[cluster,service] on the PATH.
#
#     deploy/smoke.sh IMAGES MODEL
#     deploy/smoke.sh ~/.cache/vlq/demo/scenes workers/demo/model       # after vlq demo: its images and model
set -euo pipefail
images=$(realpath "${1:?usage: deploy/smoke.sh IMAGES MODEL}")
model=$(realpath "${2:?usage: deploy/smoke.sh IMAGES MODEL}")
limit=${LIMIT:-16}
folder=$(mktemp -d /tmp/vlq-smoke.XXXXXX)

free_ports() {
  python3 -c 'import socket, sys
taken = [socket.create_server(("127.0.0.1", 0)) for _ in range(int(sys.argv[1]))]
print(*(each.getsockname()[1] for each in taken))' "$1"
}
fail() {
  echo "smoke: $1" >&2
  tail -n 20 "$folder"/*.log >&2
  exit 1
}
answers() {  # until a port is open, or whoever should open it has ended
  until (exec 3<> "/dev/tcp/127.0.0.1/$2") 2> /dev/null; do
    kill -0 "$1" 2> /dev/null || fail "port $2 never opened"
    sleep 0.2
  done
}

# Each in a process group of its own, so that just these are stopped: `ray stop` would stop every node on the machine.
started=()
begin() {  # name, command...
  setsid "${@:2}" > "$folder/$1.log" 2>&1 &
  started+=($!)
}
finish() {
  local pid
  for pid in "${started[@]}"; do kill -TERM "$pid" 2> /dev/null || true; done
  for pid in "${started[@]}"; do
    for _ in $(seq 50); do kill -0 "$pid" 2> /dev/null || break; sleep 0.1; done
    kill -KILL -- "-$pid" 2> /dev/null || true
    wait "$pid" 2> /dev/null || true
  done
  rm -rf "$folder"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

export RAY_USAGE_STATS_ENABLED=0 RAY_AUTH_MODE=token
RAY_AUTH_TOKEN=$(python3 -c 'import secrets; print(secrets.token_hex(32))')
export RAY_AUTH_TOKEN
export VLQ_CACHE=$folder/cache
if command -v weed > /dev/null; then
  read -r s3 s3_grpc master master_grpc volume volume_grpc filer filer_grpc < <(free_ports 8)
  export AWS_ACCESS_KEY_ID=vlq AWS_REGION=us-east-1 AWS_ALLOW_HTTP=true AWS_ENDPOINT_URL=http://127.0.0.1:$s3
  AWS_SECRET_ACCESS_KEY=$(python3 -c 'import secrets; print(secrets.token_hex(16))')
  export AWS_SECRET_ACCESS_KEY
  mkdir "$folder/bucket"
  begin s3 weed server -dir="$folder/bucket" -ip=127.0.0.1 -ip.bind=127.0.0.1 -s3 -s3.iam=false -master.telemetry=false \
    -s3.port="$s3" -s3.port.grpc="$s3_grpc" -s3.port.iceberg=0 -s3.port.lance=0 -master.port="$master" -master.port.grpc="$master_grpc" \
    -volume.port="$volume" -volume.port.grpc="$volume_grpc" -filer.port="$filer" -filer.port.grpc="$filer_grpc"
  s3_pid=$!
  export VLQ_CACHE=s3://vlq/cache
fi

read -r gcs dashboard client service < <(free_ports 4)
ray_node() {  # name, port options..., every one its own
  local agent metrics environment
  read -r agent metrics environment < <(free_ports 3)
  begin "$1" ray start --block --disable-usage-stats --node-ip-address=127.0.0.1 --num-gpus=0 \
    --object-store-memory=100000000 --min-worker-port=0 --max-worker-port=0 --dashboard-agent-listen-port="$agent" \
    --metrics-export-port="$metrics" --runtime-env-agent-port="$environment" "${@:2}"
}
ray_node head --head --num-cpus=0 --port="$gcs" --temp-dir="$folder/ray" \
  --dashboard-host=127.0.0.1 --dashboard-port="$dashboard" --ray-client-server-port="$client"
head=${started[-1]}
answers "$head" "$gcs"
answers "$head" "$dashboard"
for number in 1 2 3; do  # one after the other: those that start together on few cores wait for each other too long
  ray_node "worker-$number" --address="127.0.0.1:$gcs" --num-cpus=1
  until grep -q "Ray runtime started" "$folder/worker-$number.log"; do
    kill -0 "${started[-1]}" 2> /dev/null || fail "worker $number has ended"
    sleep 0.2
  done
done
echo "smoke: a head and 3 workers"

status=$(python3 -c 'import sys, urllib.error, urllib.request
try: print(urllib.request.urlopen(sys.argv[1]).status)
except urllib.error.HTTPError as error: print(error.code)' "http://127.0.0.1:$dashboard/api/jobs/")
[ "$status" = 401 ] || fail "without a token the jobs answer $status, not 401"
echo "smoke: without the token, 401"

if [ -n "${s3_pid:-}" ]; then
  answers "$s3_pid" "$s3"
  echo 's3.bucket.create -name vlq' | weed shell -master="127.0.0.1:$master.$master_grpc" -filer="127.0.0.1:$filer.$filer_grpc" \
    > "$folder/bucket.log" 2>&1
fi
RAY_ADDRESS="http://127.0.0.1:$dashboard" ray job submit --log-style=record -- \
  vlq run "$images" --model "$model" --workers 3 --shard-size 4 --limit "$limit" --device cpu > "$folder/job.log" 2>&1 \
  || fail "the job failed"
grep "images\? read" "$folder/job.log" | sed 's/^/smoke: /'

vlq verify | tail -n 1 | sed 's/^/smoke: /'
begin service vlq serve --port "$service"
answers "${started[-1]}" "$service"
python3 - "http://127.0.0.1:$service" "$limit" <<'END'
import json, sys, urllib.request
url, limit = sys.argv[1], int(sys.argv[2])
assert json.load(urllib.request.urlopen(url + "/healthz")) == {"status": "ok"}
info = json.load(urllib.request.urlopen(url + "/v1/info"))
assert info["images"] == limit, info
question = json.dumps({"query": "first_layer(token='dog', rank=20)"}).encode()
request = urllib.request.Request(url + "/v1/query", question, {"Content-Type": "application/json"})
print("smoke: healthy;", json.load(urllib.request.urlopen(request))["headline"])
END
