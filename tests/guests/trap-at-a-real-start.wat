;; Starts well in a trial, where no timer can be set, and traps at the start for a client.
(func $begin (if (call $set-timer (i32.const 9) (i64.const 1000000)) (then unreachable)))
(start $begin)
