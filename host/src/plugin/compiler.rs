//! Compiling in a process of its own.
//!
//! A component that was made to harm the compiler harms only that process. Its memory and its time
//! are limited. If the process dies, the load is refused.

use std::io::{self, Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::thread;
use std::time::Duration;

use rustix::io::retry_on_intr;
use rustix::process::{
    Pid, Resource, Rlimit, Signal, WaitId, WaitIdOptions, getrlimit, kill_process_group,
    set_parent_process_death_signal, setpriority_process, setrlimit, waitid,
};
use wasmtime::{Result, bail, format_err};

use super::compile::precompile;
use super::deadline_io::{DeadlineIo, Heard, Pipes};
use super::engine;
use super::source::COMPONENT_MAX_BYTES;
use crate::event::{EXCERPT_MAX_BYTES, excerpt};
use crate::sched::Quota;
use crate::work::{RefusedResource, Stop, SystemRefused, panic_words};

/// Verb of this program that starts the compiler process. Its arguments are the two limits.
pub const VERB: &str = "compile";
/// Machine code that the host accepts from the compiler process.
pub(super) const CODE_MAX_BYTES: u64 = 512 << 20;
/// Bytes of the process's error messages that are kept.
const MESSAGE_MAX_BYTES: usize = 16 << 10;
/// Characters of the last line of those messages that are reported.
const LINE_MAX_CHARS: usize = 300;
/// Interval at which the host looks for the exit of the process, once all machine code has arrived.
const EXIT_LOOKED_FOR_EVERY: Duration = Duration::from_millis(1);
/// Niceness of the process: sessions come first.
const NICENESS: i32 = 15;
/// Exit code if the component is bad.
const REFUSED: i32 = 3;
/// Exit code if the compiler panicked on the component.
const PANICKED: i32 = 4;
/// Exit code if the system refused something.
const SYSTEM: i32 = 5;
/// Message of the process when an allocation fails, before it aborts.
const ALLOCATION_FAILED: &str = "memory allocation of";

/// The program and the limits of a compiler process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compiler {
    /// The program, usually this one. It must have the verb [`VERB`] and the same engine.
    pub program: PathBuf,
    /// Memory that the process may have. Default 2 GiB.
    pub memory_max_bytes: u64,
    /// Time that a compilation may take. Default five minutes.
    pub time_max: Duration,
}

impl Compiler {
    /// Default of `memory_max_bytes`.
    pub const MEMORY_MAX_BYTES: u64 = 2 << 30;
    /// Default of `time_max`.
    pub const TIME_MAX: Duration = Duration::from_secs(300);
    /// Least memory with which a compiler process can work at all.
    pub const MEMORY_MIN_BYTES: u64 = 512 << 20;
    /// Least time with which a compiler process can work at all.
    pub const TIME_MIN: Duration = Duration::from_secs(1);

    /// This program with the default limits, even if another file lies at its path by now.
    #[must_use]
    pub fn this_program() -> Self {
        let program = PathBuf::from("/proc/self/exe");
        Self { program, memory_max_bytes: Self::MEMORY_MAX_BYTES, time_max: Self::TIME_MAX }
    }

    /// Compiles a component to machine code. Blocks until the code is there, or until `stop`
    /// cancels. The quota owes the CPU time of the process, however the process ends.
    pub(super) fn compile(&self, bytes: &[u8], stop: &Stop, quota: &Quota) -> Result<Vec<u8>> {
        let mut child = Command::new(&self.program)
            .args([VERB, &self.memory_max_bytes.to_string(), &self.time_max.as_secs().to_string()])
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // A process group, so that processes which the compiler starts can be killed with it.
            .process_group(0)
            .spawn()
            .map_err(|error| self.not_started(&error))?;
        // Set before the process has the component, and so before it does any work. A refusal does
        // no harm.
        let _ = setpriority_process(Some(Pid::from_child(&child)), NICENESS);
        let (input, Some(output), Some(said)) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err(end(&mut child, quota, "it has no pipes"));
        };
        let mut pipes = Pipes { input, output, said: Heard::new(said, MESSAGE_MAX_BYTES) };
        let deadline_io = DeadlineIo::of(self.time_max, stop.clone());
        let code = match deadline_io.talk(&mut pipes, bytes, CODE_MAX_BYTES) {
            Ok(code) => code,
            Err(error) => return Err(end(&mut child, quota, &self.why(&error))),
        };
        if code.len() as u64 > CODE_MAX_BYTES {
            return Err(end(
                &mut child,
                quota,
                &format!("its machine code is longer than {CODE_MAX_BYTES} bytes"),
            ));
        }
        // The process only has to exit now, but the component may have kept it from that.
        let status = match exited(&mut child, quota, &deadline_io, &mut pipes.said) {
            Ok(status) => status,
            Err(error) => return Err(end(&mut child, quota, &self.why(&error))),
        };
        // The last messages are still in the pipe.
        pipes.said.hear();
        if status.success() {
            return Ok(code);
        }
        Err(self.reason(status, &String::from_utf8_lossy(pipes.said.kept())))
    }

    fn not_started(&self, error: &io::Error) -> wasmtime::Error {
        let what = format!("the compiler did not start: {}: {error}", self.program.display());
        match RefusedResource::of(error) {
            Some(refusal) => SystemRefused { refusal, what }.into(),
            None => format_err!("{what}"),
        }
    }

    /// Why the host stopped waiting for the process.
    fn why(&self, error: &io::Error) -> String {
        match error.kind() {
            io::ErrorKind::TimedOut => {
                format!("it took longer than {:?} (`host.compile_timeout`)", self.time_max)
            }
            io::ErrorKind::Interrupted => "it was called off".to_owned(),
            _ => format!("its machine code could not be read: {error}"),
        }
    }

    fn reason(&self, status: ExitStatus, said: &str) -> wasmtime::Error {
        let said = said.trim();
        if status.code() == Some(REFUSED) {
            return format_err!("{said}");
        }
        let memory = || {
            let max = self.memory_max_bytes;
            format!(
                "compiling it takes more memory than the {max} bytes that it may have \
                 (`host.compile_memory_max_bytes`), or than the system has left"
            )
        };
        let refused = match RefusedResource::in_text(said) {
            _ if said.contains(ALLOCATION_FAILED) => Some((RefusedResource::Memory, memory())),
            Some(RefusedResource::Memory) => Some((RefusedResource::Memory, memory())),
            Some(refusal) => Some((refusal, format!("compiling it failed: {}", last_line(said)))),
            None => None,
        };
        if let Some((refusal, what)) = refused {
            return SystemRefused { refusal, what }.into();
        }
        match status.signal() {
            Some(libc::SIGXCPU) => {
                format_err!("compiling it took too much CPU time (`host.compile_timeout`)")
            }
            Some(signal) => {
                format_err!("the compiler died of signal {signal} on it: {}", last_line(said))
            }
            None if status.code() == Some(PANICKED) => format_err!("{}", last_line(said)),
            None => format_err!("the compiler gave up on it: {}", last_line(said)),
        }
    }
}

/// The last line of a process's messages, shortened.
fn last_line(said: &str) -> String {
    said.lines().next_back().unwrap_or_default().chars().take(LINE_MAX_CHARS).collect()
}

/// Reads up to one byte more than `max`, so that the caller can see the excess.
fn bounded(from: impl Read, max: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.take(max + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Waits for the exit of the process, then kills its group. Meanwhile reads its messages.
///
/// # Errors
/// Those of [`DeadlineIo::lasts`]: the process has not exited by then.
fn exited(
    child: &mut Child,
    quota: &Quota,
    deadline_io: &DeadlineIo,
    said: &mut Heard<ChildStderr>,
) -> io::Result<ExitStatus> {
    let id = Pid::from_child(child);
    // The look does not reap the process, so its id is not reused before its group is killed.
    let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    loop {
        if retry_on_intr(|| waitid(WaitId::Pid(id), look))?.is_some() {
            quota.owe(cpu_time(child));
            let _ = kill_process_group(id, Signal::KILL);
            return child.wait();
        }
        deadline_io.lasts()?;
        said.hear();
        thread::sleep(EXIT_LOOKED_FOR_EVERY);
    }
}

/// CPU time of a process that is not reaped yet, as the system counts it, in steps of some
/// milliseconds. Zero if the system does not say: the charge is for fairness, and ends no process.
fn cpu_time(child: &Child) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap_or_default();
    // The process name may contain anything, and ends at the last parenthesis. The two numbers are
    // the 14th and the 15th field.
    let after = stat.rsplit_once(')').map(|(_, after)| after).unwrap_or_default();
    let ticks: u64 = after
        .split_whitespace()
        .skip(11)
        .take(2)
        .filter_map(|field| field.parse::<u64>().ok())
        .sum();
    Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second().max(1) as f64)
}

/// Kills the process and its group, and returns the error.
fn end(child: &mut Child, quota: &Quota, why: &str) -> wasmtime::Error {
    quota.owe(cpu_time(child));
    // The process may have ended by itself just now. It is not reaped yet, so its id is not reused.
    let _ = kill_process_group(Pid::from_child(child), Signal::KILL);
    let _ = child.kill();
    let _ = child.wait();
    format_err!("compiling it was given up: {why}")
}

/// Runs the compiler process: limits itself, reads a component from standard input, and writes its
/// machine code to standard output. Returns the exit code.
#[must_use]
pub fn compile_for_another(memory_max_bytes: u64, time_max: Duration) -> u8 {
    one_line_for_each_panic();
    match work(memory_max_bytes, time_max) {
        Ok(()) => 0,
        Err(error) => {
            // The host reads this text. It is cut, because the names of a component may be huge.
            let text = excerpt(format_args!("{error:#}"), EXCERPT_MAX_BYTES);
            let _ = write!(io::stderr(), "{text}");
            let system = RefusedResource::in_causes(error.as_ref()).is_some();
            (if system { SYSTEM } else { REFUSED }) as u8
        }
    }
}

/// Makes this process exit at the first panic of any of its threads, with one line. The line says
/// that the system refused something, or that the compiler has a bug.
fn one_line_for_each_panic() {
    std::panic::set_hook(Box::new(|panic| {
        let said = panic_words(panic.payload()).split_whitespace().collect::<Vec<_>>().join(" ");
        let (line, code) = match RefusedResource::in_text(&said) {
            Some(_) => (said, SYSTEM),
            None => {
                (format!("the compiler failed on it, by a mistake of its own: {said}"), PANICKED)
            }
        };
        // The host reads this line.
        let _ = writeln!(io::stderr(), "\n{line}");
        std::process::exit(code);
    }));
}

fn work(memory_max_bytes: u64, time_max: Duration) -> Result<()> {
    let cpus = thread::available_parallelism().map_or(1, usize::from) as u64;
    limit(Resource::Core, 0)?;
    limit(Resource::Data, memory_max_bytes)?;
    // The host enforces `time_max`. If the host is gone, only this limit ends the process.
    limit(Resource::Cpu, (time_max.as_secs() + 1).saturating_mul(cpus))?;
    // The process has its own group, so signals of a terminal do not reach it. This one does.
    set_parent_process_death_signal(Some(Signal::KILL))?;
    let bytes = bounded(io::stdin(), COMPONENT_MAX_BYTES)?;
    if bytes.len() as u64 > COMPONENT_MAX_BYTES {
        bail!("expected at most {COMPONENT_MAX_BYTES} bytes");
    }
    let code = precompile(&engine::for_compiling()?, &bytes)?;
    io::stdout().write_all(&code)?;
    Ok(())
}

fn limit(resource: Resource, most: u64) -> Result<()> {
    let most = getrlimit(resource).maximum.map_or(most, |maximum| maximum.min(most));
    Ok(setrlimit(resource, Rlimit { current: Some(most), maximum: Some(most) })?)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::rng::Rng;
    use crate::sched::QuotaLimits;

    /// A program that runs a shell script. Another process writes its file. Otherwise a process
    /// that another test starts just now inherits the open file, and the system refuses to run it.
    fn program(name: &str, script: &str) -> PathBuf {
        let program = std::env::temp_dir().join(format!("{name}-{}", std::process::id()));
        let status = Command::new("sh")
            .args(["-c", "printf '#!/bin/sh\\n%s\\n' \"$1\" > \"$0\" && chmod 700 \"$0\""])
            .arg(&program)
            .arg(script)
            .status()
            .expect("a shell");
        assert!(status.success(), "{status}");
        program
    }

    fn compiled_by(script: &str, time_max: Duration) -> String {
        compiled_by_for(script, time_max, &Quota::default())
    }

    fn compiled_by_for(script: &str, time_max: Duration, quota: &Quota) -> String {
        let program = program(&format!("compiler-{}", script.len()), script);
        let compiler = Compiler { program: program.clone(), memory_max_bytes: 1 << 30, time_max };
        let outcome = compiler.compile(b"\0asm", &Stop::default(), quota);
        std::fs::remove_file(program).expect("it was there");
        outcome.map_or_else(
            |error| format!("{error:#}"),
            |code| String::from_utf8_lossy(&code).into_owned(),
        )
    }

    #[test]
    fn compiler_time_is_owed_however_it_ends() {
        let work = "i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done";
        for (number, (ends, seconds)) in
            [("cat", 60), ("exit 3", 60), ("kill -SEGV $$", 60), ("exec sleep 3600", 3)]
                .into_iter()
                .enumerate()
        {
            let quota = Quota::default();
            quota.set(QuotaLimits { cpus: 1.0, ..QuotaLimits::default() });
            // Each script has its own length, which names its file.
            let script = format!("cat >/dev/null; {work}; {}{ends}", " ".repeat(100 + number * 20));
            let said = compiled_by_for(&script, Duration::from_secs(seconds), &quota);
            let owed = quota.seen().cpu;
            assert!(owed >= Duration::from_millis(20), "{ends}: {owed:?}, {said}");
        }
    }

    #[test]
    fn failed_compiler_error_names_the_cause() {
        let long = Duration::from_secs(60);
        for (script, says) in [
            ("cat; printf ' compiled'", "\0asm compiled"),
            ("cat >/dev/null; nice", "15"),
            ("echo it is no good >&2; exit 3", "it is no good"),
            (
                "echo memory allocation of 7 bytes failed >&2; kill -ABRT $$",
                "host.compile_memory_max_bytes",
            ),
            ("kill -SEGV $$", "signal 11"),
            ("kill -XCPU $$", "host.compile_timeout"),
            ("echo why >&2; exit 101", "gave up on it: why"),
            ("echo 'it failed: (os error 12)' >&2; exit 4", "ENOMEM"),
            ("echo 'it failed: Os { code: 11, kind: WouldBlock }' >&2; exit 4", "EAGAIN"),
            ("echo 'no room: (os error 24)' >&2; exit 5", "EMFILE"),
            ("echo 'an export (os error 24)' >&2; exit 3", "an export"),
            ("exec <&-; echo compiled", "compiled"),
        ] {
            let said = compiled_by(script, long);
            assert!(said.contains(says), "{script}: {said}");
        }
        assert!(
            compiled_by("exec sleep 3600", Duration::from_millis(10)).contains("longer than 10ms")
        );
        let stays = "cat >/dev/null; exec >&- 2>&-; exec sleep 3600";
        assert!(compiled_by(stays, Duration::from_millis(200)).contains("longer than 200ms"));
        let start = Instant::now();
        // A process of its group still holds the pipes. A process outside the group cannot even be
        // killed.
        let holds = "cat >/dev/null; sleep 30 & exit 0";
        assert!(compiled_by(holds, Duration::from_millis(300)).contains("longer than 300ms"));
        let holds = "cat >/dev/null; setsid sleep 31 >/dev/null & echo why >&2; exit 101";
        assert!(compiled_by(holds, long).contains("gave up on it: why"));
        let holds = "setsid sleep 30 & exec >&- 2>&-; exit 101";
        assert!(compiled_by(holds, Duration::from_millis(400)).contains("longer than 400ms"));
        assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
        let missing = Compiler { program: "/nowhere".into(), ..Compiler::this_program() };
        assert!(
            format!(
                "{:#}",
                missing
                    .compile(b"", &Stop::default(), &Quota::default())
                    .expect_err("there is none")
            )
            .contains("/nowhere")
        );
    }
    #[test]
    fn cancelled_compiler_ends_with_all_it_started() {
        let mut rng = Rng(7);
        for script in [
            "sleep 30",
            "cat >/dev/null; sleep 31",
            "exec >&- 2>&-; sleep 32 & sleep 32",
            "yes",
            "yes >&2",
        ] {
            let pause = Duration::from_millis(rng.throw(128));
            let stop = Stop::default();
            let calls = stop.clone();
            let calls = thread::spawn(move || {
                thread::sleep(pause);
                calls.ask();
            });
            let program = program(&format!("stopped-{}", rng.throw(1 << 24)), script);
            let time_max = Duration::from_secs(600);
            let compiler =
                Compiler { program: program.clone(), memory_max_bytes: 1 << 30, time_max };
            let error = compiler
                .compile(&vec![0; 1 << 20], &stop, &Quota::default())
                .expect_err("it was cancelled");
            assert!(format!("{error:#}").contains("called off"), "{script}: {error:#}");
            calls.join().expect("no panic");
            std::fs::remove_file(program).expect("it was there");
        }
    }
}
