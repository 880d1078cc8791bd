#!/usr/bin/env bash
# The digest of what a registry has under a name: digest.sh NAME. PLAIN_HTTP=1 is for tests.
set -euo pipefail

digest=$(skopeo inspect ${PLAIN_HTTP:+--tls-verify=false} --raw "docker://$1" | sha256sum | cut -d ' ' -f 1)
echo "sha256:$digest"
