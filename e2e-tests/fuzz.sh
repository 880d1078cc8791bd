#!/usr/bin/env bash
# Fuzzes every target of every crate for a while, starting from the kept corpus. What is found on the way is kept in the
# build folder only; an input that breaks something is named at the end, and belongs into corpus/ when it is repaired.
#
# Usage: fuzz.sh [SECONDS]    for each target; FUZZ_TARGET_DIR says where it is built.
set -euo pipefail
cd "$(dirname "$0")/.."

seconds=${1:-20}
built=${FUZZ_TARGET_DIR:-$PWD/target/fuzz}
# Each has a folder fuzz/ with its targets, and tests called "fuzzing" for the kept corpus.
crates=(policy mirror-copy)
# None of the targets has unsafe code to be watched, and without a sanitizer the pinned compiler will do.
fuzz=(cargo fuzz)
options=(--sanitizer none --target-dir "$built")

without_fuzzer() {
  echo "WARNING: $1, so NOTHING IS FUZZED; only the kept corpus is tested" >&2
  local crate
  for crate in "${crates[@]}"; do
    cargo test --locked --manifest-path "$crate/Cargo.toml" --lib fuzzing
  done
  exit
}

# The options of libFuzzer for a target: its words, and inputs as long as the real ones are.
limits() {
  local crate=$1 target=$2
  case $crate in
    policy) echo "-max_len=8192" ;;
    *) echo "-max_len=4096" ;;
  esac
  [ ! -e "$crate/fuzz/$target.dict" ] || echo "-dict=$crate/fuzz/$target.dict"
}

fuzz_target() {
  local crate=$1 target=$2
  local found="$built/corpus/$target" artifacts="$built/artifacts/$target/" log
  mkdir -p "$found" "$artifacts"
  echo "fuzzing $target for $seconds s"
  log=$(mktemp)
  # shellcheck disable=SC2046 # one option a word
  if ! "${fuzz[@]}" run --fuzz-dir "$crate/fuzz" "${options[@]}" "$target" "$found" "$crate/fuzz/corpus/$target" -- \
    -max_total_time="$seconds" $(limits "$crate" "$target") -timeout=10 -rss_limit_mb=1024 \
    -artifact_prefix="$artifacts" -print_final_stats=1 -verbosity=1 >"$log" 2>&1; then
    tail -n 60 "$log" >&2
    rm -f "$log"
    echo "the target $target failed; its input is in $artifacts" >&2
    exit 1
  fi
  grep -E '^stat::number_of_executed_units' "$log" || true
  rm -f "$log"
}

"${fuzz[@]}" --version >/dev/null 2>&1 || without_fuzzer "cargo-fuzz is not installed (cargo install cargo-fuzz)"
printf 'int main() { return 0; }\n' | c++ -x c++ -o /dev/null - 2>/dev/null ||
  without_fuzzer "there is no C++ compiler"

for crate in "${crates[@]}"; do
  "${fuzz[@]}" build --fuzz-dir "$crate/fuzz" "${options[@]}"
  for target in $("${fuzz[@]}" list --fuzz-dir "$crate/fuzz"); do
    fuzz_target "$crate" "$target"
  done
done
