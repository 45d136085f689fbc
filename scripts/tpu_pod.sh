#!/usr/bin/env bash
# A TPU slice of Cloud TPU, from the request to its deletion: docs/tpu.md explains each step.
#
#   BUCKET=my-bucket scripts/tpu_pod.sh request|wait|setup|train|log|benchmark|stop|delete
#
# Every variable below can be set in the environment instead.
set -euo pipefail

PROJECT=${PROJECT:-$(gcloud config get-value project 2> /dev/null)}
ZONE=${ZONE:-us-west4-a}
NAME=${NAME:-dfrec}
TYPE=${TYPE:-v5litepod-256}                   # v5litepod-16, v5p-128, v6e-256, ...
RUNTIME=${RUNTIME:-v2-alpha-tpuv5-lite}       # v2-alpha-tpuv5 for v5p, v2-alpha-tpuv6e for v6e
CAPACITY=${CAPACITY:---spot}                  # empty for on-demand, --reserved for a reservation
BUCKET=${BUCKET:?name the bucket of data, code and runs: BUCKET=my-bucket}
RUN=${RUN:-ffpp}                              # the workdir is gs://BUCKET/runs/RUN
DATA=${DATA:-gs://$BUCKET/ffpp}               # the prepared data
# 24 images on each of 256 chips, which leave a third of a v5e's memory; v5p and v6e hold 64
# (docs/tpu_plan.md).
CONFIG=${CONFIG:-configs/ffpp.py:root=$DATA,encoder=mobilefacenet.npz,batch_size=6144,fsdp=4}
FLAGS=${FLAGS:-}                              # more flags: --config.compiler_options=overlap ...
WEIGHTS=${WEIGHTS:-gs://$BUCKET/weights/*}    # files of the frozen encoders, copied beside the code
CODE=gs://$BUCKET/code/dfrec_jax.tar.gz

at=(--project="$PROJECT" --zone="$ZONE")

on_every_host() {
  gcloud compute tpus tpu-vm ssh "$NAME" "${at[@]}" --worker=all --command="$1"
}

request() {
  # shellcheck disable=SC2086  # CAPACITY may be empty.
  gcloud compute tpus queued-resources create "$NAME" "${at[@]}" --node-id="$NAME" \
    --accelerator-type="$TYPE" --runtime-version="$RUNTIME" $CAPACITY
}

state() {
  gcloud compute tpus queued-resources describe "$NAME" "${at[@]}" --format='value(state.state)'
}

wait_until_active() {
  local now
  until now=$(state) && [[ $now == ACTIVE ]]; do
    echo "$(date +%T) $NAME is $now"
    case $now in FAILED | SUSPENDED | SUSPENDING) exit 1 ;; esac
    sleep 30
  done
}

setup() {
  git archive --format=tar.gz HEAD | gcloud storage cp - "$CODE"
  # The image's Python is older than JAX asks for; uv brings its own.
  on_every_host "set -e
    mkdir -p dfrec && cd dfrec
    gcloud storage cat $CODE | tar xz
    gcloud storage cp '$WEIGHTS' .
    curl -LsSf https://astral.sh/uv/install.sh | sh
    ~/.local/bin/uv venv --clear --quiet --python 3.12 .venv
    ~/.local/bin/uv pip install --quiet --python .venv -r requirements.txt 'jax[tpu]' gcsfs"
}

train() {
  on_every_host "cd dfrec && nohup .venv/bin/python -m dfrec_jax.main --config='$CONFIG' \
    --workdir=gs://$BUCKET/runs/$RUN --compilation_cache=gs://$BUCKET/xla --distributed $FLAGS \
    > train.log 2>&1 < /dev/null &"
}

log() {
  gcloud compute tpus tpu-vm ssh "$NAME" "${at[@]}" --worker=0 --command='tail -f dfrec/train.log'
}

benchmark() {
  # The whole slice, by part; each host keeps its trace in dfrec/benchmark/trace.
  on_every_host "cd dfrec && .venv/bin/python -m dfrec_jax.benchmark --config='$CONFIG' --what=train \
    --output=benchmark --trace --distributed $FLAGS"
}

stop() {
  # SIGTERM: all hosts agree on a step, save it and end.
  on_every_host "pkill -TERM -f '[d]frec_jax.main' || true"
}

delete() {
  gcloud compute tpus queued-resources delete "$NAME" "${at[@]}" --force --quiet
}

case ${1:-} in
  request | setup | train | log | benchmark | stop | delete) "$1" ;;
  wait) wait_until_active ;;
  *)
    sed -n '2,6p' "$0" | cut -c3-
    exit 2
    ;;
esac
