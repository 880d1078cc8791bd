#!/usr/bin/env bash
# Fuzzes every target for a while, starting from the kept corpus. What is found on the way is kept in the build folder
# only; an input that breaks something is named at the end, and belongs into corpus/ when it is repaired.
#
# Usage: run.sh [SECONDS]    for each target; FUZZ_TARGET_DIR says where it is built.
set -euo pipefail
cd "$(dirname "$0")"

seconds=${1:-20}
built=${FUZZ_TARGET_DIR:-$PWD/target}
# None of the targets has unsafe code to be watched, and without a sanitizer the pinned compiler will do.
fuzz=(cargo fuzz)
options=(--sanitizer none --target-dir "$built")

without_fuzzer() {
  echo "WARNING: $1, so NOTHING IS FUZZED; only the kept corpus is tested" >&2
  exec cargo test --locked --manifest-path ../Cargo.toml --lib fuzzing
}

"${fuzz[@]}" --version >/dev/null 2>&1 || without_fuzzer "cargo-fuzz is not installed (cargo install cargo-fuzz)"
printf 'int main() { return 0; }\n' | c++ -x c++ -o /dev/null - 2>/dev/null ||
  without_fuzzer "there is no C++ compiler"
"${fuzz[@]}" build "${options[@]}"

for target in $("${fuzz[@]}" list); do
  found="$built/corpus/$target"
  artifacts="$built/artifacts/$target/"
  mkdir -p "$found" "$artifacts"
  echo "fuzzing $target for $seconds s"
  log=$(mktemp)
  if ! "${fuzz[@]}" run "${options[@]}" "$target" "$found" "corpus/$target" -- \
    -max_total_time="$seconds" -max_len=4096 -timeout=10 -rss_limit_mb=1024 -artifact_prefix="$artifacts" \
    -print_final_stats=1 -verbosity=1 >"$log" 2>&1; then
    tail -n 60 "$log" >&2
    rm -f "$log"
    echo "the target $target failed; its input is in $artifacts" >&2
    exit 1
  fi
  grep -E '^stat::number_of_executed_units' "$log" || true
  rm -f "$log"
done
