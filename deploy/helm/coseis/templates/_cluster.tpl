{{- /* The pod specs of the Dask cluster: a Deployment's, or the operator's DaskCluster's. */ -}}

{{- define "coseis.schedulerPod" -}}
{{ include "coseis.podSecurity" . }}
serviceAccountName: {{ include "coseis.serviceAccount" . }}
terminationGracePeriodSeconds: 30
{{- include "coseis.placement" (dict "section" .Values.scheduler) }}
containers:
  - name: scheduler
    {{- include "coseis.container" . | nindent 4 }}
    command: [dask, scheduler]
    args:
      - --protocol=tls
      - --port=8786
      - --dashboard-address=:8787
      - {{ .Values.dashboard.enabled | ternary "--dashboard" "--no-dashboard" }}
      - --no-show
    env:
      {{- include "coseis.env" . | nindent 6 }}
      {{- include "coseis.tlsEnv" (dict "roles" (list "scheduler" "client")) | nindent 6 }}
      # Nobody is asked who they are on this port, so it tells no more than it must.
      - name: DASK_DISTRIBUTED__SCHEDULER__HTTP__ROUTES
        value: >-
          ['distributed.http.health','distributed.http.scheduler.prometheus'
          {{- if .Values.dashboard.enabled }},'distributed.http.scheduler.info','distributed.http.statics'{{ end }}]
    ports:
      - {name: scheduler, containerPort: 8786}
      - {name: http, containerPort: 8787}
    readinessProbe:
      tcpSocket: {port: scheduler}
      periodSeconds: 5
    livenessProbe:
      httpGet: {path: /health, port: http}
      initialDelaySeconds: 30
      periodSeconds: 20
      timeoutSeconds: 10
      failureThreshold: 6
    resources:
      {{- toYaml .Values.scheduler.resources | nindent 6 }}
    volumeMounts:
      {{- include "coseis.mounts" (dict "root" . "role" "scheduler") | nindent 6 }}
volumes:
  {{- include "coseis.volumes" (dict "root" . "role" "scheduler") | nindent 2 }}
{{- end -}}

{{- define "coseis.workerPod" -}}
{{- $workers := .Values.workers -}}
{{ include "coseis.podSecurity" . }}
serviceAccountName: {{ include "coseis.serviceAccount" . }}
terminationGracePeriodSeconds: {{ $workers.terminationGracePeriodSeconds }}
{{- include "coseis.placement" (dict "section" $workers) }}
containers:
  - name: worker
    {{- include "coseis.container" . | nindent 4 }}
    command: [dask, worker]
    args:
      - {{ include "coseis.scheduler" . }}
      - --name=$(DASK_WORKER_NAME)
      - --host=$(POD_IP)
      - --protocol=tls
      - --nthreads={{ $workers.threads }}
      - --memory-limit={{ $workers.resources.limits.memory }}
      - --worker-port=8788
      - --nanny-port=8789
      - --no-dashboard
      - --dashboard-address=:8790
      - --local-directory=/scratch
      # A scheduler that is started again is found by its name within this time, else by a new pod.
      - --death-timeout=300
    env:
      {{- include "coseis.env" . | nindent 6 }}
      {{- include "coseis.tlsEnv" (dict "roles" (list "worker" "client")) | nindent 6 }}
      - name: DASK_DISTRIBUTED__WORKER__HTTP__ROUTES
        value: "['distributed.http.health','distributed.http.worker.prometheus']"
      {{- if not .Values.cluster.operator }}
      # The operator sets this one itself.
      - name: DASK_WORKER_NAME
        valueFrom: {fieldRef: {fieldPath: metadata.name}}
      {{- end }}
      - name: POD_IP
        valueFrom: {fieldRef: {fieldPath: status.podIP}}
    {{- include "coseis.credentials" . | nindent 4 }}
    ports:
      - {name: worker, containerPort: 8788}
      - {name: nanny, containerPort: 8789}
      - {name: http, containerPort: 8790}
    readinessProbe:
      tcpSocket: {port: worker}
      periodSeconds: 10
    livenessProbe:
      tcpSocket: {port: nanny}
      initialDelaySeconds: 60
      periodSeconds: 20
      timeoutSeconds: 10
      failureThreshold: 6
    lifecycle:
      preStop:
        exec:
          command:
            - python
            - /etc/coseis/scripts/drain_worker.py
            - {{ include "coseis.scheduler" . }}
            - {{ $workers.chunkSeconds | quote }}
    resources:
      {{- include "coseis.workerResources" . | nindent 6 }}
    volumeMounts:
      {{- include "coseis.mounts" (dict "root" . "role" "worker" "volume" true) | nindent 6 }}
volumes:
  {{- include "coseis.volumes" (dict "root" . "role" "worker" "volume" true "scratch" $workers.scratch "sharedMemory" $workers.sharedMemory) | nindent 2 }}
{{- end -}}
