#!/bin/sh
# Builds the native module with the address and undefined-behaviour sanitizers and runs the kernels'
# tests on it: sh csrc/sanitize.sh [what to give pytest]. Everything stays under build/sanitize.
set -e
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
out=build/sanitize
mkdir -p $out/objects
include=$($python -c "import sysconfig, nanobind, os; root = os.path.dirname(nanobind.__file__)
print('-I' + sysconfig.get_path('include'), '-I' + nanobind.include_dir(), end=' ')
print('-I' + os.path.join(root, 'ext', 'robin_map', 'include'))")
binding=$($python -c "import nanobind, os
print(os.path.join(os.path.dirname(nanobind.__file__), 'src', 'nb_combined.cpp'))")
flags="-std=c++17 -O1 -g -fPIC -fopenmp -ffp-contract=off -fno-math-errno -fno-trapping-math"
flags="$flags -fvisibility=hidden -fno-strict-aliasing -fno-omit-frame-pointer"
# -fno-sanitize=vptr: the binding library is built without type information.
checks="-fsanitize=address,undefined -fno-sanitize=vptr -fno-sanitize-recover=undefined"
compile() {  # source, flags of its own
  object=$out/objects/$(basename "$1" .cpp).o
  if [ ! -f "$object" ] || [ -n "$(find csrc -newer "$object" -name '*.h')" ] ||
    [ "$1" -nt "$object" ]; then
    g++ $flags $2 $include -c "$1" -o "$object"
  fi
}
[ -f $out/objects/nb_combined.o ] || compile "$binding" ""
for source in csrc/*.cpp; do compile "$source" "$checks"; done
# The package as it is, but for the module.
rm -rf $out/accel && cp -rs "$PWD/accel" $out/accel && rm -f $out/accel/_native*.so
g++ -shared -fopenmp -fsanitize=address,undefined $out/objects/*.o -o $out/accel/_native.so
[ -e $out/tests ] || ln -s "$PWD/tests" $out/tests
[ -e $out/pyproject.toml ] || ln -s "$PWD/pyproject.toml" $out/pyproject.toml
cd $out
# Python and its libraries keep memory until the process ends: leaks are not looked for.
export ASAN_OPTIONS=detect_leaks=0:halt_on_error=1 UBSAN_OPTIONS=print_stacktrace=1 PYTHONPATH=.
preload="$(g++ -print-file-name=libasan.so) $(g++ -print-file-name=libubsan.so)"
preload="$preload $(g++ -print-file-name=libstdc++.so)"
case $python in /*) ;; *) python=../../$python ;; esac
[ $# -gt 0 ] || set -- tests/kernels tests/nn/test_onnx_native.py -m "not slow and not exhaustive"
LD_PRELOAD="$preload" exec "$python" -m pytest -q -p no:cacheprovider --import-mode=importlib "$@"
