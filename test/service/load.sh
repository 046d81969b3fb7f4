#!/bin/sh
# make service-load with a few clients and for some seconds, in which one of each kind is killed.
set -eu
cd "$(dirname "$0")/../.."
trap 'scripts/server destroy "$SERVICE_NAME"' EXIT
sdk/examples/order_service/run load --connections 300 --seconds 6 --kill
