#!/bin/sh
# Builds the native module with the address and undefined-behaviour sanitizers and runs the kernels'
# tests on it: sh csrc/sanitize.sh [what to give pytest]. Everything stays under build/sanitize.
# SANITIZE=thread looks for races instead, in tests that start threads of their own; OpenMP is left
# out there, as its barriers are unknown to that sanitizer.
set -e
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
kind=${SANITIZE:-address}
out=build/sanitize
checks="-fsanitize=address,undefined -fno-sanitize=vptr -fno-sanitize-recover=undefined -fopenmp"
# -fno-sanitize=vptr: the binding library is built without type information.
if [ "$kind" = thread ]; then
  out=build/sanitize-thread
  checks="-fsanitize=thread -Wno-unknown-pragmas"
fi
mkdir -p $out/objects
include=$($python -c "import sysconfig, nanobind, os; root = os.path.dirname(nanobind.__file__)
print('-I' + sysconfig.get_path('include'), '-I' + nanobind.include_dir(), end=' ')
print('-I' + os.path.join(root, 'ext', 'robin_map', 'include'))")
binding=$($python -c "import nanobind, os
print(os.path.join(os.path.dirname(nanobind.__file__), 'src', 'nb_combined.cpp'))")
flags="-std=c++17 -O1 -g -fPIC -ffp-contract=off -fno-math-errno -fno-trapping-math"
flags="$flags -fvisibility=hidden -fno-strict-aliasing -fno-omit-frame-pointer"
is_old() {  # object: whether it is missing, or older than what it was made of
  [ ! -f "$1" ] || [ ! -f "$1.d" ] ||
    [ -n "$(find $(sed 's/^[^:]*://; s/\\$//' "$1.d") -newer "$1" 2>&1)" ]
}
todo=$out/todo
: > $todo
for source in "$binding" csrc/*.cpp; do
  object=$out/objects/$(basename "$source" .cpp).o
  own=$checks
  [ "$source" != "$binding" ] || own=
  if is_old "$object"; then
    echo "g++ $flags $own $include -MMD -MF $object.d -c $source -o $object" >> $todo
  fi
done
xargs -r -P "${JOBS:-2}" -I{} sh -c '{}' < $todo
# The package as it is, but for the module.
rm -rf $out/accel && cp -rs "$PWD/accel" $out/accel && rm -f $out/accel/_native*.so
g++ -shared $checks $out/objects/*.o -o $out/accel/_native.so
[ -e $out/tests ] || ln -s "$PWD/tests" $out/tests
[ -e $out/benchmarks ] || ln -s "$PWD/benchmarks" $out/benchmarks
[ -e $out/pyproject.toml ] || ln -s "$PWD/pyproject.toml" $out/pyproject.toml
cd $out
# Python and its libraries keep memory until the process ends: leaks are not looked for.
export ASAN_OPTIONS=detect_leaks=0:halt_on_error=1 UBSAN_OPTIONS=print_stacktrace=1 PYTHONPATH=.
export TSAN_OPTIONS=halt_on_error=1:ignore_noninstrumented_modules=1
case $kind in
  thread) preload=$(g++ -print-file-name=libtsan.so) ;;
  *) preload="$(g++ -print-file-name=libasan.so) $(g++ -print-file-name=libubsan.so)" ;;
esac
preload="$preload $(g++ -print-file-name=libstdc++.so)"
case $python in /*) ;; *) python=../../$python ;; esac
check() {
  LD_PRELOAD="$preload" "$python" -m pytest -q -p no:cacheprovider -p tests.kernels.native_only \
    --import-mode=importlib "$@"
}
if [ $# -gt 0 ]; then
  check "$@"
  exit
fi
quick="not slow and not exhaustive"
# What only runs Triton, or starts other processes, says nothing about the C++.
check tests/kernels tests/nn/test_onnx_native.py tests/nn/test_onnx.py \
  tests/faces/test_scene.py tests/faces/test_smooth.py tests/video/test_png.py -m "$quick" \
  --ignore tests/kernels/test_aot.py --ignore tests/kernels/test_benchmarks.py \
  --ignore tests/kernels/test_device_ops.py --ignore tests/kernels/test_without.py
# The code that CPUs with narrower vectors, or without tile registers, run.
for less in "avx512 16" "avx2 8" "plain 4"; do
  export ACCEL_CONV_ISA="${less% *}" ACCEL_LANES="${less#* }"
  check tests/kernels/test_conv2d.py tests/kernels/test_conv2d_halves.py \
    tests/kernels/test_network_ops.py \
    tests/kernels/test_layer_norm.py tests/kernels/test_to_uint8.py tests/kernels/test_unusual.py \
    tests/nn/test_onnx_native.py -m "$quick"
done
