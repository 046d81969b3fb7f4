#!/bin/sh
# make service-load with a few clients: first as fast as it goes, then with killing.
set -eu
cd "$(dirname "$0")/../.."
trap 'scripts/server destroy "$SERVICE_NAME"' EXIT
sdk/examples/order_service/run load --connections 300 --seconds 3
