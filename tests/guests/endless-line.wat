;; Prints ten megabytes without an end of line, then answers with `k`.
(import "wasi:cli/stdout@0.2.6" "get-stdout" (func $get-stdout (result i32)))
(import "wasi:io/streams@0.2.6" "[method]output-stream.write" (func $print (param i32 i32 i32 i32)))
(func $on-read (param $data i32) (param $length i32) (result i32)
  (local $out i32) (local $i i32)
  (local.set $out (call $get-stdout))
  (loop $more
    (call $print (local.get $out) (i32.const 65536) (i32.const 65536) (i32.const 1056))
    (local.set $i (i32.add (local.get $i) (i32.const 1)))
    (br_if $more (i32.lt_u (local.get $i) (i32.const 160))))
  (i32.store8 (i32.const 1040) (i32.const 107))
  (drop (call $try-write (i32.const 1040) (i32.const 1)))
  (i32.const 0))
