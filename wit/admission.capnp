@0xb01f00000000c401;
# An admission module gives a verdict on one request. Stateless between calls: any instance may get any request.
using Common = import "common.capnp";

enum Operation @0xb01f00000000c402 {
  unspecified @0;
  create @1;
  update @2;
  delete @3;
  connect @4;
}

struct Review @0xb01f00000000c403 {
  operation @0 :Operation;
  target @1 :Common.ObjectRef;
  version @2 :Text;
  kind @3 :Text;
  subresource @4 :Text;
  userName @5 :Text;
  userGroups @6 :List(Text);
  object @7 :Data;                    # JSON; empty on delete
  oldObject @8 :Data;                 # JSON; empty on create
  dryRun @9 :Bool;
  related @10 :List(import "controller.capnp".Related);
  phase @11 :Phase;
}

enum Phase @0xb01f00000000c404 {
  unspecified @0;
  mutating @1;
  validating @2;
}

struct Edit @0xb01f00000000c405 {
  # One RFC 6902 operation.
  op @0 :Op;
  path @1 :Text;                      # JSON pointer
  value @2 :Data;                     # JSON; unused by remove
  enum Op @0xb01f00000000c406 {
    unspecified @0;
    add @1;
    replace @2;
    remove @3;
  }
}

struct Verdict @0xb01f00000000c407 {
  allowed @0 :Bool;
  failure @1 :Common.Failure;         # why not; code 0 means 403 Forbidden
  edits @2 :List(Edit);               # mutating phase only
  warnings @3 :List(Text);
  auditAnnotations @4 :List(Common.Setting);
}

interface Admission @0xb01f00000000c408 {
  review @0 (review :Review) -> (verdict :Verdict) $Common.hot;
}
