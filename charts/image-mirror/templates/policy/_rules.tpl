{{/* Rules of the webhook. `workloads` equals the policy's metadata.yml; a test compares them. */}}
{{- define "image-mirror.policyRules" -}}
{{- if eq .Values.policy.rules "workloads" }}
- apiGroups: [""]
  apiVersions: ["v1"]
  resources: ["pods", "pods/ephemeralcontainers", "replicationcontrollers"]
  operations: ["CREATE", "UPDATE"]
- apiGroups: ["apps"]
  apiVersions: ["v1"]
  resources: ["deployments", "daemonsets", "statefulsets", "replicasets"]
  operations: ["CREATE", "UPDATE"]
- apiGroups: ["batch"]
  apiVersions: ["v1"]
  resources: ["jobs", "cronjobs"]
  operations: ["CREATE", "UPDATE"]
{{- else }}
- apiGroups: [""]
  apiVersions: ["v1"]
  resources: ["pods", "pods/ephemeralcontainers"]
  operations: ["CREATE", "UPDATE"]
{{- end }}
{{- with .Values.policy.extraRules }}
{{ toYaml . }}
{{- end }}
{{- end }}
