;; The host's side of waPC. Facts: the functions' names and parameters are waPC's.

  (data (memory $mine) (i32.const 16) "this host capability is not served by Pintle: ")
  (global $refusal_len (mut i32) (i32.const 0))
  (global $refusal (mut i32) (i32.const 0))
  (global $req_len (mut i32) (i32.const 0))
  (global $req (mut i32) (i32.const 0))
  (global $op_len (mut i32) (i32.const 0))
  (global $op (mut i32) (i32.const 0))

  (func $ask (param $op i32) (param $op_len i32) (param $req i32) (param $req_len i32) (result i32)
    (global.set $op (local.get $op)) (global.set $op_len (local.get $op_len))
    (global.set $req (local.get $req)) (global.set $req_len (local.get $req_len))
    (call $start)
    (call $guest_call (local.get $op_len) (local.get $req_len)))

  (func (export "wapc/__guest_request") (param $op i32) (param $req i32)
    (memory.copy $theirs $mine (local.get $op) (global.get $op) (global.get $op_len))
    (memory.copy $theirs $mine (local.get $req) (global.get $req) (global.get $req_len)))

  (func $answer (export "wapc/__guest_response") (param $at i32) (param $len i32)
    (global.set $out (call $take (local.get $len)))
    (global.set $out_len (local.get $len))
    (memory.copy $mine $theirs (global.get $out) (local.get $at) (local.get $len)))

  (func (export "wapc/__guest_error") (param $at i32) (param $len i32)
    (call $answer (local.get $at) (local.get $len)))

  ;; The namespace "tracing" is the log; no other capability is served, and the guest is told which one it asked for.
  (func (export "wapc/__host_call")
    (param $bd i32) (param $bd_len i32) (param $ns i32) (param $ns_len i32) (param $op i32) (param $op_len i32) (param $at i32) (param $len i32)
    (result i32)
    (if (i32.eq (local.get $ns_len) (i32.const 7))
      (then
        (if (i32.and
              (i32.eq (i32.load $theirs (local.get $ns)) (i32.const 0x63617274))
              (i32.eq (i32.load $theirs offset=3 (local.get $ns)) (i32.const 0x676e6963)))
          (then
            (call $print_line (local.get $at) (local.get $len))
            (return (i32.const 1))))))
    (global.set $refusal_len (i32.add (i32.const 47) (i32.add (local.get $ns_len) (local.get $op_len))))
    (global.set $refusal (call $take (global.get $refusal_len)))
    (memory.copy $mine $mine (global.get $refusal) (i32.const 16) (i32.const 46))
    (memory.copy $mine $theirs (i32.add (global.get $refusal) (i32.const 46)) (local.get $ns) (local.get $ns_len))
    (i32.store8 $mine offset=46 (i32.add (global.get $refusal) (local.get $ns_len)) (i32.const 47))
    (memory.copy $mine $theirs
      (i32.add (i32.add (global.get $refusal) (i32.const 47)) (local.get $ns_len)) (local.get $op) (local.get $op_len))
    (i32.const 0))

  (func (export "wapc/__host_response_len") (result i32) (i32.const 0))
  (func (export "wapc/__host_response") (param i32))
  (func (export "wapc/__host_error_len") (result i32) (global.get $refusal_len))
  (func (export "wapc/__host_error") (param $at i32)
    (memory.copy $theirs $mine (local.get $at) (global.get $refusal) (global.get $refusal_len)))
  (func (export "wapc/__console_log") (param $at i32) (param $len i32)
    (call $print (local.get $at) (local.get $len)))
