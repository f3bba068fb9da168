;; A host for guests that call with pointers into their own memory, as WebAssembly: what a guest imports, between its memory and one of our own.
;; `linked.rs` fills in which of the guest's functions start it and its contract (`wapc.wat`, `kube.wat`: `$ask`, and what else the guest imports), and links
;; the two. Facts: the functions' names and parameters here are those of WASI preview 1.
;;
;; What a call needs is taken from the start of our memory, and all of it given back after the call: the guest's memory is never allocated in.
(module
  (import "guest" "memory" (memory $theirs 0))
  (import "mine" "memory" (memory $mine 1))
  (import "output" "get-stdout" (func $get_stdout (result i32)))
  (import "output" "blocking-write-and-flush" (func $write (param i32 i32 i32 i32)))
  ;; {imports}

  ;; What lies below is kept from call to call.
  (global $floor (mut i32) (i32.const 1024))
  ;; What WASI takes at once.
  (global $PART_MAX i32 (i32.const 4096))
  (global $top (mut i32) (i32.const 1024))
  (global $started (mut i32) (i32.const 0))
  (global $out (mut i32) (i32.const 0))
  (global $out_len (mut i32) (i32.const 0))
  (global $stdout (mut i32) (i32.const -1))
  (global $seed (mut i64) (i64.const 88172645463325252))

  ;; --- our memory

  (func $take (param $len i32) (result i32)
    (local $at i32)
    (local.set $at (i32.and (i32.add (global.get $top) (i32.const 7)) (i32.const -8)))
    (global.set $top (i32.add (local.get $at) (local.get $len)))
    (if (i32.gt_u (global.get $top) (i32.mul (memory.size $mine) (i32.const 65536)))
      (then
        (if (i32.eq (i32.const -1) (memory.grow $mine
              (i32.add (i32.const 1) (i32.shr_u (i32.sub (global.get $top) (i32.mul (memory.size $mine) (i32.const 65536))) (i32.const 16)))))
          (then (unreachable)))))
    (local.get $at))

  (func (export "realloc") (param $old i32) (param $old_len i32) (param $align i32) (param $len i32) (result i32)
    (local $at i32)
    (local.set $at (call $take (local.get $len)))
    (memory.copy $mine $mine (local.get $at) (local.get $old) (local.get $old_len))
    (local.get $at))

  (func (export "done") (param i32)
    (global.set $top (global.get $floor)))

  (func $start
    (if (i32.eqz (global.get $started))
      (then
        (global.set $started (i32.const 1))
        ;; {start}
      )))

  ;; --- the one function of the component: operation and payload in; (result, answer) out

  (func (export "call") (param $op i32) (param $op_len i32) (param $req i32) (param $req_len i32) (result i32)
    (local $ok i32) (local $ret i32)
    (global.set $out_len (i32.const 0))
    (local.set $ok (call $ask (local.get $op) (local.get $op_len) (local.get $req) (local.get $req_len)))
    (local.set $ret (call $take (i32.const 12)))
    (i32.store8 $mine (local.get $ret) (i32.eqz (local.get $ok)))
    (i32.store $mine offset=4 (local.get $ret) (global.get $out))
    (i32.store $mine offset=8 (local.get $ret) (global.get $out_len))
    (local.get $ret))

  ;; --- the log: standard output, at once

  (func $put (param $at i32) (param $len i32)
    (if (i32.eq (global.get $stdout) (i32.const -1)) (then (global.set $stdout (call $get_stdout))))
    (call $write (global.get $stdout) (local.get $at) (local.get $len) (i32.add (local.get $at) (global.get $PART_MAX))))

  (func $print (param $at i32) (param $len i32)
    (local $before i32) (local $part i32) (local $len_now i32)
    (local.set $before (global.get $top))
    (local.set $part (call $take (i32.add (global.get $PART_MAX) (i32.const 16))))
    (block $end
      (loop $next
        (br_if $end (i32.eqz (local.get $len)))
        (local.set $len_now (select (local.get $len) (global.get $PART_MAX) (i32.lt_u (local.get $len) (global.get $PART_MAX))))
        (memory.copy $mine $theirs (local.get $part) (local.get $at) (local.get $len_now))
        (call $put (local.get $part) (local.get $len_now))
        (local.set $at (i32.add (local.get $at) (local.get $len_now)))
        (local.set $len (i32.sub (local.get $len) (local.get $len_now)))
        (br $next)))
    (global.set $top (local.get $before)))

  (func $print_line (param $at i32) (param $len i32)
    (local $before i32) (local $end i32)
    (call $print (local.get $at) (local.get $len))
    (local.set $before (global.get $top))
    (local.set $end (call $take (i32.add (global.get $PART_MAX) (i32.const 16))))
    (i32.store8 $mine (local.get $end) (i32.const 10))
    (call $put (local.get $end) (i32.const 1))
    (global.set $top (local.get $before)))

  ;; {contract}

  ;; --- WASI: no arguments, no environment, a clock that stands still (not at 0, where Go's runtime does not start), numbers that only look random, and output that is the log

  (func $none (param $a i32) (param $b i32) (result i32)
    (i32.store $theirs (local.get $a) (i32.const 0))
    (i32.store $theirs (local.get $b) (i32.const 0))
    (i32.const 0))
  (export "wasi_snapshot_preview1/environ_sizes_get" (func $none))
  (export "wasi_snapshot_preview1/args_sizes_get" (func $none))
  (func $nothing (export "wasi_snapshot_preview1/environ_get") (param i32 i32) (result i32) (i32.const 0))
  (export "wasi_snapshot_preview1/args_get" (func $nothing))
  (func (export "wasi_snapshot_preview1/sched_yield") (result i32) (i32.const 0))
  (func (export "wasi_snapshot_preview1/proc_exit") (param i32) (unreachable))
  (func (export "wasi_snapshot_preview1/clock_time_get") (param i32 i64) (param $at i32) (result i32)
    (i64.store $theirs (local.get $at) (i64.const 1))
    (i32.const 0))
  ;; Waiting for the time ends at once: Go's runtime waits before it says why it dies. One event, of the first subscription, which has to be to a clock.
  (func (export "wasi_snapshot_preview1/poll_oneoff") (param $in i32) (param $out i32) (param $count i32) (param $events i32) (result i32)
    (if (i32.or (i32.eqz (local.get $count)) (i32.load8_u $theirs offset=8 (local.get $in))) (then (return (i32.const 58))))
    (i64.store $theirs (local.get $out) (i64.load $theirs (local.get $in)))
    (i64.store $theirs offset=8 (local.get $out) (i64.const 0))
    (i32.store $theirs (local.get $events) (i32.const 1))
    (i32.const 0))
  (func (export "wasi_snapshot_preview1/random_get") (param $at i32) (param $len i32) (result i32)
    (block $end
      (loop $next
        (br_if $end (i32.eqz (local.get $len)))
        (global.set $seed (i64.xor (global.get $seed) (i64.shl (global.get $seed) (i64.const 13))))
        (global.set $seed (i64.xor (global.get $seed) (i64.shr_u (global.get $seed) (i64.const 7))))
        (global.set $seed (i64.xor (global.get $seed) (i64.shl (global.get $seed) (i64.const 17))))
        (i32.store8 $theirs (local.get $at) (i32.wrap_i64 (global.get $seed)))
        (local.set $at (i32.add (local.get $at) (i32.const 1)))
        (local.set $len (i32.sub (local.get $len) (i32.const 1)))
        (br $next)))
    (i32.const 0))
  (func (export "wasi_snapshot_preview1/fd_write")
    (param $fd i32) (param $vectors i32) (param $count i32) (param $written i32) (result i32)
    (local $sum i32)
    (if (i32.gt_u (i32.sub (local.get $fd) (i32.const 1)) (i32.const 1)) (then (return (i32.const 8))))
    (block $end
      (loop $next
        (br_if $end (i32.eqz (local.get $count)))
        (call $print (i32.load $theirs (local.get $vectors)) (i32.load $theirs offset=4 (local.get $vectors)))
        (local.set $sum (i32.add (local.get $sum) (i32.load $theirs offset=4 (local.get $vectors))))
        (local.set $vectors (i32.add (local.get $vectors) (i32.const 8)))
        (local.set $count (i32.sub (local.get $count) (i32.const 1)))
        (br $next)))
    (i32.store $theirs (local.get $written) (local.get $sum))
    (i32.const 0)))
