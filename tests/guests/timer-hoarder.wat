;; Sets a thousand timers and answers with the number it got, as one byte.
(func $on-read (param $data i32) (param $length i32) (result i32)
  (local $id i32) (local $got i32)
  (loop $more
    (local.set $got (i32.add (local.get $got)
      (call $set-timer (i32.add (local.get $id) (i32.const 100)) (i64.const 1000000))))
    (local.set $id (i32.add (local.get $id) (i32.const 1)))
    (br_if $more (i32.lt_u (local.get $id) (i32.const 1000))))
  (i32.store8 (i32.const 1040) (local.get $got))
  (drop (call $try-write (i32.const 1040) (i32.const 1)))
  (i32.const 0))
