//! The `wharf` command. `clap` and `anyhow` are used in this module only.

/// Prints a line on standard output. A closed standard output is no error.
macro_rules! say {
    ($($words:tt)*) => {{
        use std::io::Write;
        let _ = writeln!(std::io::stdout(), $($words)*);
    }};
}

mod answer;
mod args;
mod build;
mod check;
mod component;
mod ctl;
mod dev;
mod fd_store;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod help;
mod inspect;
mod launch;
mod new;
mod plugin;
mod progress;
mod publish;
mod request;
mod serve;
mod signals;
mod systemd;
mod tables;
mod test;
mod text;
mod top;
mod upgrade;
mod words;

use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use clap::{CommandFactory, Parser};
use tracing_appender::non_blocking::NonBlockingBuilder;
use tracing_subscriber::EnvFilter;

use self::args::{Cli, LogFormat, Verb};
use self::text::printable;
use crate::plugin::compile_for_another;
use crate::telemetry::count_dropped_lines;

/// Most lines of the log that wait for their reader. Further lines are dropped and counted.
const LINES_MAX: usize = 8_192;

/// Runs the command line, and returns the exit code.
///
/// - 0: done.
/// - 1: failed; the reason is on standard error.
/// - 2: the command line is wrong.
///
/// Verbs that call the control API have further codes.
#[must_use]
pub fn run() -> ExitCode {
    let cli = Cli::parse();
    let Some(verb) = cli.verb else {
        eprint!("{}", help::start_page(&Cli::command()));
        return ExitCode::from(2);
    };
    match &verb {
        Verb::Ctl(arguments) => return ctl::run(arguments),
        Verb::Plugin(arguments) => return plugin::run(arguments),
        Verb::Top(arguments) => return top::run(arguments),
        Verb::Upgrade(arguments) => return upgrade::run(arguments),
        Verb::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut Cli::command(), "wharf", &mut script);
            // A closed standard output is no error of this program.
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
    // A thread of its own writes the log, so a slow reader of the log delays no session.
    let writer = NonBlockingBuilder::default()
        .lossy(true)
        .buffered_lines_limit(LINES_MAX)
        .thread_name("wharf-log");
    // The library panics if the system refuses its thread, so this tries a thread first.
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
    let done = match verb {
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
            // Every error of this crate has its cause in its message. The chain would repeat it.
            eprintln!("wharf: {}", printable(&error.to_string()));
            ExitCode::FAILURE
        }
    }
}

/// Parses a level for all of Wharf, or a filter such as `wharf=debug,wasmtime=warn`. Refuses a bare
/// word that is no level: the library would take it for a target, and silence everything else.
fn filter(text: &str) -> Result<EnvFilter, String> {
    const EXPECTED: &str =
        "expected error, warn, info, debug, trace or off, or a filter such as wharf=debug";
    let levels = ["error", "warn", "info", "debug", "trace", "off"];
    if levels.contains(&text) {
        // Lines of the engine below `warn` are not for operators.
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
    fn misspelt_level_is_an_error() {
        for good in ["info", "off", "wharf=debug", "warn,wharf=trace"] {
            assert!(filter(good).is_ok(), "{good}");
        }
        for bad in ["inof", "loud", "", "wharf=nonsense", "wharf=debug,,x"] {
            assert!(filter(bad).is_err(), "{bad}");
        }
    }
}
