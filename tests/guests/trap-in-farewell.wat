;; Traps in the last of its events.
(func $on-disconnect (param $reason i32) unreachable)
