{{/* Namespaces, rights and proxies. */}}

{{/* A switch, which YAML 1.1 reads as true or false unless it is quoted. */}}
{{- define "image-mirror.switch" -}}
{{- if kindIs "bool" . }}{{ ternary "on" "off" . }}{{ else }}{{ . }}{{ end }}
{{- end }}

{{- define "image-mirror.mode" -}}
{{ include "image-mirror.switch" .Values.cluster.mode }}
{{- end }}

{{/* With rules for Pods only, workloads are not rewritten, so none is sent through admission again. */}}
{{- define "image-mirror.readmit" -}}
{{- $default := eq .Values.policy.rules "pods" | ternary "off" "on" }}
{{- $asked := .Values.cluster.readmit }}
{{- include "image-mirror.switch" (eq (toString $asked) "" | ternary $default $asked) }}
{{- end }}

{{/* Excluded namespaces, as a JSON list: components that start the cluster or the mirror must not depend on it. */}}
{{- define "image-mirror.excludedNamespaces" -}}
{{ concat .Values.excludeNamespaces (list "kube-system" .Release.Namespace (include "image-mirror.kubewardenNamespace" .)) | uniq | toJson }}
{{- end }}

{{/* Whether the sidecar creates pull Secrets. */}}
{{- define "image-mirror.makesPullSecrets" -}}
{{- $kinds := list }}
{{- range include "image-mirror.logins" . | fromJsonArray }}{{ $kinds = append $kinds .kind }}{{ end }}
{{- with .Values.pull }}
{{- if or .username .existingSecret .dockerConfigSecret .useRegistryCredentials (has "pull" $kinds) }}true{{ end }}
{{- end }}
{{- end }}

{{- define "image-mirror.pullSecretName" -}}
{{- if .Values.pull.secretName }}{{ .Values.pull.secretName }}
{{- else if include "image-mirror.makesPullSecrets" . }}image-mirror-pull
{{- end }}
{{- end }}

{{/* Locations of copies, as the policy's setting `backups`. */}}
{{- define "image-mirror.backups" -}}
{{- with .Values.registry }}
{{- $default := list (list .host .repository | compact | join "/") }}
{{- include "image-mirror.namedLocations" $ | fromJsonArray | concat $default | toJson }}
{{- end }}
{{- end }}

{{/* The current name of the pull Secret, then its former names, as the policy's setting `pullSecrets`. */}}
{{- define "image-mirror.pullSecretNames" -}}
{{- $present := default "image-mirror-pull" (include "image-mirror.pullSecretName" .) }}
{{- concat (list $present) .Values.policy.settings.pullSecrets | uniq | toJson }}
{{- end }}

{{/* The same as a list in CEL. */}}
{{- define "image-mirror.pullSecretList" -}}
{{- $names := list }}
{{- range include "image-mirror.pullSecretNames" . | fromJsonArray }}{{ $names = append $names (squote .) }}{{ end }}
{{- printf "[%s]" (join ", " $names) }}
{{- end }}

{{- define "image-mirror.reinvokes" -}}
{{- if and .Values.policy.reinvocation (eq (include "image-mirror.mode" .) "on") }}true{{ end }}
{{- end }}

{{/* The rules in a file that the cluster mode needs, as YAML. The argument is a list: the context and the file. */}}
{{- define "image-mirror.rules" -}}
{{- $file := last . }}
{{- with first . }}
{{- $needed := list }}
{{- $mode := include "image-mirror.mode" . }}
{{- $names := list }}
{{- range include "image-mirror.pullSecretNames" . | fromJsonArray }}{{ $names = append $names (quote .) }}{{ end }}
{{- $secrets := include "image-mirror.makesPullSecrets" . }}
{{- range .Files.Get $file | replace "image-mirror-pull" (join ", " $names) | fromYamlArray }}
  {{- $reads := not (without .verbs "get" "list" "watch") }}
  {{- $onSecrets := has "secrets" .resources }}
  {{- if or (and (eq $mode "on") (or (not $onSecrets) $secrets)) (and (eq $mode "watch") $reads) }}
    {{- $needed = append $needed . }}
  {{- end }}
{{- end }}
{{- if and (eq $file "files/cluster-rules.yaml") (include "image-mirror.reinvokes" .) }}
  {{- range .Files.Get "files/reinvocation-rules.yaml" | replace "image-mirror" (include "image-mirror.policyName" .) | fromYamlArray }}
    {{- $needed = append $needed . }}
  {{- end }}
{{- end }}
{{- with $needed }}{{ toYaml . }}{{ end }}
{{- end }}
{{- end }}

{{/* Proxy variables; without a proxy only NO_PROXY. */}}
{{- define "image-mirror.proxyEnv" -}}
{{- with .Values.proxy.http }}
- name: HTTP_PROXY
  value: {{ . | quote }}
{{- end }}
{{- with .Values.proxy.https }}
- name: HTTPS_PROXY
  value: {{ . | quote }}
{{- end }}
{{- $inside := list ".svc" ".cluster.local" "localhost" "127.0.0.1" "$(KUBERNETES_SERVICE_HOST)" }}
- name: NO_PROXY
  value: {{ concat $inside .Values.proxy.noProxy | uniq | join "," | quote }}
{{- end }}
