#!/bin/sh
# Train nano from data to file, unattended; call again to go on where it stopped.
#   training/nano/run.sh PACKAGES_DIR RUN_DIR [PICTURES]
# The number of pictures is the length of the cosine schedule: keep it when resuming.
set -eu
packages=$1 run=$2 pictures=${3:-650000}
python=${PYTHON:-.venv/bin/python}
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-2}" OMP_WAIT_POLICY=passive
mkdir -p "$run"
[ -f "$run/data.npz" ] || "$python" -m training.nano.data "$packages" "$run/data.npz"
[ -f "$run/vae.safetensors" ] || "$python" -m accel train-diffusion vae "$run/data.npz" "$run"
exec "$python" -m accel train-diffusion unet "$run/data.npz" "$run" --images "$pictures"
