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
}

interface Provisioner @0xb01f00000000c603 {
  provision @0 (request :VolumeRequest) -> (volume :Common.Outcome);       # a PersistentVolume
  delete @1 (volume :Data) -> (failure :Common.Failure);
  expand @2 (volume :Data, capacityBytes :UInt64) -> (volume :Common.Outcome);
  snapshot @3 (volume :Data, name :Text) -> (snapshot :Common.Outcome);
}
