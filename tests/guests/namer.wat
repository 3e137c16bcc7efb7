;; Takes a name, or looks for one, that lies where its client says: the first byte is `n` or `f`, the second the distance
;; from the eighth byte, and at the fourth is the length. Answers with 0 where it was taken or found, else one more than
;; the error.
(import "wharf:server/server@0.1.0" "set-name" (func $set-name (param i32 i32 i32)))
(import "wharf:server/server@0.1.0" "find" (func $find (param i32 i32 i32)))
(func $on-read (param $data i32) (param $length i32) (result i32)
  (local $at i32)
  (local.set $at (i32.add (i32.add (local.get $data) (i32.const 8)) (i32.load8_u offset=1 (local.get $data))))
  (if (i32.eq (i32.load8_u (local.get $data)) (i32.const 110))
    (then
      (call $set-name (local.get $at) (i32.load offset=4 (local.get $data)) (i32.const 1056))
      (i32.store8 (i32.const 1040)
        (i32.mul (i32.load8_u (i32.const 1056)) (i32.add (i32.load8_u (i32.const 1057)) (i32.const 1)))))
    (else
      (call $find (local.get $at) (i32.load offset=4 (local.get $data)) (i32.const 1056))
      (i32.store8 (i32.const 1040) (i32.eqz (i32.load8_u (i32.const 1056))))))
  (drop (call $try-write (i32.const 1040) (i32.const 1)))
  (i32.const 0))
