//! The `wharf` command. `clap` and `anyhow` live here only.

/// Prints a line. A reader that went away is no failure of ours.
macro_rules! say {
    ($($words:tt)*) => {{
        use std::io::Write;
        let _ = writeln!(std::io::stdout(), $($words)*);
    }};
}

mod args;
mod build;
mod check;
mod component;
mod ctl;
mod dev;
mod fd_store;
mod inspect;
mod launch;
mod new;
mod plugin;
mod progress;
mod publish;
mod serve;
mod signals;
mod systemd;
mod tables;
mod test;
mod top;
mod upgrade;

use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use clap::{CommandFactory, Parser};
use tracing_appender::non_blocking::NonBlockingBuilder;
use tracing_subscriber::EnvFilter;

use self::args::{Cli, LogFormat, Verb};
use crate::plugin::compile_for_another;
use crate::telemetry::{count_dropped_lines, drives_reader};

/// Lines of the log that wait for their reader. Beyond them lines are dropped, and counted.
const LINES_MAX: usize = 8_192;

/// Runs the command line. 0: done; 1: it failed, and the reason is on standard error; 2: the
/// command line is wrong.
#[must_use]
pub fn run() -> ExitCode {
    let cli = Cli::parse();
    match &cli.verb {
        Verb::Ctl(arguments) => return ctl::run(arguments),
        Verb::Plugin(arguments) => return plugin::run(arguments),
        Verb::Top(arguments) => return top::run(arguments),
        Verb::Upgrade(arguments) => return upgrade::run(arguments),
        Verb::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut Cli::command(), "wharf", &mut script);
            // A reader that went away is no failure of ours.
            let _ = std::io::stdout().write_all(&script);
            return ExitCode::SUCCESS;
        }
        Verb::Compile { memory_max_bytes, seconds } => {
            return ExitCode::from(compile_for_another(
                *memory_max_bytes,
                Duration::from_secs(*seconds),
            ));
        }
        Verb::Launch { command } => return launch::run(command),
        _ => {}
    }
    let filter = match filter(&cli.log) {
        Ok(filter) => filter,
        Err(problem) => {
            eprintln!("wharf: --log (or WHARF_LOG) `{}`: {problem}", cli.log);
            return ExitCode::from(2);
        }
    };
    // A thread of its own writes: whoever reads the log slowly, or not at all, holds no session up.
    let writer = NonBlockingBuilder::default()
        .lossy(true)
        .buffered_lines_limit(LINES_MAX)
        .thread_name("wharf-log");
    // The library panics where the system refuses its thread.
    if let Err(error) = thread::Builder::new().spawn(|| {}).map(JoinHandle::join) {
        eprintln!("wharf: the system refused a thread for the log: {error}");
        return ExitCode::FAILURE;
    }
    let (writer, _flushed_at_the_end) = writer.finish(std::io::stderr());
    let dropped = writer.error_counter();
    count_dropped_lines(move || dropped.dropped_lines());
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer);
    match cli.log_format {
        LogFormat::Text => lines.with_ansi(std::io::stderr().is_terminal()).init(),
        LogFormat::Json => lines.json().flatten_event(true).init(),
    }
    let done = match cli.verb {
        Verb::Serve(arguments) => serve::run(&arguments),
        Verb::Check(arguments) => check::run(&arguments),
        Verb::Dev(arguments) => dev::run(&arguments),
        Verb::Test(arguments) => test::run(&arguments),
        Verb::New(arguments) => new::run(&arguments),
        Verb::Build(arguments) => build::run(&arguments),
        Verb::Component(arguments) => component::run(&arguments),
        Verb::Ctl(_)
        | Verb::Plugin(_)
        | Verb::Upgrade(_)
        | Verb::Top(_)
        | Verb::Compile { .. }
        | Verb::Launch { .. }
        | Verb::Completions { .. } => Ok(()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Every message of ours has its cause in it; the chain would say it twice.
            eprintln!("wharf: {}", printable(&error.to_string()));
            ExitCode::FAILURE
        }
    }
}

/// Messages quote files that somebody else may have written: nothing in them drives the terminal.
fn printable(text: &str) -> String {
    text.split('\n').map(in_one_line).collect::<Vec<_>>().join("\n")
}

/// Text that somebody else chose, such as a name: it stays in its line, and neither drives the
/// terminal nor turns what stands beside it around.
fn in_one_line(text: &str) -> String {
    let escape = |one: char| {
        if drives_reader(one) { one.escape_default().to_string() } else { one.to_string() }
    };
    text.chars().map(escape).collect()
}

/// A level for all of Wharf, or a filter as `wharf=debug,wasmtime=warn`. A bare word that is no
/// level would be taken for a target, and silence everything.
fn filter(text: &str) -> Result<EnvFilter, String> {
    const EXPECTED: &str =
        "expected error, warn, info, debug, trace or off, or a filter such as wharf=debug";
    let levels = ["error", "warn", "info", "debug", "trace", "off"];
    if levels.contains(&text) {
        // The engine's own talk is not for operators.
        return EnvFilter::try_new(format!("warn,wharf={text}")).map_err(|error| error.to_string());
    }
    let known = |part: &str| {
        part.rsplit_once('=').is_some_and(|(_, level)| levels.contains(&level))
            || levels.contains(&part)
    };
    if !text.split(',').all(known) {
        return Err(EXPECTED.to_owned());
    }
    EnvFilter::try_new(text).map_err(|error| format!("{error}; {EXPECTED}"))
}

#[cfg(test)]
mod tests {
    use super::filter;

    #[test]
    fn a_misspelt_level_is_an_error_and_not_silence() {
        for good in ["info", "off", "wharf=debug", "warn,wharf=trace"] {
            assert!(filter(good).is_ok(), "{good}");
        }
        for bad in ["inof", "loud", "", "wharf=nonsense", "wharf=debug,,x"] {
            assert!(filter(bad).is_err(), "{bad}");
        }
    }
}
