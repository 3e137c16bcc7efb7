;; Writes in on-disconnect, when nothing can be written any more, and traps if anything but that comes back.
(func $on-disconnect (param $reason i32)
  (if (i32.ne (call $try-write (i32.const 2048) (i32.const 5)) (i32.const 1)) (then unreachable))
  (if (call $write-capacity) (then unreachable)))
