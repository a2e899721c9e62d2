#!/bin/sh
# Trains by a configuration file: run_exp.sh --data_dir DIR [--config FILE] [--save_dir DIR]
# [--gpu NUMBER]. A run that was cut short goes on when it is started again.
set -eu

here=$(dirname "$0")
config=$here/exp_config.yaml
data=
save=./results
gpu=

usage() {
    echo "usage: $0 --data_dir DIR [--config FILE] [--save_dir DIR] [--gpu NUMBER]" >&2
    exit 2
}

while [ $# -gt 0 ]; do
    [ $# -ge 2 ] || usage
    case $1 in
        --config) config=$2 ;;
        --data_dir) data=$2 ;;
        --save_dir) save=$2 ;;
        --gpu) gpu=$2 ;;
        *) usage ;;
    esac
    shift 2
done
[ -n "$data" ] || usage

python=${PYTHON:-python}
device=auto
if [ -n "$gpu" ]; then
    if "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
        export CUDA_VISIBLE_DEVICES="$gpu"
        device=cuda
    else
        device=cpu
        echo "note: no GPU here, running on the processor" >&2
    fi
fi

exec "$python" -m adlrns train "$config" --data "$data" --out "$save" --device "$device" --resume
