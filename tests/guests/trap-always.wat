;; Traps in the first of its events.
(func $on-connect (param $client i32) (result i32) unreachable)
