;; Answers each line in upper case, with the ending it came with (LF or CRLF). What comes without an ending is kept until the
;; rest arrives, or answered as it stands when the peer finishes sending. A line that is too long is refused.
;;
;; Memory: constants and results below 2048, the line so far at 0x10000, answers at 0x21000, and from 0x42000 on what the host
;; hands over, which is forgotten after each event.
(module
  ;; write(data, length, result): one byte at `result`, 0 where it was taken.
  (import "wharf:server/session@0.1.0" "write" (func $write (param i32 i32 i32)))
  ;; get(key, length, result): at `result` a byte, 0 for ok; at +4 a byte, 1 where there is a value; at +8 its place, at +12 its length.
  (import "wasi:config/store@0.2.0-rc.1" "get" (func $setting (param i32 i32 i32)))

  (memory (export "memory") 6)
  (data (i32.const 16) "line-max-bytes")
  (data (i32.const 32) "ERROR line longer than ")
  (data (i32.const 64) " bytes\0d\0a")
  (data (i32.const 80) "a partial line that is longer than any line may be")

  (global $line-max (mut i32) (i32.const 1024))
  (global $line-length (mut i32) (i32.const 0))
  (global $answers-end (mut i32) (i32.const 0x21000))
  (global $heap (mut i32) (i32.const 0x42000))

  ;; Where the host puts what it hands over.
  (func (export "cabi_realloc") (param $old i32) (param $old-size i32) (param $align i32) (param $size i32) (result i32)
    (local $at i32)
    (local.set $at (i32.and
      (i32.add (global.get $heap) (i32.sub (local.get $align) (i32.const 1)))
      (i32.sub (i32.const 0) (local.get $align))))
    (global.set $heap (i32.add (local.get $at) (local.get $size)))
    (if (i32.gt_u (global.get $heap) (i32.shl (memory.size) (i32.const 16)))
      (then (if (i32.eq (i32.const -1)
          (memory.grow (i32.add (i32.shr_u (local.get $size) (i32.const 16)) (i32.const 1))))
        (then unreachable))))
    (local.get $at))

  (func $forget (global.set $heap (i32.const 0x42000)))

  ;; Reads the setting, a number from 1 to 65536; what is none leaves the default.
  (func $read-settings
    (local $at i32) (local $end i32) (local $value i32) (local $digit i32)
    (call $setting (i32.const 16) (i32.const 14) (i32.const 1024))
    (if (i32.or (i32.load8_u (i32.const 1024)) (i32.eqz (i32.load8_u (i32.const 1028)))) (then return))
    (local.set $at (i32.load (i32.const 1032)))
    (local.set $end (i32.add (local.get $at) (i32.load (i32.const 1036))))
    (if (i32.eq (local.get $at) (local.get $end)) (then return))
    (loop $digits
      (local.set $digit (i32.sub (i32.load8_u (local.get $at)) (i32.const 48)))
      (if (i32.gt_u (local.get $digit) (i32.const 9)) (then return))
      (local.set $value (i32.add (i32.mul (local.get $value) (i32.const 10)) (local.get $digit)))
      (if (i32.gt_u (local.get $value) (i32.const 65536)) (then (local.set $value (i32.const 65536))))
      (local.set $at (i32.add (local.get $at) (i32.const 1)))
      (br_if $digits (i32.lt_u (local.get $at) (local.get $end))))
    (global.set $line-max (select (local.get $value) (i32.const 1) (local.get $value))))

  (func $answer (param $byte i32)
    (i32.store8 (global.get $answers-end) (local.get $byte))
    (global.set $answers-end (i32.add (global.get $answers-end) (i32.const 1))))

  (func $answer-text (param $at i32) (param $length i32)
    (memory.copy (global.get $answers-end) (local.get $at) (local.get $length))
    (global.set $answers-end (i32.add (global.get $answers-end) (local.get $length))))

  (func $answer-number (param $number i32)
    (if (i32.ge_u (local.get $number) (i32.const 10))
      (then (call $answer-number (i32.div_u (local.get $number) (i32.const 10)))))
    (call $answer (i32.add (i32.const 48) (i32.rem_u (local.get $number) (i32.const 10)))))

  ;; The line so far in upper case; it starts afresh.
  (func $answer-line
    (local $at i32) (local $end i32) (local $byte i32)
    (local.set $at (i32.const 0x10000))
    (local.set $end (i32.add (local.get $at) (global.get $line-length)))
    (block $done (loop $bytes
      (br_if $done (i32.eq (local.get $at) (local.get $end)))
      (local.set $byte (i32.load8_u (local.get $at)))
      (if (i32.lt_u (i32.sub (local.get $byte) (i32.const 97)) (i32.const 26))
        (then (local.set $byte (i32.sub (local.get $byte) (i32.const 32)))))
      (call $answer (local.get $byte))
      (local.set $at (i32.add (local.get $at) (i32.const 1)))
      (br $bytes)))
    (global.set $line-length (i32.const 0)))

  ;; The length of the line without its ending. A CR that may turn out to be half of one does not count.
  (func $content-length (result i32)
    (local $end i32)
    (local.set $end (i32.add (i32.const 0x10000) (global.get $line-length)))
    (local.set $end (i32.sub (local.get $end)
      (i32.eq (i32.load8_u (i32.sub (local.get $end) (i32.const 1))) (i32.const 10))))
    (if (i32.gt_u (local.get $end) (i32.const 0x10000)) (then
      (local.set $end (i32.sub (local.get $end)
        (i32.eq (i32.load8_u (i32.sub (local.get $end) (i32.const 1))) (i32.const 13))))))
    (i32.sub (local.get $end) (i32.const 0x10000)))

  ;; Sends the answers, if there are any: 0 (proceed), or 1 (close) where they were not taken.
  (func $send (result i32)
    (local $length i32)
    (local.set $length (i32.sub (global.get $answers-end) (i32.const 0x21000)))
    (global.set $answers-end (i32.const 0x21000))
    (if (i32.eqz (local.get $length)) (then (return (i32.const 0))))
    (call $write (i32.const 0x21000) (local.get $length) (i32.const 1024))
    (i32.ne (i32.load8_u (i32.const 1024)) (i32.const 0)))

  (func $on-connect (export "wharf:server/inet-event-proc@0.1.0#on-connect") (param $client i32) (result i32)
    (call $read-settings)
    (call $forget)
    (i32.const 0))

  (func $on-read (export "wharf:server/inet-event-proc@0.1.0#on-read") (param $at i32) (param $length i32) (result i32)
    (local $end i32) (local $byte i32)
    (local.set $end (i32.add (local.get $at) (local.get $length)))
    (loop $bytes
      (local.set $byte (i32.load8_u (local.get $at)))
      (i32.store8 (i32.add (i32.const 0x10000) (global.get $line-length)) (local.get $byte))
      (global.set $line-length (i32.add (global.get $line-length) (i32.const 1)))
      (if (i32.gt_u (call $content-length) (global.get $line-max)) (then
        (call $answer-text (i32.const 32) (i32.const 23))
        (call $answer-number (global.get $line-max))
        (call $answer-text (i32.const 64) (i32.const 8))
        (drop (call $send))
        (call $forget)
        (return (i32.const 1))))
      (if (i32.eq (local.get $byte) (i32.const 10)) (then (call $answer-line)))
      (local.set $at (i32.add (local.get $at) (i32.const 1)))
      (br_if $bytes (i32.lt_u (local.get $at) (local.get $end))))
    (call $forget)
    (call $send))

  (func $on-write (export "wharf:server/inet-event-proc@0.1.0#on-write") (result i32) (i32.const 0))
  (func $on-timeout (export "wharf:server/inet-event-proc@0.1.0#on-timeout") (param $idle-ms i64) (result i32) (i32.const 0))
  (func $on-timer (export "wharf:server/inet-event-proc@0.1.0#on-timer") (param $id i32) (result i32) (i32.const 0))

  (func $on-end (export "wharf:server/inet-event-proc@0.1.0#on-end") (result i32)
    (call $answer-line)
    (drop (call $send))
    (i32.const 1))

  (func $on-disconnect (export "wharf:server/inet-event-proc@0.1.0#on-disconnect") (param $reason i32))

  ;; What a session is, between two events: the line that has not ended yet.
  (func $save (export "wharf:server/handoff@0.1.0#save") (result i32)
    (i32.store (i32.const 1040) (i32.const 0x10000))
    (i32.store (i32.const 1044) (global.get $line-length))
    (i32.const 1040))

  ;; The result is a byte, 0 for ok; for an error the place and length of its text are at +4 and +8.
  (func $restore (export "wharf:server/handoff@0.1.0#restore")
    (param $version i32) (param $version-length i32) (param $state i32) (param $length i32) (result i32)
    (if (i32.gt_u (local.get $length) (i32.const 65537)) (then
      (i32.store8 (i32.const 1056) (i32.const 1))
      (i32.store (i32.const 1060) (i32.const 80))
      (i32.store (i32.const 1064) (i32.const 50))
      (return (i32.const 1056))))
    (memory.copy (i32.const 0x10000) (local.get $state) (local.get $length))
    (global.set $line-length (local.get $length))
    (call $read-settings)
    (call $forget)
    (i32.store8 (i32.const 1056) (i32.const 0))
    (i32.const 1056))
)
