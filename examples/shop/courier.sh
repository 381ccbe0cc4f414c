#!/bin/sh
# The courier: a worker of sh and curl. It collects parcels until it is stopped.
#
#     examples/shop/courier.sh http://localhost:8080
set -u

rpc() { curl -sS --fail --noproxy localhost,127.0.0.1 -H 'content-type: application/json' -d "{\"method\": \"awf.task/$1\", \"params\": {$2}}" "$url/rpc"; }
field() { printf %s "$task" | sed -n "s/.*\"$1\": *\"\([^\"]*\)\".*/\1/p"; }

url=$1
while :; do
    # Anything else than a task, as an empty list or a gateway that is away: ask again.
    task=$(rpc long-poll '"taskDefinitions": ["courier/collect"], "timeout": 20000') || { sleep 1; continue; }
    id=$(printf %s "$task" | sed -n 's/.*"resourceType": *"AidboxTask", *"id": *"\([^"]*\)".*/\1/p')
    [ -n "$id" ] || continue
    this="\"id\": \"$id\", \"execId\": \"$(field execId)\""
    rpc start "$this" > /dev/null || continue
    echo "collects parcel $(field parcel)"
    rpc success "$this, \"result\": {\"receipt\": \"courier-$(field parcel)\"}" > /dev/null || continue
done
