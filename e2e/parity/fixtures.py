"""One full, valid object of each kind; what is around it is made first."""

import base64
import subprocess

NS = "parity"
SELECT = {"matchLabels": {"app": "a"}, "matchExpressions": [{"key": "tier", "operator": "In", "values": ["x", "y"]}]}
TEMPLATE_META = {"labels": {"app": "a", "tier": "x"}, "annotations": {"note": "n"}}
CONTAINER = {
    "name": "c", "image": "registry.k8s.io/pause:3.10", "command": ["/pause"], "args": ["-v"], "workingDir": "/w",
    "env": [{"name": "A", "value": "1"}, {"name": "N", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
            {"name": "R", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu", "divisor": "1m"}}},
            {"name": "K", "valueFrom": {"configMapKeyRef": {"name": "cm", "key": "k", "optional": True}}}],
    "envFrom": [{"prefix": "P_", "configMapRef": {"name": "cm"}}],
    "ports": [{"name": "http", "containerPort": 80, "protocol": "TCP"}],
    "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}, "limits": {"cpu": "1", "memory": "64Mi"}},
    "volumeMounts": [{"name": "v", "mountPath": "/v", "subPath": "s", "readOnly": True}, {"name": "cm", "mountPath": "/cm"}],
    "livenessProbe": {"httpGet": {"path": "/h", "port": 80, "scheme": "HTTP", "httpHeaders": [{"name": "X", "value": "1"}]},
                      "initialDelaySeconds": 1, "timeoutSeconds": 1, "periodSeconds": 5, "successThreshold": 1, "failureThreshold": 3},
    "readinessProbe": {"tcpSocket": {"port": "http"}}, "startupProbe": {"exec": {"command": ["true"]}},
    "lifecycle": {"preStop": {"sleep": {"seconds": 1}}},
    "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File", "imagePullPolicy": "IfNotPresent",
    "securityContext": {"runAsUser": 1000, "runAsNonRoot": True, "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True,
                        "capabilities": {"add": ["NET_BIND_SERVICE"], "drop": ["ALL"]}, "seccompProfile": {"type": "RuntimeDefault"}},
}
POD_SPEC = {
    "containers": [CONTAINER], "initContainers": [{"name": "i", "image": "busybox", "restartPolicy": "Always"}],
    "volumes": [{"name": "v", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
                {"name": "cm", "configMap": {"name": "cm", "defaultMode": 420, "items": [{"key": "k", "path": "p/k", "mode": 256}]}},
                {"name": "s", "secret": {"secretName": "s"}}, {"name": "h", "hostPath": {"path": "/h", "type": "Directory"}},
                {"name": "pvc", "persistentVolumeClaim": {"claimName": "c"}},
                {"name": "d", "downwardAPI": {"items": [{"path": "l", "fieldRef": {"fieldPath": "metadata.labels"}}]}},
                {"name": "n", "nfs": {"server": "s", "path": "/e"}}, {"name": "x", "csi": {"driver": "d.example.com"}}],
    "restartPolicy": "Always", "terminationGracePeriodSeconds": 30, "dnsPolicy": "ClusterFirst", "nodeSelector": {"disk": "ssd"},
    "securityContext": {"runAsUser": 1000, "fsGroup": 2000, "supplementalGroups": [1], "sysctls": [{"name": "kernel.shm_rmid_forced", "value": "1"}]},
    "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
        {"matchExpressions": [{"key": "k", "operator": "In", "values": ["v"]}]}]},
        "preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 1, "preference": {"matchExpressions": [{"key": "k", "operator": "Exists"}]}}]},
        "podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
            {"weight": 100, "podAffinityTerm": {"labelSelector": SELECT, "topologyKey": "kubernetes.io/hostname"}}]}},
    "tolerations": [{"key": "k", "operator": "Equal", "value": "v", "effect": "NoExecute", "tolerationSeconds": 5}],
    "hostAliases": [{"ip": "192.0.2.1", "hostnames": ["h"]}], "priorityClassName": "", "dnsConfig": {"nameservers": ["192.0.2.53"],
        "searches": ["a.example"], "options": [{"name": "ndots", "value": "2"}]},
    "topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule", "labelSelector": SELECT}],
    "hostname": "h", "subdomain": "s", "shareProcessNamespace": False, "imagePullSecrets": [{"name": "p"}], "activeDeadlineSeconds": 600,
    "schedulerName": "default-scheduler", "enableServiceLinks": True, "readinessGates": [{"conditionType": "example.com/r"}],
}
SMALL = {"containers": [{"name": "c", "image": "registry.k8s.io/pause:3.10"}]}
JOB_SPEC = {**SMALL, "restartPolicy": "Never"}
WEBHOOK = {
    "name": "w.example.com", "clientConfig": {"service": {"namespace": NS, "name": "w", "path": "/p", "port": 443}},
    "rules": [{"operations": ["CREATE"], "apiGroups": ["example.com"], "apiVersions": ["v1"], "resources": ["things"], "scope": "Namespaced"}],
    "failurePolicy": "Ignore", "matchPolicy": "Equivalent", "namespaceSelector": SELECT, "objectSelector": SELECT, "sideEffects": "None",
    "timeoutSeconds": 5, "admissionReviewVersions": ["v1"], "matchConditions": [{"name": "m", "expression": "true"}],
}
RULES = {"namespaceSelector": SELECT, "objectSelector": SELECT, "matchPolicy": "Exact", "resourceRules": [
    {"operations": ["CREATE", "UPDATE"], "apiGroups": ["example.com"], "apiVersions": ["v1"], "resources": ["things"], "scope": "*"}]}
POLICY = {
    "paramKind": {"apiVersion": "v1", "kind": "ConfigMap"}, "matchConstraints": RULES, "failurePolicy": "Ignore",
    "matchConditions": [{"name": "m", "expression": "object != null"}], "variables": [{"name": "n", "expression": "object.metadata.name"}],
}
CRD_SCHEMA = {"type": "object", "properties": {"spec": {"type": "object", "required": ["size"], "properties": {
    "size": {"type": "integer", "minimum": 1, "maximum": 10, "default": 3}, "names": {"type": "array", "items": {"type": "string"}, "x-kubernetes-list-type": "set"},
    "any": {"x-kubernetes-int-or-string": True}, "extra": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
    "when": {"type": "string", "format": "date-time", "nullable": True}, "kind": {"type": "string", "enum": ["a", "b"]}},
    "x-kubernetes-validations": [{"rule": "self.size < 9", "message": "too big"}]},
    "status": {"type": "object", "properties": {"replicas": {"type": "integer"}}}}}
SELECTOR_CEL = {"cel": {"expression": "device.driver == 'd.example.com'"}}
DEVICE_REQUEST = {"name": "r", "exactly": {"deviceClassName": "class.example.com", "allocationMode": "ExactCount", "count": 1, "selectors": [SELECTOR_CEL]}}
CLAIM_SPEC = {"devices": {"requests": [DEVICE_REQUEST], "constraints": [{"requests": ["r"], "matchAttribute": "d.example.com/numa"}],
                          "config": [{"requests": ["r"], "opaque": {"driver": "d.example.com", "parameters": {"a": 1}}}]}}


def certificate_request():
    key = subprocess.run(["openssl", "genrsa", "2048"], check=True, capture_output=True).stdout
    pem = subprocess.run(["openssl", "req", "-new", "-key", "/dev/stdin", "-subj", "/CN=someone"], input=key, check=True, capture_output=True).stdout
    return base64.b64encode(pem).decode()


def authority():
    made = subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "/dev/null", "-subj", "/CN=ca", "-days", "30"],
                          check=True, capture_output=True).stdout
    return made.decode()


AROUND = [
    ("/api/v1/namespaces", {"metadata": {"name": NS}}),
    ("/api/v1/nodes", {"metadata": {"name": "n0", "labels": {"kubernetes.io/hostname": "n0"}}}),
]


def kinds():
    """(path of the collection, apiVersion, kind, object without metadata, metadata)"""
    ns = f"namespaces/{NS}/"
    request = certificate_request()
    ca = authority()
    now = "2026-01-02T03:04:05.000000Z"
    rows = [
        ("v1", "Namespace", "namespaces", {"spec": {"finalizers": ["kubernetes"]}}),
        ("v1", "ConfigMap", ns + "configmaps", {"data": {"k": "v", "a.b": "c"}, "binaryData": {"b": "AAE="}, "immutable": False}),
        ("v1", "Secret", ns + "secrets", {"type": "Opaque", "data": {"k": "dg=="}, "stringData": {"s": "t"}, "immutable": False}),
        ("v1", "ServiceAccount", ns + "serviceaccounts", {"secrets": [{"name": "s"}], "imagePullSecrets": [{"name": "p"}], "automountServiceAccountToken": False}),
        ("v1", "Pod", ns + "pods", {"spec": POD_SPEC}),
        ("v1", "PodTemplate", ns + "podtemplates", {"template": {"metadata": TEMPLATE_META, "spec": SMALL}}),
        ("v1", "ReplicationController", ns + "replicationcontrollers", {"spec": {"replicas": 2, "minReadySeconds": 1, "selector": {"app": "a"}, "template": {"metadata": TEMPLATE_META, "spec": SMALL}}}),
        ("v1", "Service", ns + "services", {"spec": {"type": "NodePort", "selector": {"app": "a"}, "ports": [
            {"name": "http", "port": 80, "targetPort": "http", "protocol": "TCP", "appProtocol": "http"}, {"name": "dns", "port": 53, "targetPort": 53, "protocol": "UDP"}],
            "sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 10}}, "externalTrafficPolicy": "Cluster", "internalTrafficPolicy": "Local",
            "ipFamilyPolicy": "SingleStack", "publishNotReadyAddresses": True, "externalIPs": ["192.0.2.7"]}}),
        ("v1", "Endpoints", ns + "endpoints", {"subsets": [{"addresses": [{"ip": "192.0.2.1", "hostname": "h", "nodeName": "n0", "targetRef": {"kind": "Pod", "name": "p", "namespace": NS}}],
            "notReadyAddresses": [{"ip": "192.0.2.2"}], "ports": [{"name": "http", "port": 80, "protocol": "TCP", "appProtocol": "http"}]}]}),
        ("v1", "Event", ns + "events", {"involvedObject": {"kind": "Pod", "namespace": NS, "name": "p", "apiVersion": "v1"}, "reason": "R", "message": "m", "type": "Normal",
            "source": {"component": "c", "host": "h"}, "firstTimestamp": "2026-01-02T03:04:05Z", "lastTimestamp": "2026-01-02T03:04:05Z", "count": 1}),
        ("v1", "LimitRange", ns + "limitranges", {"spec": {"limits": [{"type": "Container", "max": {"cpu": "2"}, "min": {"cpu": "1m"}, "default": {"cpu": "1"}, "defaultRequest": {"cpu": "10m"}, "maxLimitRequestRatio": {"memory": "4"}},
            {"type": "PersistentVolumeClaim", "min": {"storage": "1Gi"}, "max": {"storage": "2Gi"}}]}}),
        ("v1", "ResourceQuota", ns + "resourcequotas", {"spec": {"hard": {"pods": "1000", "requests.cpu": "1000", "count/deployments.apps": "100"}, "scopes": ["NotTerminating"]}}),
        ("v1", "PersistentVolume", "persistentvolumes", {"spec": {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "persistentVolumeReclaimPolicy": "Retain", "volumeMode": "Filesystem",
            "storageClassName": "sc", "mountOptions": ["ro"], "nfs": {"server": "s", "path": "/e", "readOnly": True}, "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [{"key": "k", "operator": "In", "values": ["v"]}]}]}}}}),
        ("v1", "PersistentVolumeClaim", ns + "persistentvolumeclaims", {"spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}, "limits": {"storage": "2Gi"}}, "storageClassName": "sc", "volumeMode": "Filesystem", "selector": SELECT,
            "dataSource": {"apiGroup": "snapshot.storage.k8s.io", "kind": "VolumeSnapshot", "name": "s"}}}),
        ("v1", "Node", "nodes", {"spec": {"podCIDR": "10.1.0.0/24", "podCIDRs": ["10.1.0.0/24"], "providerID": "p://1", "taints": [{"key": "k", "value": "v", "effect": "NoSchedule"}], "unschedulable": False}}),
        ("apps/v1", "Deployment", ns + "deployments", {"spec": {"replicas": 2, "selector": SELECT, "template": {"metadata": TEMPLATE_META, "spec": SMALL}, "minReadySeconds": 1, "revisionHistoryLimit": 3, "paused": True, "progressDeadlineSeconds": 60,
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": 1}}}}),
        ("apps/v1", "ReplicaSet", ns + "replicasets", {"spec": {"replicas": 2, "minReadySeconds": 1, "selector": SELECT, "template": {"metadata": TEMPLATE_META, "spec": SMALL}}}),
        ("apps/v1", "StatefulSet", ns + "statefulsets", {"spec": {"replicas": 2, "serviceName": "s", "podManagementPolicy": "Parallel", "selector": SELECT, "template": {"metadata": TEMPLATE_META, "spec": SMALL}, "revisionHistoryLimit": 3, "minReadySeconds": 1,
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 1}}, "ordinals": {"start": 1}, "persistentVolumeClaimRetentionPolicy": {"whenDeleted": "Delete", "whenScaled": "Retain"},
            "volumeClaimTemplates": [{"metadata": {"name": "v"}, "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}]}}),
        ("apps/v1", "DaemonSet", ns + "daemonsets", {"spec": {"selector": SELECT, "template": {"metadata": TEMPLATE_META, "spec": SMALL}, "minReadySeconds": 1, "revisionHistoryLimit": 3,
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "10%", "maxSurge": 0}}}}),
        ("apps/v1", "ControllerRevision", ns + "controllerrevisions", {"data": {"a": 1}, "revision": 3}),
        ("batch/v1", "Job", ns + "jobs", {"spec": {"parallelism": 1, "completions": 2, "backoffLimit": 3, "activeDeadlineSeconds": 60, "ttlSecondsAfterFinished": 5, "completionMode": "Indexed", "suspend": True, "podReplacementPolicy": "Failed",
            "podFailurePolicy": {"rules": [{"action": "FailJob", "onExitCodes": {"containerName": "c", "operator": "In", "values": [1, 2]}}, {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}]},
            "successPolicy": {"rules": [{"succeededIndexes": "0", "succeededCount": 1}]}, "template": {"metadata": {"labels": {"l": "m"}}, "spec": JOB_SPEC}}}),
        ("batch/v1", "CronJob", ns + "cronjobs", {"spec": {"schedule": "*/5 * * * *", "timeZone": "Etc/UTC", "startingDeadlineSeconds": 10, "concurrencyPolicy": "Forbid", "suspend": True, "successfulJobsHistoryLimit": 1, "failedJobsHistoryLimit": 1,
            "jobTemplate": {"metadata": {"labels": {"l": "m"}}, "spec": {"template": {"spec": JOB_SPEC}, "backoffLimit": 1}}}}),
        ("autoscaling/v2", "HorizontalPodAutoscaler", ns + "horizontalpodautoscalers", {"spec": {"scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"}, "minReplicas": 1, "maxReplicas": 5,
            "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}},
                        {"type": "Pods", "pods": {"metric": {"name": "m", "selector": SELECT}, "target": {"type": "AverageValue", "averageValue": "10"}}},
                        {"type": "Object", "object": {"describedObject": {"kind": "Service", "name": "s", "apiVersion": "v1"}, "metric": {"name": "q"}, "target": {"type": "Value", "value": "5"}}},
                        {"type": "External", "external": {"metric": {"name": "e"}, "target": {"type": "Value", "value": "5"}}},
                        {"type": "ContainerResource", "containerResource": {"name": "cpu", "container": "c", "target": {"type": "Utilization", "averageUtilization": 50}}}],
            "behavior": {"scaleUp": {"stabilizationWindowSeconds": 0, "selectPolicy": "Max", "policies": [{"type": "Pods", "value": 4, "periodSeconds": 60}]},
                         "scaleDown": {"stabilizationWindowSeconds": 300, "selectPolicy": "Min", "policies": [{"type": "Percent", "value": 10, "periodSeconds": 60}]}}}}),
        ("autoscaling/v1", "HorizontalPodAutoscaler", ns + "horizontalpodautoscalers", {"spec": {"scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"}, "minReplicas": 1, "maxReplicas": 5, "targetCPUUtilizationPercentage": 70}}),
        ("policy/v1", "PodDisruptionBudget", ns + "poddisruptionbudgets", {"spec": {"minAvailable": "50%", "selector": SELECT, "unhealthyPodEvictionPolicy": "AlwaysAllow"}}),
        ("networking.k8s.io/v1", "Ingress", ns + "ingresses", {"spec": {"ingressClassName": "ic", "defaultBackend": {"service": {"name": "s", "port": {"number": 80}}}, "tls": [{"hosts": ["a.example.com"], "secretName": "t"}],
            "rules": [{"host": "a.example.com", "http": {"paths": [{"path": "/p", "pathType": "Prefix", "backend": {"service": {"name": "s", "port": {"name": "http"}}}},
                       {"path": "/r", "pathType": "Exact", "backend": {"resource": {"apiGroup": "example.com", "kind": "Bucket", "name": "b"}}}]}}]}}),
        ("networking.k8s.io/v1", "IngressClass", "ingressclasses", {"spec": {"controller": "example.com/ic", "parameters": {"apiGroup": "example.com", "kind": "P", "name": "p", "scope": "Namespace", "namespace": NS}}}),
        ("networking.k8s.io/v1", "NetworkPolicy", ns + "networkpolicies", {"spec": {"podSelector": SELECT, "policyTypes": ["Ingress", "Egress"], "ingress": [{"from": [{"podSelector": SELECT, "namespaceSelector": SELECT}, {"ipBlock": {"cidr": "192.0.2.0/24", "except": ["192.0.2.128/25"]}}],
            "ports": [{"protocol": "TCP", "port": 80, "endPort": 90}, {"protocol": "UDP", "port": "dns"}]}], "egress": [{"to": [{"ipBlock": {"cidr": "2001:db8::/32"}}], "ports": [{"port": 53}]}]}}),
        ("networking.k8s.io/v1", "ServiceCIDR", "servicecidrs", {"spec": {"cidrs": ["10.97.0.0/24"]}}),
        ("networking.k8s.io/v1", "IPAddress", "ipaddresses", {"spec": {"parentRef": {"group": "", "resource": "services", "namespace": NS, "name": "s"}}}),
        ("discovery.k8s.io/v1", "EndpointSlice", ns + "endpointslices", {"addressType": "IPv4", "endpoints": [{"addresses": ["192.0.2.1"], "conditions": {"ready": True, "serving": True, "terminating": False}, "hostname": "h", "nodeName": "n0", "zone": "z", "hints": {"forZones": [{"name": "z"}]},
            "targetRef": {"kind": "Pod", "name": "p", "namespace": NS}}], "ports": [{"name": "http", "port": 80, "protocol": "TCP", "appProtocol": "http"}]}),
        ("rbac.authorization.k8s.io/v1", "Role", ns + "roles", {"rules": [{"apiGroups": [""], "resources": ["pods", "pods/log"], "resourceNames": ["p"], "verbs": ["get", "list"]}]}),
        ("rbac.authorization.k8s.io/v1", "ClusterRole", "clusterroles", {"rules": [{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}, {"nonResourceURLs": ["/healthz", "/x/*"], "verbs": ["get"]}]}),
        ("rbac.authorization.k8s.io/v1", "RoleBinding", ns + "rolebindings", {"roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "r"}, "subjects": [{"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": "u"}, {"kind": "ServiceAccount", "name": "sa", "namespace": NS}]}),
        ("rbac.authorization.k8s.io/v1", "ClusterRoleBinding", "clusterrolebindings", {"roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"}, "subjects": [{"kind": "Group", "apiGroup": "rbac.authorization.k8s.io", "name": "g"}]}),
        ("storage.k8s.io/v1", "StorageClass", "storageclasses", {"provisioner": "p.example.com", "parameters": {"a": "b"}, "reclaimPolicy": "Retain", "mountOptions": ["ro"], "allowVolumeExpansion": True, "volumeBindingMode": "WaitForFirstConsumer",
            "allowedTopologies": [{"matchLabelExpressions": [{"key": "zone", "values": ["a"]}]}]}),
        ("storage.k8s.io/v1", "VolumeAttachment", "volumeattachments", {"spec": {"attacher": "d.example.com", "nodeName": "n0", "source": {"persistentVolumeName": "pv"}}}),
        ("storage.k8s.io/v1", "CSIDriver", "csidrivers", {"spec": {"attachRequired": True, "podInfoOnMount": True, "volumeLifecycleModes": ["Persistent", "Ephemeral"], "storageCapacity": True, "fsGroupPolicy": "File", "tokenRequests": [{"audience": "a", "expirationSeconds": 3600}], "requiresRepublish": True, "seLinuxMount": False}}),
        ("storage.k8s.io/v1", "CSINode", "csinodes", {"spec": {"drivers": [{"name": "d.example.com", "nodeID": "1", "topologyKeys": ["zone"], "allocatable": {"count": 5}}]}}),
        ("storage.k8s.io/v1", "CSIStorageCapacity", ns + "csistoragecapacities", {"storageClassName": "sc", "nodeTopology": SELECT, "capacity": "1Gi", "maximumVolumeSize": "1Gi"}),
        ("storage.k8s.io/v1", "VolumeAttributesClass", "volumeattributesclasses", {"driverName": "d.example.com", "parameters": {"a": "b"}}),
        ("scheduling.k8s.io/v1", "PriorityClass", "priorityclasses", {"value": 100, "globalDefault": False, "description": "d", "preemptionPolicy": "Never"}),
        ("coordination.k8s.io/v1", "Lease", ns + "leases", {"spec": {"holderIdentity": "h", "leaseDurationSeconds": 10, "acquireTime": now, "renewTime": now, "leaseTransitions": 1}}),
        ("node.k8s.io/v1", "RuntimeClass", "runtimeclasses", {"handler": "h", "overhead": {"podFixed": {"cpu": "1m", "memory": "1Mi"}}, "scheduling": {"nodeSelector": {"a": "b"}, "tolerations": [{"key": "k", "operator": "Exists", "effect": "NoSchedule"}]}}),
        ("events.k8s.io/v1", "Event", ns + "events", {"eventTime": now, "reportingController": "example.com/c", "reportingInstance": "i", "action": "A", "reason": "R", "note": "n", "type": "Normal", "regarding": {"kind": "Pod", "namespace": NS, "name": "p", "apiVersion": "v1"}}),
        ("certificates.k8s.io/v1", "CertificateSigningRequest", "certificatesigningrequests", {"spec": {"request": request, "signerName": "example.com/s", "usages": ["client auth", "digital signature"], "expirationSeconds": 3600}}),
        ("certificates.k8s.io/v1", "ClusterTrustBundle", "clustertrustbundles", {"spec": {"trustBundle": ca}}),
        ("flowcontrol.apiserver.k8s.io/v1", "FlowSchema", "flowschemas", {"spec": {"priorityLevelConfiguration": {"name": "global-default"}, "matchingPrecedence": 500, "distinguisherMethod": {"type": "ByUser"}, "rules": [
            {"subjects": [{"kind": "User", "user": {"name": "u"}}, {"kind": "Group", "group": {"name": "g"}}, {"kind": "ServiceAccount", "serviceAccount": {"namespace": NS, "name": "*"}}],
             "resourceRules": [{"verbs": ["get"], "apiGroups": ["apps"], "resources": ["deployments"], "namespaces": ["*"], "clusterScope": True}], "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["/healthz"]}]}]}}),
        ("flowcontrol.apiserver.k8s.io/v1", "PriorityLevelConfiguration", "prioritylevelconfigurations", {"spec": {"type": "Limited", "limited": {"nominalConcurrencyShares": 10, "lendablePercent": 50, "borrowingLimitPercent": 20, "limitResponse": {"type": "Queue", "queuing": {"queues": 8, "handSize": 4, "queueLengthLimit": 10}}}}}),
        ("admissionregistration.k8s.io/v1", "ValidatingWebhookConfiguration", "validatingwebhookconfigurations", {"webhooks": [WEBHOOK]}),
        ("admissionregistration.k8s.io/v1", "MutatingWebhookConfiguration", "mutatingwebhookconfigurations", {"webhooks": [{**WEBHOOK, "reinvocationPolicy": "IfNeeded"}]}),
        ("admissionregistration.k8s.io/v1", "ValidatingAdmissionPolicy", "validatingadmissionpolicies", {"spec": {**POLICY, "validations": [{"expression": "variables.n != ''", "message": "m", "reason": "Forbidden", "messageExpression": "'x'"}], "auditAnnotations": [{"key": "k", "valueExpression": "'v'"}]}}),
        ("admissionregistration.k8s.io/v1", "ValidatingAdmissionPolicyBinding", "validatingadmissionpolicybindings", {"spec": {"policyName": "p.example.com", "paramRef": {"name": "n", "namespace": NS, "parameterNotFoundAction": "Deny"}, "matchResources": RULES, "validationActions": ["Deny", "Audit"]}}),
        ("admissionregistration.k8s.io/v1", "MutatingAdmissionPolicy", "mutatingadmissionpolicies", {"spec": {**POLICY, "reinvocationPolicy": "Never", "mutations": [{"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": "Object{metadata: Object.metadata{labels: {'a': 'b'}}}"}}]}}),
        ("admissionregistration.k8s.io/v1", "MutatingAdmissionPolicyBinding", "mutatingadmissionpolicybindings", {"spec": {"policyName": "p.example.com", "paramRef": {"selector": SELECT, "parameterNotFoundAction": "Allow"}, "matchResources": RULES}}),
        ("apiregistration.k8s.io/v1", "APIService", "apiservices", {"spec": {"group": "g.example.com", "version": "v1", "groupPriorityMinimum": 100, "versionPriority": 10, "insecureSkipTLSVerify": True, "service": {"namespace": NS, "name": "s", "port": 443}}}),
        ("apiextensions.k8s.io/v1", "CustomResourceDefinition", "customresourcedefinitions", {"spec": {"group": "parity.example.com", "scope": "Namespaced", "names": {"plural": "things", "singular": "thing", "kind": "Thing", "listKind": "ThingList", "shortNames": ["th"], "categories": ["all"]},
            "versions": [{"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": CRD_SCHEMA}, "subresources": {"status": {}, "scale": {"specReplicasPath": ".spec.size", "statusReplicasPath": ".status.replicas"}},
                          "additionalPrinterColumns": [{"name": "Size", "type": "integer", "jsonPath": ".spec.size", "priority": 1, "description": "d", "format": "int32"}], "selectableFields": [{"jsonPath": ".spec.kind"}]},
                         {"name": "v1beta1", "served": True, "storage": False, "deprecated": True, "deprecationWarning": "old", "schema": {"openAPIV3Schema": {**CRD_SCHEMA, "description": "before"}}}]}}),
        ("resource.k8s.io/v1", "DeviceClass", "deviceclasses", {"spec": {"selectors": [SELECTOR_CEL], "config": [{"opaque": {"driver": "d.example.com", "parameters": {"a": 1}}}], "extendedResourceName": "example.com/dev"}}),
        ("resource.k8s.io/v1", "ResourceClaim", ns + "resourceclaims", {"spec": CLAIM_SPEC}),
        ("resource.k8s.io/v1", "ResourceClaimTemplate", ns + "resourceclaimtemplates", {"spec": {"metadata": {"labels": {"a": "b"}}, "spec": CLAIM_SPEC}}),
        ("resource.k8s.io/v1", "ResourceSlice", "resourceslices", {"spec": {"driver": "d.example.com", "pool": {"name": "pool", "generation": 1, "resourceSliceCount": 1}, "nodeName": "n0", "devices": [
            {"name": "dev0", "attributes": {"numa": {"int": 1}, "model": {"string": "x"}, "ok": {"bool": True}, "v": {"version": "1.2.3"}}, "capacity": {"mem": {"value": "1Gi"}}}]}}),
    ]
    names = {"IPAddress": "10.96.7.7", "CSIDriver": "d.example.com", "APIService": "v1.g.example.com", "CustomResourceDefinition": "things.parity.example.com",
             "ValidatingAdmissionPolicy": "p.example.com", "MutatingAdmissionPolicy": "p.example.com"}
    for version, kind, path, body in rows:
        root = f"/api/{version}" if "/" not in version else f"/apis/{version}"
        metadata = {"name": names.get(kind, "full"), "labels": {"app": "a", "tier": "x"}, "annotations": {"example.com/n": "note"}}
        if kind == "IPAddress":
            metadata["labels"] |= {"ipaddress.kubernetes.io/managed-by": "parity", "ipaddress.kubernetes.io/ip-family": "IPv4"}
        yield f"{root}/{path}", {"apiVersion": version, "kind": kind, "metadata": metadata, **body}
