{{/* Rules that the schema cannot express: values that depend on each other or on objects in the cluster. All errors are reported together. */}}
{{- define "image-mirror.validate" -}}
{{- $wrong := list }}
{{- $v := .Values }}
{{- if not $v.registry.host }}
  {{- $wrong = append $wrong "registry.host is missing: set the registry that stores the copies, for example --set registry.host=ghcr.io --set registry.repository=acme" }}
{{- end }}
{{- $host := regexReplaceAll ":443$" (lower $v.registry.host) "" }}
{{- if has $host (list "docker.io" "index.docker.io" "registry-1.docker.io" "registry.hub.docker.com") }}
  {{- if eq $v.registry.naming "nested" }}
    {{- $wrong = append $wrong (printf "registry.naming: %s has no nested repositories; use auto or flat" $v.registry.host) }}
  {{- end }}
  {{- if contains "/" $v.registry.repository }}
    {{- $wrong = append $wrong (printf "registry.repository: %s has no nested repositories; set it to the account alone" $v.registry.host) }}
  {{- end }}
{{- end }}
{{- if and (regexMatch "[._-][._-]" $v.registry.repository) (regexMatch "^([^.]+\\.(dkr\\.ecr(-fips)?|dkr-ecr(-fips)?)\\.|public\\.ecr\\.aws$|ecr-public\\.aws\\.com$)" $host) }}
  {{- $wrong = append $wrong "registry.repository: Amazon ECR allows no two of `.`, `_`, `-` in a row" }}
{{- end }}
{{- range $name := list "registry" "pull" }}
  {{- $login := index $v $name }}
  {{- if ne (empty $login.username) (empty $login.password) }}
    {{- $wrong = append $wrong (printf "%s.username and %s.password must be set together" $name $name) }}
  {{- end }}
  {{- if and $login.username $login.existingSecret }}
    {{- $wrong = append $wrong (printf "%s: set username and password, or existingSecret, not both" $name) }}
  {{- end }}
{{- end }}
{{- with $v.pull }}
  {{- $ways := compact (list .username .existingSecret .dockerConfigSecret (ternary "registry" "" .useRegistryCredentials)) }}
  {{- if gt (len $ways) 1 }}
    {{- $wrong = append $wrong "pull: set only one of username, existingSecret, dockerConfigSecret and useRegistryCredentials" }}
  {{- end }}
  {{- if and .useRegistryCredentials (not (or $v.registry.username $v.registry.existingSecret)) }}
    {{- $wrong = append $wrong "pull.useRegistryCredentials needs registry.username or registry.existingSecret" }}
  {{- end }}
{{- end }}
{{- if and (include "image-mirror.makesPullSecrets" .) (ne (include "image-mirror.mode" .) "on") }}
  {{- $wrong = append $wrong "pull Secrets are only created with cluster.mode on; otherwise set only pull.secretName, the name of a Secret that exists in every namespace" }}
{{- end }}
{{- if $v.policy.reinvocation }}
  {{- if ne (include "image-mirror.mode" .) "on" }}
    {{- $wrong = append $wrong "policy.reinvocation needs cluster.mode on, because the sidecar registers the policy's webhook a second time" }}
  {{- end }}
  {{- if not (include "image-mirror.hasAdmissionPolicies" .) }}
    {{- $wrong = append $wrong "policy.reinvocation needs admissionPolicies.enabled and Kubernetes 1.30 or newer, because nothing else limits which webhook the sidecar may register (with helm template, set admissionPolicies.enabled=true)" }}
  {{- end }}
{{- end }}
{{- $wrong = concat $wrong (include "image-mirror.configErrors" . | fromJsonArray) }}
{{- /* Helm would delete the chart's own Secret of such a name, and Pods would no longer find it. */}}
{{- $sidecar := include "image-mirror.sidecar" . }}
{{- $own := list }}
{{- range list "registry" "pull" "facade" "ca" "tls" }}{{ $own = append $own (printf "%s-%s" $sidecar .) }}{{ end }}
{{- $secrets := dict "registry.existingSecret" $v.registry.existingSecret "pull.existingSecret" $v.pull.existingSecret }}
{{- $secrets = merge $secrets (dict "pull.dockerConfigSecret" $v.pull.dockerConfigSecret "upstream.dockerConfigSecret" $v.upstream.dockerConfigSecret) }}
{{- $secrets = merge $secrets (dict "facade.existingSecret" $v.facade.existingSecret "tls.existingSecret" $v.tls.existingSecret) }}
{{- range $login := include "image-mirror.logins" . | fromJsonArray }}
  {{- range $key, $secret := $login.login }}{{ $secrets = set $secrets (printf "%s.%s" $login.value $key) $secret }}{{ end }}
{{- end }}
{{- range $name, $secret := $secrets }}
  {{- if has $secret $own }}
    {{- $wrong = append $wrong (printf "%s: %s is a Secret of the chart itself, which Helm would delete; copy it, and set the name of the copy" $name $secret) }}
  {{- end }}
{{- end }}
{{- $secret := printf "%s-policy-server" (include "image-mirror.fullname" .) }}
{{- if eq $v.policyServer.imagePullSecret $secret }}
  {{- $wrong = append $wrong (printf "policyServer.imagePullSecret: %s is a Secret of the chart itself, which Helm would delete; copy it, and set the name of the copy" $secret) }}
{{- end }}
{{- if not (regexMatch "^[a-z]" $sidecar) }}
  {{- $wrong = append $wrong (printf "%s cannot be the name of a Service, which must begin with a letter; set fullnameOverride" $sidecar) }}
{{- end }}
{{- range include "image-mirror.repeated" (include "image-mirror.env" .) | fromJsonArray }}
  {{- $wrong = append $wrong (printf "extraEnv: the chart sets %s itself; use its value in values.yaml" .) }}
{{- end }}
{{- range include "image-mirror.repeated" (printf "%s\n%s" (include "image-mirror.proxyEnv" .) (toYaml $v.policyServer.env | replace "[]" "")) | fromJsonArray }}
  {{- $wrong = append $wrong (printf "policyServer.env: the chart sets %s itself; use its value in values.yaml" .) }}
{{- end }}
{{- if eq $v.policy.failurePolicy "Fail" }}
  {{- range $v.excludeNamespaces }}
    {{- if hasSuffix "*" . }}
      {{- $wrong = append $wrong (printf "excludeNamespaces: with policy.failurePolicy Fail, list each namespace instead of %s, because the API server supports no wildcards and would reject all workloads there while it cannot reach the policy server" .) }}
    {{- end }}
  {{- end }}
{{- end }}
{{- with $v.policyServer }}
  {{- $tooMany := eq (toString .minAvailable) "100%" }}
  {{- if not (kindIs "string" .minAvailable) }}{{ $tooMany = ge (int .minAvailable) (int .replicas) }}{{ end }}
  {{- if and (gt (int .replicas) 1) $tooMany }}
    {{- $wrong = append $wrong "policyServer.minAvailable must be less than policyServer.replicas, otherwise no node with a policy server can be drained" }}
  {{- end }}
{{- end }}
{{- if lt (int $v.terminationGracePeriodSeconds) (add (int $v.shutdownDelaySeconds) 10 | int) }}
  {{- $wrong = append $wrong "terminationGracePeriodSeconds must be at least 10 more than shutdownDelaySeconds, otherwise a replica is killed while it still serves requests" }}
{{- end }}
{{- if and $v.upstream.dockerConfigReadsBackupHost (not $v.upstream.dockerConfigSecret) }}
  {{- $wrong = append $wrong "upstream.dockerConfigReadsBackupHost needs upstream.dockerConfigSecret, which has the login" }}
{{- end }}
{{- if and $v.networkPolicy.egress.enabled (ne (include "image-mirror.mode" .) "off") (not $v.networkPolicy.egress.apiServer) }}
  {{- $wrong = append $wrong "networkPolicy.egress.apiServer is missing, so the sidecar could not reach the API server; kubectl --namespace default get service,endpointslice kubernetes prints its addresses" }}
{{- end }}
{{- with $v.facade }}
  {{- if and .existingSecret .password }}
    {{- $wrong = append $wrong "facade: set password or existingSecret, not both" }}
  {{- end }}
  {{- if and .existingSecret $v.policyServer.create (not $v.policyServer.imagePullSecret) }}
    {{- $wrong = append $wrong "facade.existingSecret needs policyServer.imagePullSecret, since the chart does not know the password that the policy server must present" }}
  {{- end }}
{{- end }}
{{- if and $v.policyServer.imagePullSecret $v.policyServer.registries }}
  {{- $wrong = append $wrong "policyServer.registries is not used with policyServer.imagePullSecret; add the registries to that Secret" }}
{{- end }}
{{- if and $v.policy.create (not $v.policyServer.create) (not $v.policyServer.name) }}
  {{- $wrong = append $wrong "policyServer.name is missing: without policyServer.create, set the PolicyServer that runs the policy" }}
{{- end }}
{{- with $v.tls }}
  {{- if and (eq .source "secret") (not .existingSecret) }}
    {{- $wrong = append $wrong "tls.source secret needs tls.existingSecret" }}
  {{- end }}
  {{- if and .existingSecret (ne .source "secret") }}
    {{- $wrong = append $wrong "tls.existingSecret needs tls.source secret" }}
  {{- end }}
  {{- if and (eq .source "values") (not (and .certificate .key)) }}
    {{- $wrong = append $wrong "tls.source values needs tls.certificate and tls.key" }}
  {{- end }}
  {{- if and (or (has .source (list "secret" "values")) (and (eq .source "certManager") .certManager.issuerRef)) (not .ca) $v.policyServer.create }}
    {{- $wrong = append $wrong (printf "tls.source %s needs tls.ca, the certificate authority that the policy server must trust" .source) }}
  {{- end }}
  {{- if and .caKey (not .ca) }}
    {{- $wrong = append $wrong "tls.caKey needs tls.ca" }}
  {{- end }}
  {{- if and .ca (not .caKey) (or (eq .source "generated") (and (eq .source "certManager") (not .certManager.issuerRef))) }}
    {{- $wrong = append $wrong (printf "tls.ca with tls.source %s needs tls.caKey to sign the certificate" .source) }}
  {{- end }}
{{- end }}
{{- with $v.policy }}
  {{- if gt (int .timeoutEvalSeconds) (int .timeoutSeconds) }}
    {{- $wrong = append $wrong "policy.timeoutEvalSeconds must not be greater than policy.timeoutSeconds" }}
  {{- end }}
  {{- if gt (add (int .settings.timeBudgetMs) 1000) (mul (int .timeoutEvalSeconds) 1000) }}
    {{- $wrong = append $wrong "policy.settings.timeBudgetMs must be at least a second below policy.timeoutEvalSeconds, because the policy server denies requests whose evaluation takes longer, regardless of failurePolicy" }}
  {{- end }}
{{- end }}
{{- if and $v.policy.create (.Capabilities.APIVersions.Has "policies.kubewarden.io/v1") }}
  {{- /* Kubewarden refuses these changes, but only after Helm has changed everything else. */}}
  {{- $policy := include "image-mirror.policyName" . }}
  {{- with (lookup "policies.kubewarden.io/v1" "ClusterAdmissionPolicy" "" $policy).spec }}
    {{- $recreate := "Upgrade with policy.create=false first, which removes the policy, then with these values again" }}
    {{- if and (eq $v.policy.mode "monitor") (eq (.mode | default "protect") "protect") }}
      {{- $wrong = append $wrong (printf "policy.mode: Kubewarden does not allow the policy %s to change from protect to monitor. %s" $policy $recreate) }}
    {{- end }}
    {{- $server := include "image-mirror.policyServerName" $ }}
    {{- if ne (.policyServer | default "default") $server }}
      {{- $wrong = append $wrong (printf "policyServer: Kubewarden does not allow the policy %s to move from the policy server %s to %s. %s" $policy (.policyServer | default "default") $server $recreate) }}
    {{- end }}
  {{- end }}
{{- end }}
{{- $wrong = concat $wrong (include "image-mirror.missing" . | fromJsonArray) }}
{{- with $wrong }}
  {{- fail (eq (len .) 1 | ternary (first .) (printf "%d values are invalid:\n  - %s\n" (len .) (join "\n  - " .))) }}
{{- end }}
{{- end }}

{{/* Names that occur more than once in a list of variables, as a JSON list. The argument is the list as YAML. */}}
{{- define "image-mirror.repeated" -}}
{{- $seen := list }}
{{- $repeated := list }}
{{- range fromYamlArray . }}
  {{- if has .name $seen }}{{ $repeated = append $repeated .name }}{{ end }}
  {{- $seen = append $seen .name }}
{{- end }}
{{- $repeated | uniq | toJson }}
{{- end }}
