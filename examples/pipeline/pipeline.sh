#!/usr/bin/env bash
# Export, harden, verify, audit, report; publish where every gate held, and nothing otherwise.
#
#   MODEL    ONNX model to start from         [default: export_model.py trains and exports one]
#   CALIB    calibration images               [needed with MODEL, else export_model.py's]
#   DATA     labelled images                  [needed with MODEL, else export_model.py's]
#   NAME     of the model in the release      [default: classifier]
#   CONFIG   settings and gates               [default: lipcompile.toml beside this script]
#   BUILD    where intermediate files go      [default: build]; must not exist
#   RELEASE  where a good model is published  [default: release]; must not exist
#   LABELS   names of the classes, for Triton [optional]
#
# The exit code is that of the first step that failed: 1 where a gate did not hold, 2 where a
# setting cannot be used, 4 where the export or the publishing broke.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
name=${NAME:-classifier}
config=${CONFIG:-$here/lipcompile.toml}
build=${BUILD:-build}
release=${RELEASE:-release}
for folder in "$build" "$release"; do
  if [ -e "$folder" ]; then
    echo "'$folder' is left from an earlier run: remove it, or set BUILD and RELEASE" >&2
    exit 2
  fi
  parent=$(dirname "$folder")
  if [ ! -d "$parent" ] || [ ! -w "$parent" ]; then
    echo "'$folder' cannot be made in '$parent': create that, or set BUILD and RELEASE" >&2
    exit 2
  fi
done
if [ -n "${MODEL:-}" ] && { [ -z "${CALIB:-}" ] || [ -z "${DATA:-}" ]; }; then
  echo "MODEL needs data of its own: set CALIB and DATA" >&2
  exit 2
fi
mkdir "$build"
summary=${GITHUB_STEP_SUMMARY:-$build/summary.md}
run() {
  echo "+ lipcompile $1" >&2
  lipcompile "$1" -c "$config" "${@:2}"
}

if [ -z "${MODEL:-}" ]; then
  python "$here/export_model.py" --out "$build/exported" || exit 4
  MODEL=$build/exported/model.onnx
  CALIB=$build/exported/calibration.npz
  DATA=$build/exported/test.npz
fi
hardened=$build/$name.onnx

# Each step writes what it found, also where it fails: JSON for the report, JUnit for the CI
# server, Markdown for the summary of the run.
evidence() {
  run harden "$MODEL" --calib "$CALIB" -o "$hardened" --save-result "$build/harden.json" \
    --junit-xml "$build/harden.xml" --step-summary "$summary" || return
  run verify "$MODEL" "$hardened" --data "$CALIB" -o "$build/verify.json" \
    --junit-xml "$build/verify.xml" --step-summary "$summary" || return
  run audit "$hardened" --original "$MODEL" --data "$DATA" -o "$build/audit.json" \
    --junit-xml "$build/audit.xml" --step-summary "$summary" || return
}
status=0
evidence || status=$?
failed() { # keeps the code of the step that failed first
  [ "$status" -ne 0 ] || status=$1
}

# The report of a model that was stopped says why.
results=()
for step in harden verify audit; do
  if [ -e "$build/$step.json" ]; then results+=("$build/$step.json"); fi
done
if [ ${#results[@]} -gt 0 ]; then
  logged=("${results[@]}")
  if run report "${results[@]}" -o "$build/report.html" -o "$build/report.md"; then
    logged+=(--artifact "$build/report.html")
  else
    failed $?
  fi
  if [ -n "${MLFLOW_TRACKING_URI:-}" ]; then
    run log-mlflow "${logged[@]}" || failed $?
  fi
fi
if [ "$status" -ne 0 ]; then
  echo "stopped with $status: nothing was published" >&2
  exit "$status"
fi

# In one rename, so that no one takes half a release.
staged=$build/release
mkdir "$staged" || exit 4
cp "$hardened"* "$build/report.html" "${results[@]}" "$staged" || exit 4
run export-triton "$hardened" -o "$staged/triton" ${LABELS:+--labels "$LABELS"}
mv "$staged" "$release" || exit 4
echo "published '$release'"
