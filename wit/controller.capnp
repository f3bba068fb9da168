@0xb01f00000000c301;
# A controller is a function from keys and the objects around them to writes. The kernel watches, queues, de-duplicates, retries
# with back-off, gathers the related objects that the manifest names, and carries the writes out.
using Common = import "common.capnp";
using Objects = import "objects.capnp";

struct Related @0xb01f00000000c302 {
  name @0 :Text;                      # of the manifest's `related` entry
  objects @1 :List(Data);
  resources @2 :List(Text);           # beside each object, the lower-case plural of its resource: what an ObjectRef names it by
}

struct Request @0xb01f00000000c303 {
  ref @0 :Common.ObjectRef;
  object @1 :Data;                    # the primary object, JSON; empty when it is gone
  related @2 :List(Related);
  attempt @3 :UInt32;                 # 0 at first; grows while it keeps failing
}

struct Event @0xb01f00000000c304 {
  warning @0 :Bool;                   # else Normal
  reason @1 :Text;
  message @2 :Text;
}

struct Result @0xb01f00000000c305 {
  writes @0 :List(Objects.Write);     # carried out in order; the first failure stops the rest and requeues
  requeueAfterMillis @1 :UInt64;      # 0: only when something changes
  failure @2 :Text;                   # not empty: nothing could be decided; requeue with back-off
  events @3 :List(Event);             # about the primary object
  reads @4 :List(Related);            # what the module read for this by its own readers, by the names that it read under: records and
                                      # shadows put it beside the request's `related`, so that whoever is asked again need not read
}

interface Controller @0xb01f00000000c306 {
  reconcile @0 (nowMillis :UInt64, requests :List(Request)) -> (results :List(Result));
  # One result a request, same order. `nowMillis` (since 1970) is the only clock there is.
}
