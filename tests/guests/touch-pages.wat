;; Takes all the memory it is given and touches every page of it, says so with `d` and goes on.
(func $on-read (param $data i32) (param $length i32) (result i32)
  (local $at i32) (local $end i32)
  (loop $more (br_if $more (i32.ne (memory.grow (i32.const 16)) (i32.const -1))))
  (local.set $at (i32.const 131072))
  (local.set $end (i32.shl (memory.size) (i32.const 16)))
  (loop $touch
    (i32.store (local.get $at) (i32.const 1))
    (local.set $at (i32.add (local.get $at) (i32.const 4096)))
    (br_if $touch (i32.lt_u (local.get $at) (local.get $end))))
  (i32.store8 (i32.const 1040) (i32.const 100))
  (drop (call $try-write (i32.const 1040) (i32.const 1)))
  (i32.const 0))
