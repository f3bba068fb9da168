@0xb01f00000000c201;
# The handshake between the kernel and a module. The kernel calls `Module.start` on the guest's bootstrap capability, once.
using Objects = import "objects.capnp";

struct Export @0xb01f00000000c202 {
  # One thing the kernel lets this module do. `name` is "group/resource" for objects ("/pods" for the core group,
  # "*/*" for a grant of everything), else the grant's own name.
  name @0 :Text;
  union {
    unspecified @1 :Void;
    objectReader @2 :Objects.ObjectReader;
    objectWriter @3 :Objects.ObjectWriter;
    logger @4 :Logger;
    timer @5 :Timer;
  }
}

interface Logger @0xb01f00000000c203 {
  log @0 (level :Level, message :Text);
  enum Level @0xb01f00000000c204 {
    unspecified @0;
    debug @1;
    info @2;
    warn @3;
    error @4;
  }
}

interface Wake @0xb01f00000000c205 {
  wake @0 (nowMillis :UInt64);
}

interface Timer @0xb01f00000000c206 {
  # A granted clock. It calls back; a guest never waits.
  after @0 (millis :UInt64, wake :Wake);
}

struct Hello @0xb01f00000000c207 {
  pipeVersion @0 :UInt16;             # 1
  apiLevel @1 :UInt16;                # selects semantics, not layout
  moduleName @2 :Text;
  generation @3 :UInt64;              # of this instance; grows with each restart and swap
  config @4 :Data;                    # spec.config of the Module object, JSON
  cluster @5 :ClusterFacts;
  exports @6 :List(Export);
}

struct ClusterFacts @0xb01f00000000c208 {
  rootCaPem @0 :Text;
  clusterDomain @1 :Text;             # "cluster.local"
  podCidr @2 :Text;
  serviceCidr @3 :Text;
}

struct ModuleInfo @0xb01f00000000c209 {
  apiLevel @0 :UInt16;                # the level the module was built for
  sdk @1 :Text;                       # e.g. "pintle-sdk 0.1.0", for people
  interfaces @2 :List(UInt64);        # ids of the interfaces below that it serves, on whichever lane
}

interface Module @0xb01f00000000c20a {
  start @0 (hello :Hello) -> (info :ModuleInfo);
  controller @1 () -> (controller :import "controller.capnp".Controller);
  provisioner @2 () -> (provisioner :import "provisioner.capnp".Provisioner);
  stop @3 ();                         # a courtesy before the end; the kernel does not wait long
}
