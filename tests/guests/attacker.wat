;; Burns what costs its host more than itself, as the first byte says, then answers with it.
;;   B  broadcasts 4 KiB a hundred times   L  prints 2,000 lines
;;   T  keeps 64 timers of a millisecond   W  writes until nothing more fits
(import "wharf:server/server@0.1.0" "broadcast" (func $broadcast (param i32 i32) (result i32)))
(import "wasi:cli/stdout@0.2.6" "get-stdout" (func $get-stdout (result i32)))
(import "wasi:io/streams@0.2.6" "[method]output-stream.write" (func $print (param i32 i32 i32 i32)))
(global $out (mut i32) (i32.const -1))
(func $on-connect (param $client i32) (result i32) (i32.const 0))
(func $on-write (result i32) (i32.const 0))
(func $on-timer (param $id i32) (result i32)
  (drop (call $set-timer (local.get $id) (i64.const 1)))
  (i32.const 0))
(func $on-read (param $data i32) (param $length i32) (result i32)
  (local $what i32) (local $i i32)
  (local.set $what (i32.load8_u (local.get $data)))
  (if (i32.eq (local.get $what) (i32.const 66)) (then
    (loop $more
      (drop (call $broadcast (i32.const 4096) (i32.const 4096)))
      (local.set $i (i32.add (local.get $i) (i32.const 1)))
      (br_if $more (i32.lt_u (local.get $i) (i32.const 100))))))
  (if (i32.eq (local.get $what) (i32.const 76)) (then
    (if (i32.eq (global.get $out) (i32.const -1)) (then (global.set $out (call $get-stdout))))
    (memory.fill (i32.const 4096) (i32.const 120) (i32.const 80))
    (i32.store8 (i32.const 4176) (i32.const 10))
    (loop $more
      (call $print (global.get $out) (i32.const 4096) (i32.const 81) (i32.const 1056))
      (local.set $i (i32.add (local.get $i) (i32.const 1)))
      (br_if $more (i32.lt_u (local.get $i) (i32.const 2000))))))
  (if (i32.eq (local.get $what) (i32.const 84)) (then
    (loop $more
      (local.set $i (i32.add (local.get $i) (i32.const 1)))
      (drop (call $set-timer (local.get $i) (i64.const 1)))
      (br_if $more (i32.lt_u (local.get $i) (i32.const 64))))))
  (if (i32.eq (local.get $what) (i32.const 87)) (then
    (loop $more
      (drop (call $try-write (i32.const 4096) (i32.const 16384)))
      (br_if $more (i32.ge_u (call $write-capacity) (i32.const 16384))))))
  (drop (call $try-write (local.get $data) (i32.const 1)))
  (i32.const 0))
