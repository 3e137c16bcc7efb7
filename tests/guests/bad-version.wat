;; A version to which sessions of others move badly, and which does something bad with each read. It
;; writes nothing.
(func $on-connect (param $client i32) (result i32) (i32.const 0))
(func $on-write (result i32) (i32.const 0))
(func $on-read (param $data i32) (param $length i32) (result i32)
  READ
  (i32.const 1))
;; Four bytes that no other version saves, so that a session of its own is restored. A good version may
;; answer with them; a load test takes such bytes for those of an operator.
(func $save (result i32)
  (i32.store (i32.const 1048) (i32.const 0xffffffff))
  (i32.store (i32.const 1056) (i32.const 1048))
  (i32.store (i32.const 1060) (i32.const 4))
  (i32.const 1056))
(func $restore (param $version i32) (param $version-length i32) (param $state i32) (param $length i32) (result i32)
  (i32.store (i32.const 1064) (i32.const 0))
  (if (i32.eq (local.get $length) (i32.const 4))
    (then (if (i32.eq (i32.load (local.get $state)) (i32.const 0xffffffff)) (then (return (i32.const 1064))))))
  RESTORE
  (i32.const 1064))
