;; Calls every import of `wharf:server@0.1.0` and answers every event of it. The first byte of what arrives says what is
;; called; most answers are that letter, a digit and a line end.
;;
;;   wDATA  write DATA                      n      client-count
;;   i      info: server, priority,         bDATA  broadcast DATA
;;          parameter                       NNAME  set-name NAME
;;   c      write-capacity                  fNAME  find NAME
;;   pC     set-priority to class C         sIDATA send-to session I
;;   tI     set-timer I, after 1 ms         dI     disconnect session I
;;   F      fill the send buffer            gKEY   the setting KEY
;;   v      events so far, modulo 8         a      how many settings there are
;;   V      first byte of the version       u      from now on save nothing
;;          that was restored from          q, x   close, abort
;;
;; Events answer `+I` (on-connect, session I), `W!` (on-write), `o1` (on-timeout), `TI` (on-timer I) and `e.` (on-end).
;; The others hear `DR` of on-disconnect, with A for the first reason.
(module
(import "wharf:server/session@0.1.0" "info" (func $info (param i32)))
(import "wharf:server/session@0.1.0" "write" (func $write (param i32 i32 i32)))
(import "wharf:server/session@0.1.0" "write-capacity" (func $write-capacity (result i32)))
(import "wharf:server/session@0.1.0" "set-priority" (func $set-priority (param i32) (result i32)))
(import "wharf:server/session@0.1.0" "set-timer" (func $set-timer (param i32 i64) (result i32)))
(import "wharf:server/server@0.1.0" "client-count" (func $client-count (result i32)))
(import "wharf:server/server@0.1.0" "broadcast" (func $broadcast (param i32 i32) (result i32)))
(import "wharf:server/server@0.1.0" "set-name" (func $set-name (param i32 i32 i32)))
(import "wharf:server/server@0.1.0" "find" (func $find (param i32 i32 i32)))
(import "wharf:server/server@0.1.0" "send-to" (func $send-to (param i64 i32 i32 i32)))
(import "wharf:server/server@0.1.0" "disconnect" (func $disconnect (param i64) (result i32)))
(import "wasi:config/store@0.2.0-rc.1" "get" (func $get (param i32 i32 i32)))
(import "wasi:config/store@0.2.0-rc.1" "get-all" (func $get-all (param i32)))

(memory (export "memory") 8)
(global $heap (mut i32) (i32.const 65536))
(global $events (mut i32) (i32.const 0))
(global $from (mut i32) (i32.const 45))
(global $unsaved (mut i32) (i32.const 0))
(data (i32.const 1100) "nothing was saved")

;; 1024: what a call returns. 1040: a short answer. 1048: what is saved. 1056 and 1064: results of save and restore.
;; 2048: the session's info. From 65536 on: what the host passes, which an event forgets when it is over.
(func (export "cabi_realloc") (param $old i32) (param $had i32) (param $align i32) (param $size i32) (result i32)
  (local $at i32)
  (local.set $at (i32.and (i32.add (global.get $heap) (i32.const 7)) (i32.const -8)))
  (global.set $heap (i32.add (local.get $at) (local.get $size)))
  (if (i32.gt_u (global.get $heap) (i32.const 262144)) (then unreachable))
  (local.get $at))

(func $say (param $data i32) (param $length i32)
  (call $write (local.get $data) (local.get $length) (i32.const 1024)))

;; A letter, another and a line end.
(func $answer (param $letter i32) (param $other i32)
  (i32.store8 (i32.const 1040) (local.get $letter))
  (i32.store8 (i32.const 1041) (local.get $other))
  (i32.store8 (i32.const 1042) (i32.const 10))
  (call $say (i32.const 1040) (i32.const 3)))

;; A letter, a number below ten and a line end.
(func $count (param $letter i32) (param $number i32)
  (call $answer (local.get $letter) (i32.add (local.get $number) (i32.const 48))))

;; What a call returned that has no value: 0, or one more than its error.
(func $error (result i32)
  (i32.mul (i32.load8_u (i32.const 1024)) (i32.add (i32.load8_u (i32.const 1025)) (i32.const 1))))

(func $fill
  (loop $more
    (call $say (i32.const 262144) (i32.const 32768))
    (br_if $more (call $write-capacity))))

(func $done (param $action i32) (result i32)
  (global.set $heap (i32.const 65536))
  (local.get $action))

(func (export "wharf:server/inet-event-proc@0.1.0#on-connect") (param $client i32) (result i32)
  (call $count (i32.const 43) (i32.wrap_i64 (i64.load (local.get $client))))
  (call $done (i32.const 0)))

(func (export "wharf:server/inet-event-proc@0.1.0#on-read") (param $data i32) (param $length i32) (result i32)
  (local $what i32) (local $digit i32) (local $rest i32) (local $left i32)
  (global.set $events (i32.and (i32.add (global.get $events) (i32.const 1)) (i32.const 7)))
  (local.set $what (i32.load8_u (local.get $data)))
  (local.set $digit (i32.sub (i32.load8_u offset=1 (local.get $data)) (i32.const 48)))
  (local.set $rest (i32.add (local.get $data) (i32.const 1)))
  (local.set $left (i32.sub (local.get $length) (i32.const 1)))
  (if (i32.eq (local.get $what) (i32.const 119)) (then
    (call $say (local.get $rest) (local.get $left))))
  (if (i32.eq (local.get $what) (i32.const 105)) (then
    (call $info (i32.const 2048))
    (call $say (i32.load (i32.const 2056)) (i32.load (i32.const 2060)))
    (call $answer
      (i32.add (i32.load8_u (i32.const 2144)) (i32.const 48))
      (i32.add (i32.load8_u (i32.const 2152)) (i32.const 48)))))
  (if (i32.eq (local.get $what) (i32.const 99)) (then
    (call $count (i32.const 99) (i32.gt_u (call $write-capacity) (i32.const 0)))))
  (if (i32.eq (local.get $what) (i32.const 112)) (then
    (call $count (i32.const 112) (call $set-priority (local.get $digit)))))
  (if (i32.eq (local.get $what) (i32.const 116)) (then
    (call $count (i32.const 116) (call $set-timer (local.get $digit) (i64.const 1)))))
  (if (i32.eq (local.get $what) (i32.const 70)) (then (call $fill)))
  (if (i32.eq (local.get $what) (i32.const 118)) (then (call $count (i32.const 118) (global.get $events))))
  (if (i32.eq (local.get $what) (i32.const 86)) (then (call $answer (i32.const 86) (global.get $from))))
  (if (i32.eq (local.get $what) (i32.const 110)) (then (call $count (i32.const 110) (call $client-count))))
  (if (i32.eq (local.get $what) (i32.const 98)) (then
    (call $count (i32.const 98) (call $broadcast (local.get $rest) (local.get $left)))))
  (if (i32.eq (local.get $what) (i32.const 78)) (then
    (call $set-name (local.get $rest) (local.get $left) (i32.const 1024))
    (call $count (i32.const 78) (call $error))))
  (if (i32.eq (local.get $what) (i32.const 102)) (then
    (call $find (local.get $rest) (local.get $left) (i32.const 1024))
    (call $count (i32.const 102)
      (i32.mul (i32.load8_u (i32.const 1024)) (i32.wrap_i64 (i64.load (i32.const 1032)))))))
  (if (i32.eq (local.get $what) (i32.const 115)) (then
    (call $send-to (i64.extend_i32_u (local.get $digit))
      (i32.add (local.get $rest) (i32.const 1)) (i32.sub (local.get $left) (i32.const 1)) (i32.const 1024))
    (call $count (i32.const 115) (call $error))))
  (if (i32.eq (local.get $what) (i32.const 100)) (then
    (call $count (i32.const 100) (call $disconnect (i64.extend_i32_u (local.get $digit))))))
  (if (i32.eq (local.get $what) (i32.const 103)) (then
    (call $get (local.get $rest) (local.get $left) (i32.const 1024))
    ;; Neither an error nor nothing.
    (if (i32.and (i32.eqz (i32.load8_u (i32.const 1024))) (i32.load8_u (i32.const 1028)))
      (then (call $say (i32.load (i32.const 1032)) (i32.load (i32.const 1036)))))
    (call $answer (i32.const 103) (i32.const 46))))
  (if (i32.eq (local.get $what) (i32.const 97)) (then
    (call $get-all (i32.const 1024))
    (call $count (i32.const 97) (i32.load (i32.const 1032)))))
  (if (i32.eq (local.get $what) (i32.const 117)) (then
    (global.set $unsaved (i32.const 1))
    (call $count (i32.const 117) (i32.const 1))))
  (if (i32.eq (local.get $what) (i32.const 113)) (then (return (call $done (i32.const 1)))))
  (if (i32.eq (local.get $what) (i32.const 120)) (then (return (call $done (i32.const 2)))))
  (call $done (i32.const 0)))

(func (export "wharf:server/inet-event-proc@0.1.0#on-write") (result i32)
  (call $answer (i32.const 87) (i32.const 33))
  (call $done (i32.const 0)))

(func (export "wharf:server/inet-event-proc@0.1.0#on-timeout") (param $idle i64) (result i32)
  (call $count (i32.const 111) (i64.gt_u (local.get $idle) (i64.const 0)))
  (call $done (i32.const 0)))

(func (export "wharf:server/inet-event-proc@0.1.0#on-timer") (param $id i32) (result i32)
  (call $count (i32.const 84) (local.get $id))
  (call $done (i32.const 0)))

(func (export "wharf:server/inet-event-proc@0.1.0#on-end") (result i32)
  (call $answer (i32.const 101) (i32.const 46))
  (call $done (i32.const 1)))

(func (export "wharf:server/inet-event-proc@0.1.0#on-disconnect") (param $reason i32)
  (i32.store8 (i32.const 1040) (i32.const 68))
  (i32.store8 (i32.const 1041) (i32.add (local.get $reason) (i32.const 65)))
  (i32.store8 (i32.const 1042) (i32.const 10))
  (drop (call $broadcast (i32.const 1040) (i32.const 3))))

(func (export "wharf:server/handoff@0.1.0#save") (result i32)
  (i32.store (i32.const 1048) (global.get $events))
  (i32.store (i32.const 1056) (i32.const 1048))
  (i32.store (i32.const 1060) (select (i32.const 0) (i32.const 4) (global.get $unsaved)))
  (i32.const 1056))

(func (export "wharf:server/handoff@0.1.0#restore")
  (param $version i32) (param $version-length i32) (param $state i32) (param $length i32) (result i32)
  (global.set $heap (i32.const 65536))
  (i32.store (i32.const 1064) (i32.const 0))
  (if (i32.ne (local.get $length) (i32.const 4)) (then
    (i32.store (i32.const 1064) (i32.const 1))
    (i32.store (i32.const 1068) (i32.const 1100))
    (i32.store (i32.const 1072) (i32.const 17))
    (return (i32.const 1064))))
  (global.set $events (i32.load (local.get $state)))
  (if (local.get $version-length) (then (global.set $from (i32.load8_u (local.get $version)))))
  (i32.const 1064))
)
