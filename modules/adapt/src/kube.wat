;; The host's side of kube-scheduler-wasm-extension. Facts: the functions' names and parameters are those of
;; https://github.com/kubernetes-sigs/kube-scheduler-wasm-extension.
;;
;; Operations, by their first byte: `k` keeps the configuration and the nodes, and starts the guest; `p` keeps the pod; a digit, or what comes behind the digits, calls the
;; guest's function of that number in `kube.rs`. Lengths and offsets are 32 bits, little-endian. Kept is (length of the configuration, count of nodes, length of the list,
;; its offset, configuration, for each node (offset and length of its name, offset and length of its object), names, the list as a NodeList). A call brings (length
;; of the node's name, number of the node, name, JSON list); its answer is records of (tag, length, bytes): `r` the result, and what the guest has set.

  (global $KEPT i32 (i32.const 1024))
  (global $pod (mut i32) (i32.const 0))
  (global $pod_len (mut i32) (i32.const 0))
  (global $pods (mut i32) (i32.const 1024))
  (global $name (mut i32) (i32.const 0))
  (global $name_len (mut i32) (i32.const 0))
  (global $number (mut i32) (i32.const 0))
  (global $list (mut i32) (i32.const 0))
  (global $list_len (mut i32) (i32.const 0))

  (func $keep (param $at i32) (param $from i32) (param $len i32)
    (memory.copy $mine $mine (local.get $at) (local.get $from) (local.get $len))
    (global.set $floor (i32.and (i32.add (i32.add (local.get $at) (local.get $len)) (i32.const 7)) (i32.const -8))))

  (func $ask (param $op i32) (param $op_len i32) (param $req i32) (param $req_len i32) (result i32)
    (local $code i32)
    (local.set $code (i32.load8_u $mine (local.get $op)))
    (if (i32.eq (local.get $code) (i32.const 0x6b))
      (then
        (call $keep (global.get $KEPT) (local.get $req) (local.get $req_len))
        (global.set $pods (global.get $floor))
        (global.set $pod_len (i32.const 0))
        (call $start)
        (return (i32.const 1))))
    (if (i32.eq (local.get $code) (i32.const 0x70))
      (then
        (call $keep (global.get $pods) (local.get $req) (local.get $req_len))
        (global.set $pod (global.get $pods))
        (global.set $pod_len (local.get $req_len))
        (return (i32.const 1))))
    (global.set $name_len (i32.load $mine (local.get $req)))
    (global.set $number (i32.load $mine offset=4 (local.get $req)))
    (global.set $name (i32.add (local.get $req) (i32.const 8)))
    (global.set $list (i32.add (global.get $name) (global.get $name_len)))
    (global.set $list_len (i32.sub (local.get $req_len) (i32.add (global.get $name_len) (i32.const 8))))
    ;; {calls}
    (i32.const 1))

  ;; --- what the guest sets

  (func $open (param $tag i32) (param $len i32) (result i32)
    (local $both i32)
    (local.set $both (call $take (i32.add (i32.add (global.get $out_len) (local.get $len)) (i32.const 5))))
    (memory.copy $mine $mine (local.get $both) (global.get $out) (global.get $out_len))
    (global.set $out (local.get $both))
    (local.set $both (i32.add (local.get $both) (global.get $out_len)))
    (global.set $out_len (i32.add (global.get $out_len) (i32.add (local.get $len) (i32.const 5))))
    (i32.store8 $mine (local.get $both) (local.get $tag))
    (i32.store $mine offset=1 (local.get $both) (local.get $len))
    (i32.add (local.get $both) (i32.const 5)))
  (func $set (param $tag i32) (param $at i32) (param $len i32)
    (memory.copy $mine $theirs (call $open (local.get $tag) (local.get $len)) (local.get $at) (local.get $len)))
  (func $result (param $value i64)
    (i64.store $mine (call $open (i32.const 0x72) (i32.const 8)) (local.get $value)))

  (func (export "k8s.io/scheduler/result.status_reason") (param i32 i32) (call $set (i32.const 0x77) (local.get 0) (local.get 1)))
  (func (export "k8s.io/scheduler/result.node_names") (param i32 i32) (call $set (i32.const 0x6e) (local.get 0) (local.get 1)))
  (func (export "k8s.io/scheduler/result.normalized_score_list") (param i32 i32) (call $set (i32.const 0x73) (local.get 0) (local.get 1)))
  (func (export "k8s.io/scheduler/result.nominated_node_name") (param i32 i32) (call $set (i32.const 0x6d) (local.get 0) (local.get 1)))
  (func (export "k8s.io/scheduler/result.cluster_events") (param i32 i32))

  ;; --- what the guest reads: the length; the bytes, if they are within the limit

  (func $give (param $from i32) (param $len i32) (param $at i32) (param $limit i32) (result i32)
    (if (i32.le_u (local.get $len) (local.get $limit))
      (then (memory.copy $theirs $mine (local.get $at) (local.get $from) (local.get $len))))
    (local.get $len))
  (func (export "k8s.io/scheduler/get_config") (param i32 i32) (result i32)
    (call $give (i32.add (global.get $KEPT) (i32.const 16)) (i32.load $mine (global.get $KEPT)) (local.get 0) (local.get 1)))
  (func (export "k8s.io/scheduler/currentPod") (param i32 i32) (result i32)
    (call $give (global.get $pod) (global.get $pod_len) (local.get 0) (local.get 1)))
  (func (export "k8s.io/scheduler/currentNodeName") (param i32 i32) (result i32)
    (call $give (global.get $name) (global.get $name_len) (local.get 0) (local.get 1)))
  (func $listed (param i32 i32) (result i32)
    (call $give (global.get $list) (global.get $list_len) (local.get 0) (local.get 1)))
  (export "k8s.io/scheduler/filteredNodeList" (func $listed))
  (export "k8s.io/scheduler/nodeScoreList" (func $listed))
  (export "k8s.io/scheduler/nodeToStatusMap" (func $listed))
  ;; Of `addpod` and `removepod`, which are not called.
  (func (export "k8s.io/scheduler/targetPod") (param i32 i32) (result i32) (i32.const 0))

  ;; Where node `number` is described.
  (func $node (param $number i32) (result i32)
    (i32.add
      (i32.add (i32.add (global.get $KEPT) (i32.const 16)) (i32.load $mine (global.get $KEPT)))
      (i32.shl (local.get $number) (i32.const 4))))
  (func $is_named (param $number i32) (param $at i32) (param $len i32) (result i32)
    (local $name i32) (local $i i32)
    (if (i32.ge_u (local.get $number) (i32.load $mine offset=4 (global.get $KEPT))) (then (return (i32.const 0))))
    (if (i32.ne (i32.load $mine offset=4 (call $node (local.get $number))) (local.get $len)) (then (return (i32.const 0))))
    (local.set $name (i32.add (global.get $KEPT) (i32.load $mine (call $node (local.get $number)))))
    (block $end
      (loop $next
        (br_if $end (i32.eq (local.get $i) (local.get $len)))
        (if (i32.ne
              (i32.load8_u $mine (i32.add (local.get $name) (local.get $i)))
              (i32.load8_u $theirs (i32.add (local.get $at) (local.get $i))))
          (then (return (i32.const 0))))
        (local.set $i (i32.add (local.get $i) (i32.const 1)))
        (br $next)))
    (i32.const 1))
  ;; A node by its name: mostly the one that is asked about.
  (func (export "k8s.io/api/node") (param $name i32) (param $len i32) (param $at i32) (param $limit i32) (result i32)
    (local $i i32)
    (local.set $i (global.get $number))
    (if (i32.eqz (call $is_named (local.get $i) (local.get $name) (local.get $len)))
      (then
        (local.set $i (i32.const 0))
        (block $found
          (loop $next
            (br_if $found (call $is_named (local.get $i) (local.get $name) (local.get $len)))
            (local.set $i (i32.add (local.get $i) (i32.const 1)))
            (br_if $next (i32.lt_u (local.get $i) (i32.load $mine offset=4 (global.get $KEPT)))))
          (return (i32.const 0)))))
    (call $give
      (i32.add (global.get $KEPT) (i32.load $mine offset=8 (call $node (local.get $i))))
      (i32.load $mine offset=12 (call $node (local.get $i)))
      (local.get $at) (local.get $limit)))
  (func (export "k8s.io/api/nodeList") (param i32 i32) (result i32)
    (call $give
      (i32.add (global.get $KEPT) (i32.load $mine offset=12 (global.get $KEPT)))
      (i32.load $mine offset=8 (global.get $KEPT))
      (local.get 0) (local.get 1)))

  ;; A pod that waits is not refused before its time: the guest is told that none waits.
  (func (export "k8s.io/scheduler/handle.reject_waiting_pod") (param i32 i32 i32 i32)
    (i64.store $theirs (local.get 2) (i64.const 0)))

  ;; --- the log; events are a line of it

  (func (export "k8s.io/klog/severity") (result i32) (i32.const 0))
  (func (export "k8s.io/klog/log") (param i32 i32 i32) (call $print_line (local.get 1) (local.get 2)))
  (func (export "k8s.io/klog/logs") (param i32 i32 i32 i32 i32)
    (call $print_line (local.get 1) (local.get 2))
    (call $print_line (local.get 3) (local.get 4)))
  (func (export "k8s.io/scheduler/handle.eventrecorder.eventf") (param i32 i32) (call $print_line (local.get 0) (local.get 1)))
