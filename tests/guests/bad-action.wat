;; Returns an action that does not exist.
(func $on-read (param $data i32) (param $length i32) (result i32) (i32.const 77))
