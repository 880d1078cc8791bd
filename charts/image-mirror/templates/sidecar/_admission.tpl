{{/* CEL expressions for ValidatingAdmissionPolicies; tests evaluate them on recorded objects. */}}

{{- define "image-mirror.hasAdmissionPolicies" -}}
{{- if eq (toString .Values.admissionPolicies.enabled) "auto" }}
{{- if .Capabilities.APIVersions.Has "admissionregistration.k8s.io/v1/ValidatingAdmissionPolicy" }}true{{ end }}
{{- else if .Values.admissionPolicies.enabled }}true
{{- end }}
{{- end }}

{{/* Requests of one ServiceAccount: its whole name is compared, with its namespace. */}}
{{- define "image-mirror.isSidecar" -}}
- name: is-the-sidecar
  expression: >-
    has(request.userInfo.username)
    && request.userInfo.username == 'system:serviceaccount:{{ .Release.Namespace }}:{{ include "image-mirror.serviceAccount" . }}'
{{- end }}

{{/*
The regular expression of the copies' references, in the grammar of the package distribution/reference: names below the
repository without empty, `.` or `..` components, with a tag or a digest. `^` and `$` are the ends of the text.
*/}}
{{- define "image-mirror.copyPattern" -}}
{{- $registry := .Values.registry.host }}
{{- if has $registry (list "registry-1.docker.io" "index.docker.io" "registry.hub.docker.com") }}{{ $registry = "docker.io" }}{{ end }}
{{- $prefix := printf "%s/" (compact (list $registry .Values.registry.repository) | join "/") | regexQuoteMeta }}
{{- $component := "[a-z0-9]+((\\.|_|__|-+)[a-z0-9]+)*" }}
{{- $digest := "@sha(256:[0-9a-f]{64}|384:[0-9a-f]{96}|512:[0-9a-f]{128})" }}
{{- printf "^%s%s(/%s)*(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}(%s)?|%s)$" $prefix $component $component $digest $digest }}
{{- end }}

{{/* A CEL condition: a namespace is excluded. A trailing `*` is a wildcard. */}}
{{- define "image-mirror.isExcluded" -}}
{{- $names := list }}
{{- $conditions := list }}
{{- range include "image-mirror.excludedNamespaces" . | fromJsonArray }}
  {{- if hasSuffix "*" . }}
    {{- $conditions = append $conditions (printf "variables.namespace.startsWith('%s')" (trimSuffix "*" .)) }}
  {{- else }}
    {{- $names = append $names (squote .) }}
  {{- end }}
{{- end }}
{{- prepend $conditions (printf "variables.namespace in [%s]" (join ", " $names)) | join " || " }}
{{- end }}

{{/* The excluded namespaces, unless one of them is a wildcard, which selectors do not support. */}}
{{- define "image-mirror.excludedSelector" -}}
{{- $names := include "image-mirror.excludedNamespaces" . | fromJsonArray }}
{{- if not (regexMatch "\\*" (join " " $names)) }}
namespaceSelector:
  matchExpressions:
    - key: kubernetes.io/metadata.name
      operator: In
      values: {{- toYaml $names | nindent 8 }}
{{- end }}
{{- end }}

{{/* A CEL condition: two maps have the same entries except for some keys. The argument is a list: both maps, and the keys as a CEL list. */}}
{{- define "image-mirror.sameBut" -}}
{{- $a := index . 0 }}{{ $b := index . 1 }}{{ $keys := index . 2 -}}
{{ $a }}.all(k, k in {{ $keys }} || (k in {{ $b }} && {{ $b }}[k] == {{ $a }}[k])) && {{ $b }}.all(k, k in {{ $keys }} || k in {{ $a }})
{{- end }}

{{/* A CEL expression: a field that may be absent. The argument is a list: the map, the field, the default. */}}
{{- define "image-mirror.orElse" -}}
{{- printf "(has(%s.%s) ? %s.%s : %s)" (index . 0) (index . 1) (index . 0) (index . 1) (index . 2) }}
{{- end }}

{{/*
All that a re-admission changes, of a workload before and after it. Mutating admission runs first, so the object also has
the policy's changes: images, the pull Secret and the originals annotation. The API server itself changes fields of the
metadata before this validation: `generation`, `managedFields`, and the annotation in which apps/v1 keeps the
`templateGeneration` of a DaemonSet; what a client writes there has no effect.
*/}}
{{- define "image-mirror.workloadVariables" -}}
- name: changedAnnotations
  expression: >-
    request.kind.kind == 'DaemonSet'
    ? ['image-mirror.dev/readmitted', 'deprecated.daemonset.template.generation']
    : ['image-mirror.dev/readmitted']
{{- range $name, $object := dict "before" "oldObject" "after" "object" }}
- name: {{ $name }}
  expression: dyn({{ $object }})
- name: {{ $name }}Template
  expression: >-
    request.kind.kind == 'CronJob' ? variables.{{ $name }}.spec.jobTemplate.spec.template : variables.{{ $name }}.spec.template
- name: {{ $name }}InitContainers
  expression: {{ include "image-mirror.orElse" (list (printf "variables.%sTemplate.spec" $name) "initContainers" "[]") | quote }}
- name: {{ $name }}Containers
  expression: variables.{{ $name }}Template.spec.containers
- name: {{ $name }}Volumes
  expression: {{ include "image-mirror.orElse" (list (printf "variables.%sTemplate.spec" $name) "volumes" "[]") | quote }}
- name: {{ $name }}Secrets
  expression: {{ include "image-mirror.orElse" (list (printf "variables.%sTemplate.spec" $name) "imagePullSecrets" "[]") | quote }}
- name: {{ $name }}Annotations
  expression: {{ include "image-mirror.orElse" (list (printf "variables.%s.metadata" $name) "annotations" "{}") | quote }}
- name: {{ $name }}TemplateMetadata
  expression: {{ include "image-mirror.orElse" (list (printf "variables.%sTemplate" $name) "metadata" "{}") | quote }}
- name: {{ $name }}Notes
  expression: {{ include "image-mirror.orElse" (list (printf "variables.%sTemplateMetadata" $name) "annotations" "{}") | quote }}
{{- end }}
{{- end }}

{{- define "image-mirror.workloadValidations" -}}
{{- $copy := printf "matches(r'%s')" (include "image-mirror.copyPattern" .) }}
{{- $secrets := ternary (include "image-mirror.pullSecretList" .) "[]" (ne (include "image-mirror.pullSecretName" .) "") }}
{{- $served := "['annotations', 'generation', 'managedFields', 'resourceVersion']" }}
- message: mirror-sidecar changes no metadata but the annotation image-mirror.dev/readmitted
  expression: >-
    {{ include "image-mirror.sameBut" (list "variables.before.metadata" "variables.after.metadata" $served) }}
    && {{ include "image-mirror.sameBut" (list "variables.beforeAnnotations" "variables.afterAnnotations" "variables.changedAnnotations") }}
    && (!('image-mirror.dev/readmitted' in variables.afterAnnotations)
    || size(variables.afterAnnotations['image-mirror.dev/readmitted']) <= 64)
- message: mirror-sidecar changes nothing outside of the Pod template
  expression: >-
    request.kind.kind == 'CronJob'
    ? ({{ include "image-mirror.sameBut" (list "variables.before.spec" "variables.after.spec" "['jobTemplate']") }}
    && {{ include "image-mirror.sameBut" (list "variables.before.spec.jobTemplate" "variables.after.spec.jobTemplate" "['spec']") }}
    && {{ include "image-mirror.sameBut" (list "variables.before.spec.jobTemplate.spec" "variables.after.spec.jobTemplate.spec" "['template']") }})
    : ({{ include "image-mirror.sameBut" (list "variables.before.spec" "variables.after.spec" "['template']") }})
- message: a re-admission changes images and pull Secrets of the Pod template, and the policy's note, and nothing else there
  expression: >-
    {{ include "image-mirror.sameBut" (list "variables.beforeTemplateMetadata" "variables.afterTemplateMetadata" "['annotations']") }}
    && {{ include "image-mirror.sameBut" (list "variables.beforeNotes" "variables.afterNotes" "['image-mirror.dev/original-images']") }}
    && {{ include "image-mirror.sameBut" (list "variables.beforeTemplate.spec" "variables.afterTemplate.spec" "['containers', 'initContainers', 'volumes', 'imagePullSecrets']") }}
{{- /* Names are unique in each list, so lists in the same order have the same names at the same index. */}}
{{- range $kind, $list := dict "containers" "Containers" "init containers" "InitContainers" }}
- message: a re-admission changes images of {{ $kind }} to copies, and nothing else of {{ $kind }}
  expression: >-
    variables.after{{ $list }}.map(c, c.name) == variables.before{{ $list }}.map(c, c.name)
    && variables.after{{ $list }}.all(c, variables.before{{ $list }}.exists(b, b.name == c.name
    && {{ include "image-mirror.sameBut" (list "b" "c" "['image']") }}
    && has(b.image) == has(c.image) && (!has(c.image) || c.image == b.image || c.image.{{ $copy }})))
{{- end }}
- message: a re-admission changes images of volumes to copies, and nothing else of volumes
  expression: >-
    variables.afterVolumes.map(v, v.name) == variables.beforeVolumes.map(v, v.name)
    && variables.afterVolumes.all(v, variables.beforeVolumes.exists(b, b.name == v.name && (b == v
    || (has(b.image) && has(v.image) && {{ include "image-mirror.sameBut" (list "b" "v" "['image']") }}
    && {{ include "image-mirror.sameBut" (list "b.image" "v.image" "['reference']") }}
    && has(v.image.reference) && v.image.reference.{{ $copy }}))))
- message: a re-admission adds or removes no pull Secret but that of the copies
  expression: >-
    variables.beforeSecrets.all(s, s in variables.afterSecrets || (has(s.name) && s.name in {{ $secrets }}))
    && variables.afterSecrets.all(s, s in variables.beforeSecrets || (has(s.name) && s.name in {{ $secrets }}))
{{- end }}

{{/* A CEL condition: the second registration of the policy's webhook and nothing else, by its server, its path, and new Pods. */}}
{{- define "image-mirror.webhookVariables" -}}
- name: webhooks
  expression: "request.operation != 'DELETE' && has(dyn(object).webhooks) ? dyn(object).webhooks : []"
{{- range $name, $object := dict "before" "oldObject" "after" "object" }}
- name: {{ $name }}
  expression: "request.operation == 'UPDATE' ? dyn({{ $object }}).metadata : {}"
{{- end }}
{{- end }}

{{- define "image-mirror.webhookValidations" -}}
- message: mirror-sidecar writes no webhook configuration but {{ include "image-mirror.reinvocationName" . }}
  expression: >-
    request.operation == 'UPDATE' && request.resource.resource == 'mutatingwebhookconfigurations'
    && request.name == '{{ include "image-mirror.reinvocationName" . }}'
- message: mirror-sidecar registers no webhook but that of the policy {{ include "image-mirror.policyName" . }}
  expression: >-
    variables.webhooks.all(w, !has(w.clientConfig.url) && has(w.clientConfig.service)
    && w.clientConfig.service.namespace == '{{ include "image-mirror.kubewardenNamespace" . }}'
    && w.clientConfig.service.name == 'policy-server-{{ include "image-mirror.policyServerName" . }}'
    && has(w.clientConfig.service.path)
    && w.clientConfig.service.path == '/validate/clusterwide-{{ include "image-mirror.policyName" . }}')
- message: mirror-sidecar registers webhooks for new Pods only
  expression: >-
    variables.webhooks.all(w, !has(w.rules) || w.rules.all(r, r.apiGroups == [''] && r.resources == ['pods']
    && r.operations == ['CREATE']))
- message: mirror-sidecar changes no metadata of a webhook configuration
  expression: >-
    {{ include "image-mirror.sameBut" (list "variables.before" "variables.after" "['generation', 'managedFields', 'resourceVersion']") }}
{{- end }}
