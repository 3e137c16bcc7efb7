;; Burns what the first byte says, then answers with it; T traps, X closes when it is done.
;;   L loops   M copies memory in bulk   R walks memory at random   P touches fresh pages   G grows page by page
;;   H calls the host   W writes until nothing more fits
(func $on-read (param $data i32) (param $length i32) (result i32)
  (local $what i32) (local $i i32) (local $at i32) (local $end i32)
  (local.set $what (i32.load8_u (local.get $data)))
  (if (i32.eq (local.get $what) (i32.const 84)) (then unreachable))
  (if (i32.eq (local.get $what) (i32.const 76)) (then
    (loop $more
      (local.set $i (i32.add (local.get $i) (i32.const 1)))
      (br_if $more (i32.lt_u (local.get $i) (i32.const 20000000))))))
  (if (i32.or (i32.eq (local.get $what) (i32.const 77)) (i32.eq (local.get $what) (i32.const 82))) (then
    (if (i32.lt_u (memory.size) (i32.const 260)) (then (drop (memory.grow (i32.const 258)))))))
  (if (i32.eq (local.get $what) (i32.const 77)) (then
    (loop $more
      (memory.copy (i32.const 131072) (i32.const 8519680) (i32.const 8388608))
      (local.set $i (i32.add (local.get $i) (i32.const 1)))
      (br_if $more (i32.lt_u (local.get $i) (i32.const 10))))))
  (if (i32.eq (local.get $what) (i32.const 82)) (then
    (loop $more
      (local.set $at (i32.add (i32.mul (local.get $at) (i32.const 1664525)) (i32.const 1013904223)))
      (local.set $end (i32.add (i32.const 131072) (i32.shr_u (local.get $at) (i32.const 8))))
      (i32.store (local.get $end) (i32.add (i32.load (local.get $end)) (i32.const 1)))
      (local.set $i (i32.add (local.get $i) (i32.const 1)))
      (br_if $more (i32.lt_u (local.get $i) (i32.const 1000000))))))
  (if (i32.eq (local.get $what) (i32.const 80)) (then
    (drop (memory.grow (i32.const 400)))
    (local.set $end (i32.shl (memory.size) (i32.const 16)))
    (local.set $at (i32.const 131072))
    (loop $more
      (i32.store (local.get $at) (i32.const 1))
      (local.set $at (i32.add (local.get $at) (i32.const 4096)))
      (br_if $more (i32.lt_u (local.get $at) (local.get $end))))))
  (if (i32.eq (local.get $what) (i32.const 71)) (then
    (loop $more (br_if $more (i32.ne (i32.const -1) (memory.grow (i32.const 1)))))))
  (if (i32.eq (local.get $what) (i32.const 72)) (then
    (loop $more
      (drop (call $write-capacity))
      (local.set $i (i32.add (local.get $i) (i32.const 1)))
      (br_if $more (i32.lt_u (local.get $i) (i32.const 100000))))))
  (if (i32.eq (local.get $what) (i32.const 87)) (then
    (loop $more
      (drop (call $try-write (i32.const 2048) (i32.const 16384)))
      (br_if $more (i32.ge_u (call $write-capacity) (i32.const 16384))))))
  (drop (call $try-write (local.get $data) (i32.const 1)))
  ;; Those that are over after one go.
  (i32.or (i32.eq (local.get $what) (i32.const 80)) (i32.eq (local.get $what) (i32.const 71))))
