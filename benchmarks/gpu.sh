#!/bin/sh
# Everything that only a GPU can show, in about 10 minutes: sh benchmarks/gpu.sh [OUT]
# Exports both networks (TorchScript, ONNX, TensorRT), times each engine, puts TorchServe and Triton
# under load, and samples the GPU meanwhile. DEVICE=cpu tries the script itself where there is none.
set -eu

out=${1:-runs/gpu}
device=${DEVICE:-cuda:0}
py=.venv/bin/python
engines="tensorrt tensorrt-rtx torchscript onnx"
batches="1 8"
repeat=50
sizes="--rounds 3 --seconds 20 --users 1 4 16 32"

cd "$(dirname "$0")/.."
[ -x "$py" ] || { echo "gpu.sh: $py is missing: run make venv" >&2; exit 2; }
if [ "$device" = cpu ]; then
  engines="torchscript onnx"
  batches=1
  repeat=3
  sizes="--quick"
elif ! nvidia-smi >/dev/null 2>&1; then
  echo "gpu.sh: nvidia-smi finds no GPU; DEVICE=cpu tries the script without one" >&2
  exit 2
elif ! "$py" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
  echo "gpu.sh: torch sees no GPU: install PyPI's CUDA build of torch" >&2
  exit 2
elif ! "$py" -c 'import tensorrt' 2>/dev/null; then
  echo "gpu.sh: without TensorRT; for it: $py -m pip install -e '.[tensorrt]'" >&2
  engines="tensorrt-rtx torchscript onnx"
fi

mkdir -p "$out"
sampler=
running=
# shellcheck disable=SC2317,SC2329  # called by the trap
finish() {
  trap - EXIT INT TERM
  [ -z "$running" ] || kill -TERM "$running" 2>/dev/null || true # it stops its servers
  [ -z "$running" ] || wait "$running" || true
  [ -z "$sampler" ] || kill "$sampler" 2>/dev/null || true
}
trap finish EXIT
trap 'exit 130' INT TERM

# In the background, so that a signal to this script is seen at once.
run() {
  echo "gpu.sh: $*" >&2
  "$@" &
  running=$!
  wait "$running"
  running=
}

failed=
# A benchmark that fails is told, and the others go on.
measure() {
  name=$1
  shift
  run "$py" -m "$@" --json "$out/$name.json" >"$out/$name.md" || failed="$failed $name"
  running=
  cat "$out/$name.md"
}

{
  echo "date: $(date -u +%Y-%m-%d)"
  if [ "$device" = cpu ]; then
    echo "GPU: none, a trial of the script"
  else
    nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader
  fi
  "$py" -m pip list --disable-pip-version-check 2>/dev/null |
    grep -E '^(torch|tensorrt|onnxruntime|torchserve|numpy) ' || true
  git rev-parse --short HEAD 2>/dev/null || true
} >"$out/machine.txt"
cat "$out/machine.txt"

# shellcheck disable=SC2086  # lists of words
{
  run "$py" -m export model_store/regression.safetensors model_store/classification.safetensors \
    --to $engines --timing-cache "$out/timing.cache" --out "$out/graphs"
  run "$py" -m export.archive model_store/regression.safetensors \
    --out "$out/store/colorize.mar" --engine $engines
  run "$py" -m export triton model_store/regression.safetensors \
    --out "$out/store/triton" --engine $engines
  [ -x .venv/triton/pytriton/tritonserver/bin/tritonserver ] || run "$py" -m handlers.triton.install

  for head in regression classification; do
    measure "engines-$head" benchmarks.engines "model_store/$head.safetensors" \
      "$out/graphs/$head" --device "$device" --batches $batches --repeat $repeat
  done

  if [ "$device" != cpu ]; then
    nvidia-smi --query-gpu=timestamp,utilization.gpu,memory.used --format=csv,noheader,nounits \
      --loop=1 >"$out/utilization.csv" &
    sampler=$!
  fi
  measure serving benchmarks.serving --store "$out/store" $sizes
}

if [ -n "$sampler" ]; then
  kill "$sampler"
  sampler=
  awk -F ', ' '$2 > 0 {n++; sum += $2; if ($3 > memory) memory = $3}
    END {printf "GPU while serving: %.0f %% used in the %d seconds in which it was, %d MiB at most\n",
      n ? sum / n : 0, n, memory}' "$out/utilization.csv" | tee "$out/utilization.txt"
fi
[ -z "$failed" ] || { echo "gpu.sh: failed:$failed" >&2; exit 1; }
echo "gpu.sh: tables and raw data are in $out; their place is benchmarks/GPU.md"
