//! WASI's interfaces for flat instances, by the engine's own implementation.

use wasmtime::component::{Resource, ResourceTable};
use wasmtime::{Caller, Result};
use wasmtime_wasi::WasiView;
use wasmtime_wasi::cli::WasiCliView;
use wasmtime_wasi::clocks::WasiClocksView;
use wasmtime_wasi::p2::bindings::cli::{
    environment, exit, stderr, stdin, stdout, terminal_input, terminal_output, terminal_stderr,
    terminal_stdin, terminal_stdout,
};
use wasmtime_wasi::p2::bindings::clocks::{monotonic_clock, wall_clock};
use wasmtime_wasi::p2::bindings::io::{error, poll, streams};
use wasmtime_wasi::p2::bindings::random::{insecure, insecure_seed, random};
use wasmtime_wasi::p2::{DynInputStream, DynOutputStream, DynPollable, StreamError};

use super::functions::{Functions, Waiting};
use crate::plugin::host_state::HostState;

type Guest<'a> = Caller<'a, HostState>;
type In = Resource<DynInputStream>;
type Out = Resource<DynOutputStream>;
type Polled = Resource<DynPollable>;
/// The contract's `stream-error`. It has the layout of a result: first the case of a failed
/// operation with its error, then that of a closed stream.
type Failed = std::result::Result<Resource<error::Error>, ()>;

const ENVIRONMENT: &str = "wasi:cli/environment@0.2";
const EXIT: &str = "wasi:cli/exit@0.2";
const STDIN: &str = "wasi:cli/stdin@0.2";
const STDOUT: &str = "wasi:cli/stdout@0.2";
const STDERR: &str = "wasi:cli/stderr@0.2";
const TERMINAL_INPUT: &str = "wasi:cli/terminal-input@0.2";
const TERMINAL_OUTPUT: &str = "wasi:cli/terminal-output@0.2";
const TERMINAL_STDIN: &str = "wasi:cli/terminal-stdin@0.2";
const TERMINAL_STDOUT: &str = "wasi:cli/terminal-stdout@0.2";
const TERMINAL_STDERR: &str = "wasi:cli/terminal-stderr@0.2";
const ERROR: &str = "wasi:io/error@0.2";
const POLL: &str = "wasi:io/poll@0.2";
const STREAMS: &str = "wasi:io/streams@0.2";
const MONOTONIC: &str = "wasi:clocks/monotonic-clock@0.2";
const WALL: &str = "wasi:clocks/wall-clock@0.2";
const RANDOM: &str = "wasi:random/random@0.2";
const INSECURE: &str = "wasi:random/insecure@0.2";
const INSECURE_SEED: &str = "wasi:random/insecure-seed@0.2";
const CONFIG: &str = "wasi:config/store@0.2.0-rc.1";

/// Adds all functions. The grants are checked before a plugin is linked.
pub(super) fn add(to: &mut Functions) {
    cli(to);
    io(to);
    input(to);
    output(to);
    clocks(to);
    chance(to);
    config(to);
}

fn table<'a>(guest: &'a mut Guest<'_>) -> &'a mut ResourceTable {
    guest.data_mut().ctx().table
}

/// Turns the outcome of a stream's function into a value of the contract.
fn told<T>(
    table: &mut ResourceTable,
    outcome: std::result::Result<T, StreamError>,
) -> Result<std::result::Result<T, Failed>> {
    let error = match outcome {
        Ok(value) => return Ok(Ok(value)),
        Err(error) => error,
    };
    Ok(Err(match streams::Host::convert_stream_error(table, error)? {
        streams::StreamError::LastOperationFailed(error) => Ok(error),
        streams::StreamError::Closed => Err(()),
    }))
}

fn cli(to: &mut Functions) {
    to.call(ENVIRONMENT, "get-environment", |guest: &mut Guest<'_>, (): ()| {
        environment::Host::get_environment(&mut guest.data_mut().cli())
    });
    to.call(ENVIRONMENT, "get-arguments", |guest: &mut Guest<'_>, (): ()| {
        environment::Host::get_arguments(&mut guest.data_mut().cli())
    });
    to.call(ENVIRONMENT, "initial-cwd", |guest: &mut Guest<'_>, (): ()| {
        environment::Host::initial_cwd(&mut guest.data_mut().cli())
    });
    to.call(EXIT, "exit", |guest: &mut Guest<'_>, (status,): (std::result::Result<(), ()>,)| {
        exit::Host::exit(&mut guest.data_mut().cli(), status)
    });
    to.call(STDIN, "get-stdin", |guest: &mut Guest<'_>, (): ()| {
        stdin::Host::get_stdin(&mut guest.data_mut().cli())
    });
    to.call(STDOUT, "get-stdout", |guest: &mut Guest<'_>, (): ()| {
        stdout::Host::get_stdout(&mut guest.data_mut().cli())
    });
    to.call(STDERR, "get-stderr", |guest: &mut Guest<'_>, (): ()| {
        stderr::Host::get_stderr(&mut guest.data_mut().cli())
    });
    to.call(TERMINAL_STDIN, "get-terminal-stdin", |guest: &mut Guest<'_>, (): ()| {
        terminal_stdin::Host::get_terminal_stdin(&mut guest.data_mut().cli())
    });
    to.call(TERMINAL_STDOUT, "get-terminal-stdout", |guest: &mut Guest<'_>, (): ()| {
        terminal_stdout::Host::get_terminal_stdout(&mut guest.data_mut().cli())
    });
    to.call(TERMINAL_STDERR, "get-terminal-stderr", |guest: &mut Guest<'_>, (): ()| {
        terminal_stderr::Host::get_terminal_stderr(&mut guest.data_mut().cli())
    });
    to.resource(TERMINAL_INPUT, "[resource-drop]terminal-input", |guest, handle| {
        terminal_input::HostTerminalInput::drop(&mut guest.cli(), handle)
    });
    to.resource(TERMINAL_OUTPUT, "[resource-drop]terminal-output", |guest, handle| {
        terminal_output::HostTerminalOutput::drop(&mut guest.cli(), handle)
    });
}

fn io(to: &mut Functions) {
    to.resource(ERROR, "[resource-drop]error", |guest, handle| {
        error::HostError::drop(guest.ctx().table, handle)
    });
    to.call(ERROR, "[method]error.to-debug-string", |guest: &mut Guest<'_>, (error,)| {
        error::HostError::to_debug_string(table(guest), error)
    });
    to.resource(POLL, "[resource-drop]pollable", |guest, handle| {
        poll::HostPollable::drop(guest.ctx().table, handle)
    });
    to.wait(POLL, "[method]pollable.ready", ready);
    to.wait(POLL, "[method]pollable.block", block);
    to.wait(POLL, "poll", poll_all);
}

fn ready<'a>(guest: &'a mut Guest<'_>, (polled,): (Polled,)) -> Waiting<'a, bool> {
    Box::pin(poll::HostPollable::ready(table(guest), polled))
}

fn block<'a>(guest: &'a mut Guest<'_>, (polled,): (Polled,)) -> Waiting<'a, ()> {
    Box::pin(poll::HostPollable::block(table(guest), polled))
}

fn poll_all<'a>(guest: &'a mut Guest<'_>, (polled,): (Vec<Polled>,)) -> Waiting<'a, Vec<u32>> {
    Box::pin(poll::Host::poll(table(guest), polled))
}

/// The answer of a stream's function that may wait.
type Told<'a, T> = Waiting<'a, std::result::Result<T, Failed>>;

fn input(to: &mut Functions) {
    to.resource_that_waits(STREAMS, "[resource-drop]input-stream", |guest, stream| {
        Box::pin(streams::HostInputStream::drop(guest.ctx().table, stream))
    });
    to.call(STREAMS, "[method]input-stream.read", |guest: &mut Guest<'_>, (stream, len)| {
        let (stream, len): (In, u64) = (stream, len);
        let outcome = streams::HostInputStream::read(table(guest), stream, len);
        told(table(guest), outcome)
    });
    to.call(STREAMS, "[method]input-stream.skip", |guest: &mut Guest<'_>, (stream, len)| {
        let (stream, len): (In, u64) = (stream, len);
        let outcome = streams::HostInputStream::skip(table(guest), stream, len);
        told(table(guest), outcome)
    });
    to.call(STREAMS, "[method]input-stream.subscribe", |guest: &mut Guest<'_>, (stream,)| {
        streams::HostInputStream::subscribe(table(guest), stream)
    });
    to.wait(STREAMS, "[method]input-stream.blocking-read", read_blocking);
    to.wait(STREAMS, "[method]input-stream.blocking-skip", skip_blocking);
}

fn read_blocking<'a>(guest: &'a mut Guest<'_>, (stream, len): (In, u64)) -> Told<'a, Vec<u8>> {
    Box::pin(async move {
        let outcome = streams::HostInputStream::blocking_read(table(guest), stream, len).await;
        told(table(guest), outcome)
    })
}

fn skip_blocking<'a>(guest: &'a mut Guest<'_>, (stream, len): (In, u64)) -> Told<'a, u64> {
    Box::pin(async move {
        let outcome = streams::HostInputStream::blocking_skip(table(guest), stream, len).await;
        told(table(guest), outcome)
    })
}

fn output(to: &mut Functions) {
    to.resource_that_waits(STREAMS, "[resource-drop]output-stream", |guest, stream| {
        Box::pin(streams::HostOutputStream::drop(guest.ctx().table, stream))
    });
    to.call(STREAMS, "[method]output-stream.check-write", |guest: &mut Guest<'_>, (stream,)| {
        let outcome = streams::HostOutputStream::check_write(table(guest), stream);
        told(table(guest), outcome)
    });
    to.call(STREAMS, "[method]output-stream.write", |guest: &mut Guest<'_>, (stream, bytes)| {
        let (stream, bytes): (Out, Vec<u8>) = (stream, bytes);
        let outcome = streams::HostOutputStream::write(table(guest), stream, bytes);
        told(table(guest), outcome)
    });
    to.call(
        STREAMS,
        "[method]output-stream.write-zeroes",
        |guest: &mut Guest<'_>, (stream, len)| {
            let (stream, len): (Out, u64) = (stream, len);
            let outcome = streams::HostOutputStream::write_zeroes(table(guest), stream, len);
            told(table(guest), outcome)
        },
    );
    to.call(STREAMS, "[method]output-stream.flush", |guest: &mut Guest<'_>, (stream,)| {
        let outcome = streams::HostOutputStream::flush(table(guest), stream);
        told(table(guest), outcome)
    });
    to.call(STREAMS, "[method]output-stream.subscribe", |guest: &mut Guest<'_>, (stream,)| {
        streams::HostOutputStream::subscribe(table(guest), stream)
    });
    to.wait(STREAMS, "[method]output-stream.blocking-flush", flush_blocking);
    to.wait(STREAMS, "[method]output-stream.blocking-write-and-flush", write_blocking);
}

fn flush_blocking<'a>(guest: &'a mut Guest<'_>, (stream,): (Out,)) -> Told<'a, ()> {
    Box::pin(async move {
        let outcome = streams::HostOutputStream::blocking_flush(table(guest), stream).await;
        told(table(guest), outcome)
    })
}

fn write_blocking<'a>(guest: &'a mut Guest<'_>, (stream, bytes): (Out, Vec<u8>)) -> Told<'a, ()> {
    Box::pin(async move {
        let table_of = table(guest);
        let outcome =
            streams::HostOutputStream::blocking_write_and_flush(table_of, stream, bytes).await;
        told(table(guest), outcome)
    })
}

fn clocks(to: &mut Functions) {
    to.call(WALL, "now", |guest: &mut Guest<'_>, (): ()| {
        let now = wall_clock::Host::now(&mut guest.data_mut().clocks())?;
        Ok((now.seconds, now.nanoseconds))
    });
    to.call(WALL, "resolution", |guest: &mut Guest<'_>, (): ()| {
        let step = wall_clock::Host::resolution(&mut guest.data_mut().clocks())?;
        Ok((step.seconds, step.nanoseconds))
    });
    to.call(MONOTONIC, "now", |guest: &mut Guest<'_>, (): ()| {
        monotonic_clock::Host::now(&mut guest.data_mut().clocks())
    });
    to.call(MONOTONIC, "resolution", |guest: &mut Guest<'_>, (): ()| {
        monotonic_clock::Host::resolution(&mut guest.data_mut().clocks())
    });
    to.call(MONOTONIC, "subscribe-instant", |guest: &mut Guest<'_>, (when,)| {
        monotonic_clock::Host::subscribe_instant(&mut guest.data_mut().clocks(), when)
    });
    to.call(MONOTONIC, "subscribe-duration", |guest: &mut Guest<'_>, (when,)| {
        monotonic_clock::Host::subscribe_duration(&mut guest.data_mut().clocks(), when)
    });
}

fn chance(to: &mut Functions) {
    to.call(RANDOM, "get-random-bytes", |guest: &mut Guest<'_>, (len,)| {
        random::Host::get_random_bytes(guest.data_mut().ctx().ctx.random(), len)
    });
    to.call(RANDOM, "get-random-u64", |guest: &mut Guest<'_>, (): ()| {
        random::Host::get_random_u64(guest.data_mut().ctx().ctx.random())
    });
    to.call(INSECURE, "get-insecure-random-bytes", |guest: &mut Guest<'_>, (len,)| {
        insecure::Host::get_insecure_random_bytes(guest.data_mut().ctx().ctx.random(), len)
    });
    to.call(INSECURE, "get-insecure-random-u64", |guest: &mut Guest<'_>, (): ()| {
        insecure::Host::get_insecure_random_u64(guest.data_mut().ctx().ctx.random())
    });
    to.call(INSECURE_SEED, "insecure-seed", |guest: &mut Guest<'_>, (): ()| {
        insecure_seed::Host::insecure_seed(guest.data_mut().ctx().ctx.random())
    });
}

fn config(to: &mut Functions) {
    type Settings<T> = std::result::Result<T, std::result::Result<String, String>>;
    to.call(CONFIG, "get", |guest: &mut Guest<'_>, (key,): (String,)| {
        let answer: Settings<Option<String>> = Ok(guest.data().context.written.get(&key).cloned());
        Ok(answer)
    });
    to.call(CONFIG, "get-all", |guest: &mut Guest<'_>, (): ()| {
        let all = guest.data().context.written.iter();
        let answer: Settings<Vec<(String, String)>> =
            Ok(all.map(|(key, value)| (key.clone(), value.clone())).collect());
        Ok(answer)
    });
}
