;; Writes nothing, for ever.
(func $on-read (param $data i32) (param $length i32) (result i32)
  (loop $more (drop (call $try-write (i32.const 0) (i32.const 0))) (br $more))
  unreachable)
