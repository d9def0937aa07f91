#!/bin/sh
# Runs mosquitto and tells it to reread its access and revocation lists when they change, as `manage.py up` does.
set -eu
config=${1:-/mosquitto/config/mosquitto.conf}
lists=${2:-/var/lib/modelfleet/broker}

mkdir -p "$lists/store"
mosquitto -c "$config" &
broker=$!
trap 'kill -TERM "$broker"; wait "$broker"; exit 0' TERM INT

seen=$(cksum "$lists/access.acl" "$lists/devices.crl")
while kill -0 "$broker" 2>/dev/null; do
    sleep 1 &
    wait $! || true
    now=$(cksum "$lists/access.acl" "$lists/devices.crl" 2>/dev/null) || continue
    if [ "$now" != "$seen" ]; then
        seen=$now
        kill -HUP "$broker"
    fi
done
wait "$broker"
