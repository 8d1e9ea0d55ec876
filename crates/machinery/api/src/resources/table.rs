//! The table of served resources, group by group.

use super::{Resource, Subresource};

const ALL: &[&str] = &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
/// Namespaces have no collection delete.
const NS: &[&str] = &["create", "delete", "get", "list", "patch", "update", "watch"];
const GPU: &[&str] = &["get", "patch", "update"];
const C: &[&str] = &["create"];
const CG: &[&str] = &["create", "get"];
const G: &[&str] = &["get"];
const GL: &[&str] = &["get", "list"];
const U: &[&str] = &["update"];
const PROXY: &[&str] = &["create", "delete", "get", "patch", "update"];

const IN_ALL: &[&str] = &["all"];
const EXTENSIONS: &[&str] = &["api-extensions"];

const NAMESPACED: bool = true;
const CLUSTER: bool = false;

const fn res(
    group: &'static str,
    version: &'static str,
    kind: &'static str,
    plural: &'static str,
    singular: &'static str,
    namespaced: bool,
    verbs: &'static [&'static str],
) -> Resource {
    Resource {
        group,
        version,
        kind,
        plural,
        singular,
        namespaced,
        short_names: &[],
        categories: &[],
        verbs,
        storage_group: group,
        storage_version: "v1",
        subresources: &[],
        hash_version: "v1",
    }
}

const fn sub(
    name: &'static str,
    kind: &'static str,
    group: &'static str,
    version: &'static str,
    verbs: &'static [&'static str],
) -> Subresource {
    Subresource { name, kind, group, version, verbs }
}

impl Resource {
    const fn short(mut self, names: &'static [&'static str]) -> Self {
        self.short_names = names;
        self
    }

    const fn in_categories(mut self, categories: &'static [&'static str]) -> Self {
        self.categories = categories;
        self
    }

    const fn subs(mut self, subresources: &'static [Subresource]) -> Self {
        self.subresources = subresources;
        self
    }

    const fn stored_as(mut self, group: &'static str, version: &'static str) -> Self {
        self.storage_group = group;
        self.storage_version = version;
        self.hash_version = version;
        self
    }

    /// Upstream stores this kind in another version than we do, and says so in discovery.
    const fn hashed_as(mut self, version: &'static str) -> Self {
        self.hash_version = version;
        self
    }

    /// Answered by computation; nothing is stored.
    const fn computed(mut self) -> Self {
        self.hash_version = "";
        self
    }
}

pub(super) const RESOURCES: &[Resource] = &[
    // v1
    res("", "v1", "Binding", "bindings", "binding", NAMESPACED, C).computed(),
    res("", "v1", "ComponentStatus", "componentstatuses", "componentstatus", CLUSTER, GL)
        .short(&["cs"])
        .computed(),
    res("", "v1", "ConfigMap", "configmaps", "configmap", NAMESPACED, ALL).short(&["cm"]),
    res("", "v1", "Endpoints", "endpoints", "endpoints", NAMESPACED, ALL).short(&["ep"]),
    res("", "v1", "Event", "events", "event", NAMESPACED, ALL).short(&["ev"]),
    res("", "v1", "LimitRange", "limitranges", "limitrange", NAMESPACED, ALL).short(&["limits"]),
    res("", "v1", "Namespace", "namespaces", "namespace", CLUSTER, NS)
        .short(&["ns"])
        .subs(&[sub("finalize", "Namespace", "", "", U), sub("status", "Namespace", "", "", GPU)]),
    res("", "v1", "Node", "nodes", "node", CLUSTER, ALL)
        .short(&["no"])
        .subs(&[sub("proxy", "NodeProxyOptions", "", "", PROXY), sub("status", "Node", "", "", GPU)]),
    res(
        "",
        "v1",
        "PersistentVolumeClaim",
        "persistentvolumeclaims",
        "persistentvolumeclaim",
        NAMESPACED,
        ALL,
    )
    .short(&["pvc"])
    .subs(&[sub("status", "PersistentVolumeClaim", "", "", GPU)]),
    res("", "v1", "PersistentVolume", "persistentvolumes", "persistentvolume", CLUSTER, ALL)
        .short(&["pv"])
        .subs(&[sub("status", "PersistentVolume", "", "", GPU)]),
    res("", "v1", "Pod", "pods", "pod", NAMESPACED, ALL).short(&["po"]).in_categories(IN_ALL).subs(&[
        sub("attach", "PodAttachOptions", "", "", CG),
        sub("binding", "Binding", "", "", C),
        sub("ephemeralcontainers", "Pod", "", "", GPU),
        sub("eviction", "Eviction", "policy", "v1", C),
        sub("exec", "PodExecOptions", "", "", CG),
        sub("log", "Pod", "", "", G),
        sub("portforward", "PodPortForwardOptions", "", "", CG),
        sub("proxy", "PodProxyOptions", "", "", PROXY),
        sub("resize", "Pod", "", "", GPU),
        sub("status", "Pod", "", "", GPU),
    ]),
    res("", "v1", "PodTemplate", "podtemplates", "podtemplate", NAMESPACED, ALL),
    res(
        "",
        "v1",
        "ReplicationController",
        "replicationcontrollers",
        "replicationcontroller",
        NAMESPACED,
        ALL,
    )
    .short(&["rc"])
    .in_categories(IN_ALL)
    .subs(&[
        sub("scale", "Scale", "autoscaling", "v1", GPU),
        sub("status", "ReplicationController", "", "", GPU),
    ]),
    res("", "v1", "ResourceQuota", "resourcequotas", "resourcequota", NAMESPACED, ALL)
        .short(&["quota"])
        .subs(&[sub("status", "ResourceQuota", "", "", GPU)]),
    res("", "v1", "Secret", "secrets", "secret", NAMESPACED, ALL),
    res("", "v1", "ServiceAccount", "serviceaccounts", "serviceaccount", NAMESPACED, ALL)
        .short(&["sa"])
        .subs(&[sub("token", "TokenRequest", "authentication.k8s.io", "v1", C)]),
    res("", "v1", "Service", "services", "service", NAMESPACED, ALL)
        .short(&["svc"])
        .in_categories(IN_ALL)
        .subs(&[sub("proxy", "ServiceProxyOptions", "", "", PROXY), sub("status", "Service", "", "", GPU)]),
    // apiregistration.k8s.io/v1
    res("apiregistration.k8s.io", "v1", "APIService", "apiservices", "apiservice", CLUSTER, ALL)
        .in_categories(EXTENSIONS)
        .subs(&[sub("status", "APIService", "", "", GPU)]),
    // apps/v1
    res("apps", "v1", "ControllerRevision", "controllerrevisions", "controllerrevision", NAMESPACED, ALL),
    res("apps", "v1", "DaemonSet", "daemonsets", "daemonset", NAMESPACED, ALL)
        .short(&["ds"])
        .in_categories(IN_ALL)
        .subs(&[sub("status", "DaemonSet", "", "", GPU)]),
    res("apps", "v1", "Deployment", "deployments", "deployment", NAMESPACED, ALL)
        .short(&["deploy"])
        .in_categories(IN_ALL)
        .subs(&[sub("scale", "Scale", "autoscaling", "v1", GPU), sub("status", "Deployment", "", "", GPU)]),
    res("apps", "v1", "ReplicaSet", "replicasets", "replicaset", NAMESPACED, ALL)
        .short(&["rs"])
        .in_categories(IN_ALL)
        .subs(&[sub("scale", "Scale", "autoscaling", "v1", GPU), sub("status", "ReplicaSet", "", "", GPU)]),
    res("apps", "v1", "StatefulSet", "statefulsets", "statefulset", NAMESPACED, ALL)
        .short(&["sts"])
        .in_categories(IN_ALL)
        .subs(&[sub("scale", "Scale", "autoscaling", "v1", GPU), sub("status", "StatefulSet", "", "", GPU)]),
    // events.k8s.io/v1
    res("events.k8s.io", "v1", "Event", "events", "event", NAMESPACED, ALL)
        .short(&["ev"])
        .stored_as("", "v1"),
    // authentication.k8s.io/v1
    res(
        "authentication.k8s.io",
        "v1",
        "SelfSubjectReview",
        "selfsubjectreviews",
        "selfsubjectreview",
        CLUSTER,
        C,
    )
    .computed(),
    res("authentication.k8s.io", "v1", "TokenReview", "tokenreviews", "tokenreview", CLUSTER, C).computed(),
    // authorization.k8s.io/v1
    res(
        "authorization.k8s.io",
        "v1",
        "LocalSubjectAccessReview",
        "localsubjectaccessreviews",
        "localsubjectaccessreview",
        NAMESPACED,
        C,
    )
    .computed(),
    res(
        "authorization.k8s.io",
        "v1",
        "SelfSubjectAccessReview",
        "selfsubjectaccessreviews",
        "selfsubjectaccessreview",
        CLUSTER,
        C,
    )
    .computed(),
    res(
        "authorization.k8s.io",
        "v1",
        "SelfSubjectRulesReview",
        "selfsubjectrulesreviews",
        "selfsubjectrulesreview",
        CLUSTER,
        C,
    )
    .computed(),
    res(
        "authorization.k8s.io",
        "v1",
        "SubjectAccessReview",
        "subjectaccessreviews",
        "subjectaccessreview",
        CLUSTER,
        C,
    )
    .computed(),
    // autoscaling/v2
    res(
        "autoscaling",
        "v2",
        "HorizontalPodAutoscaler",
        "horizontalpodautoscalers",
        "horizontalpodautoscaler",
        NAMESPACED,
        ALL,
    )
    .short(&["hpa"])
    .in_categories(IN_ALL)
    .stored_as("autoscaling", "v2")
    .subs(&[sub("status", "HorizontalPodAutoscaler", "", "", GPU)]),
    // autoscaling/v1
    res(
        "autoscaling",
        "v1",
        "HorizontalPodAutoscaler",
        "horizontalpodautoscalers",
        "horizontalpodautoscaler",
        NAMESPACED,
        ALL,
    )
    .short(&["hpa"])
    .in_categories(IN_ALL)
    .stored_as("autoscaling", "v2")
    .subs(&[sub("status", "HorizontalPodAutoscaler", "", "", GPU)]),
    // batch/v1
    res("batch", "v1", "CronJob", "cronjobs", "cronjob", NAMESPACED, ALL)
        .short(&["cj"])
        .in_categories(IN_ALL)
        .subs(&[sub("status", "CronJob", "", "", GPU)]),
    res("batch", "v1", "Job", "jobs", "job", NAMESPACED, ALL)
        .in_categories(IN_ALL)
        .subs(&[sub("status", "Job", "", "", GPU)]),
    // certificates.k8s.io/v1
    res(
        "certificates.k8s.io",
        "v1",
        "CertificateSigningRequest",
        "certificatesigningrequests",
        "certificatesigningrequest",
        CLUSTER,
        ALL,
    )
    .short(&["csr"])
    .subs(&[
        sub("approval", "CertificateSigningRequest", "", "", GPU),
        sub("status", "CertificateSigningRequest", "", "", GPU),
    ]),
    // certificates.k8s.io/v1beta1
    res(
        "certificates.k8s.io",
        "v1beta1",
        "ClusterTrustBundle",
        "clustertrustbundles",
        "clustertrustbundle",
        CLUSTER,
        ALL,
    )
    .stored_as("certificates.k8s.io", "v1beta1"),
    res(
        "certificates.k8s.io",
        "v1beta1",
        "PodCertificateRequest",
        "podcertificaterequests",
        "podcertificaterequest",
        NAMESPACED,
        ALL,
    )
    .stored_as("certificates.k8s.io", "v1beta1")
    .subs(&[sub("status", "PodCertificateRequest", "", "", GPU)]),
    // networking.k8s.io/v1
    res("networking.k8s.io", "v1", "IngressClass", "ingressclasses", "ingressclass", CLUSTER, ALL),
    res("networking.k8s.io", "v1", "Ingress", "ingresses", "ingress", NAMESPACED, ALL)
        .short(&["ing"])
        .subs(&[sub("status", "Ingress", "", "", GPU)]),
    res("networking.k8s.io", "v1", "IPAddress", "ipaddresses", "ipaddress", CLUSTER, ALL).short(&["ip"]),
    res("networking.k8s.io", "v1", "NetworkPolicy", "networkpolicies", "networkpolicy", NAMESPACED, ALL)
        .short(&["netpol"]),
    res("networking.k8s.io", "v1", "ServiceCIDR", "servicecidrs", "servicecidr", CLUSTER, ALL).subs(&[sub(
        "status",
        "ServiceCIDR",
        "",
        "",
        GPU,
    )]),
    // networking.k8s.io/v1beta1
    res("networking.k8s.io", "v1beta1", "IPAddress", "ipaddresses", "ipaddress", CLUSTER, ALL).short(&["ip"]),
    res("networking.k8s.io", "v1beta1", "ServiceCIDR", "servicecidrs", "servicecidr", CLUSTER, ALL)
        .subs(&[sub("status", "ServiceCIDR", "", "", GPU)]),
    // policy/v1
    res(
        "policy",
        "v1",
        "PodDisruptionBudget",
        "poddisruptionbudgets",
        "poddisruptionbudget",
        NAMESPACED,
        ALL,
    )
    .short(&["pdb"])
    .subs(&[sub("status", "PodDisruptionBudget", "", "", GPU)]),
    // rbac.authorization.k8s.io/v1
    res(
        "rbac.authorization.k8s.io",
        "v1",
        "ClusterRoleBinding",
        "clusterrolebindings",
        "clusterrolebinding",
        CLUSTER,
        ALL,
    ),
    res("rbac.authorization.k8s.io", "v1", "ClusterRole", "clusterroles", "clusterrole", CLUSTER, ALL),
    res("rbac.authorization.k8s.io", "v1", "RoleBinding", "rolebindings", "rolebinding", NAMESPACED, ALL),
    res("rbac.authorization.k8s.io", "v1", "Role", "roles", "role", NAMESPACED, ALL),
    // storage.k8s.io/v1
    res("storage.k8s.io", "v1", "CSIDriver", "csidrivers", "csidriver", CLUSTER, ALL),
    res("storage.k8s.io", "v1", "CSINode", "csinodes", "csinode", CLUSTER, ALL),
    res(
        "storage.k8s.io",
        "v1",
        "CSIStorageCapacity",
        "csistoragecapacities",
        "csistoragecapacity",
        NAMESPACED,
        ALL,
    ),
    res("storage.k8s.io", "v1", "StorageClass", "storageclasses", "storageclass", CLUSTER, ALL)
        .short(&["sc"]),
    res("storage.k8s.io", "v1", "VolumeAttachment", "volumeattachments", "volumeattachment", CLUSTER, ALL)
        .subs(&[sub("status", "VolumeAttachment", "", "", GPU)]),
    res(
        "storage.k8s.io",
        "v1",
        "VolumeAttributesClass",
        "volumeattributesclasses",
        "volumeattributesclass",
        CLUSTER,
        ALL,
    )
    .short(&["vac"]),
    // storage.k8s.io/v1beta1
    res(
        "storage.k8s.io",
        "v1beta1",
        "VolumeAttributesClass",
        "volumeattributesclasses",
        "volumeattributesclass",
        CLUSTER,
        ALL,
    )
    .short(&["vac"]),
    // admissionregistration.k8s.io/v1
    res(
        "admissionregistration.k8s.io",
        "v1",
        "MutatingAdmissionPolicy",
        "mutatingadmissionpolicies",
        "mutatingadmissionpolicy",
        CLUSTER,
        ALL,
    )
    .in_categories(EXTENSIONS)
    .hashed_as("v1beta1"),
    res(
        "admissionregistration.k8s.io",
        "v1",
        "MutatingAdmissionPolicyBinding",
        "mutatingadmissionpolicybindings",
        "mutatingadmissionpolicybinding",
        CLUSTER,
        ALL,
    )
    .in_categories(EXTENSIONS)
    .hashed_as("v1beta1"),
    res(
        "admissionregistration.k8s.io",
        "v1",
        "MutatingWebhookConfiguration",
        "mutatingwebhookconfigurations",
        "mutatingwebhookconfiguration",
        CLUSTER,
        ALL,
    )
    .in_categories(EXTENSIONS),
    res(
        "admissionregistration.k8s.io",
        "v1",
        "ValidatingAdmissionPolicy",
        "validatingadmissionpolicies",
        "validatingadmissionpolicy",
        CLUSTER,
        ALL,
    )
    .in_categories(EXTENSIONS)
    .subs(&[sub("status", "ValidatingAdmissionPolicy", "", "", GPU)]),
    res(
        "admissionregistration.k8s.io",
        "v1",
        "ValidatingAdmissionPolicyBinding",
        "validatingadmissionpolicybindings",
        "validatingadmissionpolicybinding",
        CLUSTER,
        ALL,
    )
    .in_categories(EXTENSIONS),
    res(
        "admissionregistration.k8s.io",
        "v1",
        "ValidatingWebhookConfiguration",
        "validatingwebhookconfigurations",
        "validatingwebhookconfiguration",
        CLUSTER,
        ALL,
    )
    .in_categories(EXTENSIONS),
    // admissionregistration.k8s.io/v1beta1
    res(
        "admissionregistration.k8s.io",
        "v1beta1",
        "MutatingAdmissionPolicy",
        "mutatingadmissionpolicies",
        "mutatingadmissionpolicy",
        CLUSTER,
        ALL,
    )
    .in_categories(EXTENSIONS)
    .hashed_as("v1beta1"),
    res(
        "admissionregistration.k8s.io",
        "v1beta1",
        "MutatingAdmissionPolicyBinding",
        "mutatingadmissionpolicybindings",
        "mutatingadmissionpolicybinding",
        CLUSTER,
        ALL,
    )
    .in_categories(EXTENSIONS)
    .hashed_as("v1beta1"),
    // apiextensions.k8s.io/v1
    res(
        "apiextensions.k8s.io",
        "v1",
        "CustomResourceDefinition",
        "customresourcedefinitions",
        "customresourcedefinition",
        CLUSTER,
        ALL,
    )
    .short(&["crd", "crds"])
    .in_categories(EXTENSIONS)
    .hashed_as("v1beta1")
    .subs(&[sub("status", "CustomResourceDefinition", "", "", GPU)]),
    // scheduling.k8s.io/v1
    res("scheduling.k8s.io", "v1", "PriorityClass", "priorityclasses", "priorityclass", CLUSTER, ALL)
        .short(&["pc"]),
    // coordination.k8s.io/v1
    res("coordination.k8s.io", "v1", "Lease", "leases", "lease", NAMESPACED, ALL),
    // coordination.k8s.io/v1beta1
    res(
        "coordination.k8s.io",
        "v1beta1",
        "LeaseCandidate",
        "leasecandidates",
        "leasecandidate",
        NAMESPACED,
        ALL,
    )
    .stored_as("coordination.k8s.io", "v1beta1"),
    // node.k8s.io/v1
    res("node.k8s.io", "v1", "RuntimeClass", "runtimeclasses", "runtimeclass", CLUSTER, ALL),
    // discovery.k8s.io/v1
    res("discovery.k8s.io", "v1", "EndpointSlice", "endpointslices", "endpointslice", NAMESPACED, ALL),
    // resource.k8s.io/v1
    res("resource.k8s.io", "v1", "DeviceClass", "deviceclasses", "deviceclass", CLUSTER, ALL),
    res("resource.k8s.io", "v1", "ResourceClaim", "resourceclaims", "resourceclaim", NAMESPACED, ALL)
        .subs(&[sub("status", "ResourceClaim", "", "", GPU)]),
    res(
        "resource.k8s.io",
        "v1",
        "ResourceClaimTemplate",
        "resourceclaimtemplates",
        "resourceclaimtemplate",
        NAMESPACED,
        ALL,
    ),
    res("resource.k8s.io", "v1", "ResourceSlice", "resourceslices", "resourceslice", CLUSTER, ALL),
    // resource.k8s.io/v1beta2
    res("resource.k8s.io", "v1beta2", "DeviceClass", "deviceclasses", "deviceclass", CLUSTER, ALL),
    res("resource.k8s.io", "v1beta2", "DeviceTaintRule", "devicetaintrules", "devicetaintrule", CLUSTER, ALL)
        .stored_as("resource.k8s.io", "v1beta2")
        .hashed_as("v1alpha3")
        .subs(&[sub("status", "DeviceTaintRule", "", "", GPU)]),
    res("resource.k8s.io", "v1beta2", "ResourceClaim", "resourceclaims", "resourceclaim", NAMESPACED, ALL)
        .subs(&[sub("status", "ResourceClaim", "", "", GPU)]),
    res(
        "resource.k8s.io",
        "v1beta2",
        "ResourceClaimTemplate",
        "resourceclaimtemplates",
        "resourceclaimtemplate",
        NAMESPACED,
        ALL,
    ),
    res("resource.k8s.io", "v1beta2", "ResourceSlice", "resourceslices", "resourceslice", CLUSTER, ALL),
    // resource.k8s.io/v1beta1
    res("resource.k8s.io", "v1beta1", "DeviceClass", "deviceclasses", "deviceclass", CLUSTER, ALL),
    res("resource.k8s.io", "v1beta1", "ResourceClaim", "resourceclaims", "resourceclaim", NAMESPACED, ALL)
        .subs(&[sub("status", "ResourceClaim", "", "", GPU)]),
    res(
        "resource.k8s.io",
        "v1beta1",
        "ResourceClaimTemplate",
        "resourceclaimtemplates",
        "resourceclaimtemplate",
        NAMESPACED,
        ALL,
    ),
    res("resource.k8s.io", "v1beta1", "ResourceSlice", "resourceslices", "resourceslice", CLUSTER, ALL),
    // flowcontrol.apiserver.k8s.io/v1
    res("flowcontrol.apiserver.k8s.io", "v1", "FlowSchema", "flowschemas", "flowschema", CLUSTER, ALL)
        .subs(&[sub("status", "FlowSchema", "", "", GPU)]),
    res(
        "flowcontrol.apiserver.k8s.io",
        "v1",
        "PriorityLevelConfiguration",
        "prioritylevelconfigurations",
        "prioritylevelconfiguration",
        CLUSTER,
        ALL,
    )
    .subs(&[sub("status", "PriorityLevelConfiguration", "", "", GPU)]),
    // storagemigration.k8s.io/v1beta1
    res(
        "storagemigration.k8s.io",
        "v1beta1",
        "StorageVersionMigration",
        "storageversionmigrations",
        "storageversionmigration",
        CLUSTER,
        ALL,
    )
    .stored_as("storagemigration.k8s.io", "v1beta1")
    .subs(&[sub("status", "StorageVersionMigration", "", "", GPU)]),
];
