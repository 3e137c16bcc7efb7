;; Asks for as many random bytes as it may have in a call, for ever.
(import "wasi:random/random@0.2.6" "get-random-bytes" (func $random (param i64 i32)))
(func $on-read (param $data i32) (param $length i32) (result i32)
  (loop $more
    (call $random (i64.const 65536) (i32.const 1056))
    (global.set $heap (i32.const 65536))
    (br $more))
  unreachable)
