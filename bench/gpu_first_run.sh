#!/usr/bin/env bash
# Everything that a first run on a GPU should tell, in one call of under nine minutes, on a machine without a network:
#
#     bench/gpu_first_run.sh                    # all parts of bench.gpu
#     bench/gpu_first_run.sh --only variants    # a second run: other blocks, warps, stages and splits of the kernels
#     bench/gpu_first_run.sh --only steps,fp8   # some sections; see python -m bench.gpu --help
#     SHAPE=tiny DEVICE=cpu bench/gpu_first_run.sh    # a rehearsal without a GPU
#
# The machine brings Python 3.11 or newer, torch 2.11 or newer for CUDA with its Triton, and transformers 5.17 or newer.
# Carry the repository, and in its folder .whl (git does not know it: add it to .git/info/exclude) what the machine
# lacks of WHEELS. Where there is a package index, this fills the folder for Python 3.12 on x86-64:
#
#     bench/gpu_first_run.sh wheels
#
# OUT (a new folder in ./gpu-run): gpu.log, all that is printed; gpu.jsonl, a line for each number as soon as it is known; machine.txt.
# BUDGET (525): seconds for all of it. PYTHON (python3). The exit code is 0 if no section failed.
set -u -o pipefail

WHEELS=(orjson==3.13.0 llguidance==1.9.1)

started=$SECONDS
cd "$(dirname "$0")/.." || exit 2
PYTHON=${PYTHON:-python3}
BUDGET=${BUDGET:-525}

if [ "${1:-}" = wheels ]; then
    exec "$PYTHON" -m pip download -q --no-deps --only-binary=:all: --python-version 3.12 --implementation cp \
        --platform manylinux_2_31_x86_64 --platform manylinux_2_28_x86_64 --platform manylinux_2_27_x86_64 \
        --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 -d .whl "${WHEELS[@]}"
fi

OUT=${OUT:-./gpu-run/$(date -u +%Y%m%d-%H%M%S)}
mkdir -p "$OUT" || exit 2
OUT=$(cd "$OUT" && pwd)
for file in gpu.jsonl gpu.log; do # an earlier run's results stay
    [ -e "$OUT/$file" ] && mv "$OUT/$file" "$OUT/$(date -u +%H%M%S)-$file"
done
libraries=$(mktemp -d) || exit 2
trap 'rm -rf "$libraries"' EXIT

for wheel in .whl/*.whl; do # a wheel is a zip file, and these need no more than to be unpacked
    [ -e "$wheel" ] && "$PYTHON" -m zipfile -e "$wheel" "$libraries"
done

export PYTHONPATH="$libraries:$PWD${PYTHONPATH:+:$PYTHONPATH}"
export PYTHONUNBUFFERED=1 PYTHONFAULTHANDLER=1 PYTHONDONTWRITEBYTECODE=1
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
export TRITON_CACHE_DIR=${TRITON_CACHE_DIR:-${TMPDIR:-/tmp}/triton-cache} # parts and runs share what is compiled

{
    date -u
    uname -sr
    nvidia-smi 2>&1 | head -20
    "$PYTHON" -c 'import sys; print(sys.version)'
    for name in torch triton transformers numpy tokenizers safetensors orjson llguidance; do
        "$PYTHON" -c "from importlib.metadata import version; print('$name', version('$name'))" 2>/dev/null || echo "$name is missing"
    done
} >"$OUT/machine.txt" 2>&1

rest=$((BUDGET - (SECONDS - started)))
timeout --foreground --kill-after=5 $((rest + 10)) "$PYTHON" -m bench.gpu --shape "${SHAPE:-8b}" --device "${DEVICE:-cuda}" \
    --out "$OUT/gpu.jsonl" --budget "$rest" "$@" 2>&1 | tee "$OUT/gpu.log"
code=${PIPESTATUS[0]}
echo "exit code $code, $((SECONDS - started)) s" | tee -a "$OUT/gpu.log"
exit "$code"
