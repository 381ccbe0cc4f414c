{{- define "taskflow.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" }}
{{- end }}

{{- /* At most 40 characters, so that a pod's name with its suffixes is a DNS label. */ -}}
{{- define "taskflow.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" }}
{{- else if contains (include "taskflow.name" .) .Release.Name }}
{{- .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "taskflow.name" .) | trunc 40 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "taskflow.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "taskflow.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- /* The functions below take a dict: root, the chart's scope; part, the service's name. */ -}}

{{- define "taskflow.selector" -}}
app.kubernetes.io/name: {{ include "taskflow.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .part }}
{{- end }}

{{- define "taskflow.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{ include "taskflow.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/part-of: taskflow
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
{{- end }}

{{- define "taskflow.image" -}}
{{- $values := .root.Values }}
{{- if and (eq .part "worker") $values.worker.image }}
{{- printf "%s:%s" $values.worker.image $values.worker.tag }}
{{- else }}
{{- printf "%s-%s:%s" $values.image.repository .part (default .root.Chart.AppVersion $values.image.tag) }}
{{- end }}
{{- end }}

{{- define "taskflow.databaseEnv" -}}
- name: TASKFLOW_DATABASE_URL
  valueFrom:
    secretKeyRef:
      name: {{ .root.Values.database.existingSecret }}
      key: {{ .root.Values.database.key }}
{{- end }}

{{- define "taskflow.commonEnv" -}}
{{- $root := .root -}}
{{- $service := get $root.Values .part -}}
- name: POD_NAME
  valueFrom:
    fieldRef:
      fieldPath: metadata.name
- name: TASKFLOW_NAME
  value: $(POD_NAME)
- name: TASKFLOW_HOST
  value: 0.0.0.0
- name: TASKFLOW_LOG_LEVEL
  value: {{ $root.Values.log.level }}
- name: TASKFLOW_LOG_FORMAT
  value: {{ $root.Values.log.format }}
{{- range $name, $value := $service.settings }}
- name: {{ $name }}
  value: {{ $value | quote }}
{{- end }}
{{- with $service.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- /* Where the pods of a StatefulSet are reached, each by its name, also before they are ready. */ -}}
{{- define "taskflow.podAddress" -}}
{{- printf "$(POD_NAME).%s-%s-pods.%s.svc:%d" (include "taskflow.fullname" .root) .part .root.Release.Namespace (int .port) }}
{{- end }}

{{- define "taskflow.podMeta" -}}
{{- $service := get .root.Values .part -}}
metadata:
  labels:
    {{- include "taskflow.selector" . | nindent 4 }}
    {{- with $service.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- with $service.podAnnotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}

{{- /* What is the same for all pods. TASKFLOW_PORT is a setting: a Service that is called taskflow would set it, too. */ -}}
{{- define "taskflow.podSpec" -}}
{{- $values := .root.Values -}}
{{- $service := get $values .part -}}
serviceAccountName: {{ include "taskflow.serviceAccountName" .root }}
automountServiceAccountToken: false
enableServiceLinks: false
{{- with $values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
securityContext:
  {{- toYaml $values.podSecurityContext | nindent 2 }}
{{- with $service.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $service.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $service.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- $anti := default "off" $service.antiAffinity }}
{{- if ne $anti "off" }}
affinity:
  podAntiAffinity:
    {{- if eq $anti "hard" }}
    requiredDuringSchedulingIgnoredDuringExecution:
      - topologyKey: kubernetes.io/hostname
        labelSelector:
          matchLabels:
            {{- include "taskflow.selector" . | nindent 12 }}
    {{- else }}
    preferredDuringSchedulingIgnoredDuringExecution:
      - weight: 100
        podAffinityTerm:
          topologyKey: kubernetes.io/hostname
          labelSelector:
            matchLabels:
              {{- include "taskflow.selector" . | nindent 14 }}
    {{- end }}
{{- end }}
volumes:
  - name: tmp
    emptyDir: {}
  {{- if and .database $values.database.tlsSecret }}
  - name: database-tls
    secret:
      secretName: {{ $values.database.tlsSecret }}
      defaultMode: 0440
  {{- end }}
  {{- with $service.extraVolumes }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}

{{- define "taskflow.container" -}}
name: {{ .part }}
image: {{ include "taskflow.image" . | quote }}
imagePullPolicy: {{ .root.Values.image.pullPolicy }}
securityContext:
  {{- toYaml .root.Values.securityContext | nindent 2 }}
volumeMounts:
  - name: tmp
    mountPath: /tmp
  {{- if and .database .root.Values.database.tlsSecret }}
  - name: database-tls
    mountPath: /etc/taskflow/database-tls
    readOnly: true
  {{- end }}
  {{- with (get .root.Values .part).extraVolumeMounts }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}

{{- /* A process that listens lives. Whether it serves is another question: nothing is mended by a restart while Postgres is away. */ -}}
{{- define "taskflow.liveness" -}}
startupProbe:
  tcpSocket:
    port: {{ . }}
  periodSeconds: 2
  failureThreshold: 60
livenessProbe:
  tcpSocket:
    port: {{ . }}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 3
{{- end }}

{{- define "taskflow.pdb" -}}
{{- $service := get .root.Values .part -}}
{{- if $service.podDisruptionBudget.enabled -}}
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  name: {{ include "taskflow.fullname" .root }}-{{ .part }}
  labels:
    {{- include "taskflow.labels" . | nindent 4 }}
spec:
  maxUnavailable: {{ $service.podDisruptionBudget.maxUnavailable }}
  selector:
    matchLabels:
      {{- include "taskflow.selector" . | nindent 6 }}
{{- end }}
{{- end }}

{{- /* The Service that a StatefulSet needs, and Prometheus: one address for each pod, ready or not. */ -}}
{{- define "taskflow.podsService" -}}
apiVersion: v1
kind: Service
metadata:
  name: {{ include "taskflow.fullname" .root }}-{{ .part }}-pods
  labels:
    {{- include "taskflow.labels" . | nindent 4 }}
    taskflow.io/metrics: "true"
spec:
  clusterIP: None
  publishNotReadyAddresses: true
  selector:
    {{- include "taskflow.selector" . | nindent 4 }}
  ports:
    - name: grpc
      port: {{ .port }}
      targetPort: {{ .port }}
    - name: metrics
      port: {{ .metrics }}
      targetPort: {{ .metrics }}
{{- end }}
