#!/bin/sh
# Everything that a first real GPU should answer, in one go:
#   tests/gpu/first_gpu.sh [RESULTS_FOLDER]
# Kernels as compiled for it against their references, whole jobs against the CPU's, then figures.
# Later steps run though earlier ones fail; the exit status is 0 only when all of them passed.
set -u
results=${1:-gpu-results}
mkdir -p "$results"
results=$(cd "$results" && pwd)
cd "$(dirname "$0")/../.." || exit 2
unset TRITON_INTERPRET ACCEL_KERNELS  # either would measure something else
python=${PYTHON:-.venv/bin/python}
failed=0
step() {
  name=$1
  shift
  echo "== $name"
  "$@" > "$results/$name.log" 2>&1 || { failed=1; echo "   failed: see $results/$name.log"; }
}
"$python" -c 'import sys, torch; sys.exit(0 if torch.cuda.is_available() else "no CUDA device is here")' || exit 2
nvidia-smi > "$results/nvidia-smi.txt" 2>&1
step doctor "$python" -m accel doctor --json "$results/doctor.json"
step kernels env ACCEL_TEST_GPU=1 "$python" -m pytest -q tests/kernels -m 'not exhaustive'
step jobs "$python" -m pytest -q tests/gpu
# Races and reads out of bounds are what Triton's interpreter cannot show. Under these tools a test
# takes up to a hundred times as long.
if command -v compute-sanitizer > /dev/null; then
  for tool in memcheck racecheck; do
    step "$tool" env ACCEL_TEST_GPU=1 compute-sanitizer --tool "$tool" --error-exitcode 1 \
      "$python" -m pytest -q -x -o timeout=0 tests/kernels/test_device_ops.py tests/kernels/test_crop.py \
      tests/kernels/test_paste.py tests/kernels/test_network_ops.py tests/kernels/test_guided_step.py
  done
fi
step bench "$python" -m accel bench --device cuda --json "$results/bench.json" --html "$results/bench.html"
# Beside what was measured, what was foretold for the card nearest to this one.
for card in h100 a100 l4 rtx4090 rtx3090; do
  step "predicted-$card" "$python" -m accel bench --predict $card --json "$results/predicted-$card.json"
done
exit $failed
