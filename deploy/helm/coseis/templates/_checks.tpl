{{- /* What the schema cannot say: values that are each right and cannot work together. Each fails with the remedy. */ -}}

{{- define "coseis.check" -}}
{{- include "coseis.checkCluster" . -}}
{{- include "coseis.checkDoors" . -}}
{{- range concat .Values.networkPolicy.egress.cidrs .Values.networkPolicy.apiServer.cidrs -}}
{{- include "coseis.checkOutside" . -}}
{{- end -}}
{{- range $name, $_ := .Values.env -}}
{{- if regexMatch "(?i)(SECRET|PASSWORD|TOKEN|API_KEY|ACCESS_KEY|ACCOUNT_KEY)" $name -}}
{{- fail (printf "env.%s looks like a credential, and values are kept in plain text; put it into a Secret and name that in credentials.secret" $name) -}}
{{- end -}}
{{- end -}}
{{- if .Values.job.config -}}
{{- include "coseis.checkJob" . -}}
{{- include "coseis.checkPaths" . -}}
{{- else if .Values.job.files -}}
{{- fail "job.files without job.config: nothing would read them; set job.config, or leave job.files out" -}}
{{- end -}}
{{- end -}}

{{- define "coseis.checkCluster" -}}
{{- $workers := .Values.workers -}}
{{- if lt (int $workers.terminationGracePeriodSeconds) (add (int $workers.chunkSeconds) 30 | int) -}}
{{- fail (printf "workers.terminationGracePeriodSeconds is %d: a worker waits up to workers.chunkSeconds (%d) for what it is at, and then needs 30 s to end; raise the first to at least %d, or lower the second" (int $workers.terminationGracePeriodSeconds) (int $workers.chunkSeconds) (add (int $workers.chunkSeconds) 30)) -}}
{{- end -}}
{{- range $kind, $amounts := $workers.resources -}}
{{- if hasKey $amounts "nvidia.com/gpu" -}}
{{- fail (printf "workers.resources.%s names nvidia.com/gpu; set workers.gpu: true instead: a worker has one GPU, and workers.replicas says how many there are" $kind) -}}
{{- end -}}
{{- end -}}
{{- $given := 0 -}}
{{- range $role, $secret := .Values.tls.secrets -}}
{{- if $secret }}{{- $given = add1 $given -}}{{- end -}}
{{- end -}}
{{- if and $given (ne (int $given) 3) -}}
{{- fail "tls.secrets names some of scheduler, worker and client; name all three, signed by one authority, or none, and the chart makes them" -}}
{{- end -}}
{{- if and .Values.cluster.operator (not .Values.cluster.enabled) -}}
{{- fail "cluster.operator without cluster.enabled; set cluster.enabled: true, or cluster.operator: false" -}}
{{- end -}}
{{- end -}}

{{- define "coseis.checkDoors" -}}
{{- $scientists := .Values.scientists -}}
{{- if not .Values.cluster.enabled -}}
{{- range $what, $enabled := dict "scientists" $scientists.enabled "dashboard" .Values.dashboard.enabled "metrics" .Values.metrics.enabled -}}
{{- if $enabled -}}
{{- fail (printf "%s.enabled without a cluster; set cluster.enabled: true, or %s.enabled: false" $what $what) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if $scientists.enabled -}}
{{- if and (eq $scientists.type "LoadBalancer") (not $scientists.sourceRanges) -}}
{{- fail "scientists.type LoadBalancer without scientists.sourceRanges would be open to the internet; name the networks that may connect" -}}
{{- end -}}
{{- range $scientists.sourceRanges -}}
{{- if hasSuffix "/0" . -}}
{{- fail (printf "scientists.sourceRanges holds %s, which is everybody; name the networks that may connect" .) -}}
{{- end -}}
{{- end -}}
{{- if and .Values.networkPolicy.enabled (not $scientists.from) (not $scientists.sourceRanges) -}}
{{- fail "scientists.enabled, but the NetworkPolicy would let nobody in; name their pods or namespaces in scientists.from" -}}
{{- end -}}
{{- end -}}
{{- if and .Values.dashboard.enabled (not .Values.networkPolicy.enabled) -}}
{{- fail "dashboard.enabled without networkPolicy.enabled: the dashboard asks nobody for a password; keep the NetworkPolicy, and reach it by kubectl port-forward" -}}
{{- end -}}
{{- if and .Values.metrics.enabled .Values.networkPolicy.enabled (not .Values.metrics.from) -}}
{{- fail "metrics.enabled, but the NetworkPolicy would let nobody in; name Prometheus's pods or namespace in metrics.from" -}}
{{- end -}}
{{- end -}}

{{- /* An address block that pods may reach must not hold the metadata service, 169.254.169.254 or fd00:ec2::254. Of
       everything (/0) it is excepted; a block in between is refused, because whether it holds it cannot be told here. */ -}}
{{- define "coseis.checkOutside" -}}
{{- $prefix := . | splitList "/" | last | int -}}
{{- $bad := false -}}
{{- if contains ":" . -}}
{{- $bad = or (hasPrefix "fd00:ec2:" (lower .)) (hasPrefix "fe80:" (lower .)) (and (gt $prefix 0) (lt $prefix 32)) -}}
{{- else -}}
{{- $bad = or (hasPrefix "169.254." .) (and (hasPrefix "169." .) (lt $prefix 16)) (and (gt $prefix 0) (lt $prefix 8)) -}}
{{- end -}}
{{- if or $bad (and (eq $prefix 0) (not (has . (list "0.0.0.0/0" "::/0")))) -}}
{{- fail (printf "networkPolicy: %s may hold the instance metadata service, which gives away the node's credentials; write 0.0.0.0/0 or ::/0 (it is excepted there), or IPv4 blocks of /8 and IPv6 blocks of /32 and smaller without it" .) -}}
{{- end -}}
{{- end -}}

{{- define "coseis.checkJob" -}}
{{- $job := .Values.job -}}
{{- if eq $job.mode "cluster" -}}
{{- if not .Values.cluster.enabled -}}
{{- fail "job.mode cluster without a cluster; set cluster.enabled: true, or job.mode: parts, which needs none" -}}
{{- end -}}
{{- if gt (int $job.waitForWorkers.count) (int .Values.workers.replicas) -}}
{{- fail (printf "job.waitForWorkers.count is %d, but workers.replicas %d: the job would wait in vain; lower the first or raise the second" (int $job.waitForWorkers.count) (int .Values.workers.replicas)) -}}
{{- end -}}
{{- else -}}
{{- if $job.scaleDown -}}
{{- fail "job.scaleDown with job.mode parts: parts have no workers to scale, and their pods end by themselves; set job.scaleDown: false" -}}
{{- end -}}
{{- if and $job.parallelism (gt (int $job.parallelism) (int $job.parts)) -}}
{{- fail (printf "job.parallelism is %d, but there are %d parts; lower it, or raise job.parts" (int $job.parallelism) (int $job.parts)) -}}
{{- end -}}
{{- end -}}
{{- $search := $job.config.search -}}
{{- if not (or $search.event (and $search.aoi $search.event_time)) -}}
{{- fail "job.config.search needs aoi and event_time, or event: where and when was the earthquake?" -}}
{{- end -}}
{{- end -}}

{{- /* A path in a pod is gone with it, or is on no other pod. */ -}}
{{- define "coseis.checkPaths" -}}
{{- $job := .Values.job -}}
{{- $claim := .Values.volume.claim -}}
{{- $size := 0 -}}
{{- range $name, $content := $job.files -}}
{{- $size = add $size (len $content) -}}
{{- if eq $name "map.yaml" -}}
{{- fail "job.files must not hold map.yaml: that is job.config; give the file another name" -}}
{{- end -}}
{{- end -}}
{{- if gt (int $size) 900000 -}}
{{- fail (printf "job.files are %d bytes, but a ConfigMap takes 1 MiB; simplify the area, give a box (west,south,east,north), or put the file where the catalog is" (int $size)) -}}
{{- end -}}
{{- $out := $job.config.output.out -}}
{{- if and (not (regexMatch "^(s3|gs|az)://" $out)) (not (and $claim (hasPrefix "/maps/" $out))) -}}
{{- fail (printf "job.config.output.out is %s, which is gone with its pod; give s3://, gs:// or az://, or name a claim that all nodes can mount in volume.claim and write below /maps/" $out) -}}
{{- end -}}
{{- $terrain := default (dict) $job.config.terrain -}}
{{- $model := default (dict) $job.config.model -}}
{{- range $key, $path := dict "search.catalog" $job.config.search.catalog "search.aoi" $job.config.search.aoi "search.event" $job.config.search.event "terrain.dem" $terrain.dem "model.model" $model.model -}}
{{- if and $path (kindIs "string" $path) -}}
{{- $box := and (eq $key "search.aoi") (regexMatch "^ *-?[0-9.]+ *(, *-?[0-9.]+ *){3}$" $path) -}}
{{- $there := or $box (regexMatch "^(https?|s3|gs|az)://" $path) (hasKey $job.files $path) (and $claim (hasPrefix "/maps/" $path)) (and (eq $key "model.model") (hasPrefix "/" $path)) -}}
{{- if not $there -}}
{{- fail (printf "job.config.%s is %s, which no pod has; give an address, or the file too: --set-file job.files.%s=%s" $key $path ($path | base | replace "." "\\.") $path) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
