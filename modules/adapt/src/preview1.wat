;; WASI preview 1 for a guest, out of WASI 0.2 as the kernel links it: no arguments, no environment, output that is the log, and no files. `reactor.rs` adds
;; refusals for whatever else the guest calls. Facts: names, parameters, layouts and error numbers are those of WASI preview 1.
;;
;; The clock stands still, unless the guest waits: a wait is over at once, and the clock has moved on by as much. Nobody is asked for the time, because
;; Go's collector looks at it while the kernel is given room for what it passes, when a component may call nobody.
;;
;; The invariant: nothing is allocated in the guest's memory. Where a call to WASI 0.2 needs a place for its answer, it is the first 16 bytes,
;; which are put back afterwards.
(module
  (import "env" "memory" (memory 0))
  (import "wasi:cli/stdout@0.2.0" "get-stdout" (func $get_stdout (result i32)))
  (import "wasi:cli/exit@0.2.0" "exit" (func $exit (param i32)))
  (import "wasi:io/streams@0.2.0" "[method]output-stream.blocking-write-and-flush" (func $write (param i32 i32 i32 i32)))
  (import "wasi:random/random@0.2.0" "get-random-u64" (func $random (result i64)))

  (global $stdout (mut i32) (i32.const -1))
  ;; Nanoseconds that the guest has waited. Never 0: Go's runtime does not start at the time 0.
  (global $waited (mut i64) (i64.const 1))

  (func $none (param $a i32) (param $b i32) (result i32)
    (i32.store (local.get $a) (i32.const 0))
    (i32.store (local.get $b) (i32.const 0))
    (i32.const 0))
  (func (export "args_sizes_get") (param i32 i32) (result i32) (call $none (local.get 0) (local.get 1)))
  (func (export "environ_sizes_get") (param i32 i32) (result i32) (call $none (local.get 0) (local.get 1)))
  (func (export "args_get") (param i32 i32) (result i32) (i32.const 0))
  (func (export "environ_get") (param i32 i32) (result i32) (i32.const 0))
  (func (export "sched_yield") (result i32) (i32.const 0))
  (func (export "proc_exit") (param $code i32)
    (call $exit (i32.ne (local.get $code) (i32.const 0)))
    (unreachable))

  (func (export "clock_time_get") (param $id i32) (param $precision i64) (param $at i32) (result i32)
    (i64.store (local.get $at) (global.get $waited))
    (i32.const 0))
  (func (export "clock_res_get") (param $id i32) (param $at i32) (result i32)
    (i64.store (local.get $at) (i64.const 1))
    (i32.const 0))

  ;; Only waiting for the time: the first subscription has to be to a clock. One event, of that one.
  (func (export "poll_oneoff") (param $in i32) (param $out i32) (param $count i32) (param $events i32) (result i32)
    (local $until i64)
    (if (i32.or (i32.eqz (local.get $count)) (i32.load8_u offset=8 (local.get $in))) (then (return (i32.const 58))))
    (local.set $until (i64.load offset=24 (local.get $in)))
    (if (i32.and (i32.load16_u offset=40 (local.get $in)) (i32.const 1))
      (then
        (if (i64.gt_s (local.get $until) (global.get $waited)) (then (global.set $waited (local.get $until)))))
      (else
        (global.set $waited (i64.add (global.get $waited) (local.get $until)))))
    (i64.store (local.get $out) (i64.load (local.get $in)))
    (i64.store offset=8 (local.get $out) (i64.const 0))
    (i64.store offset=16 (local.get $out) (i64.const 0))
    (i64.store offset=24 (local.get $out) (i64.const 0))
    (i32.store (local.get $events) (i32.const 1))
    (i32.const 0))

  (func (export "random_get") (param $at i32) (param $len i32) (result i32)
    (local $bits i64) (local $left i32)
    (block $end
      (loop $next
        (br_if $end (i32.eqz (local.get $len)))
        (if (i32.eqz (local.get $left))
          (then
            (local.set $bits (call $random))
            (local.set $left (i32.const 8))))
        (i64.store8 (local.get $at) (local.get $bits))
        (local.set $bits (i64.shr_u (local.get $bits) (i64.const 8)))
        (local.set $left (i32.sub (local.get $left) (i32.const 1)))
        (local.set $at (i32.add (local.get $at) (i32.const 1)))
        (local.set $len (i32.sub (local.get $len) (i32.const 1)))
        (br $next)))
    (i32.const 0))

  ;; Standard input, output and error are character devices; there is nothing else.
  (func (export "fd_fdstat_get") (param $fd i32) (param $at i32) (result i32)
    (if (i32.gt_u (local.get $fd) (i32.const 2)) (then (return (i32.const 8))))
    (i64.store (local.get $at) (i64.const 2))
    (i64.store offset=8 (local.get $at) (i64.const -1))
    (i64.store offset=16 (local.get $at) (i64.const 0))
    (i32.const 0))
  (func (export "fd_read") (param $fd i32) (param $vectors i32) (param $count i32) (param $read i32) (result i32)
    (if (local.get $fd) (then (return (i32.const 8))))
    (i32.store (local.get $read) (i32.const 0))
    (i32.const 0))

  (func $print (param $at i32) (param $len i32)
    (local $a i64) (local $b i64)
    (if (i32.eq (global.get $stdout) (i32.const -1)) (then (global.set $stdout (call $get_stdout))))
    (local.set $a (i64.load (i32.const 0)))
    (local.set $b (i64.load (i32.const 8)))
    (call $write (global.get $stdout) (local.get $at) (local.get $len) (i32.const 0))
    (i64.store (i32.const 0) (local.get $a))
    (i64.store (i32.const 8) (local.get $b)))

  (func (export "fd_write") (param $fd i32) (param $vectors i32) (param $count i32) (param $written i32) (result i32)
    (local $sum i32)
    (if (i32.gt_u (i32.sub (local.get $fd) (i32.const 1)) (i32.const 1)) (then (return (i32.const 8))))
    (block $end
      (loop $next
        (br_if $end (i32.eqz (local.get $count)))
        (call $print (i32.load (local.get $vectors)) (i32.load offset=4 (local.get $vectors)))
        (local.set $sum (i32.add (local.get $sum) (i32.load offset=4 (local.get $vectors))))
        (local.set $vectors (i32.add (local.get $vectors) (i32.const 8)))
        (local.set $count (i32.sub (local.get $count) (i32.const 1)))
        (br $next)))
    (i32.store (local.get $written) (local.get $sum))
    (i32.const 0)))
