{{/* The namespace and the version of Kubewarden in the cluster. */}}

{{/*
Sets .Values.found: .cluster, whether helm can look objects up (`helm template` and a client's dry run cannot), .namespace and
.version of Kubewarden, empty if unknown. Only what makes objects for Kubewarden has to read these.
*/}}
{{- define "image-mirror.find" -}}
{{- if not (hasKey .Values "found") }}
  {{- $found := dict "cluster" false "namespace" "" "version" "" }}
  {{- $_ := set .Values "found" $found }}
  {{- if and .Values.kubewarden.lookup (or .Values.policy.create .Values.policyServer.create) (lookup "v1" "Namespace" "" "kube-system") }}
    {{- $_ := set $found "cluster" true }}
    {{- if not .Values.kubewarden.namespace }}
      {{- $_ := include "image-mirror.findNamespace" . | trim | set $found "namespace" }}
    {{- end }}
    {{- $_ := include "image-mirror.findVersion" . | trim | set $found "version" }}
  {{- end }}
{{- end }}
{{- end }}

{{/* Kubewarden validates its own types with a webhook, whose Service is in the namespace of its controller. */}}
{{- define "image-mirror.findNamespace" -}}
{{- $namespaces := list }}
{{- if .Capabilities.APIVersions.Has "policies.kubewarden.io/v1" }}
{{- range (lookup "admissionregistration.k8s.io/v1" "ValidatingWebhookConfiguration" "" "").items }}
  {{- range .webhooks }}
    {{- $namespace := dig "clientConfig" "service" "namespace" "" . }}
    {{- range .rules }}
      {{- if and $namespace (has "policies.kubewarden.io" .apiGroups) }}{{ $namespaces = append $namespaces $namespace }}{{ end }}
    {{- end }}
  {{- end }}
{{- end }}
{{- end }}
{{- if eq (len (uniq $namespaces)) 1 }}{{ first $namespaces }}{{ end }}
{{- end }}

{{/* The tag of its controller's image; that of the policy server is the same. */}}
{{- define "image-mirror.findVersion" -}}
{{- $namespace := default .Values.found.namespace .Values.kubewarden.namespace }}
{{- $versions := list }}
{{- if $namespace }}
{{- range (lookup "apps/v1" "Deployment" $namespace "").items }}
  {{- $labels := .metadata.labels | default dict }}
  {{- if and (eq (get $labels "app.kubernetes.io/part-of") "kubewarden") (eq (get $labels "app.kubernetes.io/component") "controller") }}
    {{- range .spec.template.spec.containers }}
      {{- $version := regexFind ":v[0-9]+\\.[0-9]+\\.[0-9]+[^@/]*" .image | trimPrefix ":" }}
      {{- with $version }}{{ $versions = append $versions . }}{{ end }}
    {{- end }}
  {{- end }}
{{- end }}
{{- end }}
{{- with $versions }}{{ first . }}{{ end }}
{{- end }}

{{- define "image-mirror.kubewardenNamespace" -}}
{{- include "image-mirror.find" . }}
{{- default "kubewarden" (default .Values.found.namespace .Values.kubewarden.namespace) }}
{{- end }}

{{- define "image-mirror.kubewardenVersion" -}}
{{- include "image-mirror.find" . }}
{{- default .Values.kubewarden.version .Values.found.version }}
{{- end }}

{{/* The policy server's image of that version: its name changed with 1.36. */}}
{{- define "image-mirror.policyServerImage" -}}
{{- $version := include "image-mirror.kubewardenVersion" . }}
{{- $image := deepCopy .Values.policyServer.image }}
{{- $tag := default $version $image.tag }}
{{- $isOld := and (regexMatch "^v?[0-9]+\\.[0-9]+\\.[0-9]+" $tag) (semverCompare "<1.36.0-0" $tag) }}
{{- $repository := $isOld | ternary "kubewarden/policy-server" "kubewarden/adm-controller/policy-server" }}
{{- $_ := set $image "tag" $tag }}
{{- $_ := set $image "repository" (default $repository $image.repository) }}
{{- include "image-mirror.image" (list . $image) }}
{{- end }}

{{/* The oldest Kubewarden that the policy works with: metadata.yml has the same. */}}
{{- define "image-mirror.oldestKubewarden" -}}
1.35.0
{{- end }}

{{/* Objects and versions that the cluster lacks, as a JSON list of errors; empty if Helm cannot look them up. */}}
{{- define "image-mirror.missing" -}}
{{- include "image-mirror.find" . }}
{{- $wrong := list }}
{{- $v := .Values }}
{{- $namespace := .Release.Namespace }}
{{- $oldest := include "image-mirror.oldestKubewarden" . }}
{{- if and $v.policyServer.create $v.policyServer.image.tag }}
  {{- $wrong = concat $wrong (include "image-mirror.tooOld" (list "policyServer.image.tag" $v.policyServer.image.tag $oldest) | fromJsonArray) }}
{{- end }}
{{- if $v.found.cluster }}
  {{- if not (.Capabilities.APIVersions.Has "policies.kubewarden.io/v1") }}
    {{- $wrong = append $wrong "Kubewarden is not installed in this cluster. Install it first, see https://docs.kubewarden.io/quick-start, or set policy.create=false and policyServer.create=false" }}
  {{- else }}
    {{- with $v.found.version }}
      {{- $wrong = concat $wrong (include "image-mirror.tooOld" (list "Kubewarden in this cluster" . $oldest) | fromJsonArray) }}
    {{- end }}
    {{- if and $v.policy.create (not $v.policyServer.create) $v.policyServer.name }}
      {{- $server := lookup "policies.kubewarden.io/v1" "PolicyServer" "" $v.policyServer.name }}
      {{- if not $server }}
        {{- $wrong = append $wrong (printf "policyServer.name: there is no PolicyServer %s in this cluster" $v.policyServer.name) }}
      {{- else }}
        {{- $tag := regexFind ":v?[0-9]+\\.[0-9]+\\.[0-9]+[^@/]*" (dig "spec" "image" "" $server) | trimPrefix ":" }}
        {{- with $tag }}
          {{- $wrong = concat $wrong (include "image-mirror.tooOld" (list (printf "policy server %s" $v.policyServer.name) . $oldest) | fromJsonArray) }}
        {{- end }}
      {{- end }}
    {{- end }}
  {{- end }}
  {{- $login := list "username" "password" }}
  {{- $docker := list ".dockerconfigjson" }}
  {{- $kubewarden := include "image-mirror.kubewardenNamespace" . }}
  {{- $needed := list }}
  {{- $needed = append $needed (list "registry.existingSecret" $v.registry.existingSecret $namespace $login) }}
  {{- $needed = append $needed (list "pull.existingSecret" $v.pull.existingSecret $namespace $login) }}
  {{- $needed = append $needed (list "pull.dockerConfigSecret" $v.pull.dockerConfigSecret $namespace $docker) }}
  {{- $needed = append $needed (list "upstream.dockerConfigSecret" $v.upstream.dockerConfigSecret $namespace $docker) }}
  {{- range $host, $secret := $v.upstream.registryCertificates }}
    {{- $needed = append $needed (list (printf "upstream.registryCertificates.%s" $host) $secret $namespace list) }}
  {{- end }}
  {{- $needed = append $needed (list "facade.existingSecret" $v.facade.existingSecret $namespace $login) }}
  {{- $needed = append $needed (list "tls.existingSecret" $v.tls.existingSecret $namespace (list "tls.crt" "tls.key")) }}
  {{- if $v.policyServer.create }}
    {{- $needed = append $needed (list "policyServer.imagePullSecret" $v.policyServer.imagePullSecret $kubewarden $docker) }}
  {{- end }}
  {{- range $login := include "image-mirror.logins" . | fromJsonArray }}
    {{- $needed = append $needed (list (printf "%s.existingSecret" $login.value) $login.login.existingSecret $namespace (list "username" "password")) }}
    {{- $needed = append $needed (list (printf "%s.dockerConfigSecret" $login.value) $login.login.dockerConfigSecret $namespace $docker) }}
  {{- end }}
  {{- range $needed }}
    {{- $value := index . 0 }}
    {{- $name := index . 1 }}
    {{- $in := index . 2 }}
    {{- if $name }}
      {{- $secret := lookup "v1" "Secret" $in $name }}
      {{- if not $secret }}
        {{- $wrong = append $wrong (printf "%s: there is no Secret %s in the namespace %s; create it first" $value $name $in) }}
      {{- else }}
        {{- range index . 3 }}
          {{- if not (hasKey ($secret.data | default dict) .) }}
            {{- $wrong = append $wrong (printf "%s: the Secret %s in the namespace %s has no key %s" $value $name $in .) }}
          {{- end }}
        {{- end }}
      {{- end }}
    {{- end }}
  {{- end }}
  {{- with $v.upstream.caConfigMap }}
    {{- if not (lookup "v1" "ConfigMap" $namespace .) }}
      {{- $wrong = append $wrong (printf "upstream.caConfigMap: there is no ConfigMap %s in the namespace %s; create it first" . $namespace) }}
    {{- end }}
  {{- end }}
{{- end }}
{{- $wrong | toJson }}
{{- end }}

{{/* A JSON list with an error if a version is too old. The argument is a list: the owner of the version, the version, the oldest. */}}
{{- define "image-mirror.tooOld" -}}
{{- $version := index . 1 }}
{{- $oldest := index . 2 }}
{{- $wrong := list }}
{{- if regexMatch "^v?[0-9]+\\.[0-9]+\\.[0-9]+" $version }}
  {{- if semverCompare (printf "<%s-0" $oldest) $version }}
    {{- $wrong = append $wrong (printf "%s: %s is too old, the policy needs Kubewarden %s or newer" (first .) $version $oldest) }}
  {{- end }}
{{- end }}
{{- $wrong | toJson }}
{{- end }}
