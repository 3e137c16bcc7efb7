;; Stays after the peer's end, and answers from a timer.
(func $on-end (result i32)
  (drop (call $set-timer (i32.const 2) (i64.const 50)))
  (i32.const 0))
(func $on-timer (param $id i32) (result i32)
  (if (i32.ne (local.get $id) (i32.const 2)) (then (return (i32.const 0))))
  (i32.store (i32.const 1040) (i32.const 0x6574616c))
  (drop (call $try-write (i32.const 1040) (i32.const 4)))
  (i32.const 1))
