#!/usr/bin/env bash
# Trains what the settings below say on this machine, and leaves packs of what is finished in $OUT, or in ./out.
#
#   ./run.sh [MINUTES]        stops in time; the same command goes on from there. The code is 75 if there is more to do.
#
# It needs Linux, PyTorch and bash, and reaches for no network. PYTHON names the interpreter. DEVICE=cpu and ENGINE=serial are
# for a rehearsal.
# settings

set -uo pipefail
began=$(date +%s)
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
out=${OUT:-$PWD/out}
python=${PYTHON:-python3}
work=$here/work
minutes=${1:-$default_minutes}
mkdir -p "$out" "$work/runs"

fail() { echo "run.sh: $*" >&2; exit 1; }
found=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])') || fail "$python can't be run; set PYTHON"
if [ -n "$python_version" ] && [ "$found" != "$python_version" ]; then
  fail "$python is Python $found, and the packages are for $python_version; set PYTHON, or prepare with --python $found"
fi
"$python" -c 'import torch' || fail "$python has no PyTorch"

# Before 3.11.4 there is no filter.
unpack='import sys, tarfile
with tarfile.open(sys.argv[1]) as file:
    file.extractall(sys.argv[2], **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))'
for each in packages source data; do
  if [ -e "$here/$each.tar.xz" ] && [ ! -e "$work/$each" ]; then
    "$python" -c "$unpack" "$here/$each.tar.xz" "$work/$each.new" || fail "$each.tar.xz can't be unpacked"
    mv "$work/$each.new" "$work/$each"
  fi
done
export PYTHONPATH=$work/source:$work/packages
export MUFREE_UNTIL
MUFREE_UNTIL=$("$python" -c 'import sys; print(int(sys.argv[1]) + 60 * float(sys.argv[2]))' "$began" "$minutes") ||
  fail "'$minutes' is no number of minutes"
mufree() { "$python" -c 'import sys; from mufree.cli import main; sys.exit(main())' "$@"; }

code=0
for each in $tasks; do
  mufree sweep --study "$here/$study" ${part:+--part "$part"} --task "${each%%=*}" --data "$work/data/${each#*=}" \
    --store "$work/runs" --out "$work/sweeps/${each%%=*}" --device "${DEVICE:-cuda}" --engine "${ENGINE:-stack}" \
    2>&1 | tee -a "$out/run.log"
  ended=${PIPESTATUS[0]}
  if [ "$ended" -ne 0 ] && [ "$code" -ne 1 ]; then code=$([ "$ended" -eq 75 ] && echo 75 || echo 1); fi
done
# Whatever became of the sweeps, what is finished goes out.
mufree pack "$here/$study" --store "$work/runs" --packs "$out" --most-mb 16 2>&1 | tee -a "$out/run.log"
[ "${PIPESTATUS[0]}" -eq 0 ] || code=1
echo "run.sh: $what, $(($(date +%s) - began)) s, code $code" | tee -a "$out/run.log"
exit "$code"
