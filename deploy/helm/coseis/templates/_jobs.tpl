{{- /* The specs of the Jobs. A Job cannot be changed, so its name holds a digest of its spec and of the run's
       settings: `helm upgrade` leaves one that is the same, and puts another in the place of one that is not. */ -}}

{{- define "coseis.runDigest" -}}
{{ include "coseis.configData" . | sha256sum }}
{{- end -}}

{{- /* What follows from how a container ended; (dict "container" NAME "fail" FailJob or FailIndex). Exit codes are
       those of coseis: 2, 3 and 42 would come again, 75 is worth another try, and so is whatever killed it. A pod
       that was taken away is no try at all. */ -}}
{{- define "coseis.failurePolicy" -}}
podFailurePolicy:
  rules:
    - action: Ignore
      onPodConditions:
        - {type: DisruptionTarget, status: "True"}
    - action: {{ .fail }}
      onExitCodes:
        containerName: {{ .container }}
        operator: In
        values: [2, 3, 42]
    - action: Count
      onExitCodes:
        operator: In
        values: [75]
podReplacementPolicy: Failed
{{- end -}}

{{- define "coseis.mapJobSpec" -}}
{{- $job := .Values.job -}}
{{- with $job.deadlineSeconds }}
activeDeadlineSeconds: {{ . | int64 }}
{{- end }}
backoffLimit: {{ $job.backoffLimit }}
{{ include "coseis.failurePolicy" (dict "container" "map" "fail" "FailJob") }}
template:
  metadata:
    labels:
      {{- include "coseis.podLabels" (dict "root" . "component" "map") | nindent 6 }}
    annotations:
      checksum/config: {{ include "coseis.runDigest" . }}
      cluster-autoscaler.kubernetes.io/safe-to-evict: "false"
  spec:
    {{- include "coseis.podSecurity" . | nindent 4 }}
    serviceAccountName: {{ include "coseis.serviceAccount" . }}
    restartPolicy: Never
    terminationGracePeriodSeconds: {{ $job.terminationGracePeriodSeconds }}
    {{- include "coseis.placement" (dict "section" $job) | nindent 4 }}
    initContainers:
      - name: await-workers
        {{- include "coseis.container" . | nindent 8 }}
        command: [python, /etc/coseis/scripts/await_workers.py]
        args:
          - {{ include "coseis.scheduler" . }}
          - {{ $job.waitForWorkers.count | quote }}
          - {{ $job.waitForWorkers.timeoutSeconds | quote }}
        env:
          {{- include "coseis.env" . | nindent 10 }}
          {{- include "coseis.tlsEnv" (dict "roles" (list "client")) | nindent 10 }}
        resources:
          {{- include "coseis.smallResources" . | nindent 10 }}
        volumeMounts:
          {{- include "coseis.mounts" (dict "root" . "role" "client") | nindent 10 }}
    containers:
      - name: map
        {{- include "coseis.container" . | nindent 8 }}
        command: [coseis, map]
        args:
          - map.yaml
          - --resume
          - --scheduler={{ include "coseis.scheduler" . }}
        # Paths in map.yaml count from here.
        workingDir: /etc/coseis/run
        env:
          {{- include "coseis.env" . | nindent 10 }}
          {{- include "coseis.tlsEnv" (dict "roles" (list "client")) | nindent 10 }}
        {{- include "coseis.credentials" . | nindent 8 }}
        resources:
          {{- toYaml $job.resources | nindent 10 }}
        volumeMounts:
          {{- include "coseis.mounts" (dict "root" . "role" "client" "config" true "volume" true) | nindent 10 }}
    volumes:
      {{- include "coseis.volumes" (dict "root" . "role" "client" "config" true "volume" true "scratch" .Values.workers.scratch) | nindent 6 }}
{{- end -}}

{{- define "coseis.partsJobSpec" -}}
{{- $job := .Values.job -}}
{{- $workers := .Values.workers -}}
completionMode: Indexed
completions: {{ $job.parts }}
parallelism: {{ default $job.parts $job.parallelism }}
{{- with $job.deadlineSeconds }}
activeDeadlineSeconds: {{ . | int64 }}
{{- end }}
backoffLimitPerIndex: {{ $job.backoffLimitPerIndex }}
{{- if not (kindIs "invalid" $job.maxFailedIndexes) }}
maxFailedIndexes: {{ $job.maxFailedIndexes }}
{{- end }}
{{ include "coseis.failurePolicy" (dict "container" "part" "fail" "FailIndex") }}
template:
  metadata:
    labels:
      {{- include "coseis.podLabels" (dict "root" . "component" "part") | nindent 6 }}
    annotations:
      checksum/config: {{ include "coseis.runDigest" . }}
  spec:
    {{- include "coseis.podSecurity" . | nindent 4 }}
    serviceAccountName: {{ include "coseis.serviceAccount" . }}
    restartPolicy: Never
    terminationGracePeriodSeconds: {{ $workers.terminationGracePeriodSeconds }}
    {{- include "coseis.placement" (dict "section" $workers) | nindent 4 }}
    containers:
      - name: part
        {{- include "coseis.container" . | nindent 8 }}
        command: [coseis, map]
        args:
          - map.yaml
          - --resume
          - --part=$(PART)/{{ $job.parts }}
          - --scheduler={{ $workers.gpu | ternary "local-cuda" "local" }}
          - --threads={{ $workers.threads }}
        workingDir: /etc/coseis/run
        env:
          {{- include "coseis.env" . | nindent 10 }}
          - name: PART
            valueFrom:
              fieldRef:
                fieldPath: metadata.annotations['batch.kubernetes.io/job-completion-index']
        {{- include "coseis.credentials" . | nindent 8 }}
        resources:
          {{- include "coseis.workerResources" . | nindent 10 }}
        volumeMounts:
          {{- include "coseis.mounts" (dict "root" . "config" true "volume" true) | nindent 10 }}
    volumes:
      {{- include "coseis.volumes" (dict "root" . "config" true "volume" true "scratch" $workers.scratch "sharedMemory" $workers.sharedMemory) | nindent 6 }}
{{- end -}}

{{- /* Waits until another Job has ended, well or not: an init container of the Job that comes after it, or the
       whole of it. (dict "root" $ "job" NAME "scaled" PATH) */ -}}
{{- define "coseis.followContainer" -}}
{{- include "coseis.container" .root }}
command: [python, /etc/coseis/scripts/follow_job.py]
args:
  - {{ .job }}
  {{- with .scaled }}
  - {{ . }}
  {{- end }}
env:
  {{- include "coseis.env" .root | nindent 2 }}
resources:
  {{- include "coseis.smallResources" . | nindent 2 }}
volumeMounts:
  {{- include "coseis.followMounts" . | nindent 2 }}
{{- end -}}

{{- define "coseis.finishJobSpec" -}}
{{- $root := .root -}}
{{- with $root.Values.job.deadlineSeconds }}
# The parts have theirs; this is what drawing may take after it.
activeDeadlineSeconds: {{ mul 2 (. | int64) }}
{{- end }}
backoffLimit: {{ $root.Values.job.backoffLimit }}
{{ include "coseis.failurePolicy" (dict "container" "finish" "fail" "FailJob") }}
template:
  metadata:
    labels:
      {{- include "coseis.podLabels" (dict "root" $root "component" "finish") | nindent 6 }}
    annotations:
      checksum/config: {{ include "coseis.runDigest" $root }}
  spec:
    {{- include "coseis.podSecurity" $root | nindent 4 }}
    serviceAccountName: {{ include "coseis.serviceAccount" $root }}
    restartPolicy: Never
    terminationGracePeriodSeconds: {{ $root.Values.job.terminationGracePeriodSeconds }}
    {{- include "coseis.placement" (dict "section" $root.Values.job) | nindent 4 }}
    initContainers:
      - name: await-parts
        {{- include "coseis.followContainer" . | nindent 8 }}
    containers:
      - name: finish
        {{- include "coseis.container" $root | nindent 8 }}
        command: [coseis, finish]
        args:
          - {{ $root.Values.job.config.output.out | quote }}
        env:
          {{- include "coseis.env" $root | nindent 10 }}
        {{- include "coseis.credentials" $root | nindent 8 }}
        resources:
          {{- toYaml $root.Values.job.resources | nindent 10 }}
        volumeMounts:
          {{- include "coseis.mounts" (dict "root" $root "volume" true) | nindent 10 }}
    volumes:
      {{- include "coseis.volumes" (dict "root" $root "follows" true "volume" true "scratch" $root.Values.workers.scratch "sharedMemory" $root.Values.workers.sharedMemory) | nindent 6 }}
{{- end -}}

{{- define "coseis.scaleDownJobSpec" -}}
{{- $root := .root -}}
backoffLimit: {{ $root.Values.job.backoffLimit }}
podReplacementPolicy: Failed
template:
  metadata:
    labels:
      {{- include "coseis.podLabels" (dict "root" $root "component" "scale-down") | nindent 6 }}
  spec:
    {{- include "coseis.podSecurity" $root | nindent 4 }}
    serviceAccountName: {{ include "coseis.name" $root }}-scale-down
    restartPolicy: Never
    {{- include "coseis.placement" (dict "section" $root.Values.job) | nindent 4 }}
    containers:
      - name: scale-down
        {{- include "coseis.followContainer" . | nindent 8 }}
    volumes:
      {{- include "coseis.volumes" (dict "root" $root "follows" true) | nindent 6 }}
{{- end -}}
