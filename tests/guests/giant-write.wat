;; Writes a megabyte and a bit, which is over the limit of one host call.
(func $on-read (param $data i32) (param $length i32) (result i32)
  (drop (memory.grow (i32.const 32)))
  (drop (call $try-write (i32.const 0) (i32.const 1048577)))
  (i32.const 0))
