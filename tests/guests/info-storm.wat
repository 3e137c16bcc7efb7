;; Asks who its client is for ever.
(import "wharf:server/session@0.1.0" "info" (func $info (param i32)))
(func $on-read (param $data i32) (param $length i32) (result i32)
  (loop $more
    (call $info (i32.const 2048))
    (global.set $heap (i32.const 65536))
    (br $more))
  unreachable)
