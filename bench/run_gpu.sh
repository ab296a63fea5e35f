#!/usr/bin/env bash
# Everything that needs a GPU: build, tests, compute-sanitizer, benchmarks, in less than 8 minutes.
#
#   bash bench/run_gpu.sh [tests|bench]      without an argument: both
#
# Environment: OUT, the folder for results (bench-out/gpu); PYTHON (python3), an interpreter that has torch
# with CUDA, pytest, pytest-timeout, pytest-xdist, hypothesis, setuptools, cmake, ninja and pybind11;
# SVDPRUNE_CUDA_ARCHITECTURES (that of the first GPU). Needs no network, and installs under build/gpu only.
#
# A stage that fails or takes too long is noted, and the next one runs. Exit status 1 if any failed, 2 if it
# could not start. Results: summary.md, gpu.json, a log a stage. To show a run in the README, commit its
# gpu.json as bench/results/<gpu>/<name>.json and run `python -m bench.report`.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 2

what=${1:-all}
case $what in
  all | tests | bench) ;;
  *) echo "usage: bash bench/run_gpu.sh [tests|bench]" >&2; exit 2 ;;
esac
PYTHON=${PYTHON:-python3}
OUT=${OUT:-bench-out/gpu}
# cmake and ninja may stand beside the interpreter, nvcc and compute-sanitizer in the toolkit's usual place.
interpreter=$(command -v "$PYTHON") || { echo "run_gpu.sh: PYTHON=$PYTHON is no command" >&2; exit 2; }
PATH="$(dirname "$interpreter"):$PATH:/usr/local/cuda/bin"
mkdir -p "$OUT" || exit 2
OUT=$(cd "$OUT" && pwd)
parts=$(mktemp -d) || exit 2
trap 'rm -rf "$parts"' EXIT
rm -f "$OUT"/{summary.md,gpu.json,{build,tests,runtime-tests,memcheck,racecheck,bench}.log}
: > "$parts/stages.tsv"
failed=0

# note NAME VERDICT SECONDS
note() {
  printf '%s\t%s\t%s\n' "$1" "$2" "$3" >> "$parts/stages.tsv"
  printf '== %s: %s (%s s)\n' "$1" "$2" "$3"
}

# stage NAME SECONDS LOG COMMAND...: runs a command for at most SECONDS.
stage() {
  local name=$1 limit=$2 log=$3 start=$SECONDS status=0 verdict=passed
  shift 3
  timeout -k 2 "$limit" "$@" >> "$OUT/$log" 2>&1 || status=$?
  if ((status == 124 || status == 137)); then
    verdict="FAILED: not done in $limit s, see $log"
  elif ((status != 0)); then
    verdict="FAILED: exit status $status, see $log"
  fi
  note "$name" "$verdict" "$((SECONDS - start))"
}

# sanitize TOOL SECONDS "" or "quick" OPTION...
sanitize() {
  local tool=$1 limit=$2 shapes=$3
  shift 3
  if ! command -v compute-sanitizer > /dev/null; then
    note "$tool" "skipped: compute-sanitizer is not on the PATH" 0
    return
  fi
  stage "$tool" "$limit" "$tool.log" env PYTORCH_NO_CUDA_MEMORY_CACHING=1 \
    compute-sanitizer --tool "$tool" --error-exitcode 86 "$@" "$PYTHON" -m bench.gpu_small cuda "$shapes"
}

# summary: what the stages came to, in summary.md and gpu.json.
summary() {
  {
    echo "# GPU run ($what)"
    echo
    echo "| stage | verdict | seconds |"
    echo "| --- | --- | ---: |"
    while IFS=$'\t' read -r name verdict seconds; do
      echo "| $name | $verdict | $seconds |"
    done < "$parts/stages.tsv"
  } > "$OUT/summary.md"
  if ! timeout 60 "$PYTHON" -m bench.gpu_result --out "$OUT" --parts "$parts" 2> "$parts/error"; then
    reason=$(tail -n 1 "$parts/error")
    printf '\nNo gpu.json: %s\n' "${reason:-not done in 60 s}" >> "$OUT/summary.md"
    failed=1
  fi
  cat "$OUT/summary.md"
}

# Without a GPU nothing below says anything: the tests would be skipped, which must not pass for success.
capability=$(timeout 60 "$PYTHON" -c '
import torch
major, minor = torch.cuda.get_device_capability()
print(major, minor, "a" if major == 9 else "", sep="")' 2> "$OUT/build.log") || {
  note GPU "FAILED: torch cannot use one: $(tail -n 1 "$OUT/build.log" | tr '|\t' '  ')" 0
  summary
  exit 1
}

# Build. --prefix leaves the interpreter's own packages alone; the modules come from this folder.
SVDPRUNE_CUDA_ARCHITECTURES=${SVDPRUNE_CUDA_ARCHITECTURES:-$capability}
export SVDPRUNE_CUDA_ARCHITECTURES SVDPRUNE_CUDA=ON
stage build 60 build.log "$PYTHON" -m pip install --no-build-isolation --no-deps --ignore-installed \
  --no-warn-script-location --prefix build/gpu --editable .
metadata=$(find build/gpu -maxdepth 6 -type d -name 'svdprune_ext-*.dist-info' -print -quit 2> /dev/null)
export PYTHONPATH="$PWD${metadata:+:$PWD/$(dirname "$metadata")}${PYTHONPATH:+:$PYTHONPATH}"
export XLA_PYTHON_CLIENT_PREALLOCATE=false # JAX, where it is there, leaves memory to the others
stage backend 20 build.log "$PYTHON" -c '
import torch, svdprune_ext
assert torch.cuda.is_available(), "torch sees no GPU"
assert svdprune_ext.has_cuda, "svdprune_ext has no CUDA backend"
print(svdprune_ext.prune(torch.randn(2, 64, 96, device="cuda"), 4).indices)'

# Tests in several processes: one that hangs or loses the device is replaced. The log names each that ends, so that one
# that does not can be told. A test that looks at the whole device's memory or keeps it busy comes alone.
tests() {
  local name=$1 limit=$2
  shift 2
  stage "$name" "$limit" "$name.log" "$PYTHON" -m pytest -p no:cacheprovider -rs -v --tb=short --timeout 60 \
    --timeout-method thread --max-worker-restart 40 -k "not emulated" "$@"
}

if [[ $what != bench ]]; then
  tests tests 130 -n 8 python_tests/test_cuda.py python_tests/test_cuda_pytorch.py \
    python_tests/test_cuda_tridiag.py python_tests/test_cuda_features.py python_tests/test_cuda_purify.py \
    python_tests/test_cuda_pivoted.py python_tests/test_rater_cuda.py python_tests/test_models_cuda.py \
    python_tests/test_arrays.py python_tests/test_load.py &
  sanitize memcheck 130 "" --report-api-errors no &
  sanitize racecheck 130 quick --kernel-name kns=svdprune &
  wait
  tests runtime-tests 75 -n 1 python_tests/test_cuda_runtime.py
fi
if [[ $what != tests ]]; then
  stage kernels 25 bench.log "$PYTHON" -m bench.gpu_kernels --json "$parts/kernels.json"
  stage micro-benchmarks 60 bench.log "$PYTHON" -m bench.bench_gpu --json "$parts/micro.json" --budget 40
  stage prefill 80 bench.log "$PYTHON" -m bench.bench_prefill --json "$parts/prefill.json" --budget 20
fi

summary
grep -q FAILED "$parts/stages.tsv" && failed=1 # a stage in the background cannot say so itself
exit "$failed"
