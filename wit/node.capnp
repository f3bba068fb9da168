@0xb01f00000000c701;
# The link between the kernel and a machine: one TLS connection that the machine opens, Cap'n Proto RPC both ways, so a
# node needs no inbound port. The kernel's bootstrap capability on that connection is a `NodeLink` bound to the node name in the client
# certificate (CN system:node:NAME, O system:nodes): it can touch that node, its lease, the pods bound to it and what those pods mention.
using Common = import "common.capnp";
using Objects = import "objects.capnp";

interface NodeLink @0xb01f00000000c702 {
  open @0 (agent :NodeAgent, hello :NodeHello) -> (session :NodeSession, config :NodeConfig);
  # A second `open` for the same node ends the first session.
}

struct NodeHello @0xb01f00000000c703 {
  version @0 :Text;                   # of host-node
  node @1 :Data;                      # the Node object to register, JSON: labels, addresses, capacity, allocatable, nodeInfo
}

struct NodeConfig @0xb01f00000000c704 {
  clusterDomain @0 :Text;
  clusterDns @1 :Text;
  heartbeatSeconds @2 :UInt32;        # renew the lease this often
  leaseSeconds @3 :UInt32;
  serviceCidr @4 :Text;
  podCidr @5 :Text;                   # of the cluster; the node's own is in its Node object's spec.podCIDR
}

struct PodStatus @0xb01f00000000c705 {
  pod @0 :Common.ObjectRef;           # with uid
  status @1 :Data;                    # the whole of .status as the node sees it, JSON
}

interface NodeSession @0xb01f00000000c706 {
  renewLease @0 () -> (failure :Common.Failure);
  updateNodeStatus @1 (status :Data) -> (outcome :Common.Outcome);   # merged: what others put into .status (extended resources, conditions) stays
  watchPods @2 (sink :Objects.RowSink) -> (subscription :Common.Subscription);    # whole pods bound to this node
  watchNodes @3 (sink :Objects.RowSink) -> (subscription :Common.Subscription);   # all nodes: name, labels, podCIDR, addresses
  updatePodStatuses @4 (statuses :List(PodStatus)) -> (outcomes :List(Common.Outcome));
  removePod @5 (pod :Common.ObjectRef) -> (failure :Common.Failure);             # it has stopped: delete with no grace
  get @6 (ref :Common.ObjectRef) -> (outcome :Common.Outcome);                     # configmaps, secrets, serviceaccounts, services, namespaces that its pods mention
  serviceAccountToken @7 (pod :Common.ObjectRef, serviceAccount :Text, audiences :List(Text), expirationSeconds :UInt64) -> (outcome :Common.Outcome);  # a TokenRequest
  recordEvent @8 (event :Data) -> (failure :Common.Failure);
  watchNetwork @9 (resource :Text, sink :Objects.RowSink) -> (subscription :Common.Subscription, failure :Common.Failure);
  # What a node's proxy, resolver and policies need of the whole cluster: "services", "endpointslices", "networkpolicies", "clustertrustbundles", "persistentvolumes", "routetables" whole; "pods" and
  # "namespaces" by the fields that policies select by. Any other resource is refused.
  requestCertificate @10 (pod :Common.ObjectRef, request :Data) -> (outcome :Common.Outcome);
  # Makes a PodCertificateRequest for a pod of this node, which `get` reads again. `request` has of its spec signerName, maxExpirationSeconds,
  # stubPKCS10Request and unverifiedUserAnnotations, JSON; who asks for whom is filled in by the kernel.
  createMirrorPod @11 (pod :Data) -> (outcome :Common.Outcome);
  # The API's picture of a pod that comes from a directory of the machine: a whole Pod, JSON, with annotation kubernetes.io/config.mirror, bound to
  # this node, and mentioning no other object. The kernel makes the node its owner. `removePod` takes it away.
}

struct ContainerTarget @0xb01f00000000c707 {
  pod @0 :Common.ObjectRef;
  container @1 :Text;                 # never empty: the kernel has resolved the default
}

struct LogOptions @0xb01f00000000c708 {
  follow @0 :Bool;
  previous @1 :Bool;
  timestamps @2 :Bool;
  tailLines @3 :Int64 = -1;           # -1: all
  limitBytes @4 :Int64 = -1;
  sinceUnixNanos @5 :Int64;           # 0: from the beginning
  stream @6 :Text;                    # "", "All", "Stdout", "Stderr"
}

struct ExecOptions @0xb01f00000000c709 {
  command @0 :List(Text);
  stdin @1 :Bool;
  stdout @2 :Bool;
  stderr @3 :Bool;
  tty @4 :Bool;
}

struct ExitStatus @0xb01f00000000c70a {
  code @0 :Int32;
  error @1 :Text;                     # not empty: it could not be run or waited for
}

interface Process @0xb01f00000000c70b {
  # A running exec or attach. Dropping it hangs up.
  stdin @0 () -> (sink :Common.ByteSink);
  resize @1 (columns :UInt16, rows :UInt16);
  wait @2 () -> (exit :ExitStatus);
}

interface NodeAgent @0xb01f00000000c70c {
  # What the kernel may ask of a machine, on behalf of an authorized user.
  logs @0 (target :ContainerTarget, options :LogOptions, sink :Common.ByteSink) -> (failure :Common.Failure, subscription :Common.Subscription);
  # Answers when the log was found; bytes follow until `end`.
  exec @1 (target :ContainerTarget, options :ExecOptions, stdout :Common.ByteSink, stderr :Common.ByteSink) -> (process :Process, failure :Common.Failure);
  attach @2 (target :ContainerTarget, options :ExecOptions, stdout :Common.ByteSink, stderr :Common.ByteSink) -> (process :Process, failure :Common.Failure);
  portForward @3 (pod :Common.ObjectRef, port :UInt16, fromPod :Common.ByteSink) -> (toPod :Common.ByteSink, failure :Common.Failure);
  # A port of the pod's network; or, when `pod` names a node (resource "nodes"), HTTP of the node itself, by the kubelet's paths.
  stats @4 () -> (summary :Data);     # stats/summary JSON
}
