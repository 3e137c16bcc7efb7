;; Spends nearly all that an event may spend on every read, then answers with its bytes.
(func $on-read (param $data i32) (param $length i32) (result i32)
  (local $i i32)
  (loop $more
    (local.set $i (i32.add (local.get $i) (i32.const 1)))
    (br_if $more (i32.lt_u (local.get $i) (i32.const 5000000))))
  (drop (call $try-write (local.get $data) (local.get $length)))
  (i32.const 0))
