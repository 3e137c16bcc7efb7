;; Waits for what never comes.
(import "wasi:clocks/monotonic-clock@0.2.6" "subscribe-duration" (func $subscribe (param i64) (result i32)))
(import "wasi:io/poll@0.2.6" "[method]pollable.block" (func $block (param i32)))
(func $on-read (param $data i32) (param $length i32) (result i32)
  (call $block (call $subscribe (i64.const -1)))
  (i32.const 0))
