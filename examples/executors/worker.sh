#!/bin/sh
# worker.sh: counts words. It asks for answers in YAML, in which each field has a line of its own.
url=${RPC_URL:-http://localhost:8080/rpc}

rpc() { # a method, and its params as JSON
    curl --silent --fail-with-body --header 'content-type: application/json' --header 'accept: text/yaml' \
        --data "{\"method\": \"awf.task/$1\", \"params\": $2}" "$url"
}

field() { # of the answer on stdin
    sed -n "s/^ *$1: //p" | sed -n "1s/^'\(.*\)'\$/\1/;1p"
}

while :; do
    task=$(rpc long-poll '{"taskDefinitions": ["count-words"], "timeout": 10000}') || { sleep 1; continue; }
    id=$(printf '%s\n' "$task" | field id)
    [ -n "$id" ] || continue # nothing came

    attempt="\"id\": \"$id\", \"execId\": \"$(printf '%s\n' "$task" | field execId)\""
    rpc start "{$attempt}" >/dev/null || continue # no longer ours

    text=$(printf '%s\n' "$task" | field text)
    if [ -n "$text" ]; then
        rpc success "{$attempt, \"result\": {\"words\": $(($(printf '%s' "$text" | wc -w)))}}" >/dev/null
    else
        rpc fail "{$attempt, \"error\": {\"message\": \"there is no text\", \"retryable\": false}}" >/dev/null
    fi
done
