#!/usr/bin/env bash
# From nothing to scheduled tuning on one machine: a Prefect server, a work pool, a worker that runs what is
# due, and the deployments of prefect.yaml. Ctrl-C ends the worker and the server.
#
#   deployments/scheduled.sh                               # then open http://127.0.0.1:4200
#   PORT=4300 deployments/scheduled.sh -n digits-nightly   # another port, one deployment
#
# Results go to ~/ray_results, or to where the worker's settings say:
#   PREFECT_INTEGRATIONS_TUNE_STORAGE_PATH=s3://bucket/tuning AWS_PROFILE=tuning deployments/scheduled.sh
set -euo pipefail -m # -m: Ctrl-C reaches this script alone, which ends the worker while it has its server
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."

port=${PORT:-4200}
export PREFECT_API_URL=http://127.0.0.1:$port/api
export PREFECT_SERVER_UI_API_URL=$PREFECT_API_URL # else its pages look for it on port 4200

server= worker=
finish() {
    trap - EXIT HUP INT TERM
    for process in $worker $server; do
        kill "$process" 2>/dev/null || continue
        wait "$process" || true
    done
}
trap finish EXIT HUP INT TERM

if (: <"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
    echo "port $port is taken; if a Prefect server is there, use it, else choose another: PORT=4300 $0" >&2
    exit 1
fi
# In the background nothing can be asked: what reads the terminal there is stopped, and with it all that waits for it.
prefect --no-prompt server start --host 127.0.0.1 --port "$port" </dev/null &
server=$!
until (: <"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do
    kill -0 $server || { echo "the Prefect server has not started; see above" >&2; exit 1; }
    sleep 0.5
done

prefect work-pool inspect tune >/dev/null 2>&1 || prefect work-pool create tune --type process
prefect --no-prompt worker start --pool tune --type process </dev/null &
worker=$!

(($#)) || set -- --all
prefect --no-prompt deploy "$@"
echo "Runs that are due are run; the UI is at http://127.0.0.1:$port"
wait
