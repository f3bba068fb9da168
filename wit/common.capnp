@0xb01f00000000c001;
# Nouns that every interface shares. Objects travel as JSON in `Data`: they are Kubernetes' own and grow without us.

annotation hot @0xb01f00000000c010 (method) :Void;
# The method is called on the hot lane: `call(interface, method, params)` of the pipe, one message each way, data only.

struct ObjectRef @0xb01f00000000c002 {
  # Names one object. A capability bound to one resource ignores `group` and `resource`.
  group @0 :Text;
  resource @1 :Text;      # lower-case plural, e.g. "replicasets"
  namespace @2 :Text;     # empty for cluster-scoped kinds
  name @3 :Text;
  uid @4 :Text;           # empty: whichever bears the name; else a precondition
}

struct Failure @0xb01f00000000c003 {
  # A Kubernetes Status in short. Domain errors are values; a fault (trap, deadline, misuse) ends the caller instead.
  code @0 :UInt16;        # HTTP status code
  reason @1 :Text;        # metav1.StatusReason, e.g. "Conflict"
  message @2 :Text;
  retryAfterMillis @3 :UInt32;
}

struct Outcome @0xb01f00000000c004 {
  union {
    unspecified @0 :Void;
    object @1 :Data;      # the object as it now is, JSON
    failure @2 :Failure;
  }
}

struct Setting @0xb01f00000000c005 {
  name @0 :Text;
  value @1 :Text;
}

interface ByteSink @0xb01f00000000c006 {
  # Somewhere to write bytes to. The writer waits for each answer, so the reader sets the pace.
  write @0 (bytes :Data);             # at most 64 KiB a call
  end @1 ();                          # no more bytes; a clean end
}

interface Subscription @0xb01f00000000c007 {
  # Holding it keeps the subscription alive; dropping it, or `cancel`, ends it.
  cancel @0 ();
}
