{{/* The configuration of the sidecar, as variables and files. Each volume is mounted at /etc/image-mirror/<its name>, certificates of registries in certs.d. */}}

{{/* The Secret with the credentials that Pods pull with, if they are a user and a password. */}}
{{- define "image-mirror.pullLoginSecret" -}}
{{- with .Values.pull }}
{{- if .existingSecret }}{{ .existingSecret }}
{{- else if .username }}{{ include "image-mirror.sidecar" $ }}-pull
{{- else if .useRegistryCredentials }}{{ include "image-mirror.registrySecret" $ }}
{{- end }}
{{- end }}
{{- end }}

{{- define "image-mirror.volumes" -}}
- name: facade
  secret:
    secretName: {{ include "image-mirror.facadeSecret" . | quote }}
    items: [{key: password, path: password}]
- name: tls
  secret:
    secretName: {{ include "image-mirror.tlsSecret" . | quote }}
    items: [{key: tls.crt, path: tls.crt}, {key: tls.key, path: tls.key}]
{{- if or .Values.registry.username .Values.registry.existingSecret }}
- name: registry
  secret:
    secretName: {{ include "image-mirror.registrySecret" . | quote }}
    items: [{key: password, path: password}]
{{- end }}
{{- with include "image-mirror.pullLoginSecret" . }}
- name: pull
  secret:
    secretName: {{ . | quote }}
    items: [{key: password, path: password}]
{{- end }}
{{- with .Values.pull.dockerConfigSecret }}
- name: pull
  secret:
    secretName: {{ . | quote }}
    items: [{key: .dockerconfigjson, path: config.json}]
{{- end }}
{{- with .Values.upstream.dockerConfigSecret }}
- name: docker
  secret:
    secretName: {{ . | quote }}
    items: [{key: .dockerconfigjson, path: config.json}]
{{- end }}
{{- if include "image-mirror.hasConfig" . }}
- name: config
  configMap:
    name: "{{ include "image-mirror.sidecar" . }}-config"
{{- with include "image-mirror.loginSources" . }}
- name: logins
  projected:
    sources:
      {{- . | trim | nindent 6 }}
{{- end }}
{{- end }}
{{- with .Values.upstream.caConfigMap }}
- name: ca
  configMap:
    name: {{ . | quote }}
{{- end }}
{{- range $host, $secret := .Values.upstream.registryCertificates }}
- name: {{ include "image-mirror.certificatesVolume" $host }}
  secret:
    secretName: {{ $secret | quote }}
{{- end }}
{{- end }}

{{/* The name of the volume with a registry's certificates: hosts may be longer than names of volumes. */}}
{{- define "image-mirror.certificatesVolume" -}}
certs-{{ . | sha256sum | trunc 16 }}
{{- end }}

{{/*
Where the volumes are mounted. The path of a mount cannot hold a colon, so the sidecar reads `_` in the name of a registry's
folder. Takes a list: the root, the volumes.
*/}}
{{- define "image-mirror.mounts" -}}
{{- $folders := dict }}
{{- range $host, $_ := (index . 0).Values.upstream.registryCertificates }}
  {{- $folder := printf "certs.d/%s" ($host | replace ":" "_") }}
  {{- $folders = set $folders (include "image-mirror.certificatesVolume" $host) $folder }}
{{- end }}
{{- range index . 1 }}
- name: {{ .name }}
  mountPath: {{ printf "/etc/image-mirror/%s" (get $folders .name | default .name) }}
  readOnly: true
{{- end }}
{{- end }}

{{/*
A user name: out of the values, so that a new one restarts the Pods, or out of a Secret. Takes a list: the variable, the
name in the values, the Secret.
*/}}
{{- define "image-mirror.usernameEnv" -}}
- name: {{ index . 0 }}
{{- with index . 1 }}
  value: {{ . | quote }}
{{- else }}
  valueFrom:
    secretKeyRef:
      name: {{ index . 2 | quote }}
      key: username
{{- end }}
{{- end }}

{{- define "image-mirror.env" -}}
{{- $v := .Values }}
{{- $mode := include "image-mirror.mode" . }}
- name: REGISTRY
  value: {{ $v.registry.host | quote }}
- name: REPOSITORY
  value: {{ $v.registry.repository | quote }}
- name: NAMING
  value: {{ $v.registry.naming | quote }}
{{- if or $v.registry.username $v.registry.existingSecret }}
{{- $secret := include "image-mirror.registrySecret" . }}
{{ include "image-mirror.usernameEnv" (list "REGISTRY_USERNAME" $v.registry.username $secret) }}
- name: REGISTRY_PASSWORD_FILE
  value: /etc/image-mirror/registry/password
{{- end }}
{{- if include "image-mirror.hasConfig" . }}
- name: CONFIG_FILE
  value: /etc/image-mirror/config/config.yaml
{{- end }}
{{- with $v.upstream.dockerConfigSecret }}
- name: DOCKER_CONFIG_FILE
  value: /etc/image-mirror/docker/config.json
{{- end }}
{{- with $v.upstream.insecureRegistries }}
- name: INSECURE_REGISTRIES
  value: {{ join "," . | quote }}
{{- end }}
{{- if $v.upstream.caConfigMap }}
{{- $files := list }}
{{- range $v.upstream.caKeys }}{{ $files = append $files (printf "/etc/image-mirror/ca/%s" .) }}{{ end }}
- name: CA_FILE
  value: {{ join "," $files | quote }}
{{- end }}
{{- if $v.upstream.registryCertificates }}
- name: CERTS_DIR
  value: /etc/image-mirror/certs.d
{{- end }}
- name: FIRST_BYTE_TIMEOUT
  value: {{ $v.upstream.firstByteTimeout | quote }}
{{- with $v.upstream.privateRegistries }}
- name: PRIVATE_REGISTRIES
  value: {{ join "," . | quote }}
{{- end }}
- name: ALLOW_PRIVATE_REDIRECTS
  value: {{ $v.upstream.allowPrivateRedirects | quote }}
- name: DOCKER_CONFIG_READS_BACKUP_HOST
  value: {{ $v.upstream.dockerConfigReadsBackupHost | quote }}
{{- $size := $v.upstream.maxImageSize }}
- name: MAX_IMAGE_SIZE
  value: {{ kindIs "string" $size | ternary $size (int64 $size | toString) | quote }}
- name: PARALLEL_COPIES
  value: {{ $v.upstream.parallelCopies | int64 | quote }}
- name: LISTEN
  value: {{ printf "%s:5000" $v.listenAddress | quote }}
- name: TLS_CERT
  value: /etc/image-mirror/tls/tls.crt
- name: TLS_KEY
  value: /etc/image-mirror/tls/tls.key
{{- $username := empty $v.facade.existingSecret | ternary $v.facade.username "" }}
{{ include "image-mirror.usernameEnv" (list "FACADE_USERNAME" $username (include "image-mirror.facadeSecret" .)) }}
- name: FACADE_PASSWORD_FILE
  value: /etc/image-mirror/facade/password
- name: ADMIN_LISTEN
  value: {{ printf "%s:8080" $v.listenAddress | quote }}
- name: STATUS_ENDPOINTS
  value: {{ $v.statusEndpoints | quote }}
- name: SHUTDOWN_DELAY
  value: {{ printf "%ds" (int $v.shutdownDelaySeconds) | quote }}
- name: LOG_LEVEL
  value: {{ $v.log.level | quote }}
- name: LOG_FORMAT
  value: {{ $v.log.format | quote }}
- name: EXCLUDE_NAMESPACES
  value: {{ include "image-mirror.excludedNamespaces" . | fromJsonArray | join "," | quote }}
- name: MAX_NEW_IMAGES_PER_NAMESPACE
  value: {{ $v.cluster.maxNewImagesPerNamespace | int64 | quote }}
- name: MAX_NEW_BYTES_PER_NAMESPACE
  value: {{ with $v.cluster.maxNewBytesPerNamespace }}{{ kindIs "string" . | ternary . (int64 . | toString) | quote }}{{ else }}"0"{{ end }}
- name: KUBERNETES
  value: {{ $mode | quote }}
{{- if ne $mode "off" }}
- name: RECHECK_INTERVAL
  value: {{ $v.cluster.recheckInterval | quote }}
- name: MAX_WORKLOADS
  value: {{ $v.cluster.maxWorkloads | int64 | quote }}
- name: ON_MOVED_TAG
  value: {{ $v.cluster.onMovedTag | quote }}
{{- end }}
{{- if ne $mode "off" }}
- name: FACADE_ADDRESS
  value: {{ include "image-mirror.facadeAddress" . | quote }}
- name: SKIP_OWNERS
  value: {{ join "," $v.policy.settings.skipOwners | quote }}
{{- end }}
{{- with $v.policy.settings.backups }}
- name: FORMER_BACKUPS
  value: {{ join "," . | quote }}
{{- end }}
{{- if eq $mode "on" }}
- name: READMIT
  value: {{ include "image-mirror.readmit" . | quote }}
- name: READMIT_PER_MINUTE
  value: {{ $v.cluster.readmitPerMinute | int64 | quote }}
{{- if include "image-mirror.reinvokes" . }}
- name: REINVOKE_POLICY
  value: {{ include "image-mirror.policyName" . | quote }}
{{- end }}
# Replicas share the work by these.
- name: POD_NAME
  valueFrom:
    fieldRef:
      fieldPath: metadata.name
- name: POD_NAMESPACE
  valueFrom:
    fieldRef:
      fieldPath: metadata.namespace
- name: POD_IP
  valueFrom:
    fieldRef:
      fieldPath: status.podIP
{{- end }}
{{- with include "image-mirror.pullSecretName" . }}
- name: PULL_SECRET
  value: {{ . | quote }}
{{- with include "image-mirror.pullSecretNames" $ | fromJsonArray | rest }}
- name: FORMER_PULL_SECRETS
  value: {{ join "," . | quote }}
{{- end }}
{{- end }}
{{- with include "image-mirror.pullLoginSecret" . }}
{{- $username := $v.pull.useRegistryCredentials | ternary $v.registry.username $v.pull.username }}
{{ include "image-mirror.usernameEnv" (list "PULL_USERNAME" $username .) }}
- name: PULL_PASSWORD_FILE
  value: /etc/image-mirror/pull/password
{{- end }}
{{- with $v.pull.dockerConfigSecret }}
- name: PULL_DOCKER_CONFIG_FILE
  value: /etc/image-mirror/pull/config.json
{{- end }}
{{ include "image-mirror.proxyEnv" . | trim }}
{{- with $v.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end }}
