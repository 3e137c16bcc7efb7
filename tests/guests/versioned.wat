;; Counts the bytes of its session, in a state that moves with it. Answers each with LABEL, the byte, and how many there were
;; by then, modulo 256. There may be something bad in two places.
(global $count (mut i32) (i32.const 0))
(func $on-connect (param $client i32) (result i32) (i32.const 0))
(func $on-write (result i32) (i32.const 0))
(func $on-read (param $data i32) (param $length i32) (result i32)
  (local $i i32) (local $at i32)
  (local.set $at (i32.const 2048))
  (loop $more
    (global.set $count (i32.add (global.get $count) (i32.const 1)))
    (i32.store8 (local.get $at) (i32.const LABEL))
    (i32.store8 offset=1 (local.get $at) (i32.load8_u (i32.add (local.get $data) (local.get $i))))
    (i32.store8 offset=2 (local.get $at) (global.get $count))
    (local.set $at (i32.add (local.get $at) (i32.const 3)))
    (if (i32.ge_u (local.get $at) (i32.const 14336)) (then
      (drop (call $try-write (i32.const 2048) (i32.sub (local.get $at) (i32.const 2048))))
      (local.set $at (i32.const 2048))))
    (local.set $i (i32.add (local.get $i) (i32.const 1)))
    (br_if $more (i32.lt_u (local.get $i) (local.get $length))))
  (drop (call $try-write (i32.const 2048) (i32.sub (local.get $at) (i32.const 2048))))
  (i32.const 0))
(func $on-timer (param $id i32) (result i32)
  (i32.store8 (i32.const 1040) (i32.const LABEL))
  (i32.store8 (i32.const 1041) (local.get $id))
  (drop (call $try-write (i32.const 1040) (i32.const 2)))
  (i32.const 0))
;; Where the list is: its address and its length.
(func $save (result i32)
  SAVE
  (i32.store (i32.const 1048) (global.get $count))
  (i32.store (i32.const 1056) (i32.const 1048))
  (i32.store (i32.const 1060) (i32.const 4))
  (i32.const 1056))
;; Where the result is: 0, or 1 and a string.
(func $restore (param $version i32) (param $version-length i32) (param $state i32) (param $length i32) (result i32)
  (i32.store (i32.const 1064) (i32.const 0))
  (global.set $count (i32.load (local.get $state)))
  RESTORE
  (i32.const 1064))
