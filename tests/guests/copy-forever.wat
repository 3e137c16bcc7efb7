;; Fills and copies all the memory it may have, for ever: few operators, much time.
(func $on-read (param $data i32) (param $length i32) (result i32)
  (drop (memory.grow (i32.const 500)))
  (loop $more
    (memory.fill (i32.const 131072) (i32.const 7) (i32.const 16777216))
    (memory.copy (i32.const 131072) (i32.const 16908288) (i32.const 15728640))
    (br $more))
  unreachable)
