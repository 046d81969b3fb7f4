#!/bin/sh
# make service-demo with the first orders of the file alone.
set -eu
cd "$(dirname "$0")/../.."
data=$(mktemp)
trap 'rm -f "$data"; scripts/server destroy "$SERVICE_NAME"' EXIT
head -n 2000 demo/data/online_retail_week.csv >"$data"
sdk/examples/order_service/run demo --data "$data" --seed "${SEED:-7}"
