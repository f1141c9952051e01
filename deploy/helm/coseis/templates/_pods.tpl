{{- /* What pods and containers have in common: Pod Security `restricted`, volumes, environment. */ -}}

{{- define "coseis.podSecurity" -}}
automountServiceAccountToken: false
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  # Once, not at every start: a claim may hold many files.
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile:
    type: RuntimeDefault
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end -}}

{{- define "coseis.container" -}}
image: {{ include "coseis.image" . }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: [ALL]
{{- end -}}

{{- /* Where a pod of one kind may run: its section of the values, as (dict "section" ...). */ -}}
{{- define "coseis.placement" -}}
{{- with .section.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .section.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- $tolerations := .section.tolerations -}}
{{- if .section.gpu }}
{{- $tolerations = prepend $tolerations (dict "key" "nvidia.com/gpu" "operator" "Exists" "effect" "NoSchedule") -}}
{{- end }}
{{- with $tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .section.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- /* A worker's resources, with its GPU as a string: a DaskCluster refuses the number. */ -}}
{{- define "coseis.workerResources" -}}
{{- $resources := deepCopy .Values.workers.resources -}}
{{- if .Values.workers.gpu -}}
{{- $gpu := dict "nvidia.com/gpu" "1" -}}
{{- $resources = merge (dict "limits" $gpu "requests" $gpu) $resources -}}
{{- end -}}
{{- toYaml $resources -}}
{{- end -}}

{{- define "coseis.env" -}}
- {name: HOME, value: /scratch}
- {name: TMPDIR, value: /scratch}
- {name: DASK_TEMPORARY_DIRECTORY, value: /scratch}
# Dask's profiler may end in a deadlock of the process, in Python 3.11 (python/cpython issue 106883).
- {name: DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED, value: "false"}
# No credentials of the node, also where the network would let a pod ask for them.
- {name: AWS_EC2_METADATA_DISABLED, value: "true"}
# glibc keeps freed memory and uses it again: half the time of a batch went into page faults without this.
- {name: MALLOC_ARENA_MAX, value: "1"}
- {name: MALLOC_TRIM_THRESHOLD_, value: "134217728"}
- {name: MALLOC_MMAP_THRESHOLD_, value: "33554432"}
{{- range $name, $value := .Values.env }}
- {name: {{ $name }}, value: {{ $value | quote }}}
{{- end }}
{{- end -}}

{{- /* Dask's own settings: certificates of a role, and nothing but TLS on any of its ports. Workers and scheduler
       are clients of each other, and so is a hook beside them. */ -}}
{{- define "coseis.tlsEnv" -}}
- {name: DASK_DISTRIBUTED__COMM__REQUIRE_ENCRYPTION, value: "true"}
- {name: DASK_DISTRIBUTED__COMM__TLS__CA_FILE, value: /etc/coseis/tls/ca.crt}
{{- range .roles }}
- {name: DASK_DISTRIBUTED__COMM__TLS__{{ . | upper }}__CERT, value: /etc/coseis/tls/tls.crt}
- {name: DASK_DISTRIBUTED__COMM__TLS__{{ . | upper }}__KEY, value: /etc/coseis/tls/tls.key}
{{- end }}
{{- end -}}

{{- define "coseis.credentials" -}}
{{- with .Values.credentials.secret }}
envFrom:
  - secretRef:
      name: {{ . }}
{{- end }}
{{- end -}}

{{- /* (dict "root" $ "role" "worker" or "" "config" bool "volume" bool) */ -}}
{{- define "coseis.mounts" -}}
- {name: scratch, mountPath: /scratch}
- {name: shm, mountPath: /dev/shm}
{{- if .role }}
- {name: tls, mountPath: /etc/coseis/tls, readOnly: true}
- {name: scripts, mountPath: /etc/coseis/scripts, readOnly: true}
{{- end }}
{{- if .config }}
- {name: config, mountPath: /etc/coseis/run, readOnly: true}
{{- end }}
{{- if and .volume .root.Values.volume.claim }}
- {name: maps, mountPath: /maps}
{{- end }}
{{- end -}}

{{- /* As coseis.mounts, with the sizes of the section that the pod belongs to, and "scripts" without a role. */ -}}
{{- define "coseis.volumes" -}}
- name: scratch
  emptyDir:
    sizeLimit: {{ default "2Gi" .scratch }}
- name: shm
  emptyDir:
    medium: Memory
    sizeLimit: {{ default "64Mi" .sharedMemory }}
{{- if .role }}
- name: tls
  secret:
    secretName: {{ include "coseis.tlsSecret" (dict "root" .root "role" .role) }}
    defaultMode: 0440
{{- end }}
{{- if or .role .follows }}
- name: scripts
  configMap:
    name: {{ include "coseis.name" .root }}-scripts
{{- end }}
{{- if .config }}
- name: config
  configMap:
    name: {{ include "coseis.name" .root }}-run
{{- end }}
{{- if and .volume .root.Values.volume.claim }}
- name: maps
  persistentVolumeClaim:
    claimName: {{ .root.Values.volume.claim }}
{{- end }}
{{- if .follows }}
# The token is in the one container that asks the API server.
- name: account
  projected:
    defaultMode: 0440
    sources:
      - serviceAccountToken: {path: token, expirationSeconds: 3600}
      - configMap:
          name: kube-root-ca.crt
          items: [{key: ca.crt, path: ca.crt}]
      - downwardAPI:
          items: [{path: namespace, fieldRef: {fieldPath: metadata.namespace}}]
{{- end }}
{{- end -}}

{{- define "coseis.followMounts" -}}
- {name: scratch, mountPath: /scratch}
- {name: scripts, mountPath: /etc/coseis/scripts, readOnly: true}
- {name: account, mountPath: /var/run/secrets/kubernetes.io/serviceaccount, readOnly: true}
{{- end -}}

{{- /* What a pod needs that only starts something or waits. */ -}}
{{- define "coseis.smallResources" -}}
requests: {cpu: 50m, memory: 256Mi}
limits: {cpu: 500m, memory: 512Mi}
{{- end -}}
