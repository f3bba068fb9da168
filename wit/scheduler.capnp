@0xb01f00000000c501;
# A scheduler says which node each pod goes to. The kernel keeps the queue of pending pods and carries out the bindings; the module keeps a
# snapshot fed by deltas, and says `stale` when it has missed one.
using Common = import "common.capnp";
using Objects = import "objects.capnp";

struct Delta @0xb01f00000000c502 {
  # Rows are JSON objects projected to the fields a scheduler needs:
  # nodes: metadata.{name,labels,annotations}, spec.{taints,unschedulable}, status.{allocatable,conditions,images};
  # pods that have a node: metadata.{namespace,name,uid,labels,deletionTimestamp}, spec (scheduling fields), status.phase.
  baseGeneration @0 :UInt64;          # the snapshot this applies to; 0: forget everything, this is the whole state
  generation @1 :UInt64;              # the snapshot after it
  nodes @2 :List(Data);
  goneNodes @3 :List(Text);           # names
  pods @4 :List(Data);
  gonePods @5 :List(Text);            # uids
  namespaces @6 :List(Data);          # metadata.{name,labels}, for namespace selectors
  objects @7 :List(Data);             # whole: persistentvolumeclaims, persistentvolumes, storageclasses, as far as the module may see them
  goneObjects @8 :List(Text);         # "resource/namespace/name"
}

struct Decision @0xb01f00000000c503 {
  union {
    unspecified @0 :Void;
    node @1 :Text;                    # bind here
    unschedulable @2 :Text;           # the message of the PodScheduled condition, as users know it: "0/3 nodes are available: ..."
    evict @3 :Preemption;             # make room first, then try again
    wait @4 :Text;                    # gated: not to be tried until the pod changes
    prepare @5 :List(Objects.Write);  # carry these out, as far as there are any, and try again when something changes
  }
}

struct Preemption @0xb01f00000000c504 {
  node @0 :Text;
  victims @1 :List(Common.ObjectRef);
}

interface Scheduler @0xb01f00000000c505 {
  sync @0 (delta :Delta) -> (stale :Bool) $Common.hot;
  schedule @1 (generation :UInt64, nowMillis :UInt64, pods :List(Data), opinions :List(Opinion)) -> (stale :Bool, decisions :List(Decision)) $Common.hot;
  # In the given order; each decision counts for those behind it. Opinions, if there are any, are about the only pod.
}

struct NodeScore @0xb01f00000000c506 {
  feasible @0 :Bool;
  score @1 :Int32;                    # 0 to 100
  reason @2 :Text;                    # why not feasible
}

interface SchedulerPlugin @0xb01f00000000c507 {
  # A plugin of the default scheduler, asked before it decides and while its decision is carried out: one crossing a pod and plugin for all nodes.
  # The kernel calls what the manifest names (`spec.plugin.points`), and not `filter` and `score`: `evaluate` is both.
  sync @0 (delta :Delta) -> (stale :Bool) $Common.hot;
  filter @1 (generation :UInt64, pod :Data, nodes :List(Text)) -> (stale :Bool, results :List(NodeScore)) $Common.hot;
  score @2 (generation :UInt64, pod :Data, nodes :List(Text)) -> (stale :Bool, results :List(NodeScore)) $Common.hot;
  evaluate @3 (generation :UInt64, pod :Data) -> (stale :Bool, scores :List(Int16), reasons :List(Text)) $Common.hot;
  # Of every node of the snapshot: as in Opinion.
  preEnqueue @4 (pod :Data) -> (refused :Text) $Common.hot;
  # Not empty: why the pod is not to be tried until it changes.
  postFilter @5 (generation :UInt64, pod :Data) -> (stale :Bool, preemption :Preemption) $Common.hot;
  # No node will take the pod. A preemption without a node: nothing helps.
  reserve @6 (pod :Data, node :Text) -> (refused :Text) $Common.hot;
  # The pod is going to this node. Not empty: it cannot; those reserved before are told by `unreserve`.
  unreserve @7 (pod :Data, node :Text) $Common.hot;
  permit @8 (nowMillis :UInt64, pod :Data, node :Text, waitedMillis :UInt64) -> (refused :Text, waitMillis :UInt32) $Common.hot;
  # Before the binding. With `waitMillis` it is asked again after so long.
  preBind @9 (pod :Data, node :Text) -> (refused :Text, writes :List(Objects.Write)) $Common.hot;
  # What must be written before the binding; the kernel does it under the plugin's identity and grants.
  sortKeys @10 (pods :List(Data)) -> (keys :List(Data)) $Common.hot;
  # A key a pod, in the given order: pods are tried in the order of their keys' bytes, those with the same key in the order of their coming. Asked once
  # a pod and change of it.
  bind @11 (pod :Data, node :Text) -> (refused :Text, writes :List(Objects.Write), binds :Bool) $Common.hot;
  # Whether the plugin binds the pod itself, by these writes under its own identity and grants. One that does not leaves it to those behind it, the
  # last of whom is the kernel. A pod that is not bound when they are carried out was refused.
  postBind @12 (pod :Data, node :Text) $Common.hot;
  # The pod has been bound.
}

struct Opinion @0xb01f00000000c508 {
  # What one plugin says of every node for one pod.
  plugin @0 :Text;                    # its name
  weight @1 :Int32;                   # of its scores beside the built-in ones
  scores @2 :List(Int16);             # one a node, in the order of their names: 0 to 100; below 0 the node will not do: reasons[-1 - score]
  reasons @3 :List(Text);             # as users see them: "node(s) had no licence"
}
