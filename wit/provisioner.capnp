@0xb01f00000000c601;
# A storage provisioner makes volumes for the StorageClasses that name it. Every method may be called again with the same name and must
# then give the same answer.
using Common = import "common.capnp";

struct VolumeRequest @0xb01f00000000c602 {
  name @0 :Text;                      # "pvc-<uid>", the idempotency key
  claim @1 :Data;                     # PersistentVolumeClaim, JSON
  storageClass @2 :Data;              # JSON
  selectedNode @3 :Text;              # WaitForFirstConsumer; else empty
  capacityBytes @4 :UInt64;
  node @5 :Data;                      # the selected node, JSON; empty when any will do
}

interface Provisioner @0xb01f00000000c603 {
  provision @0 (request :VolumeRequest) -> (volume :Common.Outcome);       # a PersistentVolume
  delete @1 (volume :Data, node :Data) -> (failure :Common.Failure);
  # `node`: the one that the volume is on; empty when it is on none, or that one is gone.
  expand @2 (volume :Data, capacityBytes :UInt64) -> (volume :Common.Outcome);
  snapshot @3 (volume :Data, name :Text) -> (snapshot :Common.Outcome);
}
