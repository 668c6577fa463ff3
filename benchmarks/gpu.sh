#!/usr/bin/env bash
# All there is to measure when an accelerator is at hand, in under eight minutes: one json and one page.
#
#     benchmarks/gpu.sh                 with the python of the environment that holds JAX for the device
#     benchmarks/gpu.sh --quick         the same in small, to see on any machine that it runs
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" XLA_PYTHON_CLIENT_PREALLOCATE=false
exec "${PYTHON:-python3}" benchmarks/gpu.py "$@"
