;; Sets eight timers, each 25 ms after the one before, the last one first; answers with the number of each when it fires.
(func $on-connect (param $client i32) (result i32)
  (local $id i32)
  (local.set $id (i32.const 8))
  (loop $more
    (drop (call $set-timer (local.get $id) (i64.mul (i64.extend_i32_u (local.get $id)) (i64.const 25))))
    (local.set $id (i32.sub (local.get $id) (i32.const 1)))
    (br_if $more (local.get $id)))
  (i32.const 0))
(func $on-timer (param $id i32) (result i32)
  (i32.store8 (i32.const 1040) (i32.add (local.get $id) (i32.const 48)))
  (drop (call $try-write (i32.const 1040) (i32.const 1)))
  (i32.const 0))
