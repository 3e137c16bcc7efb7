;; Calls itself until the stack ends.
(func $deeper (param $depth i64) (result i64)
  (i64.add (local.get $depth) (call $deeper (i64.add (local.get $depth) (i64.const 1)))))
(func $on-read (param $data i32) (param $length i32) (result i32)
  (drop (call $deeper (i64.const 0)))
  (i32.const 0))
