#!/usr/bin/env bash
# All there is to measure when an accelerator is at hand, in under eight minutes: one json and one page.
#
#     benchmarks/gpu.sh                 with the python of the environment that holds JAX for the device
#     benchmarks/gpu.sh --quick         the same in small, to see on any machine that it runs
#
# It is ended after LIMIT seconds (450), wherever it is: both files then hold what was measured and name what was not.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" XLA_PYTHON_CLIENT_PREALLOCATE=false
limit="${LIMIT:-450}" status=0
timeout --foreground --signal=KILL "$limit" "${PYTHON:-python3}" benchmarks/gpu.py "$@" || status=$?
if ((status && SECONDS >= limit)); then
    echo "the time was up after $limit seconds: what was measured until then is written"
    status=0
fi
exit "$status"
