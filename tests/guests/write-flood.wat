;; Writes for ever, whatever the peer reads.
(func $on-read (param $data i32) (param $length i32) (result i32)
  (loop $more
    (br_if $more (i32.eqz (call $try-write (i32.const 2048) (i32.const 65536)))))
  (i32.const 0))
