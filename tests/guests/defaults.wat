;; The handlers of a well-behaved guest. See prelude.wat.
(func $on-connect (param $client i32) (result i32)
  (drop (call $set-timer (i32.const 1) (i64.const 30)))
  (i32.const 0))

(func $on-read (param $data i32) (param $length i32) (result i32)
  (local $order i32)
  (local.set $order (i32.load8_u (local.get $data)))
  (if (i32.eq (local.get $order) (i32.const 67)) (then (return (i32.const 1))))
  (if (i32.eq (local.get $order) (i32.const 65)) (then (return (i32.const 2))))
  (if (i32.eq (local.get $order) (i32.const 70)) (then
    (loop $more
      (drop (call $try-write (i32.const 2048) (i32.const 32768)))
      (br_if $more (call $write-capacity)))
    (return (i32.const 0))))
  (drop (call $try-write (local.get $data) (local.get $length)))
  (i32.const 0))

(func $on-write (result i32)
  (i32.store8 (i32.const 1040) (i32.const 119))
  (drop (call $try-write (i32.const 1040) (i32.const 1)))
  (i32.const 0))

(func $on-timeout (param $idle i64) (result i32) (i32.const 0))
(func $on-timer (param $id i32) (result i32) (i32.const 0))
(func $on-end (result i32) (i32.const 1))
(func $on-disconnect (param $reason i32))
