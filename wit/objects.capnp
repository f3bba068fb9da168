@0xb01f00000000c101;
# Authority over stored objects. A capability is narrowed by construction: a reader or a writer is bound to one resource
# (or, for "*/*" grants, to all that the grant names) and to the namespaces of the grant. What is outside does not exist for it.
using Common = import "common.capnp";

struct Query @0xb01f00000000c102 {
  target @0 :Common.ObjectRef;        # group and resource for "*/*" grants; namespace to narrow
  labelSelector @1 :Text;
  fieldSelector @2 :Text;
  index @3 :Common.Setting;           # e.g. {name "owner", value <uid>}: an index the kernel keeps
  limit @4 :UInt32;                   # 0: no limit
  continue @5 :Text;
  fields @6 :List(Text);              # JSON pointers; empty: whole objects. "/metadata" alone gives metadata only
}

struct Page @0xb01f00000000c103 {
  objects @0 :List(Data);
  revision @1 :UInt64;                # the resourceVersion the page is true at
  continue @2 :Text;
}

struct Write @0xb01f00000000c104 {
  # One write. All writes of every party go through the same admission, validation and storage.
  target @0 :Common.ObjectRef;
  subresource @1 :Text;               # "", "status", "scale", "binding", "finalize", ...
  union {
    unspecified @2 :Void;
    create @3 :Data;                  # JSON object
    update @4 :Data;                  # JSON object; a resourceVersion in it is a precondition
    patch @5 :Patch;
    delete @6 :DeleteOptions;
  }
}

struct Patch @0xb01f00000000c105 {
  kind @0 :Kind;
  body @1 :Data;
  enum Kind @0xb01f00000000c106 {
    unspecified @0;
    json @1;
    merge @2;
    strategic @3;
    apply @4;
  }
}

struct DeleteOptions @0xb01f00000000c107 {
  gracePeriodSeconds @0 :Int64 = -1;  # -1: the kind's default
  propagation @1 :Propagation;
  resourceVersion @2 :Text;           # empty: no precondition
  enum Propagation @0xb01f00000000c108 {
    unspecified @0;                   # the kind's default
    background @1;
    foreground @2;
    orphan @3;
  }
}

struct ResourceInfo @0xb01f00000000c109 {
  group @0 :Text;
  version @1 :Text;
  resource @2 :Text;
  kind @3 :Text;
  namespaced @4 :Bool;
}

struct RowEvent @0xb01f00000000c10a {
  kind @0 :Kind;
  row @1 :Data;                       # the object projected to the query's fields, JSON; a deleted one's last state
  enum Kind @0xb01f00000000c10b {
    unspecified @0;
    put @1;
    delete @2;
    synced @3;                        # everything that existed at the start has been sent
    reset @4;                         # forget everything; a new full set follows
  }
}

interface RowSink @0xb01f00000000c10c {
  push @0 (generation :UInt64, events :List(RowEvent));
}

interface ObjectReader @0xb01f00000000c10d {
  get @0 (refs :List(Common.ObjectRef)) -> (outcomes :List(Common.Outcome));
  list @1 (query :Query) -> (page :Page, failure :Common.Failure);
  watch @2 (query :Query, sink :RowSink) -> (subscription :Common.Subscription);
  resources @3 () -> (resources :List(ResourceInfo));
}

interface ObjectWriter @0xb01f00000000c10e {
  write @0 (writes :List(Write)) -> (outcomes :List(Common.Outcome));
  # In order; a failure does not stop those behind it. At most 1,000 a call.
}
