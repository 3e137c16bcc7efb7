;; Hands the host 128 MiB in one call.
(func $on-read (param $data i32) (param $length i32) (result i32)
  (if (i32.eq (memory.grow (i32.const 2046)) (i32.const -1)) (then (return (i32.const 2))))
  (drop (call $try-write (i32.const 0) (i32.const 134217728)))
  (i32.const 0))
