;; Wants a giant table where it begins with G. Else one that is a bit too large, and then one piece after the other: `r`
;; where it was refused each time and told so, and a trap where it begins with T.
(table $all 1 funcref)
(func $on-read (param $data i32) (param $length i32) (result i32)
  (if (i32.eq (i32.load8_u (local.get $data)) (i32.const 71))
    (then (return (i32.ne (table.grow $all (ref.null func) (i32.const -2)) (i32.const -1)))))
  (if (i32.ne (table.grow $all (ref.null func) (i32.const 10000)) (i32.const -1)) (then (return (i32.const 2))))
  (loop $more (br_if $more (i32.ne (table.grow $all (ref.null func) (i32.const 101)) (i32.const -1))))
  (if (i32.ne (table.size $all) (i32.const 10000)) (then (return (i32.const 2))))
  (if (i32.eq (i32.load8_u (local.get $data)) (i32.const 84)) (then unreachable))
  (i32.store8 (i32.const 1040) (i32.const 114))
  (drop (call $try-write (i32.const 1040) (i32.const 1)))
  (i32.const 0))
