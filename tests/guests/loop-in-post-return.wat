;; Never lets go of what it returned.
(func (export "cabi_post_wharf:server/inet-event-proc@0.1.0#on-read") (param i32) (call $spin))
