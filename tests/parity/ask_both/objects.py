"""A valid object of each kind, with the fields that most rules are about: what `ask.py` changes and sends.

By a name: the definition in the OpenAPI document, where the object is posted, and the object.
"""

OBJECTS = {
    "Pod": (
        "io.k8s.api.core.v1.Pod",
        "/api/v1/namespaces/default/pods",
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "obj-pod", "labels": {"a": "b"}},
            "spec": {
                "containers": [
                    {
                        "name": "c",
                        "image": "img:1",
                        "ports": [{"containerPort": 80, "name": "http"}],
                        "env": [
                            {"name": "A", "value": "b"},
                            {"name": "F", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                        ],
                        "envFrom": [{"configMapRef": {"name": "cm"}}],
                        "resources": {
                            "requests": {"cpu": "10m", "memory": "10Mi"},
                            "limits": {"cpu": "20m", "memory": "20Mi"},
                        },
                        "volumeMounts": [{"name": "e", "mountPath": "/e"}],
                        "livenessProbe": {"httpGet": {"path": "/", "port": 80}},
                        "lifecycle": {"preStop": {"exec": {"command": ["x"]}}},
                        "securityContext": {"runAsUser": 1},
                    },
                ],
                "initContainers": [{"name": "i", "image": "img"}],
                "volumes": [
                    {"name": "e", "emptyDir": {}},
                    {"name": "s", "secret": {"secretName": "s"}},
                    {"name": "p", "projected": {"sources": [{"configMap": {"name": "c"}}]}},
                ],
                "tolerations": [{"key": "k", "operator": "Exists", "effect": "NoSchedule"}],
                "nodeSelector": {"a": "b"},
                "affinity": {
                    "nodeAffinity": {
                        "requiredDuringSchedulingIgnoredDuringExecution": {
                            "nodeSelectorTerms": [{"matchExpressions": [{"key": "a", "operator": "In", "values": ["b"]}]}],
                        },
                    },
                    "podAntiAffinity": {
                        "requiredDuringSchedulingIgnoredDuringExecution": [{"topologyKey": "a", "labelSelector": {"matchLabels": {"a": "b"}}}],
                    },
                },
                "topologySpreadConstraints": [
                    {
                        "maxSkew": 1,
                        "topologyKey": "z",
                        "whenUnsatisfiable": "DoNotSchedule",
                        "labelSelector": {"matchLabels": {"a": "b"}},
                    },
                ],
                "securityContext": {"runAsNonRoot": True},
                "hostAliases": [{"ip": "1.2.3.4", "hostnames": ["h"]}],
                "dnsConfig": {"nameservers": ["1.1.1.1"]},
            },
        },
    ),
    "Service": (
        "io.k8s.api.core.v1.Service",
        "/api/v1/namespaces/default/services",
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "obj-service"},
            "spec": {
                "selector": {"a": "b"},
                "clusterIP": "10.96.7.7",
                "ports": [{"name": "h", "port": 80, "targetPort": "http"}, {"name": "g", "port": 81}],
            },
        },
    ),
    "ServiceLB": (
        "io.k8s.api.core.v1.Service",
        "/api/v1/namespaces/default/services",
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "obj-servicelb"},
            "spec": {
                "type": "LoadBalancer",
                "clusterIP": "10.96.7.8",
                "selector": {"a": "b"},
                "ports": [{"port": 80, "nodePort": 30123}],
            },
        },
    ),
    "ConfigMap": (
        "io.k8s.api.core.v1.ConfigMap",
        "/api/v1/namespaces/default/configmaps",
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "obj-configmap"},
            "data": {"a": "b"},
            "binaryData": {"c": "AAAA"},
        },
    ),
    "Secret": (
        "io.k8s.api.core.v1.Secret",
        "/api/v1/namespaces/default/secrets",
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "obj-secret"},
            "data": {"a": "AAAA"},
            "stringData": {"b": "c"},
        },
    ),
    "PersistentVolumeClaim": (
        "io.k8s.api.core.v1.PersistentVolumeClaim",
        "/api/v1/namespaces/default/persistentvolumeclaims",
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": "obj-persistentvolumeclaim"},
            "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
        },
    ),
    "PersistentVolume": (
        "io.k8s.api.core.v1.PersistentVolume",
        "/api/v1/persistentvolumes",
        {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": "obj-persistentvolume"},
            "spec": {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "hostPath": {"path": "/x"}},
        },
    ),
    "Namespace": (
        "io.k8s.api.core.v1.Namespace",
        "/api/v1/namespaces",
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "obj-namespace"}},
    ),
    "Node": (
        "io.k8s.api.core.v1.Node",
        "/api/v1/nodes",
        {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": "n1"},
            "spec": {
                "podCIDR": "10.1.0.0/24",
                "podCIDRs": ["10.1.0.0/24"],
                "taints": [{"key": "a", "effect": "NoSchedule"}],
            },
        },
    ),
    "ServiceAccount": (
        "io.k8s.api.core.v1.ServiceAccount",
        "/api/v1/namespaces/default/serviceaccounts",
        {
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": {"name": "obj-serviceaccount"},
            "secrets": [{"name": "a"}],
        },
    ),
    "LimitRange": (
        "io.k8s.api.core.v1.LimitRange",
        "/api/v1/namespaces/default/limitranges",
        {
            "apiVersion": "v1",
            "kind": "LimitRange",
            "metadata": {"name": "obj-limitrange"},
            "spec": {"limits": [{"type": "Container", "max": {"cpu": "1"}, "default": {"cpu": "500m"}}]},
        },
    ),
    "ResourceQuota": (
        "io.k8s.api.core.v1.ResourceQuota",
        "/api/v1/namespaces/default/resourcequotas",
        {
            "apiVersion": "v1",
            "kind": "ResourceQuota",
            "metadata": {"name": "obj-resourcequota"},
            "spec": {"hard": {"pods": "1000"}},
        },
    ),
    "ReplicationController": (
        "io.k8s.api.core.v1.ReplicationController",
        "/api/v1/namespaces/default/replicationcontrollers",
        {
            "apiVersion": "v1",
            "kind": "ReplicationController",
            "metadata": {"name": "obj-replicationcontroller"},
            "spec": {
                "replicas": 1,
                "selector": {"app": "a"},
                "template": {"metadata": {"labels": {"app": "a"}}, "spec": {"containers": [{"name": "c", "image": "img"}]}},
            },
        },
    ),
    "PodTemplate": (
        "io.k8s.api.core.v1.PodTemplate",
        "/api/v1/namespaces/default/podtemplates",
        {
            "apiVersion": "v1",
            "kind": "PodTemplate",
            "metadata": {"name": "obj-podtemplate"},
            "template": {"metadata": {"labels": {"app": "a"}}, "spec": {"containers": [{"name": "c", "image": "img"}]}},
        },
    ),
    "Endpoints": (
        "io.k8s.api.core.v1.Endpoints",
        "/api/v1/namespaces/default/endpoints",
        {
            "apiVersion": "v1",
            "kind": "Endpoints",
            "metadata": {"name": "obj-endpoints"},
            "subsets": [{"addresses": [{"ip": "1.2.3.4"}], "ports": [{"port": 80}]}],
        },
    ),
    "Event": (
        "io.k8s.api.core.v1.Event",
        "/api/v1/namespaces/default/events",
        {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": "obj-event"},
            "involvedObject": {"kind": "Pod", "namespace": "default", "name": "x"},
            "reason": "r",
            "message": "m",
            "type": "Normal",
        },
    ),
    "EventV1": (
        "io.k8s.api.events.v1.Event",
        "/apis/events.k8s.io/v1/namespaces/default/events",
        {
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": {"name": "obj-eventv1"},
            "eventTime": "2020-01-01T00:00:00.000000Z",
            "reportingController": "a.b/c",
            "reportingInstance": "x",
            "action": "act",
            "reason": "r",
            "regarding": {"kind": "Pod", "namespace": "default", "name": "x"},
            "type": "Normal",
        },
    ),
    "Deployment": (
        "io.k8s.api.apps.v1.Deployment",
        "/apis/apps/v1/namespaces/default/deployments",
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": "obj-deployment"},
            "spec": {
                "replicas": 1,
                "selector": {"matchLabels": {"app": "a"}},
                "template": {"metadata": {"labels": {"app": "a"}}, "spec": {"containers": [{"name": "c", "image": "img"}]}},
            },
        },
    ),
    "StatefulSet": (
        "io.k8s.api.apps.v1.StatefulSet",
        "/apis/apps/v1/namespaces/default/statefulsets",
        {
            "apiVersion": "apps/v1",
            "kind": "StatefulSet",
            "metadata": {"name": "obj-statefulset"},
            "spec": {
                "serviceName": "s",
                "selector": {"matchLabels": {"app": "a"}},
                "template": {"metadata": {"labels": {"app": "a"}}, "spec": {"containers": [{"name": "c", "image": "img"}]}},
                "volumeClaimTemplates": [
                    {
                        "metadata": {"name": "d"},
                        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
                    },
                ],
            },
        },
    ),
    "DaemonSet": (
        "io.k8s.api.apps.v1.DaemonSet",
        "/apis/apps/v1/namespaces/default/daemonsets",
        {
            "apiVersion": "apps/v1",
            "kind": "DaemonSet",
            "metadata": {"name": "obj-daemonset"},
            "spec": {
                "selector": {"matchLabels": {"app": "a"}},
                "template": {"metadata": {"labels": {"app": "a"}}, "spec": {"containers": [{"name": "c", "image": "img"}]}},
            },
        },
    ),
    "ReplicaSet": (
        "io.k8s.api.apps.v1.ReplicaSet",
        "/apis/apps/v1/namespaces/default/replicasets",
        {
            "apiVersion": "apps/v1",
            "kind": "ReplicaSet",
            "metadata": {"name": "obj-replicaset"},
            "spec": {
                "selector": {"matchLabels": {"app": "a"}},
                "template": {"metadata": {"labels": {"app": "a"}}, "spec": {"containers": [{"name": "c", "image": "img"}]}},
            },
        },
    ),
    "ControllerRevision": (
        "io.k8s.api.apps.v1.ControllerRevision",
        "/apis/apps/v1/namespaces/default/controllerrevisions",
        {
            "apiVersion": "apps/v1",
            "kind": "ControllerRevision",
            "metadata": {"name": "obj-controllerrevision"},
            "data": {"a": 1},
            "revision": 1,
        },
    ),
    "Job": (
        "io.k8s.api.batch.v1.Job",
        "/apis/batch/v1/namespaces/default/jobs",
        {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {"name": "obj-job"},
            "spec": {
                "completions": 3,
                "parallelism": 2,
                "template": {
                    "metadata": {"labels": {"app": "a"}},
                    "spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "img"}]},
                },
                "podFailurePolicy": {"rules": [{"action": "FailJob", "onExitCodes": {"operator": "In", "values": [1]}}]},
            },
        },
    ),
    "JobIndexed": (
        "io.k8s.api.batch.v1.Job",
        "/apis/batch/v1/namespaces/default/jobs",
        {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {"name": "obj-jobindexed"},
            "spec": {
                "completionMode": "Indexed",
                "completions": 3,
                "parallelism": 2,
                "backoffLimitPerIndex": 1,
                "successPolicy": {"rules": [{"succeededCount": 1}]},
                "template": {
                    "metadata": {"labels": {"app": "a"}},
                    "spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "img"}]},
                },
            },
        },
    ),
    "CronJob": (
        "io.k8s.api.batch.v1.CronJob",
        "/apis/batch/v1/namespaces/default/cronjobs",
        {
            "apiVersion": "batch/v1",
            "kind": "CronJob",
            "metadata": {"name": "obj-cronjob"},
            "spec": {
                "schedule": "* * * * *",
                "jobTemplate": {
                    "spec": {
                        "template": {
                            "metadata": {"labels": {"app": "a"}},
                            "spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "img"}]},
                        },
                    },
                },
            },
        },
    ),
    "Ingress": (
        "io.k8s.api.networking.v1.Ingress",
        "/apis/networking.k8s.io/v1/namespaces/default/ingresses",
        {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "Ingress",
            "metadata": {"name": "obj-ingress"},
            "spec": {
                "tls": [{"hosts": ["a.b"], "secretName": "s"}],
                "rules": [
                    {
                        "host": "a.b",
                        "http": {
                            "paths": [
                                {
                                    "path": "/",
                                    "pathType": "Prefix",
                                    "backend": {"service": {"name": "s", "port": {"number": 80}}},
                                },
                            ],
                        },
                    },
                ],
            },
        },
    ),
    "IngressClass": (
        "io.k8s.api.networking.v1.IngressClass",
        "/apis/networking.k8s.io/v1/ingressclasses",
        {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "IngressClass",
            "metadata": {"name": "obj-ingressclass"},
            "spec": {"controller": "a.b/c", "parameters": {"kind": "K", "name": "n", "apiGroup": "g.h"}},
        },
    ),
    "NetworkPolicy": (
        "io.k8s.api.networking.v1.NetworkPolicy",
        "/apis/networking.k8s.io/v1/namespaces/default/networkpolicies",
        {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": {"name": "obj-networkpolicy"},
            "spec": {
                "podSelector": {},
                "policyTypes": ["Ingress", "Egress"],
                "ingress": [
                    {
                        "from": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}}],
                        "ports": [{"port": 80, "protocol": "TCP", "endPort": 90}],
                    },
                ],
                "egress": [{"to": [{"podSelector": {}}]}],
            },
        },
    ),
    "IPAddress": (
        "io.k8s.api.networking.v1.IPAddress",
        "/apis/networking.k8s.io/v1/ipaddresses",
        {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "IPAddress",
            "metadata": {"name": "10.96.9.9"},
            "spec": {"parentRef": {"resource": "services", "name": "x", "namespace": "default"}},
        },
    ),
    "ServiceCIDR": (
        "io.k8s.api.networking.v1.ServiceCIDR",
        "/apis/networking.k8s.io/v1/servicecidrs",
        {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "ServiceCIDR",
            "metadata": {"name": "obj-servicecidr"},
            "spec": {"cidrs": ["10.97.0.0/24"]},
        },
    ),
    "HPAv2": (
        "io.k8s.api.autoscaling.v2.HorizontalPodAutoscaler",
        "/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers",
        {
            "apiVersion": "autoscaling/v2",
            "kind": "HorizontalPodAutoscaler",
            "metadata": {"name": "obj-hpav2"},
            "spec": {
                "scaleTargetRef": {"kind": "Deployment", "name": "d", "apiVersion": "apps/v1"},
                "maxReplicas": 3,
                "metrics": [
                    {
                        "type": "Resource",
                        "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}},
                    },
                    {
                        "type": "Pods",
                        "pods": {"metric": {"name": "m"}, "target": {"type": "AverageValue", "averageValue": "1"}},
                    },
                ],
                "behavior": {"scaleUp": {"policies": [{"type": "Pods", "value": 1, "periodSeconds": 10}]}},
            },
        },
    ),
    "HPAv1": (
        "io.k8s.api.autoscaling.v1.HorizontalPodAutoscaler",
        "/apis/autoscaling/v1/namespaces/default/horizontalpodautoscalers",
        {
            "apiVersion": "autoscaling/v1",
            "kind": "HorizontalPodAutoscaler",
            "metadata": {"name": "obj-hpav1"},
            "spec": {
                "scaleTargetRef": {"kind": "Deployment", "name": "d", "apiVersion": "apps/v1"},
                "maxReplicas": 3,
                "targetCPUUtilizationPercentage": 5,
            },
        },
    ),
    "PDB": (
        "io.k8s.api.policy.v1.PodDisruptionBudget",
        "/apis/policy/v1/namespaces/default/poddisruptionbudgets",
        {
            "apiVersion": "policy/v1",
            "kind": "PodDisruptionBudget",
            "metadata": {"name": "obj-pdb"},
            "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "a"}}},
        },
    ),
    "Role": (
        "io.k8s.api.rbac.v1.Role",
        "/apis/rbac.authorization.k8s.io/v1/namespaces/default/roles",
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "Role",
            "metadata": {"name": "obj-role"},
            "rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}],
        },
    ),
    "ClusterRole": (
        "io.k8s.api.rbac.v1.ClusterRole",
        "/apis/rbac.authorization.k8s.io/v1/clusterroles",
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRole",
            "metadata": {"name": "obj-clusterrole"},
            "rules": [
                {"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]},
                {"nonResourceURLs": ["/x"], "verbs": ["get"]},
            ],
        },
    ),
    "RoleBinding": (
        "io.k8s.api.rbac.v1.RoleBinding",
        "/apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings",
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "RoleBinding",
            "metadata": {"name": "obj-rolebinding"},
            "subjects": [
                {"kind": "User", "name": "u", "apiGroup": "rbac.authorization.k8s.io"},
                {"kind": "ServiceAccount", "name": "s", "namespace": "default"},
            ],
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"},
        },
    ),
    "ClusterRoleBinding": (
        "io.k8s.api.rbac.v1.ClusterRoleBinding",
        "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": "obj-clusterrolebinding"},
            "subjects": [
                {"kind": "User", "name": "u", "apiGroup": "rbac.authorization.k8s.io"},
                {"kind": "ServiceAccount", "name": "s", "namespace": "default"},
            ],
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"},
        },
    ),
    "StorageClass": (
        "io.k8s.api.storage.v1.StorageClass",
        "/apis/storage.k8s.io/v1/storageclasses",
        {
            "apiVersion": "storage.k8s.io/v1",
            "kind": "StorageClass",
            "metadata": {"name": "obj-storageclass"},
            "provisioner": "a.b/c",
            "parameters": {"a": "b"},
            "allowedTopologies": [{"matchLabelExpressions": [{"key": "z", "values": ["a"]}]}],
        },
    ),
    "CSIDriver": (
        "io.k8s.api.storage.v1.CSIDriver",
        "/apis/storage.k8s.io/v1/csidrivers",
        {
            "apiVersion": "storage.k8s.io/v1",
            "kind": "CSIDriver",
            "metadata": {"name": "a.b"},
            "spec": {"attachRequired": True, "tokenRequests": [{"audience": "a"}]},
        },
    ),
    "CSINode": (
        "io.k8s.api.storage.v1.CSINode",
        "/apis/storage.k8s.io/v1/csinodes",
        {
            "apiVersion": "storage.k8s.io/v1",
            "kind": "CSINode",
            "metadata": {"name": "obj-csinode"},
            "spec": {"drivers": [{"name": "a.b", "nodeID": "n", "topologyKeys": ["k"], "allocatable": {"count": 3}}]},
        },
    ),
    "CSIStorageCapacity": (
        "io.k8s.api.storage.v1.CSIStorageCapacity",
        "/apis/storage.k8s.io/v1/namespaces/default/csistoragecapacities",
        {
            "apiVersion": "storage.k8s.io/v1",
            "kind": "CSIStorageCapacity",
            "metadata": {"name": "obj-csistoragecapacity"},
            "storageClassName": "s",
            "capacity": "1Gi",
            "nodeTopology": {"matchLabels": {"a": "b"}},
        },
    ),
    "VolumeAttachment": (
        "io.k8s.api.storage.v1.VolumeAttachment",
        "/apis/storage.k8s.io/v1/volumeattachments",
        {
            "apiVersion": "storage.k8s.io/v1",
            "kind": "VolumeAttachment",
            "metadata": {"name": "obj-volumeattachment"},
            "spec": {"attacher": "a.b", "nodeName": "n", "source": {"persistentVolumeName": "p"}},
        },
    ),
    "VolumeAttributesClass": (
        "io.k8s.api.storage.v1.VolumeAttributesClass",
        "/apis/storage.k8s.io/v1/volumeattributesclasses",
        {
            "apiVersion": "storage.k8s.io/v1",
            "kind": "VolumeAttributesClass",
            "metadata": {"name": "obj-volumeattributesclass"},
            "driverName": "a.b",
            "parameters": {"a": "b"},
        },
    ),
    "PriorityClass": (
        "io.k8s.api.scheduling.v1.PriorityClass",
        "/apis/scheduling.k8s.io/v1/priorityclasses",
        {
            "apiVersion": "scheduling.k8s.io/v1",
            "kind": "PriorityClass",
            "metadata": {"name": "obj-priorityclass"},
            "value": 5,
        },
    ),
    "RuntimeClass": (
        "io.k8s.api.node.v1.RuntimeClass",
        "/apis/node.k8s.io/v1/runtimeclasses",
        {
            "apiVersion": "node.k8s.io/v1",
            "kind": "RuntimeClass",
            "metadata": {"name": "obj-runtimeclass"},
            "handler": "h",
            "overhead": {"podFixed": {"cpu": "1m"}},
            "scheduling": {"nodeSelector": {"a": "b"}, "tolerations": [{"key": "k", "operator": "Exists"}]},
        },
    ),
    "Lease": (
        "io.k8s.api.coordination.v1.Lease",
        "/apis/coordination.k8s.io/v1/namespaces/default/leases",
        {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {"name": "obj-lease"},
            "spec": {"holderIdentity": "h", "leaseDurationSeconds": 5, "leaseTransitions": 1},
        },
    ),
    "EndpointSlice": (
        "io.k8s.api.discovery.v1.EndpointSlice",
        "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices",
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {"name": "obj-endpointslice"},
            "addressType": "IPv4",
            "endpoints": [{"addresses": ["1.2.3.4"], "nodeName": "n", "zone": "z", "hints": {"forZones": [{"name": "z"}]}}],
            "ports": [{"name": "p", "port": 80, "protocol": "TCP"}],
        },
    ),
    "FlowSchema": (
        "io.k8s.api.flowcontrol.v1.FlowSchema",
        "/apis/flowcontrol.apiserver.k8s.io/v1/flowschemas",
        {
            "apiVersion": "flowcontrol.apiserver.k8s.io/v1",
            "kind": "FlowSchema",
            "metadata": {"name": "obj-flowschema"},
            "spec": {
                "priorityLevelConfiguration": {"name": "p"},
                "matchingPrecedence": 500,
                "distinguisherMethod": {"type": "ByUser"},
                "rules": [
                    {
                        "subjects": [{"kind": "User", "user": {"name": "u"}}],
                        "resourceRules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"], "namespaces": ["*"]}],
                    },
                ],
            },
        },
    ),
    "PLC": (
        "io.k8s.api.flowcontrol.v1.PriorityLevelConfiguration",
        "/apis/flowcontrol.apiserver.k8s.io/v1/prioritylevelconfigurations",
        {
            "apiVersion": "flowcontrol.apiserver.k8s.io/v1",
            "kind": "PriorityLevelConfiguration",
            "metadata": {"name": "obj-plc"},
            "spec": {
                "type": "Limited",
                "limited": {
                    "nominalConcurrencyShares": 5,
                    "limitResponse": {"type": "Queue", "queuing": {"queues": 8, "handSize": 4, "queueLengthLimit": 5}},
                },
            },
        },
    ),
    "VWC": (
        "io.k8s.api.admissionregistration.v1.ValidatingWebhookConfiguration",
        "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations",
        {
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "ValidatingWebhookConfiguration",
            "metadata": {"name": "obj-vwc"},
            "webhooks": [
                {
                    "name": "a.b.c",
                    "clientConfig": {"url": "https://a.b/c"},
                    "rules": [
                        {
                            "apiGroups": ["example.com"],
                            "apiVersions": ["v1"],
                            "operations": ["CREATE"],
                            "resources": ["widgets"],
                        },
                    ],
                    "sideEffects": "None",
                    "admissionReviewVersions": ["v1"],
                },
            ],
        },
    ),
    "MWC": (
        "io.k8s.api.admissionregistration.v1.MutatingWebhookConfiguration",
        "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations",
        {
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "MutatingWebhookConfiguration",
            "metadata": {"name": "obj-mwc"},
            "webhooks": [
                {
                    "name": "a.b.c",
                    "clientConfig": {"url": "https://a.b/c"},
                    "rules": [
                        {
                            "apiGroups": ["example.com"],
                            "apiVersions": ["v1"],
                            "operations": ["CREATE"],
                            "resources": ["widgets"],
                        },
                    ],
                    "sideEffects": "None",
                    "admissionReviewVersions": ["v1"],
                },
            ],
        },
    ),
    "VAP": (
        "io.k8s.api.admissionregistration.v1.ValidatingAdmissionPolicy",
        "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies",
        {
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "ValidatingAdmissionPolicy",
            "metadata": {"name": "obj-vap"},
            "spec": {
                "matchConstraints": {
                    "resourceRules": [
                        {
                            "apiGroups": [""],
                            "apiVersions": ["v1"],
                            "operations": ["CREATE"],
                            "resources": ["pods"],
                        },
                    ],
                },
                "validations": [{"expression": "true"}],
            },
        },
    ),
    "VAPB": (
        "io.k8s.api.admissionregistration.v1.ValidatingAdmissionPolicyBinding",
        "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings",
        {
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "ValidatingAdmissionPolicyBinding",
            "metadata": {"name": "obj-vapb"},
            "spec": {"policyName": "p", "validationActions": ["Deny"], "matchResources": {"namespaceSelector": {}}},
        },
    ),
    "CSR": (
        "io.k8s.api.certificates.v1.CertificateSigningRequest",
        "/apis/certificates.k8s.io/v1/certificatesigningrequests",
        {
            "apiVersion": "certificates.k8s.io/v1",
            "kind": "CertificateSigningRequest",
            "metadata": {"name": "obj-csr"},
            "spec": {
                "request": "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURSBSRVFVRVNULS0tLS0KTUlHTE1EOENBUUF3RERFS01BZ0dBMVVFQXd3QllUQXFNQVVHQXl0bGNBTWhBQXhoSkh4Vis2enVqaEdMMklmYgpPSGpzTUY0WWZoYndBVk5QREhVcXBWRDNvQUF3QlFZREsyVndBMEVBUzQ4Q2RzT3JuRVB2a3FXdndTeGlORkM1CmZaUlFuUkV5c0lsd2RoNGR2Q1R2Zm9xQWFiVlkzTk4zZStBenhTNG9LRkxNOWhVbEUvbmhkQllXNmtKVUNnPT0KLS0tLS1FTkQgQ0VSVElGSUNBVEUgUkVRVUVTVC0tLS0tCg==",
                "signerName": "a.b/c",
                "usages": ["client auth"],
            },
        },
    ),
    "DeviceClass": (
        "io.k8s.api.resource.v1.DeviceClass",
        "/apis/resource.k8s.io/v1/deviceclasses",
        {
            "apiVersion": "resource.k8s.io/v1",
            "kind": "DeviceClass",
            "metadata": {"name": "obj-deviceclass"},
            "spec": {"selectors": [{"cel": {"expression": "true"}}]},
        },
    ),
    "ResourceClaim": (
        "io.k8s.api.resource.v1.ResourceClaim",
        "/apis/resource.k8s.io/v1/namespaces/default/resourceclaims",
        {
            "apiVersion": "resource.k8s.io/v1",
            "kind": "ResourceClaim",
            "metadata": {"name": "obj-resourceclaim"},
            "spec": {
                "devices": {
                    "requests": [
                        {
                            "name": "r",
                            "exactly": {"deviceClassName": "d", "count": 1, "allocationMode": "ExactCount"},
                        },
                    ],
                },
            },
        },
    ),
    "ResourceSlice": (
        "io.k8s.api.resource.v1.ResourceSlice",
        "/apis/resource.k8s.io/v1/resourceslices",
        {
            "apiVersion": "resource.k8s.io/v1",
            "kind": "ResourceSlice",
            "metadata": {"name": "obj-resourceslice"},
            "spec": {
                "driver": "a.b",
                "nodeName": "n",
                "pool": {"name": "p", "generation": 1, "resourceSliceCount": 1},
                "devices": [{"name": "d", "attributes": {"a": {"string": "x"}}, "capacity": {"c": {"value": "1"}}}],
            },
        },
    ),
    "SAR": (
        "io.k8s.api.authorization.v1.SubjectAccessReview",
        "/apis/authorization.k8s.io/v1/subjectaccessreviews",
        {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SubjectAccessReview",
            "spec": {"user": "u", "resourceAttributes": {"verb": "get", "resource": "pods"}},
        },
    ),
    "TokenReview": (
        "io.k8s.api.authentication.v1.TokenReview",
        "/apis/authentication.k8s.io/v1/tokenreviews",
        {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": "x"}},
    ),
    "Eviction": (
        "io.k8s.api.policy.v1.Eviction",
        "/api/v1/namespaces/default/pods/nosuch/eviction",
        {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "nosuch"}},
    ),
}
