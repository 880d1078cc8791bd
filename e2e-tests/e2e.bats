#!/usr/bin/env bats
# The policy in the real kwctl: what `cargo test` proves in the test host holds in Kubewarden's own program.
#
# `make e2e` builds what this needs and runs it. The programs can be named: KWCTL, STAGE, and the policy as WASM.

bats_require_minimum_version 1.5.0

setup_file() {
  export PROJECT=$BATS_TEST_DIRNAME/..
  export FIXTURES=$BATS_TEST_DIRNAME/fixtures
  export KWCTL=${KWCTL:-kwctl}
  export WASM=${WASM:-$PROJECT/annotated-policy.wasm}
  local target=${CARGO_TARGET_DIR:-$PROJECT/target}
  # What a user of this machine configured must not matter, and no proxy stands between this and loopback.
  export HOME=$BATS_FILE_TMPDIR/home RUST_BACKTRACE=0
  unset DOCKER_CONFIG RUST_LOG XDG_CACHE_HOME XDG_CONFIG_HOME XDG_DATA_HOME
  unset HTTP_PROXY HTTPS_PROXY ALL_PROXY http_proxy https_proxy all_proxy
  mkdir -p "$HOME"
  echo "# with $("$KWCTL" --version | head -n 1)" >&3

  export STAGE_FOLDER=$BATS_FILE_TMPDIR/stage
  mkdir "$STAGE_FOLDER"
  mkfifo "$STAGE_FOLDER/stdin"
  # The stage ends with its standard input, so also when this process is killed. File 3 is how bats knows that all is over.
  "${STAGE:-$target/debug/stage}" "$STAGE_FOLDER" <"$STAGE_FOLDER/stdin" >"$STAGE_FOLDER/log" 2>&1 3>&- &
  export STAGE_PID=$!
  exec {STAGE_INPUT}>"$STAGE_FOLDER/stdin"
  wait_for 60 stage_is_ready
}

teardown_file() {
  stop_stage
}

stage_is_ready() {
  [ -e "$STAGE_FOLDER/ready" ] && return
  kill -0 "$STAGE_PID" || { cat "$STAGE_FOLDER/log" >&2; exit 1; }
  false
}

stop_stage() {
  kill "$STAGE_PID" 2>/dev/null || true
  wait_for 30 stage_is_gone
}

stage_is_gone() {
  ! kill -0 "$STAGE_PID" 2>/dev/null
}

# wait_for SECONDS COMMAND...: tries the command until it succeeds; fails when the time is over.
wait_for() {
  local deadline=$((SECONDS + $1))
  shift
  until "$@"; do
    [ $SECONDS -lt $deadline ] || { echo "in vain: $*" >&2; return 1; }
    sleep 0.1
  done
}

# kwctl_run ARGUMENTS...: the response in $output, the log in $stderr.
kwctl_run() {
  # Without a trust root kwctl looks for that of Sigstore in the internet. Nothing here is signed.
  run --separate-stderr "$KWCTL" --no-color run --sigstore-trust-config "$FIXTURES/kwctl/no-sigstore.json" "$@" "$WASM"
}

# ask_stage ARGUMENTS...: admits the stage's workload.
ask_stage() {
  kwctl_run --request-path "${REQUEST:-$STAGE_FOLDER/request.json}" --settings-path "$STAGE_FOLDER/settings.json" "$@"
}

trusting() {
  ask_stage --sources-path "$STAGE_FOLDER/sources.yml" --docker-config-json-path "$STAGE_FOLDER/docker" "$@"
}

# expect FILTER [ARGUMENTS OF JQ...]: the filter is true for the response.
expect() {
  local filter=$1
  shift
  jq -e "$@" "$filter" <<<"$output" >/dev/null || {
    printf 'not true: %s\n%s\n%s\n' "$filter" "$output" "$stderr" >&2
    return 1
  }
}

# The images of the stage's workload with their paths, and the name of a copy: its original's, made one component.
JQ='
  def images: [paths(strings) as $path | select($path[-1] == "image" or $path[-1] == "reference")
    | {path: ("/" + ($path | map(tostring) | join("/"))), value: getpath($path)}];
  def copy: capture("^(?<name>[^@]*?)(?<version>(:[^:/@]+)?(@.*)?)$")
    | $copies + "/" + (.name | sub(":"; "_") | gsub("-"; "--") | gsub("/"; "-")) + .version;'

# expect_of_stage FILTER: the filter is true for the response to the stage's workload, which is $object.
expect_of_stage() {
  expect "$JQ $1" --argjson object "$(jq .request.object "$STAGE_FOLDER/request.json")" --rawfile copies "$STAGE_FOLDER/copies"
}

# kept MESSAGE: the workload passed unchanged, with a warning for each of its images.
kept() {
  [ "$status" -eq 0 ]
  expect '.allowed and .patch == null'
  expect_of_stage '(.warnings | length) == ($object | images | map(.value) | unique | length)'
  expect '.warnings | all(contains($message))' --arg message "$1"
}

# --- the table of cases

# run_case NAME: complains if kwctl makes something else of a case than is expected.
run_case() {
  local name=$1 case settings folder=$BATS_TEST_TMPDIR/$1 expected=$FIXTURES/expected/$1.json
  mkdir -p "$folder"
  case=$(jq -c --arg name "$name" '.[] | select(.name == $name)' "$FIXTURES/cases.json")
  jq --argjson case "$case" 'if $case.with then .request *= $case.with else . end' \
    "$FIXTURES/admission/$(jq -r .request <<<"$case").json" >"$folder/request.json"
  settings=$(jq -r '.settings // "default.yml" | if type == "string" then . else empty end' <<<"$case")
  if [ -n "$settings" ]; then
    set -- --settings-path "$FIXTURES/settings/$settings"
  else
    set -- --settings-json "$(jq -c .settings <<<"$case")"
  fi
  kwctl_run --request-path "$folder/request.json" \
    --replay-host-capabilities-interactions "$FIXTURES/sessions/$name.yml" "$@"

  if jq -e '.valid == false' "$expected" >/dev/null; then
    [ "$status" -eq 1 ] && [ -z "$output" ] &&
      [[ $stderr == *"Provided settings are not valid: $(jq -r .message "$expected")"* ]] && return
    printf '%s: the settings were not refused as expected: %s %s\n' "$name" "$output" "$stderr"
  # kwctl tells the policy when a session does not fit, and the user when something is left of it.
  elif [[ $stderr == *'Replay error'* || $stderr == *'recorded responses is empty'* || $stderr == *'not been replayed'* ]]; then
    printf '%s: the session does not fit: %s\n' "$name" "$stderr"
  elif [ "$status" -ne 0 ] || ! diff <(jq -S . "$expected") \
    <(jq -S 'if .patch then .patch |= (@base64d | fromjson) else . end' <<<"$output"); then
    printf '%s: not as expected: %s\n' "$name" "$stderr"
  else
    return 0
  fi
  return 1
}

@test "recorded sessions end as in the test host" {
  local name failed=0 count=0
  while read -r name; do
    run_case "$name" >&2 || failed=$((failed + 1))
    count=$((count + 1))
  done < <(jq -r '.[].name' "$FIXTURES/cases.json")
  echo "$failed of $count cases failed" >&2
  [ "$count" -gt 50 ]
  [ "$failed" -eq 0 ]
}

@test "a session that does not fit is noticed" {
  run run_case pod-create
  [ "$status" -eq 0 ]
  # The files of this test are a folder with another session.
  cp -r "$FIXTURES" "$BATS_TEST_TMPDIR/fixtures"
  FIXTURES=$BATS_TEST_TMPDIR/fixtures
  cp "$FIXTURES/sessions/job-create.yml" "$FIXTURES/sessions/pod-create.yml"
  run run_case pod-create
  [ "$status" -eq 1 ]
  [[ $output == *"does not fit"* ]]
  cp "$FIXTURES/sessions/job-create.yml" "$FIXTURES/sessions/pod-delete.yml"
  run run_case pod-delete
  [ "$status" -eq 1 ]
  [[ $output == *"does not fit"* ]]
}

# --- settings

@test "settings can be YAML or JSON, in a file or in the command" {
  local settings=$BATS_TEST_TMPDIR/settings
  printf '# a comment\nsidecar: localhost:1\nexcludedNamespaces: [shop]\n' >"$settings.yml"
  printf '{"sidecar": "localhost:1", "excludedNamespaces": ["shop"]}' >"$settings.json"
  local request=$FIXTURES/admission/pod-create.json
  # Without a session: a policy that asked for something would be told that nobody listens, and warn.
  for form in "--settings-path=$settings.yml" "--settings-path=$settings.json" "--settings-json=$(cat "$settings.json")"; do
    kwctl_run --request-path "$request" "$form"
    [ "$status" -eq 0 ]
    expect '.allowed and .patch == null and .warnings == null'
  done
  kwctl_run --request-path "$request" --settings-json '{"sidecar": "localhost:1"}'
  [ "$status" -eq 0 ]
  expect '.allowed and .patch == null and (.warnings | length) == 1'
}

@test "wrong settings are refused, and the user sees why" {
  kwctl_run --request-path "$FIXTURES/admission/pod-create.json" --settings-json '{"sidecr": "localhost:1"}'
  [ "$status" -eq 1 ]
  [ -z "$output" ]
  [[ $stderr == *'unknown setting `sidecr`'* ]]
  [[ $stderr == *'`sidecar` is required'* ]]
}

@test "a request that is none is an error of kwctl, not of the policy" {
  printf '{"kind": "AdmissionReview"}' >"$BATS_TEST_TMPDIR/request.json"
  kwctl_run --request-path "$BATS_TEST_TMPDIR/request.json" --settings-json '{"sidecar": "localhost:1"}'
  [ "$status" -eq 1 ]
}

# --- a live sidecar

@test "live: a wrong password keeps the images, with a warning" {
  ask_stage --sources-path "$STAGE_FOLDER/sources.yml" --docker-config-json-path "$STAGE_FOLDER/docker-wrong"
  kept 'the sidecar does not respond'
  [[ $stderr == *'Not authorized'* ]]
  # The password itself is nobody's business.
  [[ $stderr != *'another password'* && $stderr != *"$(jq -r '.auths[].auth' "$STAGE_FOLDER/docker-wrong/config.json")"* ]]
}

@test "live: a sidecar whose authority is unknown keeps the images, with a warning" {
  ask_stage --docker-config-json-path "$STAGE_FOLDER/docker"
  kept 'the sidecar does not respond'
}

@test "live: a policy without the capability keeps the images, with a warning" {
  trusting --allowed-host-capabilities=net/v1/dns_lookup_host
  kept 'the sidecar does not respond'
}

@test "live: a dry run starts no copy" {
  REQUEST=$BATS_TEST_TMPDIR/request.json
  jq '.request.dryRun = true' "$STAGE_FOLDER/request.json" >"$REQUEST"
  trusting
  kept 'is not mirrored yet'
  trusting
  kept 'is not mirrored yet: not mirrored yet'
}

@test "live: images stay until there are copies, which are then used with their pull Secret" {
  local session=$BATS_TEST_TMPDIR/session.yml
  trusting
  kept 'is not mirrored yet'
  wait_for 60 all_rewritten
  # Every image is rewritten to its copy, and nothing else is changed but what belongs to that.
  expect_of_stage '(.patch | @base64d | fromjson) as $patch
    | ($patch | map(select(.op == "replace") | del(.op)) | sort) == ($object | images | map(.value |= copy) | sort)'
  expect_of_stage '.patch | @base64d | fromjson | map(select(.op == "add")) | sort_by(.path) | (map(.path) == [
      "/spec/template/metadata/annotations",
      "/spec/template/spec/imagePullSecrets/1"])
    and .[1].value == {"name": "image-mirror-pull"}'
  expect_of_stage '.patch | @base64d | fromjson | all(.op == "replace" or .op == "add")'

  # What kwctl records of this can be replayed.
  trusting --record-host-capabilities-interactions "$session"
  local live=$output
  ask_stage --replay-host-capabilities-interactions "$session"
  [ "$status" -eq 0 ]
  diff <(jq -S . <<<"$output") <(jq -S . <<<"$live")
  [[ $stderr != *'not been replayed'* ]]
}

all_rewritten() {
  trusting
  [ "$status" -eq 0 ] && jq -e '.warnings == null and .patch != null' <<<"$output" >/dev/null
}

@test "live: a scaffolded ClusterAdmissionPolicy runs as it is" {
  local manifest=$BATS_TEST_TMPDIR/policy.yml
  "$KWCTL" scaffold manifest -t ClusterAdmissionPolicy --settings-path "$STAGE_FOLDER/settings.json" "$WASM" >"$manifest"
  WASM=$manifest
  wait_for 60 all_rewritten_by_manifest
}

all_rewritten_by_manifest() {
  kwctl_run --request-path "$STAGE_FOLDER/request.json" \
    --sources-path "$STAGE_FOLDER/sources.yml" --docker-config-json-path "$STAGE_FOLDER/docker"
  [ "$status" -eq 0 ] && jq -e '.warnings == null and .patch != null' <<<"$output" >/dev/null
}

# The last one that needs the stage.
@test "live: a sidecar that is gone keeps the images, with a warning" {
  stop_stage
  trusting
  kept 'the sidecar does not respond'
  [[ $stderr == *'Connection refused'* ]]
  jq '.whenUnavailable = "reject"' "$STAGE_FOLDER/settings.json" >"$BATS_TEST_TMPDIR/settings.json"
  kwctl_run --request-path "$STAGE_FOLDER/request.json" --settings-path "$BATS_TEST_TMPDIR/settings.json"
  [ "$status" -eq 0 ]
  expect '.allowed == false and .status.code == 403 and (.status.message | contains("the sidecar does not respond"))'
}

# --- the published policy

@test "the annotated policy says what it is and what it needs" {
  run --separate-stderr "$KWCTL" inspect -o yaml "$WASM"
  [ "$status" -eq 0 ]
  # All of metadata.yml is in it, and this besides.
  local line
  while read -r line; do
    [[ $output == *"$line"* ]] || { echo "missing: $line" >&2; return 1; }
  done < <(grep -E '^(mutating|backgroundAudit|executionMode|policyType|minimumKubewardenVersion):|^  io\.' "$PROJECT/metadata.yml" |
    grep -v 'usage:' | tr '"' "'")
  [[ $output == *'protocolVersion: v1'* ]]
  [[ $output == *'oci/v1/oci_manifest'* ]]
}

@test "kwctl scaffolds a ClusterAdmissionPolicy" {
  run --separate-stderr "$KWCTL" scaffold manifest -t ClusterAdmissionPolicy \
    --settings-path "$FIXTURES/settings/everything.yml" --title mirror "$WASM"
  [ "$status" -eq 0 ]
  [[ $output == *'kind: ClusterAdmissionPolicy'* ]]
  [[ $output == *'mutating: true'* ]]
  [[ $output == *'backgroundAudit: false'* ]]
  [[ $output == *'sidecar: sidecar.example.com:8443'* ]]
  [[ $output == *'- pods/ephemeralcontainers'* ]]
}

# without_install FILE: the file without the time and the text of `install:`.
without_install() {
  sed -e '/^createdAt: /d' -e '/^install:/,/^[^ ]/{/^install:/d;/^ /d;/^$/d}' "$1"
}

@test "the committed package for Artifact Hub is what kwctl scaffolds" {
  local package=$BATS_TEST_TMPDIR/artifacthub-pkg.yml
  "$KWCTL" scaffold artifacthub -m "$PROJECT/metadata.yml" -q "$PROJECT/questions-ui.yml" -o "$package"
  # The time at which it was made differs, and kwctl has changed what it says about the installation from version to version.
  diff <(without_install "$PROJECT/artifacthub-pkg.yml") <(without_install "$package")
}
