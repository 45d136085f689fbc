#!/usr/bin/env bash
# The same training on GKE, through XPK: docs/tpu.md explains each step.
#
#   BUCKET=my-bucket scripts/xpk.sh cluster|image|train|list|delete
#
# Every variable below can be set in the environment instead.
set -euo pipefail

PROJECT=${PROJECT:-$(gcloud config get-value project 2> /dev/null)}
ZONE=${ZONE:-us-west4-a}
CLUSTER=${CLUSTER:-dfrec}
TYPE=${TYPE:-v5litepod-256}
CAPACITY=${CAPACITY:---spot}                # or --on-demand, or --reservation=NAME
RESTARTS=${RESTARTS:-50}                    # of a workload that ended early: it resumes
BUCKET=${BUCKET:?name the bucket of data and runs: BUCKET=my-bucket}
RUN=${RUN:-ffpp}                            # the workdir is gs://BUCKET/runs/RUN
IMAGE=${IMAGE:-gcr.io/$PROJECT/dfrec-jax}
DATA=${DATA:-gs://$BUCKET/ffpp}             # the prepared data
# 24 images on each of 256 chips, which leave a third of a v5e's memory; v5p and v6e hold 64
# (docs/tpu_plan.md).
CONFIG=${CONFIG:-configs/ffpp.py:root=$DATA,encoder=mobilefacenet.npz,batch_size=6144,fsdp=4}
FLAGS=${FLAGS:-}
WEIGHTS=${WEIGHTS:-gs://$BUCKET/weights/*}

at=(--project="$PROJECT" --zone="$ZONE" --cluster="$CLUSTER")

cluster() {
  xpk cluster create "${at[@]}" --tpu-type="$TYPE" --num-slices=1 "$CAPACITY"
}

image() {
  local build
  build=$(mktemp -d)
  git archive HEAD | tar x -C "$build"
  gcloud storage cp "$WEIGHTS" "$build"
  docker build --platform=linux/amd64 --file scripts/Dockerfile --tag "$IMAGE" "$build"
  docker push "$IMAGE"
  rm -r "$build"
}

train() {
  # `exec`: the pod's SIGTERM reaches training, which saves and ends.
  xpk workload create "${at[@]}" --workload="$RUN" --tpu-type="$TYPE" --num-slices=1 \
    --docker-image="$IMAGE" --max-restarts="$RESTARTS" \
    --command="exec python -m dfrec_jax.main --config='$CONFIG' \
      --workdir=gs://$BUCKET/runs/$RUN --compilation_cache=gs://$BUCKET/xla --distributed $FLAGS"
}

list() {
  xpk workload list "${at[@]}"
}

delete() {
  xpk workload delete "${at[@]}" --workload="$RUN"
}

case ${1:-} in
  cluster | image | train | list | delete) "$1" ;;
  *)
    sed -n '2,6p' "$0" | cut -c3-
    exit 2
    ;;
esac
