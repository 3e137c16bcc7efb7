;; Hands out a pointer to memory it does not have.
(func $on-read (param $data i32) (param $length i32) (result i32)
  (drop (call $try-write (i32.const 0x7fff0000) (i32.const 64)))
  (i32.const 0))
