;; Starts well in a trial, where no timer can be set, and loops at the start for a client.
(func $begin (if (call $set-timer (i32.const 9) (i64.const 1000000)) (then (call $spin))))
(start $begin)
