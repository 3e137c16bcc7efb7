;; Numbers what its session sends, in a state that moves with it: each byte is answered with how many there were by then, as four
;; bytes with the lowest first, and with the byte itself.
(module
  (import "wharf:server/session@0.1.0" "write" (func $write (param i32 i32 i32)))
  (memory (export "memory") 8)
  (global $count (mut i32) (i32.const 0))
  (global $heap (mut i32) (i32.const 0x60000))

  ;; Where the host puts what it hands over, up to the end of the memory. It is forgotten after each event.
  (func (export "cabi_realloc") (param $old i32) (param $old-size i32) (param $align i32) (param $size i32) (result i32)
    (local $at i32)
    (local.set $at (i32.and
      (i32.add (global.get $heap) (i32.sub (local.get $align) (i32.const 1)))
      (i32.sub (i32.const 0) (local.get $align))))
    (global.set $heap (i32.add (local.get $at) (local.get $size)))
    (if (i32.gt_u (global.get $heap) (i32.const 0x80000)) (then unreachable))
    (local.get $at))
  (func $forget (global.set $heap (i32.const 0x60000)))

  (func $on-connect (export "wharf:server/inet-event-proc@0.1.0#on-connect") (param $client i32) (result i32)
    (call $forget)
    (i32.const 0))

  ;; Answers are at 0x10000: there is room for those to 65,536 bytes at once.
  (func $on-read (export "wharf:server/inet-event-proc@0.1.0#on-read") (param $data i32) (param $length i32) (result i32)
    (local $end i32) (local $at i32)
    (local.set $end (i32.add (local.get $data) (local.get $length)))
    (local.set $at (i32.const 0x10000))
    (loop $bytes
      (global.set $count (i32.add (global.get $count) (i32.const 1)))
      (i32.store (local.get $at) (global.get $count))
      (i32.store8 offset=4 (local.get $at) (i32.load8_u (local.get $data)))
      (local.set $at (i32.add (local.get $at) (i32.const 5)))
      (local.set $data (i32.add (local.get $data) (i32.const 1)))
      (br_if $bytes (i32.lt_u (local.get $data) (local.get $end))))
    (call $write (i32.const 0x10000) (i32.sub (local.get $at) (i32.const 0x10000)) (i32.const 1024))
    (call $forget)
    (i32.ne (i32.load8_u (i32.const 1024)) (i32.const 0)))

  (func $on-write (export "wharf:server/inet-event-proc@0.1.0#on-write") (result i32) (i32.const 0))
  (func $on-timeout (export "wharf:server/inet-event-proc@0.1.0#on-timeout") (param $idle-ms i64) (result i32) (i32.const 0))
  (func $on-timer (export "wharf:server/inet-event-proc@0.1.0#on-timer") (param $id i32) (result i32) (i32.const 0))
  (func $on-end (export "wharf:server/inet-event-proc@0.1.0#on-end") (result i32) (i32.const 1))
  (func $on-disconnect (export "wharf:server/inet-event-proc@0.1.0#on-disconnect") (param $reason i32))

  ;; Where the state is, and its length.
  (func $save (export "wharf:server/handoff@0.1.0#save") (result i32)
    (i32.store (i32.const 1040) (global.get $count))
    (i32.store (i32.const 1048) (i32.const 1040))
    (i32.store (i32.const 1052) (i32.const 4))
    (i32.const 1048))

  ;; 0 at 1056 is ok.
  (func $restore (export "wharf:server/handoff@0.1.0#restore")
    (param $version i32) (param $version-length i32) (param $state i32) (param $length i32) (result i32)
    (global.set $count (i32.load (local.get $state)))
    (call $forget)
    (i32.store8 (i32.const 1056) (i32.const 0))
    (i32.const 1056))
)
