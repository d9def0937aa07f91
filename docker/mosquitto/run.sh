#!/bin/sh
# Runs mosquitto and starts it anew when its access and revocation lists change, as `manage.py up` does (decision 18).
set -eu
config=${1:-/mosquitto/config/mosquitto.conf}
lists=${2:-/var/lib/modelfleet/broker}

said() { cksum "$lists/access.acl" "$lists/devices.crl" 2>/dev/null || true; }

mkdir -p "$lists/store"
trap 'kill -TERM "$broker"; wait "$broker"; exit 0' TERM INT
while :; do
    seen=$(said)
    mosquitto -c "$config" &
    broker=$!
    while kill -0 "$broker" 2>/dev/null && [ "$(said)" = "$seen" ]; do
        sleep 1 &
        wait $! || true
    done
    # It ended by itself: whoever runs this container starts it again.
    kill -TERM "$broker" 2>/dev/null || { wait "$broker"; exit; }
    wait "$broker" || true
    sleep 1 # the second list follows the first at once
done
