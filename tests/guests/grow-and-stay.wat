;; Grows until it is told no, asks a hundred times more, and answers with `n` and how often it was told so.
(func $on-read (param $data i32) (param $length i32) (result i32)
  (local $i i32) (local $refused i32)
  (loop $more (br_if $more (i32.ne (memory.grow (i32.const 16)) (i32.const -1))))
  (loop $again
    (local.set $refused (i32.add (local.get $refused) (i32.eq (memory.grow (i32.const 16)) (i32.const -1))))
    (local.set $i (i32.add (local.get $i) (i32.const 1)))
    (br_if $again (i32.lt_u (local.get $i) (i32.const 100))))
  (i32.store8 (i32.const 1040) (i32.const 110))
  (i32.store8 (i32.const 1041) (local.get $refused))
  (drop (call $try-write (i32.const 1040) (i32.const 2)))
  (i32.const 0))
