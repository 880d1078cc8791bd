{{/* Names, labels and images. */}}

{{- define "image-mirror.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" }}
{{- end }}

{{/* The name of the release, usually that of the chart. Short, because suffixes are added. */}}
{{- define "image-mirror.fullname" -}}
{{- $name := include "image-mirror.name" . }}
{{- $default := contains $name .Release.Name | ternary .Release.Name (printf "%s-%s" .Release.Name $name) }}
{{- default $default .Values.fullnameOverride | replace "." "-" | trunc 40 | trimSuffix "-" }}
{{- end }}

{{/* The Service, with the name that is the policy's default. */}}
{{- define "image-mirror.sidecar" -}}
{{- $fullname := include "image-mirror.fullname" . }}
{{- eq $fullname "image-mirror" | ternary "mirror-sidecar" (printf "%s-sidecar" $fullname) }}
{{- end }}

{{/* host:port under which the policy server reaches the sidecar. */}}
{{- define "image-mirror.facadeAddress" -}}
{{ include "image-mirror.sidecar" . }}.{{ .Release.Namespace }}.svc:{{ .Values.facade.port }}
{{- end }}

{{- define "image-mirror.serviceAccount" -}}
{{- $default := .Values.serviceAccount.create | ternary (include "image-mirror.sidecar" .) "default" }}
{{- default $default .Values.serviceAccount.name }}
{{- end }}

{{- define "image-mirror.policyName" -}}
{{- default (include "image-mirror.fullname" .) .Values.policy.name }}
{{- end }}

{{/* The second registration of the policy's webhook: names of the program's flag REINVOKE_POLICY. */}}
{{- define "image-mirror.reinvocationName" -}}
zz-{{ include "image-mirror.policyName" . }}-reinvocation
{{- end }}

{{- define "image-mirror.policyServerName" -}}
{{- default (include "image-mirror.fullname" .) .Values.policyServer.name }}
{{- end }}

{{/* The Secret with the policy server's credentials, in Kubewarden's namespace. */}}
{{- define "image-mirror.policyServerSecret" -}}
{{- default (printf "%s-policy-server" (include "image-mirror.fullname" .)) .Values.policyServer.imagePullSecret }}
{{- end }}

{{- define "image-mirror.registrySecret" -}}
{{- default (printf "%s-registry" (include "image-mirror.sidecar" .)) .Values.registry.existingSecret }}
{{- end }}

{{- define "image-mirror.facadeSecret" -}}
{{- default (printf "%s-facade" (include "image-mirror.sidecar" .)) .Values.facade.existingSecret }}
{{- end }}

{{- define "image-mirror.caSecret" -}}
{{ include "image-mirror.sidecar" . }}-ca
{{- end }}

{{/* Each source of the certificate has a Secret of its own, so that changing the source replaces none that is in use. */}}
{{- define "image-mirror.tlsSecret" -}}
{{- if eq .Values.tls.source "secret" }}{{ .Values.tls.existingSecret }}
{{- else if and (eq .Values.tls.source "certManager") .Values.made.ca }}
{{- /* cert-manager does not reissue a certificate when the authority of its Issuer changes, but it does for another Secret name. */}}
{{- include "image-mirror.sidecar" . }}-cert-manager-{{ trim .Values.made.ca.signer.certificate | sha256sum | trunc 8 }}
{{- else if eq .Values.tls.source "certManager" }}{{ include "image-mirror.sidecar" . }}-cert-manager
{{- else }}{{ include "image-mirror.sidecar" . }}-tls
{{- end }}
{{- end }}

{{/* Labels that never change in the life of a release, because selectors are immutable. */}}
{{- define "image-mirror.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
app.kubernetes.io/component: sidecar
{{- end }}

{{/* The Pod of `helm test`. */}}
{{- define "image-mirror.testSelector" -}}
app.kubernetes.io/name: {{ .Chart.Name | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
app.kubernetes.io/component: test
{{- end }}

{{/* The argument is a list: the context and the component. */}}
{{- define "image-mirror.labels" -}}
{{- $component := last . }}
{{- with first . }}
app.kubernetes.io/name: {{ include "image-mirror.name" . | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
app.kubernetes.io/component: {{ $component }}
app.kubernetes.io/part-of: image-mirror
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service | quote }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | quote }}
{{- with .Values.additionalLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}
{{- end }}

{{/* The argument is a list: the context and the registry, repository, tag and digest of an image. */}}
{{- define "image-mirror.image" -}}
{{- $image := last . }}
{{- with first . }}
{{- $registry := default $image.registry (((.Values.global).cattle).systemDefaultRegistry) }}
{{- with $registry }}{{ trimSuffix "/" . }}/{{ end }}{{ $image.repository }}
{{- if $image.digest }}@{{ $image.digest }}{{ else }}:{{ default .Chart.AppVersion $image.tag }}{{ end }}
{{- end }}
{{- end }}

{{/* Pods that avoid the nodes of those with the same labels; the argument is the labels as YAML. */}}
{{- define "image-mirror.antiAffinity" -}}
podAntiAffinity:
  preferredDuringSchedulingIgnoredDuringExecution:
    - weight: 100
      podAffinityTerm:
        topologyKey: kubernetes.io/hostname
        labelSelector:
          matchLabels:
            {{- . | nindent 12 }}
{{- end }}
