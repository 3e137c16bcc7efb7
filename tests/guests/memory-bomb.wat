;; Grows its memory until it gets no more, then dies of it.
(func $on-read (param $data i32) (param $length i32) (result i32)
  (loop $more
    (br_if $more (i32.ne (memory.grow (i32.const 16)) (i32.const -1))))
  unreachable)
