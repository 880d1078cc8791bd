{{/*
What is generated once and kept: the facade's password, the certificate authority, the sidecar's certificate.

An upgrade finds them in the cluster and keeps them. `helm template` cannot look, and makes new ones each time, unless
the values hold them. Every template of one run must see the same, so they are made once, by the first that asks, and
kept in `.Values.made`.
*/}}

{{- define "image-mirror.make" -}}
{{- if not (hasKey .Values "made") }}
  {{- include "image-mirror.validate" . }}
  {{- $_ := set .Values "made" dict }}
  {{- include "image-mirror.makePassword" . }}
  {{- include "image-mirror.makeCertificates" . }}
{{- end }}
{{- end }}

{{/* .made.password, empty where it is in a Secret of the user's. */}}
{{- define "image-mirror.makePassword" -}}
{{- $password := .Values.facade.password }}
{{- if not (or $password .Values.facade.existingSecret) }}
  {{- $kept := lookup "v1" "Secret" .Release.Namespace (include "image-mirror.facadeSecret" .) }}
  {{- if eq (include "image-mirror.generationOf" $kept) (include "image-mirror.generation" .Values.facade.generation) }}
    {{- $password = index $kept.data "password" | default "" | b64dec }}
  {{- end }}
  {{- $password = default (randAlphaNum 40) $password }}
{{- end }}
{{- $_ := set .Values.made "password" $password }}
{{- end }}

{{/*
.made.trusted, the authorities that the policy server trusts, as a list of PEM texts; and, as far as the chart makes them,
.made.ca, see below, and .made.certificate with .certificate, .key and .renewAfter.
*/}}
{{- define "image-mirror.makeCertificates" -}}
{{- $tls := .Values.tls }}
{{- $made := .Values.made }}
{{- if include "image-mirror.keepsCa" . }}
  {{- include "image-mirror.makeCa" . }}
{{- else }}
  {{- $_ := set $made "trusted" (compact (list (trim $tls.ca))) }}
{{- end }}
{{- if eq $tls.source "generated" }}
  {{- include "image-mirror.makeCertificate" . }}
{{- else if eq $tls.source "values" }}
  {{- $_ := set $made "certificate" (dict "certificate" $tls.certificate "key" $tls.key) }}
{{- end }}
{{- end }}

{{/* Whether there is an authority that the chart generates or has the key of. */}}
{{- define "image-mirror.keepsCa" -}}
{{- with .Values.tls }}
{{- if or (eq .source "generated") (and (eq .source "certManager") (not .certManager.issuerRef)) }}true{{ end }}
{{- end }}
{{- end }}

{{/*
.made.ca with .certificate, .key and .renewAfter; .before, the authority until the last change; and .signer with
.certificate and .key, which signs now. In the upgrade that changes the authority the one before still signs, since no policy
server trusts the new one yet. Who signed until now is trusted too: replicas have such certificates.
*/}}
{{- define "image-mirror.makeCa" -}}
{{- $tls := .Values.tls }}
{{- $kept := lookup "v1" "Secret" .Release.Namespace (include "image-mirror.caSecret" .) }}
{{- $old := dict "certificate" "" "key" "" }}
{{- $before := "" }}
{{- $signed := "" }}
{{- $renewAfter := "" }}
{{- if $kept }}
  {{- $data := $kept.data | default dict }}
  {{- $old = dict "certificate" (get $data "tls.crt" | b64dec) "key" (get $data "tls.key" | b64dec) }}
  {{- $before = get $data "before.crt" | b64dec }}
  {{- $signed = default (get $data "tls.crt") (get $data "signer.crt") | b64dec }}
  {{- $renewAfter = get ($kept.metadata.annotations | default dict) "image-mirror.dev/renew-after" }}
{{- end }}
{{- $isAsked := ne (include "image-mirror.generationOf" $kept) (include "image-mirror.generation" $tls.generation) }}
{{- $ca := $old }}
{{- if $tls.caKey }}
  {{- $ca = dict "certificate" $tls.ca "key" $tls.caKey }}
  {{- $renewAfter = "" }}
{{- else if or $isAsked (not $old.certificate) (include "image-mirror.isPast" $renewAfter) }}
  {{- $name := printf "%s CA" (include "image-mirror.sidecar" .) }}
  {{- $new := genCAWithKey $name (int $tls.validityDays) (genPrivateKey "ecdsa") }}
  {{- $ca = dict "certificate" $new.Cert "key" $new.Key }}
  {{- $renewAfter = include "image-mirror.renewAfter" . }}
{{- end }}
{{- $signer := $ca }}
{{- if and $old.certificate (ne (trim $old.certificate) (trim $ca.certificate)) }}
  {{- $before = $old.certificate }}
  {{- $signer = $old }}
{{- else if $isAsked }}
  {{- $before = "" }}
{{- end }}
{{- $made := dict "certificate" $ca.certificate "key" $ca.key "before" $before "renewAfter" $renewAfter "signer" $signer }}
{{- $_ := set .Values.made "ca" $made }}
{{- $_ := list (trim $ca.certificate) (trim $before) (trim $signed) | compact | uniq | set .Values.made "trusted" }}
{{- end }}

{{- define "image-mirror.makeCertificate" -}}
{{- $signer := .Values.made.ca.signer }}
{{- $kept := lookup "v1" "Secret" .Release.Namespace (include "image-mirror.tlsSecret" .) }}
{{- $names := include "image-mirror.dnsNames" . | fromJsonArray }}
{{- $certificate := dict }}
{{- if $kept }}
  {{- $annotations := $kept.metadata.annotations | default dict }}
  {{- $renewAfter := get $annotations "image-mirror.dev/renew-after" }}
  {{- $isSame := eq (get ($kept.data | default dict) "ca.crt" | b64dec | trim) (trim $signer.certificate) }}
  {{- $isSame = and $isSame (eq (get $annotations "image-mirror.dev/names") (join " " $names)) }}
  {{- $isSame = and $isSame (eq (include "image-mirror.generationOf" $kept) (include "image-mirror.generation" .Values.tls.generation)) }}
  {{- if and $isSame (not (include "image-mirror.isPast" $renewAfter)) }}
    {{- $data := $kept.data }}
    {{- $certificate = dict "certificate" (index $data "tls.crt" | b64dec) "key" (index $data "tls.key" | b64dec) "renewAfter" $renewAfter }}
  {{- end }}
{{- end }}
{{- if not $certificate }}
  {{- $days := int .Values.tls.validityDays }}
  {{- $ca := buildCustomCert (b64enc $signer.certificate) (b64enc $signer.key) }}
  {{- /* The policy server opens a new connection for each request, and ECDSA signatures are cheap. */}}
  {{- $leaf := genSignedCertWithKey (first $names) nil $names $days $ca (genPrivateKey "ecdsa") }}
  {{- $certificate = dict "certificate" $leaf.Cert "key" $leaf.Key "renewAfter" (include "image-mirror.renewAfter" .) }}
{{- end }}
{{- $_ := set .Values.made "certificate" $certificate }}
{{- end }}

{{/* The day after which a certificate created now is renewed: after two thirds of its validity. */}}
{{- define "image-mirror.renewAfter" -}}
{{ now | dateModify (printf "+%dh" (mul (int .Values.tls.validityDays) 16)) | date "2006-01-02" }}
{{- end }}

{{/* Whether such a day has passed. An object without one was not created by the chart and counts as expired. */}}
{{- define "image-mirror.isPast" -}}
{{- if or (not .) (gt (now | date "2006-01-02") .) }}true{{ end }}
{{- end }}

{{/* The names of the sidecar's Service, as a JSON list. */}}
{{- define "image-mirror.dnsNames" -}}
{{- $service := printf "%s.%s" (include "image-mirror.sidecar" .) .Release.Namespace }}
{{- list (printf "%s.svc" $service) (printf "%s.svc.cluster.local" $service) $service | toJson }}
{{- end }}

{{/* The generation of a Secret that was looked up; empty if there is none. */}}
{{- define "image-mirror.generationOf" -}}
{{- with . }}{{ get (.metadata.annotations | default dict) "image-mirror.dev/generation" }}{{ end }}
{{- end }}

{{/* A generation as text. Numbers in the values of the last release are floats: 20260101 would become 2.0260101e+07. */}}
{{- define "image-mirror.generation" -}}
{{ . | int64 | toString }}
{{- end }}
