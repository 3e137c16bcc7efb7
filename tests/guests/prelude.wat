;; What every guest of these tests starts from. A guest's file replaces handlers by defining a function of the same
;; name; those it does not define are the ones below. They obey the first byte of what arrives:
;;
;;   F  fill the send buffer to its high-water mark      C  close      A  abort
;;   W  close by writing, then write again               anything else: echo
(import "wharf:server/session@0.1.0" "write" (func $write (param i32 i32 i32)))
(import "wharf:server/session@0.1.0" "write-capacity" (func $write-capacity (result i32)))
(import "wharf:server/session@0.1.0" "set-timer" (func $set-timer (param i32 i64) (result i32)))
(import "wharf:server/session@0.1.0" "set-priority" (func $set-priority (param i32) (result i32)))
(memory (export "memory") 2)
(global $heap (mut i32) (i32.const 65536))

;; Allocates upwards from the second page; every handler forgets it all when it is done.
(func (export "cabi_realloc") (param $old i32) (param $old-size i32) (param $align i32) (param $size i32) (result i32)
  (local $at i32) (local $end i32)
  (local.set $at (i32.and (i32.add (global.get $heap) (i32.const 7)) (i32.const -8)))
  (local.set $end (i32.add (local.get $at) (local.get $size)))
  (if (i32.gt_u (local.get $end) (i32.shl (memory.size) (i32.const 16)))
    (then (if (i32.eq (i32.const -1)
        (memory.grow (i32.add (i32.shr_u (local.get $size) (i32.const 16)) (i32.const 1))))
      (then unreachable))))
  (global.set $heap (local.get $end))
  (local.get $at))

;; Writes; 0 where it was taken, 1 plus the error's number where not.
(func $try-write (param $data i32) (param $length i32) (result i32)
  (call $write (local.get $data) (local.get $length) (i32.const 1024))
  (if (result i32) (i32.load8_u (i32.const 1024))
    (then (i32.add (i32.load8_u (i32.const 1025)) (i32.const 1)))
    (else (i32.const 0))))

(func $spin (loop $forever (br $forever)))
