;; Asks for no memory, for ever, and always gets it.
(func $on-read (param $data i32) (param $length i32) (result i32)
  (loop $more (drop (memory.grow (i32.const 0))) (br $more))
  unreachable)
