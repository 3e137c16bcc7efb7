;; Prints a line of one letter for ever.
(import "wasi:cli/stdout@0.2.6" "get-stdout" (func $get-stdout (result i32)))
(import "wasi:io/streams@0.2.6" "[method]output-stream.write" (func $print (param i32 i32 i32 i32)))
(func $on-read (param $data i32) (param $length i32) (result i32)
  (local $out i32)
  (local.set $out (call $get-stdout))
  (i32.store16 (i32.const 1040) (i32.const 0x0a78)) ;; "x" and the end of the line
  (loop $more (call $print (local.get $out) (i32.const 1040) (i32.const 2) (i32.const 1056)) (br $more))
  unreachable)
