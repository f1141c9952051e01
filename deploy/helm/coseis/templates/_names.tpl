{{- /* Names, labels and images: what all templates call a thing. */ -}}

{{- define "coseis.name" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- /* 40: the longest suffix and a pod's own still fit into 63. */ -}}
{{- (contains $name .Release.Name | ternary .Release.Name (printf "%s-%s" .Release.Name $name)) | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- define "coseis.selector" -}}
app.kubernetes.io/name: coseis
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "coseis.labels" -}}
{{ include "coseis.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- /* Of the pods of one kind: (dict "root" $ "component" "worker"). */ -}}
{{- define "coseis.podLabels" -}}
{{ include "coseis.selector" .root }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{- define "coseis.metadata" -}}
name: {{ .name }}
namespace: {{ .root.Release.Namespace }}
labels:
  {{- include "coseis.labels" .root | nindent 2 }}
{{- end -}}

{{- /* One image for all pods: workers of another code version would compute another map. */ -}}
{{- define "coseis.image" -}}
{{- $image := .Values.image -}}
{{- if $image.digest -}}
{{ $image.repository }}@{{ $image.digest }}
{{- else -}}
{{ $image.repository }}:{{ default (printf "%s%s" .Chart.AppVersion (.Values.workers.gpu | ternary "-gpu" "")) $image.tag }}
{{- end -}}
{{- end -}}

{{- define "coseis.serviceAccount" -}}
{{- default (.Values.serviceAccount.create | ternary (include "coseis.name" .) "default") .Values.serviceAccount.name -}}
{{- end -}}

{{- define "coseis.scheduler" -}}
tls://{{ include "coseis.name" . }}-scheduler:8786
{{- end -}}

{{- /* The Secret with ca.crt, tls.crt and tls.key of a role: (dict "root" $ "role" "worker"). */ -}}
{{- define "coseis.tlsSecret" -}}
{{- default (printf "%s-tls-%s" (include "coseis.name" .root) .role) (get .root.Values.tls.secrets .role) -}}
{{- end -}}

{{- /* What the run's settings and files are; a Job is another one when they change. */ -}}
{{- define "coseis.configData" -}}
map.yaml: |
  {{- toYaml .Values.job.config | nindent 2 }}
{{- range $name, $content := .Values.job.files }}
{{ $name }}: {{ $content | toJson }}
{{- end }}
{{- end -}}
