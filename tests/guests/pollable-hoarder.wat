;; Takes handles that wait for a far future and gives none back.
(import "wasi:clocks/monotonic-clock@0.2.6" "subscribe-duration" (func $subscribe (param i64) (result i32)))
(func $on-read (param $data i32) (param $length i32) (result i32)
  (loop $more (drop (call $subscribe (i64.const 1000000000000))) (br $more))
  unreachable)
