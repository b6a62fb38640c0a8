{{/* Every object carries these. */}}
{{- define "aggrik8s.labels" -}}
app.kubernetes.io/name: aggrik8s
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
{{- end }}

{{/* Pods of one plane: (dict "plane" "pod"). */}}
{{- define "aggrik8s.selector" -}}
app.kubernetes.io/name: aggrik8s
app.kubernetes.io/component: {{ .plane }}-plane
{{- end }}

{{- define "aggrik8s.image" -}}
{{- $repository := required "image.repository: say where the image is, e.g. after `aggrik8s image push`" .Values.image.repository -}}
{{- if .Values.image.digest -}}
{{ $repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ $repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end }}

{{- define "aggrik8s.cluster" -}}
{{ required "cluster: say which cluster of mesh.yaml this is" .Values.cluster }}
{{- end }}

{{/* What both DaemonSets say of where and how their pods run. */}}
{{- define "aggrik8s.scheduling" -}}
serviceAccountName: aggrik8s
automountServiceAccountToken: false
enableServiceLinks: false
terminationGracePeriodSeconds: 10
priorityClassName: {{ .Values.priorityClassName | quote }}
{{- with .Values.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . | quote }}
  {{- end }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  # Mounted certificates and the holder's socket are for this group.
  fsGroup: 65532
  seccompProfile:
    type: RuntimeDefault
{{- end }}

{{/* Writes the agent's seccomp profile to the node: root of the folder's owner, and no capability. */}}
{{- define "aggrik8s.profileContainer" -}}
- name: seccomp-profile
  image: {{ include "aggrik8s.image" . | quote }}
  imagePullPolicy: {{ .Values.image.pullPolicy }}
  args: [seccomp-profile, --dir, /profiles]
  securityContext:
    runAsUser: 0
    runAsGroup: 0
    runAsNonRoot: false
    allowPrivilegeEscalation: false
    readOnlyRootFilesystem: true
    capabilities: {drop: [ALL]}
  resources:
    requests: {cpu: 5m, memory: 16Mi}
    limits: {memory: 64Mi}
  volumeMounts:
    - {name: profiles, mountPath: /profiles}
{{- end }}

{{- define "aggrik8s.agentSecurity" -}}
runAsUser: 65532
runAsGroup: 65532
runAsNonRoot: true
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
seccompProfile:
  type: {{ .Values.seccomp.profile }}
  {{- if eq .Values.seccomp.profile "Localhost" }}
  localhostProfile: aggrik8s/agent.json
  {{- end }}
{{- end }}

{{/* Where the API listens, as arguments: (dict "root" $ "port" 7410). */}}
{{- define "aggrik8s.apiArgs" -}}
{{- if eq .root.Values.api.tls.source "none" -}}
- --api
- {{ printf "127.0.0.1:%d" (int .port) | quote }}
{{- else -}}
- --api
- {{ printf "%s:%d" .root.Values.listen (int .port) | quote }}
- --tls-ca
- /etc/aggrik8s/tls/ca.crt
- --tls-cert
- /etc/aggrik8s/tls/tls.crt
- --tls-key
- /etc/aggrik8s/tls/tls.key
{{- end -}}
{{- end }}

{{/* Environment of every process that knows its node. */}}
{{- define "aggrik8s.nodeEnv" -}}
- name: AGGRIK8S_NODE
  valueFrom: {fieldRef: {fieldPath: spec.nodeName}}
{{- end }}

{{- define "aggrik8s.probes" -}}
livenessProbe:
  httpGet: {path: /healthz, port: metrics}
  periodSeconds: 10
  failureThreshold: 6
readinessProbe:
  httpGet: {path: /readyz, port: metrics}
  periodSeconds: 5
{{- end }}

{{/* Volumes of both DaemonSets. */}}
{{- define "aggrik8s.volumes" -}}
- name: mesh
  configMap: {name: aggrik8s-mesh}
{{- if eq .Values.seccomp.profile "Localhost" }}
- name: profiles
  hostPath: {path: {{ printf "%s/seccomp/aggrik8s" .Values.seccomp.kubeletDir | quote }}, type: DirectoryOrCreate}
{{- end }}
{{- if ne .Values.api.tls.source "none" }}
- name: tls
  secret: {secretName: {{ .Values.api.tls.secretName | quote }}, defaultMode: 288}
{{- end }}
{{- end }}

{{- define "aggrik8s.agentMounts" -}}
- {name: mesh, mountPath: /etc/aggrik8s/mesh, readOnly: true}
{{- if ne .Values.api.tls.source "none" }}
- {name: tls, mountPath: /etc/aggrik8s/tls, readOnly: true}
{{- end }}
{{- end }}
