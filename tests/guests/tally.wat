;; Counts what all sessions of its instance have sent, from '1' on, and answers with the digit.
;;   T traps   L loops for a while first   B writes for ever, as often as the peer reads
(global $count (mut i32) (i32.const 48))
(func $on-read (param $data i32) (param $length i32) (result i32)
  (local $what i32) (local $i i32)
  (local.set $what (i32.load8_u (local.get $data)))
  (if (i32.eq (local.get $what) (i32.const 84)) (then unreachable))
  (if (i32.eq (local.get $what) (i32.const 76)) (then
    (loop $more
      (local.set $i (i32.add (local.get $i) (i32.const 1)))
      (br_if $more (i32.lt_u (local.get $i) (i32.const 5000000))))))
  (if (i32.eq (local.get $what) (i32.const 66)) (then
    (loop $more
      (br_if $more (i32.eqz (call $try-write (i32.const 2048) (i32.const 16384)))))))
  (global.set $count (i32.add (global.get $count) (i32.const 1)))
  (i32.store8 (i32.const 1040) (global.get $count))
  (drop (call $try-write (i32.const 1040) (i32.const 1)))
  (i32.const 0))
