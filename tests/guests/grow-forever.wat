;; Asks for memory for ever, and is told no for ever: next to no fuel, all of the time.
(func $on-read (param $data i32) (param $length i32) (result i32)
  (loop $more (drop (memory.grow (i32.const 1))) (br $more))
  unreachable)
