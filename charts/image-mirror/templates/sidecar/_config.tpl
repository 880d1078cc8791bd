{{/* The configuration file of the sidecar: backups besides the default one, and logins for targets of rewrites. */}}

{{- define "image-mirror.hasConfig" -}}
{{- if or .Values.backups .Values.targets }}true{{ end }}
{{- end }}

{{/*
The Secrets that it needs, as a JSON list: .value, the path of the value; .kind, push or pull; .folder, the mounted folder; and
.login, the value.
*/}}
{{- define "image-mirror.logins" -}}
{{- $logins := list }}
{{- range $name, $backup := .Values.backups }}
  {{- range $kind := list "push" "pull" }}
    {{- with get $backup $kind }}
      {{- $folder := printf "backups/%s/%s" $name $kind }}
      {{- $logins = append $logins (dict "value" (printf "backups.%s.%s" $name $kind) "kind" $kind "folder" $folder "login" .) }}
    {{- end }}
  {{- end }}
{{- end }}
{{- range $location, $target := .Values.targets }}
  {{- $folder := printf "targets/%s" ($location | sha256sum | trunc 16) }}
  {{- $logins = append $logins (dict "value" (printf "targets.%s.pull" $location) "kind" "pull" "folder" $folder "login" $target.pull) }}
{{- end }}
{{- $logins | toJson }}
{{- end }}

{{/* The content of the volume with these Secrets. */}}
{{- define "image-mirror.loginSources" -}}
{{- range include "image-mirror.logins" . | fromJsonArray }}
- secret:
    {{- if .login.existingSecret }}
    name: {{ .login.existingSecret | quote }}
    items: [{key: username, path: {{ .folder }}/username}, {key: password, path: {{ .folder }}/password}]
    {{- else }}
    name: {{ .login.dockerConfigSecret | quote }}
    items: [{key: .dockerconfigjson, path: {{ .folder }}/config.json}]
    {{- end }}
{{- end }}
{{- end }}

{{/* The file. */}}
{{- define "image-mirror.config" -}}
{{- $backups := dict }}
{{- range $name, $values := .Values.backups }}
  {{- $backup := pick $values "registry" "repository" "naming" "formerLocations" }}
  {{- if hasKey $values "maxImageSize" }}
    {{- $size := $values.maxImageSize }}
    {{- $_ := kindIs "string" $size | ternary $size (int64 $size) | set $backup "maxImageSize" }}
  {{- end }}
  {{- with $values.parallelCopies }}{{ $_ := int64 . | set $backup "parallelCopies" }}{{ end }}
  {{- $_ := set $backups $name $backup }}
{{- end }}
{{- $targets := dict }}
{{- range $location, $_ := .Values.targets }}{{ $_ := set $targets $location dict }}{{ end }}
{{- range include "image-mirror.logins" . | fromJsonArray }}
  {{- $folder := printf "/etc/image-mirror/logins/%s" .folder }}
  {{- $login := dict "dockerConfig" (printf "%s/config.json" $folder) }}
  {{- if .login.existingSecret }}
    {{- $login = dict "usernameFile" (printf "%s/username" $folder) "passwordFile" (printf "%s/password" $folder) }}
  {{- end }}
  {{- $parts := splitList "." .value }}
  {{- if eq (first $parts) "backups" }}
    {{- $_ := set (get $backups (index $parts 1)) .kind $login }}
  {{- else }}
    {{- $_ := set (get $targets (trimPrefix "targets." .value | trimSuffix ".pull")) .kind $login }}
  {{- end }}
{{- end }}
{{- $config := dict }}
{{- with $backups }}{{ $_ := set $config "backups" . }}{{ end }}
{{- with $targets }}{{ $_ := set $config "targets" . }}{{ end }}
{{- toYaml $config }}
{{- end }}

{{/* Locations of copies in these backups, current and former, as a JSON list. */}}
{{- define "image-mirror.namedLocations" -}}
{{- $locations := list }}
{{- range $_, $backup := .Values.backups }}
  {{- $locations = append $locations (list $backup.registry $backup.repository | compact | join "/") }}
  {{- $locations = concat $locations ($backup.formerLocations | default list) }}
{{- end }}
{{- $locations | toJson }}
{{- end }}

{{/*
Errors that only the chart can see, as a JSON list: the sidecar logs a rule with an unknown backup, and refuses locations and logins
that cannot be used together at its start.
*/}}
{{- define "image-mirror.configErrors" -}}
{{- $wrong := list }}
{{- range $index, $rule := .Values.policy.settings.rules }}
  {{- with $rule.backup }}
    {{- if not (or (eq . "default") (hasKey $.Values.backups .)) }}
      {{- $wrong = append $wrong (printf "policy.settings.rules[%d].backup: %s is not in backups" $index .) }}
    {{- end }}
  {{- end }}
{{- end }}
{{- $wrong | toJson }}
{{- end }}
