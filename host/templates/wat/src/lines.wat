;; Answers each line in upper case.
;;
;; A line ends with LF or CRLF, and its answer has the same ending. A line without an ending is kept
;; until the rest arrives. If the peer finishes sending first, the line is answered as it is.
;;
;; The setting `line-max-bytes` limits a line: 1 to 65,536 bytes, default 1,024, endings not
;; counted. A longer line is refused with a message, and the session closes.
;;
;; Memory, by address:
;;
;; - 0: constants, and results of host calls.
;; - 2048: the text of an error message.
;; - 0x10000: bytes without an answer.
;; - 0x42000: values that the host passes, which are forgotten after each event.
(module
  ;; write(data, length, result): stores a byte at `result`, 0 if the bytes were taken.
  (import "wharf:server/session@0.1.0" "write" (func $write (param i32 i32 i32)))
  ;; get(key, length, result): stores at `result` a byte, 0 for ok. If the byte at +4 is 1, there is
  ;; a value, with its address at +8 and its length at +12.
  (import "wasi:config/store@0.2.0-rc.1" "get" (func $setting (param i32 i32 i32)))

  (memory (export "memory") 6)
  (data (i32.const 16) "line-max-bytes")
  (data (i32.const 32) "ERROR line longer than ")
  (data (i32.const 64) " bytes\0d\0a")
  (data (i32.const 80) "a partial line that is longer than any line may be")

  (global $line-max (mut i32) (i32.const 1024))
  (global $line-length (mut i32) (i32.const 0))
  (global $words-end (mut i32) (i32.const 2048))
  (global $heap (mut i32) (i32.const 0x42000))

  ;; Memory for values that the host passes.
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

  ;; Reads the setting, a number from 1 to 65536. Any other text leaves the default.
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

  (func $say (param $byte i32)
    (i32.store8 (global.get $words-end) (local.get $byte))
    (global.set $words-end (i32.add (global.get $words-end) (i32.const 1))))

  (func $say-text (param $at i32) (param $length i32)
    (memory.copy (global.get $words-end) (local.get $at) (local.get $length))
    (global.set $words-end (i32.add (global.get $words-end) (local.get $length))))

  (func $say-number (param $number i32)
    (if (i32.ge_u (local.get $number) (i32.const 10))
      (then (call $say-number (i32.div_u (local.get $number) (i32.const 10)))))
    (call $say (i32.add (i32.const 48) (i32.rem_u (local.get $number) (i32.const 10)))))

  ;; Length of the part of these bytes that ends with the last line's end.
  (func $whole-lines (param $at i32) (param $length i32) (result i32)
    (local $end i32)
    (local.set $end (i32.add (local.get $at) (local.get $length)))
    (block $done (loop $bytes
      (br_if $done (i32.eq (local.get $end) (local.get $at)))
      (br_if $done (i32.eq (i32.load8_u (i32.sub (local.get $end) (i32.const 1))) (i32.const 10)))
      (local.set $end (i32.sub (local.get $end) (i32.const 1)))
      (br $bytes)))
    (i32.sub (local.get $end) (local.get $at)))

  ;; Position of the first line that is too long, or -1.
  ;;
  ;; Each step leaps over as many lines as fit into the longest one. So 64 KiB of any bytes fit the
  ;; budget of the lowest class. A CR at the end may be half of an ending, so it does not count.
  (func $too-long (result i32)
    (local $start i32) (local $at i32) (local $leap i32)
    (loop $steps
      (if (i32.le_s (i32.sub (global.get $line-length) (local.get $start)) (global.get $line-max)) (then (return (i32.const -1))))
      (local.set $at (i32.add (i32.const 0x10000) (local.get $start)))
      (local.set $leap (call $whole-lines (local.get $at) (i32.add (global.get $line-max) (i32.const 1))))
      (if (i32.eqz (local.get $leap)) (then
        (local.set $at (i32.add (local.get $at) (global.get $line-max)))
        (if (i32.ne (i32.load8_u (local.get $at)) (i32.const 13)) (then (return (local.get $start))))
        (local.set $leap (i32.add (global.get $line-max) (i32.const 2)))
        (if (i32.gt_u (i32.sub (global.get $line-length) (local.get $start)) (i32.add (global.get $line-max) (i32.const 1))) (then
          (if (i32.ne (i32.load8_u offset=1 (local.get $at)) (i32.const 10)) (then (return (local.get $start))))))))
      (local.set $start (i32.add (local.get $start) (local.get $leap)))
      (br $steps))
    unreachable)

  ;; Answers the first bytes of those without an answer. Returns 0 (proceed), or 1 (close) if the
  ;; write is refused.
  (func $answer (param $length i32) (result i32)
    (local $at i32) (local $end i32) (local $byte i32)
    (if (i32.eqz (local.get $length)) (then (return (i32.const 0))))
    (local.set $at (i32.const 0x10000))
    (local.set $end (i32.add (local.get $at) (local.get $length)))
    (loop $bytes
      (local.set $byte (i32.load8_u (local.get $at)))
      (if (i32.lt_u (i32.sub (local.get $byte) (i32.const 97)) (i32.const 26))
        (then (i32.store8 (local.get $at) (i32.sub (local.get $byte) (i32.const 32)))))
      (local.set $at (i32.add (local.get $at) (i32.const 1)))
      (br_if $bytes (i32.lt_u (local.get $at) (local.get $end))))
    (call $write (i32.const 0x10000) (local.get $length) (i32.const 1024))
    (global.set $line-length (i32.sub (global.get $line-length) (local.get $length)))
    (memory.copy (i32.const 0x10000) (local.get $end) (global.get $line-length))
    (i32.ne (i32.load8_u (i32.const 1024)) (i32.const 0)))

  (func $on-connect (export "wharf:server/inet-event-proc@0.1.0#on-connect") (param $client i32) (result i32)
    (call $read-settings)
    (call $forget)
    (i32.const 0))

  (func $on-read (export "wharf:server/inet-event-proc@0.1.0#on-read") (param $at i32) (param $length i32) (result i32)
    (local $start i32)
    (memory.copy (i32.add (i32.const 0x10000) (global.get $line-length)) (local.get $at) (local.get $length))
    (global.set $line-length (i32.add (global.get $line-length) (local.get $length)))
    (call $forget)
    (local.set $start (call $too-long))
    (if (i32.ge_s (local.get $start) (i32.const 0)) (then
      (drop (call $answer (local.get $start)))
      (call $say-text (i32.const 32) (i32.const 23))
      (call $say-number (global.get $line-max))
      (call $say-text (i32.const 64) (i32.const 8))
      (call $write (i32.const 2048) (i32.sub (global.get $words-end) (i32.const 2048)) (i32.const 1024))
      (return (i32.const 1))))
    (call $answer (call $whole-lines (i32.const 0x10000) (global.get $line-length))))

  (func $on-write (export "wharf:server/inet-event-proc@0.1.0#on-write") (result i32) (i32.const 0))
  (func $on-timeout (export "wharf:server/inet-event-proc@0.1.0#on-timeout") (param $idle-ms i64) (result i32) (i32.const 0))
  (func $on-timer (export "wharf:server/inet-event-proc@0.1.0#on-timer") (param $id i32) (result i32) (i32.const 0))

  (func $on-end (export "wharf:server/inet-event-proc@0.1.0#on-end") (result i32)
    (drop (call $answer (global.get $line-length)))
    (i32.const 1))

  (func $on-disconnect (export "wharf:server/inet-event-proc@0.1.0#on-disconnect") (param $reason i32))

  ;; Saves a session between two events: the line that has not ended yet.
  (func $save (export "wharf:server/handoff@0.1.0#save") (result i32)
    (i32.store (i32.const 1040) (i32.const 0x10000))
    (i32.store (i32.const 1044) (global.get $line-length))
    (i32.const 1040))

  ;; Stores a byte, 0 for ok. For an error, the address and length of its text are at +4 and +8.
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
