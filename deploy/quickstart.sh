#!/usr/bin/env bash
# Builds Tauserve, serves the embedded model, asks it for a fact in a 16,000-token document, shows how sparse the
# attention was and what the metrics say, and stops the server.
#   --serve  uses the default ports and keeps the server running until Ctrl-C
set -euo pipefail
cd "$(dirname "$0")/.."

serve=false
for argument in "$@"; do
  case "$argument" in
    --serve) serve=true ;;
    *) echo "usage: deploy/quickstart.sh [--serve]" >&2; exit 2 ;;
  esac
done

bin=build/release/bin
work=$(mktemp -d)
server_pid=

finish() {
  local code=$?
  trap - EXIT INT TERM
  if [[ -n $server_pid ]]; then
    kill -TERM "$server_pid" 2>/dev/null || true
    wait "$server_pid" || true
  fi
  if ((code != 0)) && [[ -s $work/server.log ]]; then
    echo "the end of the server's log:" >&2
    tail -n 20 "$work/server.log" >&2
  fi
  rm -rf "$work"
  exit "$code"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

step() { printf '\n== %s\n' "$*"; }

# Ninja's "[12/140] ..." lines: on a terminal one line, rewritten; else every 25th.
show_progress() {
  local line count
  while IFS= read -r line; do
    [[ $line =~ ^\[([0-9]+)/[0-9]+\] ]] || continue
    count=${BASH_REMATCH[1]}
    if [[ -t 1 ]]; then
      printf '\r\033[K%.*s' 79 "$line"
    elif ((count % 25 == 0)); then
      echo "${line%% *}"
    fi
  done
  if [[ -t 1 ]]; then printf '\r\033[K'; fi
}

build() {
  cmake --preset release >"$work/build.log" 2>&1 &&
    cmake --build --preset release --target tauserve tauserve-cli 2>&1 |
      tee -a "$work/build.log" | show_progress
}

# Starts the server and waits for its line on standard output, which names the addresses.
start_server() {
  local ports=(--listen=127.0.0.1:0 --control_listen=127.0.0.1:0 --metrics_listen=127.0.0.1:0)
  if $serve; then ports=(); fi
  # In a session of its own, so that Ctrl-C reaches this script alone, which then asks the server to drain.
  setsid "$bin/tauserve" --model=models/recall-9m "${ports[@]}" \
    >"$work/serving.json" 2>"$work/server.log" &
  server_pid=$!
  local tries
  for ((tries = 0; tries < 600; tries++)); do
    if [[ -s $work/serving.json ]]; then return 0; fi
    kill -0 "$server_pid" 2>/dev/null || break
    sleep 0.1
  done
  echo "the server did not start" >&2
  return 1
}

address() {
  .venv/bin/python -c 'import json, sys; print(json.load(open(sys.argv[1]))[sys.argv[2]])' \
    "$work/serving.json" "$1"
}

# Sends SIGTERM and exits with the server's exit code.
stop_server() {
  local code=0
  kill -TERM "$server_pid"
  wait "$server_pid" || code=$?
  server_pid=
  echo "the server ended with exit code $code"
  exit "$code"
}

step "Set-up"
./deploy/setup.sh
echo "done"

step "Build (some minutes the first time)"
if ! build; then
  echo "the build failed:" >&2
  tail -n 40 "$work/build.log" >&2
  exit 1
fi
echo "$bin/tauserve $bin/tauserve-cli"

step "Start the server"
start_server
cat "$work/serving.json"
server=$(address grpc)
control=$(address control)
metrics=$(address metrics)
"$bin/tauserve-cli" health --wait=30s --server="$server"

step "Find a fact in a 16k-token document"
"$bin/tauserve-cli" generate --server="$server" --temperature=0 --max_new_tokens=24 \
  --prompts=models/prompts/recall-16k.jsonl --prompt_id=16k-0 --stream --progress

step "What Prometheus would scrape (a part, without zeros)"
curl -fsS "http://$metrics/metrics" >"$work/scrape"
families='requests|prompt_tokens|generation_tokens|attention_prefill_blocks_[a-z]+|attention_keys_[a-z]+'
grep -E "^tauserve_((${families})_total|kv_pages_free|time_to_first_token_seconds_(sum|count))[ {]" \
  "$work/scrape" | grep -v ' 0$'

if $serve; then
  trap stop_server INT TERM
  step "Serving on $server (control $control, metrics $metrics) until Ctrl-C"
  echo "$bin/tauserve-cli generate 'Once upon a time, there was a little fox named Mira. One day,'"
  wait "$server_pid" && code=0 || code=$?
  # Only if the server ends by itself: a signal's trap does not come back.
  server_pid=
  echo "the server ended with exit code $code"
  exit "$code"
fi
step "Stop"
stop_server
