//! The columns of each kind, as upstream shows them.

use super::Cell::{self, Age, At, Count, Name, Of, Since};
use super::{Column, cells, pods};
use crate::resource::Resource;

/// The columns of a resource.
pub(super) fn of(resource: &Resource) -> &'static [Column] {
    let row = COLUMNS.iter().find(|(group, plural, _)| *group == resource.group && *plural == resource.plural);
    row.map_or(PLAIN, |(_, _, columns)| columns)
}

const fn text(name: &'static str, cell: Cell) -> Column {
    Column { name, kind: "string", priority: 0, cell }
}

const fn number(name: &'static str, pointer: &'static str) -> Column {
    Column { name, kind: "integer", priority: 0, cell: Count(pointer) }
}

const fn integer(name: &'static str, cell: Cell) -> Column {
    Column { name, kind: "integer", priority: 0, cell }
}

const fn boolean(name: &'static str, cell: Cell) -> Column {
    Column { name, kind: "boolean", priority: 0, cell }
}

const fn wide(name: &'static str, cell: Cell) -> Column {
    Column { name, kind: "string", priority: 1, cell }
}

const NAME: Column = text("Name", Name);
const AGE: Column = text("Age", Age);
const PLAIN: &[Column] = &[NAME, AGE];
const CONTAINERS: Column = wide("Containers", Of(cells::container_names));
const IMAGES: Column = wide("Images", Of(cells::container_images));
const SELECTOR: Column = wide("Selector", Of(cells::selector));
const CREATED: Column = Column { name: "Created At", kind: "date", priority: 0, cell: At("/metadata/creationTimestamp") };

#[rustfmt::skip]
static COLUMNS: &[(&str, &str, &[Column])] = &[
    ("", "pods", &[
        NAME, text("Ready", Of(pods::ready)), text("Status", Of(pods::status)), text("Restarts", Of(pods::restarts)), AGE,
        wide("IP", Of(pods::address)), wide("Node", At("/spec/nodeName")), wide("Nominated Node", At("/status/nominatedNodeName")),
        wide("Readiness Gates", Of(pods::readiness_gates)),
    ]),
    ("", "podtemplates", &[
        NAME, text("Containers", Of(cells::container_names)), text("Images", Of(cells::container_images)), text("Pod Labels", Of(cells::template_labels)),
    ]),
    ("apps", "deployments", &[
        NAME, text("Ready", Of(cells::ready_of_wanted)), text("Up-to-date", Count("/status/updatedReplicas")), text("Available", Count("/status/availableReplicas")), AGE,
        CONTAINERS, IMAGES, SELECTOR,
    ]),
    ("apps", "replicasets", REPLICAS),
    ("", "replicationcontrollers", REPLICAS),
    ("apps", "statefulsets", &[NAME, text("Ready", Of(cells::ready_of_wanted)), AGE, CONTAINERS, IMAGES]),
    ("apps", "daemonsets", &[
        NAME, number("Desired", "/status/desiredNumberScheduled"), number("Current", "/status/currentNumberScheduled"), number("Ready", "/status/numberReady"),
        number("Up-to-date", "/status/updatedNumberScheduled"), number("Available", "/status/numberAvailable"),
        text("Node Selector", Of(cells::node_selector)), AGE, CONTAINERS, IMAGES, SELECTOR,
    ]),
    ("apps", "controllerrevisions", &[NAME, text("Controller", Of(cells::controller)), text("Revision", Count("/revision")), AGE]),
    ("batch", "jobs", &[
        NAME, text("Status", Of(cells::job_status)), text("Completions", Of(cells::job_completions)), text("Duration", Of(cells::job_duration)), AGE,
        CONTAINERS, IMAGES, SELECTOR,
    ]),
    ("batch", "cronjobs", &[
        NAME, text("Schedule", At("/spec/schedule")), text("Timezone", At("/spec/timeZone")), boolean("Suspend", Of(cells::suspended)),
        integer("Active", Of(cells::active_jobs)), text("Last Schedule", Of(cells::last_schedule)), AGE,
        CONTAINERS, IMAGES, SELECTOR,
    ]),
    ("", "services", &[
        NAME, text("Type", At("/spec/type")), text("Cluster-IP", At("/spec/clusterIP")), text("External-IP", Of(cells::external_ips)),
        text("Port(s)", Of(cells::service_ports)), AGE, SELECTOR,
    ]),
    ("", "endpoints", &[NAME, text("Endpoints", Of(cells::endpoints)), AGE]),
    ("discovery.k8s.io", "endpointslices", &[
        NAME, text("AddressType", At("/addressType")), text("Ports", Of(cells::slice_ports)), text("Endpoints", Of(cells::slice_endpoints)), AGE,
    ]),
    ("", "nodes", &[
        NAME, text("Status", Of(cells::node_status)), text("Roles", Of(cells::node_roles)), AGE, text("Version", At("/status/nodeInfo/kubeletVersion")),
        wide("Internal-IP", Of(cells::internal_ip)), wide("External-IP", Of(cells::external_ip)), wide("OS-Image", At("/status/nodeInfo/osImage")),
        wide("Kernel-Version", At("/status/nodeInfo/kernelVersion")), wide("Container-Runtime", At("/status/nodeInfo/containerRuntimeVersion")),
    ]),
    ("", "namespaces", &[NAME, text("Status", At("/status/phase")), AGE]),
    ("", "configmaps", &[NAME, text("Data", Of(cells::data_keys)), AGE]),
    ("", "secrets", &[NAME, text("Type", At("/type")), text("Data", Of(cells::data_keys)), AGE]),
    ("", "serviceaccounts", &[NAME, text("Secrets", Of(cells::secrets)), AGE]),
    ("", "events", EVENTS),
    ("events.k8s.io", "events", EVENTS),
    ("", "persistentvolumes", &[
        NAME, text("Capacity", At("/spec/capacity/storage")), text("Access Modes", Of(cells::access_modes)), text("Reclaim Policy", At("/spec/persistentVolumeReclaimPolicy")),
        text("Status", Of(cells::phase)), text("Claim", Of(cells::claim)), text("StorageClass", Of(cells::storage_class)),
        text("VolumeAttributesClass", Of(cells::attributes_class)), text("Reason", Of(cells::reason)), AGE, wide("VolumeMode", At("/spec/volumeMode")),
    ]),
    ("", "persistentvolumeclaims", &[
        NAME, text("Status", Of(cells::phase)), text("Volume", Of(cells::volume)), text("Capacity", Of(cells::claim_capacity)), text("Access Modes", Of(cells::access_modes)),
        text("StorageClass", Of(cells::storage_class)), text("VolumeAttributesClass", Of(cells::attributes_class)), AGE, wide("VolumeMode", At("/spec/volumeMode")),
    ]),
    ("", "resourcequotas", &[NAME, text("Request", Of(cells::quota_requests)), text("Limit", Of(cells::quota_limits)), AGE]),
    ("", "limitranges", &[NAME, CREATED]),
    ("", "componentstatuses", &[NAME, text("Status", Of(cells::component_status)), text("Message", At("/conditions/0/message")), text("Error", At("/conditions/0/error"))]),
    ("coordination.k8s.io", "leases", &[NAME, text("Holder", At("/spec/holderIdentity")), AGE]),
    ("storage.k8s.io", "storageclasses", &[
        text("Name", Of(cells::class_name)), text("Provisioner", At("/provisioner")), text("ReclaimPolicy", At("/reclaimPolicy")),
        text("VolumeBindingMode", At("/volumeBindingMode")), text("AllowVolumeExpansion", Of(cells::expansion)), AGE,
    ]),
    ("storage.k8s.io", "volumeattachments", &[
        NAME, text("Attacher", At("/spec/attacher")), text("PV", At("/spec/source/persistentVolumeName")), text("Node", At("/spec/nodeName")),
        text("Attached", Of(cells::attached)), AGE,
    ]),
    ("storage.k8s.io", "volumeattributesclasses", &[NAME, text("DriverName", At("/driverName")), AGE]),
    ("storage.k8s.io", "csinodes", &[NAME, integer("Drivers", Of(cells::drivers)), AGE]),
    ("storage.k8s.io", "csidrivers", &[
        NAME, boolean("AttachRequired", At("/spec/attachRequired")), boolean("PodInfoOnMount", At("/spec/podInfoOnMount")), boolean("StorageCapacity", At("/spec/storageCapacity")),
        text("TokenRequests", Of(cells::token_requests)), boolean("RequiresRepublish", At("/spec/requiresRepublish")), text("Modes", Of(cells::lifecycle_modes)), AGE,
    ]),
    ("storage.k8s.io", "csistoragecapacities", &[
        NAME, text("StorageClassName", At("/storageClassName")), text("Capacity", At("/capacity")),
    ]),
    ("networking.k8s.io", "ingresses", &[
        NAME, text("Class", At("/spec/ingressClassName")), text("Hosts", Of(cells::ingress_hosts)), text("Address", Of(cells::ingress_address)),
        text("Ports", Of(cells::ingress_ports)), AGE,
    ]),
    ("networking.k8s.io", "ingressclasses", &[NAME, text("Controller", At("/spec/controller")), text("Parameters", Of(cells::class_parameters)), AGE]),
    ("networking.k8s.io", "networkpolicies", &[NAME, text("Pod-Selector", Of(cells::pod_selector)), AGE]),
    ("networking.k8s.io", "ipaddresses", &[NAME, text("ParentRef", Of(cells::parent_ref))]),
    ("networking.k8s.io", "servicecidrs", &[NAME, text("CIDRs", Of(cells::cidrs)), AGE]),
    ("policy", "poddisruptionbudgets", &[
        NAME, text("Min Available", Of(cells::min_available)), text("Max Unavailable", Of(cells::max_unavailable)), number("Allowed Disruptions", "/status/disruptionsAllowed"), AGE,
    ]),
    ("autoscaling", "horizontalpodautoscalers", &[
        NAME, text("Reference", Of(cells::scale_target)), text("Targets", Of(cells::scale_metrics)), text("MinPods", At("/spec/minReplicas")),
        text("MaxPods", Count("/spec/maxReplicas")), text("Replicas", Count("/status/currentReplicas")), AGE,
    ]),
    ("rbac.authorization.k8s.io", "roles", &[NAME, CREATED]),
    ("rbac.authorization.k8s.io", "clusterroles", &[NAME, CREATED]),
    ("rbac.authorization.k8s.io", "rolebindings", BINDINGS),
    ("rbac.authorization.k8s.io", "clusterrolebindings", BINDINGS),
    ("certificates.k8s.io", "certificatesigningrequests", &[
        NAME, AGE, text("SignerName", At("/spec/signerName")), text("Requestor", At("/spec/username")), text("RequestedDuration", Of(cells::requested_duration)),
        text("Condition", Of(cells::request_condition)),
    ]),
    ("scheduling.k8s.io", "priorityclasses", &[
        NAME, number("Value", "/value"), boolean("Global-Default", Of(cells::global_default)), AGE, text("PreemptionPolicy", At("/preemptionPolicy")),
    ]),
    ("node.k8s.io", "runtimeclasses", &[NAME, text("Handler", At("/handler")), AGE]),
    ("admissionregistration.k8s.io", "validatingwebhookconfigurations", WEBHOOKS),
    ("admissionregistration.k8s.io", "mutatingwebhookconfigurations", WEBHOOKS),
    ("admissionregistration.k8s.io", "validatingadmissionpolicies", &[
        NAME, integer("Validations", Of(cells::validations)), text("ParamKind", Of(cells::param_kind)), AGE,
    ]),
    ("admissionregistration.k8s.io", "validatingadmissionpolicybindings", &[NAME, text("PolicyName", At("/spec/policyName")), text("ParamRef", Of(cells::param_ref)), AGE]),
    ("admissionregistration.k8s.io", "mutatingadmissionpolicies", &[
        NAME, integer("Mutations", Of(cells::mutations)), text("ParamKind", Of(cells::param_kind)), AGE,
    ]),
    ("admissionregistration.k8s.io", "mutatingadmissionpolicybindings", &[NAME, text("PolicyName", At("/spec/policyName")), text("ParamRef", Of(cells::param_ref)), AGE]),
    ("certificates.k8s.io", "clustertrustbundles", &[NAME, text("SignerName", At("/spec/signerName"))]),
    ("certificates.k8s.io", "podcertificaterequests", &[
        NAME, text("PodName", At("/spec/podName")), text("ServiceAccountName", At("/spec/serviceAccountName")), text("NodeName", At("/spec/nodeName")),
        text("SignerName", At("/spec/signerName")), text("State", Of(cells::request_state)), AGE,
    ]),
    ("storagemigration.k8s.io", "storageversionmigrations", &[NAME, CREATED]),
    ("flowcontrol.apiserver.k8s.io", "flowschemas", &[
        NAME, text("PriorityLevel", At("/spec/priorityLevelConfiguration/name")), text("MatchingPrecedence", Count("/spec/matchingPrecedence")),
        text("DistinguisherMethod", At("/spec/distinguisherMethod/type")), AGE, text("MissingPL", Of(cells::missing_priority_level)),
    ]),
    ("flowcontrol.apiserver.k8s.io", "prioritylevelconfigurations", &[
        NAME, text("Type", At("/spec/type")), text("NominalConcurrencyShares", At("/spec/limited/nominalConcurrencyShares")),
        text("Queues", At("/spec/limited/limitResponse/queuing/queues")), text("HandSize", At("/spec/limited/limitResponse/queuing/handSize")),
        text("QueueLengthLimit", At("/spec/limited/limitResponse/queuing/queueLengthLimit")), AGE,
    ]),
    ("resource.k8s.io", "resourceclaims", &[NAME, text("State", Of(cells::claim_state)), AGE]),
    ("resource.k8s.io", "resourceslices", &[NAME, text("Node", At("/spec/nodeName")), text("Driver", At("/spec/driver")), text("Pool", At("/spec/pool/name")), AGE]),
    ("apiextensions.k8s.io", "customresourcedefinitions", &[NAME, CREATED]),
    ("apiregistration.k8s.io", "apiservices", &[NAME, text("Service", Of(cells::api_service)), text("Available", Of(cells::available)), AGE]),
    ("pintle.dev", "modules", &[
        NAME, text("Type", At("/spec/type")), text("State", At("/status/state")), text("Digest", Of(cells::short_digest)), number("Calls", "/status/calls"),
        text("P99", Of(cells::p99)), text("Memory", Of(cells::memory)), number("Traps", "/status/traps"), AGE,
        wide("Restarts", At("/status/restarts")), wide("Generation", At("/status/generation")), wide("Started", Since("/status/startTime")), wide("Message", At("/status/message")),
    ]),
];

const REPLICAS: &[Column] = &[
    NAME,
    number("Desired", "/spec/replicas"),
    number("Current", "/status/replicas"),
    number("Ready", "/status/readyReplicas"),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];

const EVENTS: &[Column] = &[
    text("Last Seen", Of(cells::last_seen)),
    text("Type", At("/type")),
    text("Reason", At("/reason")),
    text("Object", Of(cells::event_object)),
    wide("Subobject", Of(cells::event_subobject)),
    wide("Source", Of(cells::event_source)),
    text("Message", Of(cells::event_message)),
    wide("First Seen", Of(cells::first_seen)),
    wide("Count", Of(cells::event_count)),
    wide("Name", At("/metadata/name")),
];

const BINDINGS: &[Column] = &[
    NAME,
    text("Role", Of(cells::role)),
    AGE,
    wide("Users", Of(cells::users)),
    wide("Groups", Of(cells::groups)),
    wide("ServiceAccounts", Of(cells::service_accounts)),
];

const WEBHOOKS: &[Column] = &[NAME, integer("Webhooks", Of(cells::webhooks)), AGE];
