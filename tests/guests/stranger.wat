;; Reaches for the session whose number lies at the eighth byte: `s` sends to it, `d` ends it. Answers with what it was
;; told: 0 where it was taken, one more than the error where not.
(import "wharf:server/server@0.1.0" "send-to" (func $send-to (param i64 i32 i32 i32)))
(import "wharf:server/server@0.1.0" "disconnect" (func $disconnect (param i64) (result i32)))
(func $on-read (param $data i32) (param $length i32) (result i32)
  (local $id i64)
  (if (i32.eq (i32.load8_u (local.get $data)) (i32.const 101)) (then
    (drop (call $try-write (local.get $data) (local.get $length)))
    (return (i32.const 0))))
  (local.set $id (i64.load offset=8 (local.get $data)))
  (if (i32.eq (i32.load8_u (local.get $data)) (i32.const 100))
    (then (i32.store8 (i32.const 1040) (i32.eqz (call $disconnect (local.get $id)))))
    (else
      (call $send-to (local.get $id) (local.get $data) (i32.const 1) (i32.const 1056))
      (i32.store8 (i32.const 1040)
        (i32.mul (i32.load8_u (i32.const 1056)) (i32.add (i32.load8_u (i32.const 1057)) (i32.const 1))))))
  (drop (call $try-write (i32.const 1040) (i32.const 1)))
  (i32.const 0))
