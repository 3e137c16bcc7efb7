//! Compiling in a process of its own, so that a component made to harm the compiler costs that process: its memory and its time
//! are limited, and where it dies the load is refused.

use std::io::{self, Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::retry_on_intr;
use rustix::process::{
    Pid, Resource, Rlimit, Signal, WaitId, WaitIdOptions, getrlimit, kill_process_group,
    set_parent_process_death_signal, setpriority_process, setrlimit, waitid,
};
use wasmtime::{Result, bail, format_err};

use super::compile::compile;
use super::engine;
use super::patience::Patience;
use super::source::COMPONENT_MAX_BYTES;
use crate::event::{EXCERPT_MAX_BYTES, excerpt};

/// The verb of the program that compiles. Its arguments are the two limits.
pub const VERB: &str = "compile";
/// Machine code that is taken from it.
pub(super) const CODE_MAX_BYTES: u64 = 512 << 20;
/// What it says went wrong, as far as it is kept.
const MESSAGE_MAX_BYTES: u64 = 16 << 10;
/// How often its exit is looked for once all of its machine code is there.
const EXIT_LOOKED_FOR_EVERY: Duration = Duration::from_millis(1);
/// Its niceness: sessions come first.
const NICENESS: i32 = 15;
/// Its exit code where the component is no good.
const REFUSED: i32 = 3;

/// The process that compiles.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compiler {
    /// The program: this one, as a rule. It has to have the verb [`VERB`] and the same engine.
    pub program: PathBuf,
    /// Memory it may have. Default 2 GiB.
    pub memory_max_bytes: u64,
    /// How long it may take. Default five minutes.
    pub time_max: Duration,
}

impl Compiler {
    /// Memory it may have where nobody says.
    pub const MEMORY_MAX_BYTES: u64 = 2 << 30;
    /// How long it may take where nobody says.
    pub const TIME_MAX: Duration = Duration::from_secs(300);
    /// The least of both with which it can work at all.
    pub const MEMORY_MIN_BYTES: u64 = 512 << 20;
    /// See [`Compiler::MEMORY_MIN_BYTES`].
    pub const TIME_MIN: Duration = Duration::from_secs(1);

    /// This program, whatever lies at its path by now, with the usual limits.
    #[must_use]
    pub fn this_program() -> Self {
        let program = PathBuf::from("/proc/self/exe");
        Self { program, memory_max_bytes: Self::MEMORY_MAX_BYTES, time_max: Self::TIME_MAX }
    }

    /// The machine code of a component. Blocks.
    pub(super) fn compile(&self, bytes: &[u8]) -> Result<Vec<u8>> {
        // The process starts with the niceness of the thread that starts it, and ends with that thread where it has to.
        thread::scope(|scope| {
            let nicely = thread::Builder::new().name("wharf-compiling".into()).spawn_scoped(scope, || {
                // Where it may not be nicer it is not.
                let _ = setpriority_process(None, NICENESS);
                self.compile_here(bytes)
            })?;
            nicely.join().unwrap_or_else(|_| bail!("the thread that started the compiler panicked"))
        })
    }

    fn compile_here(&self, bytes: &[u8]) -> Result<Vec<u8>> {
        let mut child = Command::new(&self.program)
            .args([VERB, &self.memory_max_bytes.to_string(), &self.time_max.as_secs().to_string()])
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // So that what it starts itself can be ended with it.
            .process_group(0)
            .spawn()
            .map_err(|error| format_err!("the compiler did not start: {}: {error}", self.program.display()))?;
        let (Some(input), Some(mut output), Some(mut said)) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err(end(&mut child, "it has no pipes"));
        };
        let patience = Patience::of(self.time_max);
        let late = || format!("it took longer than {:?} (`host.compile_timeout`)", self.time_max);
        thread::scope(|scope| {
            // Whoever else has its pipes open, which it may have seen to, nobody here waits for them once this is over.
            let over = patience.over_at_drop();
            // Where it dies early this fails, and its end says why.
            scope.spawn(|| {
                // Closed by this, so that it hears the end.
                let mut input = input;
                drop(patience.write(&mut input, bytes));
            });
            let said = scope.spawn(|| patience.read(&mut said, MESSAGE_MAX_BYTES));
            let code = match patience.read(&mut output, CODE_MAX_BYTES) {
                Ok(code) => code,
                Err(error) if error.kind() == io::ErrorKind::TimedOut => return Err(end(&mut child, &late())),
                Err(error) => return Err(end(&mut child, &format!("its machine code could not be read: {error}"))),
            };
            if code.len() as u64 > CODE_MAX_BYTES {
                return Err(end(&mut child, &format!("its machine code is longer than {CODE_MAX_BYTES} bytes")));
            }
            // It has nothing more to do than to end, and may have been made not to.
            let Some(status) = exited(&mut child, patience.until())? else {
                return Err(end(&mut child, &late()));
            };
            drop(over);
            let said = said.join().map_err(|_| format_err!("the host could not hear what the compiler said"))??;
            if status.success() { Ok(code) } else { Err(self.reason(status, &String::from_utf8_lossy(&said))) }
        })
    }

    fn reason(&self, status: ExitStatus, said: &str) -> wasmtime::Error {
        let said = said.trim();
        if status.code() == Some(REFUSED) {
            return format_err!("{said}");
        }
        if said.contains("memory allocation of") || said.contains("Cannot allocate memory") {
            let max = self.memory_max_bytes;
            return format_err!("compiling it takes more than {max} bytes of memory (`host.compile_memory_max_bytes`)");
        }
        let last = said.lines().next_back().unwrap_or_default();
        match status.signal() {
            Some(libc::SIGXCPU) => {
                format_err!("compiling it took too much CPU time (`host.compile_timeout`)")
            }
            Some(signal) => format_err!("the compiler died of signal {signal} on it: {last}"),
            None => format_err!("the compiler gave up on it: {last}"),
        }
    }
}

/// Up to one byte more than `max`.
fn bounded(from: impl Read, max: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.take(max + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// How it ended, where it does by then. What it has started ends with it.
fn exited(child: &mut Child, until: Instant) -> io::Result<Option<ExitStatus>> {
    let id = Pid::from_child(child);
    // Not reaped by the look, so that its number is nobody else's when its group is ended.
    let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    loop {
        if retry_on_intr(|| waitid(WaitId::Pid(id), look))?.is_some() {
            let _ = kill_process_group(id, Signal::KILL);
            return child.wait().map(Some);
        }
        if Instant::now() >= until {
            return Ok(None);
        }
        thread::sleep(EXIT_LOOKED_FOR_EVERY);
    }
}

/// Ends it, and says why.
fn end(child: &mut Child, why: &str) -> wasmtime::Error {
    // It may have ended by itself just now. Not waited for yet, so that its number is nobody else's.
    let _ = kill_process_group(Pid::from_child(child), Signal::KILL);
    let _ = child.kill();
    let _ = child.wait();
    format_err!("compiling it was given up: {why}")
}

/// What the process does that compiles: limits itself, takes a component from standard input and gives its machine code to
/// standard output. Its exit code.
#[must_use]
pub fn compile_for_another(memory_max_bytes: u64, time_max: Duration) -> u8 {
    match work(memory_max_bytes, time_max) {
        Ok(()) => 0,
        Err(error) => {
            // Whoever started it reads this; if nobody does, nobody cares.
            // No more than that one takes: it would not read the rest, and this could not end.
            let text = excerpt(format_args!("{error:#}"), EXCERPT_MAX_BYTES);
            let _ = write!(io::stderr(), "{text}");
            REFUSED as u8
        }
    }
}

fn work(memory_max_bytes: u64, time_max: Duration) -> Result<()> {
    let cpus = thread::available_parallelism().map_or(1, usize::from) as u64;
    limit(Resource::Core, 0)?;
    limit(Resource::Data, memory_max_bytes)?;
    // Where whoever started it is gone, nobody stops it but this.
    limit(Resource::Cpu, (time_max.as_secs() + 1).saturating_mul(cpus))?;
    // Its own process group hears of no signal from a terminal.
    set_parent_process_death_signal(Some(Signal::KILL))?;
    let bytes = bounded(io::stdin(), COMPONENT_MAX_BYTES)?;
    if bytes.len() as u64 > COMPONENT_MAX_BYTES {
        bail!("expected at most {COMPONENT_MAX_BYTES} bytes");
    }
    let code = compile(&engine::for_compiling()?, &bytes)?.serialize()?;
    io::stdout().write_all(&code)?;
    Ok(())
}

fn limit(resource: Resource, most: u64) -> Result<()> {
    let most = getrlimit(resource).maximum.map_or(most, |maximum| maximum.min(most));
    Ok(setrlimit(resource, Rlimit { current: Some(most), maximum: Some(most) })?)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn compiled_by(script: &str, time_max: Duration) -> String {
        let program = std::env::temp_dir().join(format!("compiler-{}-{}", std::process::id(), script.len()));
        std::fs::write(&program, format!("#!/bin/sh\n{script}\n")).expect("kept");
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o700)).expect("a program");
        let compiler = Compiler { program: program.clone(), memory_max_bytes: 1 << 30, time_max };
        let outcome = compiler.compile(b"\0asm");
        std::fs::remove_file(program).expect("it was there");
        outcome.map_or_else(|error| format!("{error:#}"), |code| String::from_utf8_lossy(&code).into_owned())
    }

    #[test]
    fn a_compiler_that_dies_stalls_or_gives_up_is_an_error_that_says_which() {
        let long = Duration::from_secs(60);
        for (script, says) in [
            ("cat; printf ' compiled'", "\0asm compiled"),
            ("cat >/dev/null; nice", "15"),
            ("echo it is no good >&2; exit 3", "it is no good"),
            ("echo memory allocation of 7 bytes failed >&2; kill -ABRT $$", "host.compile_memory_max_bytes"),
            ("kill -SEGV $$", "signal 11"),
            ("kill -XCPU $$", "host.compile_timeout"),
            ("echo why >&2; exit 101", "gave up on it: why"),
        ] {
            let said = compiled_by(script, long);
            assert!(said.contains(says), "{script}: {said}");
        }
        assert!(compiled_by("exec sleep 3600", Duration::from_millis(10)).contains("longer than 10ms"));
        let stays = "cat >/dev/null; exec >&- 2>&-; exec sleep 3600";
        assert!(compiled_by(stays, Duration::from_millis(200)).contains("longer than 200ms"));
        let start = Instant::now();
        // What it started has its pipes open still, and what left its group cannot even be ended.
        let holds = "cat >/dev/null; sleep 30 & exit 0";
        assert!(compiled_by(holds, Duration::from_millis(300)).contains("longer than 300ms"));
        let holds = "cat >/dev/null; setsid sleep 31 >/dev/null & echo why >&2; exit 101";
        assert!(compiled_by(holds, long).contains("gave up on it: why"));
        let holds = "setsid sleep 30 & exec >&- 2>&-; exit 101";
        assert!(compiled_by(holds, Duration::from_millis(400)).contains("longer than 400ms"));
        assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
        let missing = Compiler { program: "/nowhere".into(), ..Compiler::this_program() };
        assert!(format!("{:#}", missing.compile(b"").expect_err("there is none")).contains("/nowhere"));
    }
}
