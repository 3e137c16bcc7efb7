;; Serves `wasi_snapshot_preview1` to Go programs, without memory of its own.
;;
;; The usual adapter takes pages of the module's memory while the module starts, in one of two ways:
;;
;; - by the module's `cabi_realloc`, which Go cannot serve before its runtime has started;
;; - by growing the memory; Go takes the new pages for its own when it next grows the memory.
;;
;; This adapter keeps its results below address 4096. Go leaves those addresses unused, so that null
;; pointers meet nothing. The adapter offers no files, no arguments and no environment.
(module
  (import "env" "memory" (memory 0))
  (import "wasi:cli/exit@0.2.6" "exit" (func $exit (param i32)))
  (import "wasi:cli/stdout@0.2.6" "get-stdout" (func $get-stdout (result i32)))
  (import "wasi:cli/stderr@0.2.6" "get-stderr" (func $get-stderr (result i32)))
  (import "wasi:io/streams@0.2.6" "[method]output-stream.blocking-write-and-flush" (func $print (param i32 i32 i32 i32)))
  (import "wasi:io/poll@0.2.6" "[method]pollable.block" (func $block (param i32)))
  (import "wasi:io/poll@0.2.6" "[resource-drop]pollable" (func $drop-pollable (param i32)))
  (import "wasi:clocks/monotonic-clock@0.2.6" "now" (func $monotonic (result i64)))
  (import "wasi:clocks/monotonic-clock@0.2.6" "subscribe-duration" (func $subscribe (param i64) (result i32)))
  (import "wasi:clocks/wall-clock@0.2.6" "now" (func $wall (param i32)))
  (import "wasi:random/random@0.2.6" "get-random-u64" (func $random (result i64)))

  ;; Handles of the two streams, once the program used them.
  (global $stdout (mut i32) (i32.const -1))
  (global $stderr (mut i32) (i32.const -1))

  (func (export "sched_yield") (result i32) (i32.const 0))

  (func (export "proc_exit") (param $code i32)
    (call $exit (i32.ne (local.get $code) (i32.const 0)))
    unreachable)

  (func $nothing (param $count i32) (param $size i32) (result i32)
    (i32.store (local.get $count) (i32.const 0))
    (i32.store (local.get $size) (i32.const 0))
    (i32.const 0))
  (export "args_sizes_get" (func $nothing))
  (export "environ_sizes_get" (func $nothing))
  (func (export "args_get") (param i32 i32) (result i32) (i32.const 0))
  (func (export "environ_get") (param i32 i32) (result i32) (i32.const 0))

  (func (export "clock_time_get") (param $clock i32) (param $precision i64) (param $result i32) (result i32)
    (if (i32.eqz (local.get $clock)) (then
      (call $wall (i32.const 1024))
      (i64.store (local.get $result) (i64.add
        (i64.mul (i64.load (i32.const 1024)) (i64.const 1000000000))
        (i64.load32_u (i32.const 1032))))
      (return (i32.const 0))))
    (if (i32.eq (local.get $clock) (i32.const 1)) (then
      (i64.store (local.get $result) (call $monotonic))
      (return (i32.const 0))))
    ;; EINVAL
    (i32.const 28))
  (func (export "clock_res_get") (param $clock i32) (param $result i32) (result i32)
    (i64.store (local.get $result) (i64.const 1))
    (i32.const 0))

  (func $stream (param $fd i32) (result i32)
    (if (i32.eq (local.get $fd) (i32.const 1)) (then
      (if (i32.eq (global.get $stdout) (i32.const -1)) (then (global.set $stdout (call $get-stdout))))
      (return (global.get $stdout))))
    (if (i32.eq (global.get $stderr) (i32.const -1)) (then (global.set $stderr (call $get-stderr))))
    (global.get $stderr))

  (func (export "fd_write") (param $fd i32) (param $pieces i32) (param $count i32) (param $result i32) (result i32)
    (local $at i32) (local $left i32) (local $length i32) (local $written i32)
    ;; EBADF
    (if (i32.gt_u (i32.sub (local.get $fd) (i32.const 1)) (i32.const 1)) (then (return (i32.const 8))))
    (block $done (loop $next
      (br_if $done (i32.eqz (local.get $count)))
      (local.set $at (i32.load (local.get $pieces)))
      (local.set $left (i32.load offset=4 (local.get $pieces)))
      (block $piece (loop $more
        (br_if $piece (i32.eqz (local.get $left)))
        ;; One call takes at most 4,096 bytes.
        (local.set $length (select (local.get $left) (i32.const 4096) (i32.lt_u (local.get $left) (i32.const 4096))))
        (call $print (call $stream (local.get $fd)) (local.get $at) (local.get $length) (i32.const 1040))
        ;; EIO
        (if (i32.load8_u (i32.const 1040)) (then (return (i32.const 29))))
        (local.set $at (i32.add (local.get $at) (local.get $length)))
        (local.set $left (i32.sub (local.get $left) (local.get $length)))
        (local.set $written (i32.add (local.get $written) (local.get $length)))
        (br $more)))
      (local.set $pieces (i32.add (local.get $pieces) (i32.const 8)))
      (local.set $count (i32.sub (local.get $count) (i32.const 1)))
      (br $next)))
    (i32.store (local.get $result) (local.get $written))
    (i32.const 0))

  (func (export "fd_read") (param $fd i32) (param $pieces i32) (param $count i32) (param $result i32) (result i32)
    (i32.store (local.get $result) (i32.const 0))
    ;; The end of standard input, or EBADF.
    (select (i32.const 8) (i32.const 0) (local.get $fd)))

  (func (export "random_get") (param $at i32) (param $length i32) (result i32)
    (local $bits i64)
    (block $done (loop $more
      (br_if $done (i32.eqz (local.get $length)))
      (if (i64.eqz (local.get $bits)) (then (local.set $bits (call $random))))
      (i64.store8 (local.get $at) (local.get $bits))
      ;; Bytes that are all zero at the end are fetched again. They stay as random as before.
      (local.set $bits (i64.shr_u (local.get $bits) (i64.const 8)))
      (local.set $at (i32.add (local.get $at) (i32.const 1)))
      (local.set $length (i32.sub (local.get $length) (i32.const 1)))
      (br $more)))
    (i32.const 0))

  ;; Sleeps until the first of the clocks. Descriptors never become ready, because there are none.
  (func (export "poll_oneoff") (param $in i32) (param $out i32) (param $count i32) (param $events i32) (result i32)
    (local $index i32) (local $time i64) (local $soonest i64) (local $which i32) (local $pollable i32)
    (local.set $soonest (i64.const -1))
    (local.set $which (local.get $in))
    (block $done (loop $next
      (br_if $done (i32.eq (local.get $index) (local.get $count)))
      (if (i32.eqz (i32.load8_u offset=8 (local.get $in))) (then
        (local.set $time (i64.load offset=24 (local.get $in)))
        ;; An absolute time of the monotonic clock.
        (if (i32.and (i32.load16_u offset=40 (local.get $in)) (i32.const 1)) (then
          (local.set $time (i64.sub (local.get $time) (call $monotonic)))
          (if (i64.lt_s (local.get $time) (i64.const 0)) (then (local.set $time (i64.const 0))))))
        (if (i64.lt_u (local.get $time) (local.get $soonest)) (then
          (local.set $soonest (local.get $time))
          (local.set $which (local.get $in))))))
      (local.set $in (i32.add (local.get $in) (i32.const 48)))
      (local.set $index (i32.add (local.get $index) (i32.const 1)))
      (br $next)))
    ;; EINVAL
    (if (i64.eq (local.get $soonest) (i64.const -1)) (then (return (i32.const 28))))
    (local.set $pollable (call $subscribe (local.get $soonest)))
    (call $block (local.get $pollable))
    (call $drop-pollable (local.get $pollable))
    (i64.store (local.get $out) (i64.load (local.get $which)))
    (i64.store offset=8 (local.get $out) (i64.const 0))
    (i32.store (local.get $events) (i32.const 1))
    (i32.const 0))

  ;; Standard input and output are no files.
  (func (export "fd_fdstat_get") (param $fd i32) (param $result i32) (result i32)
    (if (i32.gt_u (local.get $fd) (i32.const 2)) (then (return (i32.const 8))))
    (i64.store (local.get $result) (i64.const 2))
    (i64.store offset=8 (local.get $result) (i64.const -1))
    (i64.store offset=16 (local.get $result) (i64.const -1))
    (i32.const 0))
  (func (export "fd_fdstat_set_flags") (param $fd i32) (param i32) (result i32)
    (select (i32.const 8) (i32.const 0) (i32.gt_u (local.get $fd) (i32.const 2))))

  ;; Calls on files and sockets fail with EBADF, because there are none.
  (func (export "fd_advise") (param i32 i64 i64 i32) (result i32) (i32.const 8))
  (func (export "fd_allocate") (param i32 i64 i64) (result i32) (i32.const 8))
  (func (export "fd_close") (param i32) (result i32) (i32.const 8))
  (func (export "fd_datasync") (param i32) (result i32) (i32.const 8))
  (func (export "fd_fdstat_set_rights") (param i32 i64 i64) (result i32) (i32.const 8))
  (func (export "fd_filestat_get") (param i32 i32) (result i32) (i32.const 8))
  (func (export "fd_filestat_set_size") (param i32 i64) (result i32) (i32.const 8))
  (func (export "fd_filestat_set_times") (param i32 i64 i64 i32) (result i32) (i32.const 8))
  (func (export "fd_pread") (param i32 i32 i32 i64 i32) (result i32) (i32.const 8))
  (func (export "fd_prestat_get") (param i32 i32) (result i32) (i32.const 8))
  (func (export "fd_prestat_dir_name") (param i32 i32 i32) (result i32) (i32.const 8))
  (func (export "fd_pwrite") (param i32 i32 i32 i64 i32) (result i32) (i32.const 8))
  (func (export "fd_readdir") (param i32 i32 i32 i64 i32) (result i32) (i32.const 8))
  (func (export "fd_renumber") (param i32 i32) (result i32) (i32.const 8))
  (func (export "fd_seek") (param i32 i64 i32 i32) (result i32) (i32.const 8))
  (func (export "fd_sync") (param i32) (result i32) (i32.const 8))
  (func (export "fd_tell") (param i32 i32) (result i32) (i32.const 8))
  (func (export "path_create_directory") (param i32 i32 i32) (result i32) (i32.const 8))
  (func (export "path_filestat_get") (param i32 i32 i32 i32 i32) (result i32) (i32.const 8))
  (func (export "path_filestat_set_times") (param i32 i32 i32 i32 i64 i64 i32) (result i32) (i32.const 8))
  (func (export "path_link") (param i32 i32 i32 i32 i32 i32 i32) (result i32) (i32.const 8))
  (func (export "path_open") (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32) (i32.const 8))
  (func (export "path_readlink") (param i32 i32 i32 i32 i32 i32) (result i32) (i32.const 8))
  (func (export "path_remove_directory") (param i32 i32 i32) (result i32) (i32.const 8))
  (func (export "path_rename") (param i32 i32 i32 i32 i32 i32) (result i32) (i32.const 8))
  (func (export "path_symlink") (param i32 i32 i32 i32 i32) (result i32) (i32.const 8))
  (func (export "path_unlink_file") (param i32 i32 i32) (result i32) (i32.const 8))
  (func (export "sock_accept") (param i32 i32 i32) (result i32) (i32.const 8))
  (func (export "sock_recv") (param i32 i32 i32 i32 i32 i32) (result i32) (i32.const 8))
  (func (export "sock_send") (param i32 i32 i32 i32 i32) (result i32) (i32.const 8))
  (func (export "sock_shutdown") (param i32 i32) (result i32) (i32.const 8))
)
