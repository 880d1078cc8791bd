#!/usr/bin/env bash
# Signs what was published, with the identity of the workflow that this runs in, and looks whether it verifies.
#
# Usage: sign.sh NAME@DIGEST [SBOM]     the SBOM, in SPDX's JSON, is attested too
set -euo pipefail

what=$1
# Twice: what reads Kubewarden's policies and Rancher's images does not know the bundles of cosign 3 yet.
cosign sign --yes --recursive --new-bundle-format=false --use-signing-config=false "$what"
cosign sign --yes --recursive --new-bundle-format=true --use-signing-config=true "$what"
identity=(--certificate-oidc-issuer https://token.actions.githubusercontent.com
  --certificate-identity "$GITHUB_SERVER_URL/$GITHUB_WORKFLOW_REF")
cosign verify "${identity[@]}" "$what" >/dev/null
if [ -n "${2-}" ]; then
  cosign attest --yes --type spdxjson --predicate "$2" "$what"
  cosign verify-attestation --type spdxjson "${identity[@]}" "$what" >/dev/null
fi
