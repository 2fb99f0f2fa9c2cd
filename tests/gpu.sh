#!/usr/bin/env bash
# Everything that needs a real GPU, in one go. Each part is timed and logged to a folder; one that fails does not stop
# the others. The summary comes last; the exit code is 1 if a part failed.
#
#   tests/gpu.sh              all of it
#   tests/gpu.sh --quick      the essential part, meant for ten minutes
#   tests/gpu.sh --pretend    the same parts, tiny, on the pretend GPU of tests/pretend.py: whether the script is right
#   --out FOLDER              where the logs go; gpu-report if it is not given
#
# PYTHON is the interpreter (python3). WHEELS is a folder of wheels to use beside what is installed. Parts for which a
# package or a second GPU is missing are skipped with a word.
set -uo pipefail

mode=full out=gpu-report
while [ $# -gt 0 ]; do
  case $1 in
    --quick) mode=quick ;;
    --pretend) mode=pretend ;;
    --out) out=${2:?--out takes a folder} && shift ;;
    *) sed -n '2,12s/^# \{0,1\}//p' "$0" && exit 2 ;;
  esac
  shift
done

mkdir -p "$out" && out=$(cd "$out" && pwd) || exit 2
cd "$(dirname "$0")/.." || exit 2
python=${PYTHON:-python3}
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1
if [ -n "${WHEELS:-}" ]; then
  site=$(mktemp -d) && trap 'rm -rf "$site"' EXIT
  "$python" -m pip install -q --no-index --no-deps --no-compile --target "$site" "$WHEELS"/*.whl || exit 2
  export PYTHONPATH="$site:$PYTHONPATH"
fi

failed=0
: >"$out/summary.txt"

# part NAME SECONDS COMMAND...: 77 says that it cannot be had here, in the log's last line.
part() {
  local name=$1 limit=$2 begun=$SECONDS code verdict last
  shift 2
  # On CPUs, which may be shared.
  [ "$mode" = pretend ] && limit=$((limit * 4))
  timeout --kill-after=10 "$limit" "$@" >"$out/$name.log" 2>&1
  code=$?
  last=$(tail -n 1 "$out/$name.log" | cut -c 1-100)
  case $code in
    0) verdict=passed ;;
    77) verdict=skipped ;;
    124 | 137) verdict=failed last="stopped after $limit s; $last" ;;
    *) verdict=failed ;;
  esac
  [ "$verdict" = failed ] && failed=1
  printf '%-18s %-8s %5d s  %s\n' "$name" "$verdict" $((SECONDS - begun)) "$last" | tee -a "$out/summary.txt"
}

run=("$python" tests/gpu/parts.py)
suite=("$python" -m pytest -n 0 -q -m gpu -p no:cacheprovider)
[ "$mode" = pretend ] || export INTERLACE_GPU=1
case $mode in
  pretend)
    export INTERLACE_PRETEND=1
    large=tiny small=tiny tokens=256 repeats=1 samples=4 batch=2 ;;
  quick) large=8b small=4b tokens=8192 repeats=2 samples=32 batch=8 ;;
  *) large=8b small=4b tokens=8192 repeats=5 samples=64 batch=8 ;;
esac
heal=(cli bench heal --device cuda --tokens "$tokens" --repeats "$repeats" --batch-size "$batch")
images=(--device cuda --repeats "$repeats" --samples "$samples" --batch-size "$batch" --side 64 --new-tokens 4)
[ "$mode" = pretend ] || images=(--device cuda --repeats "$repeats" --samples "$samples" --batch-size "$batch" --side 512)

part machine 120 "${run[@]}" machine
part kernels 300 "${suite[@]}" tests/gpu/test_kernels.py
part chain 600 "${suite[@]}" tests/gpu/test_chain_on_gpu.py
if [ "$mode" = full ]; then
  # As a user runs it: a CPU's values are compared, so it does not see the GPU.
  part suite 3600 env INTERLACE_GPU= "$python" -m pytest -q
fi
part bench-heal-large 300 "${run[@]}" "${heal[@]}" --shape $large --gradient-checkpointing --optim adamw_torch_fused
part bench-heal-small 300 "${run[@]}" "${heal[@]}" --shape $small --optim adamw_torch_fused
part bench-analyze 300 "${run[@]}" cli bench analyze --shape $large "${images[@]}"
part bench-serve 300 "${run[@]}" cli bench serve --shape $large "${images[@]}"
if [ "$mode" = full ]; then
  part bench-analyze-4b 600 "${run[@]}" cli bench analyze --shape $small "${images[@]}"
  part bench-serve-4b 600 "${run[@]}" cli bench serve --shape $small "${images[@]}"
fi
part memory 600 "${run[@]}" memory $large $small
part optimizer-8bit 300 "${run[@]}" needs bitsandbytes "${heal[@]}" --shape $small --optim adamw_8bit
part two-gpus 900 "${run[@]}" two-gpus

echo "logs: $out"
exit $failed
