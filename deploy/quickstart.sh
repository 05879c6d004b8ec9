#!/usr/bin/env bash
# Builds Tauserve, serves the embedded model, asks it about a fact in a 16,000-token document, shows how sparse the
# attention was and what the metrics say, and stops.  --serve: keeps the server running until Ctrl-C.
set -euo pipefail
cd "$(dirname "$0")/.."

serve=false
for arg in "$@"; do
  case "$arg" in
    --serve) serve=true ;;
    *) echo "usage: deploy/quickstart.sh [--serve]" >&2; exit 2 ;;
  esac
done

step() { printf '\n== %s\n' "$*"; }

step "Set-up"
./deploy/setup.sh

step "Build (a few minutes the first time)"
cmake --preset release >/dev/null
cmake --build --preset release --target tauserve tauserve-cli | grep -E '^\[|error' | tail -n 1

work=$(mktemp -d)
pid=
finish() {
  local code=$?
  if [[ -n $pid ]] && kill -0 "$pid" 2>/dev/null; then kill -TERM "$pid"; wait "$pid" || true; fi
  if ((code != 0)) && [[ -s $work/log ]]; then
    echo "the server's log:" >&2
    tail -n 20 "$work/log" >&2
  fi
  rm -rf "$work"
}
trap finish EXIT

step "Start the server"
any=127.0.0.1:0
ports=(--listen=$any --control_listen=$any --metrics_listen=$any)
if $serve; then ports=(); fi
# Opened for reading and writing, so that neither end waits for the other.
mkfifo "$work/out"
exec 3<>"$work/out"
build/release/bin/tauserve --model=models/recall-9m "${ports[@]}" >&3 2>"$work/log" &
pid=$!
line=
for ((i = 0; i < 60; i++)); do
  if read -r -t 1 -u 3 line; then break; fi
  kill -0 "$pid" 2>/dev/null || { echo "the server did not start" >&2; exit 1; }
done
echo "$line"
field() { .venv/bin/python -c 'import json, sys; print(json.loads(sys.argv[1])[sys.argv[2]])' "$line" "$1"; }
server=$(field grpc)
metrics=$(field metrics)
cli=(build/release/bin/tauserve-cli --server="$server" --control="$(field control)")
"${cli[@]}" health --wait=30s

step "Read a 16k-token document and find a fact in it"
"${cli[@]}" generate --prompts=models/prompts/recall-16k.jsonl --prompt_id=16k-0 --temperature=0 \
  --max_new_tokens=24 --stream --progress

step "What Prometheus would scrape (a part)"
curl -fsS "http://$metrics/metrics" >"$work/scrape"
grep -E '^tauserve_(requests_total|prompt_tokens_total|generation_tokens_total|kv_pages_free|attention_prefill_blocks.*_total|attention_keys_(considered|support)_total|time_to_first_token_seconds_(sum|count))' \
  "$work/scrape" | sed 's/{[^}]*}//'

if $serve; then
  step "Serving on $server until Ctrl-C"
  echo "try: build/release/bin/tauserve-cli generate 'Once upon a time, there was a little fox named Mira. One day,'"
  trap 'kill -TERM "$pid" 2>/dev/null || true' INT TERM
  wait "$pid" || true
else
  step "Stop"
  kill -TERM "$pid"
fi
code=0
wait "$pid" || code=$?
pid=
echo "the server ended with exit code $code"
exit "$code"
