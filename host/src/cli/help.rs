//! Texts of the help pages beyond the options: headings, examples, exit codes, and the page of
//! bare `wharf`.

use std::fmt::Write as _;

use clap::Command;

/// Heading of the options that every command has.
pub(super) const GLOBAL: &str = "Global options";
/// Heading of the options that describe one server.
pub(super) const SERVER: &str = "Server options";
/// Heading of the options that describe the TLS of one server.
pub(super) const TLS: &str = "TLS options";
/// Heading of the options of a command that talks to a running process.
pub(super) const CONTROL: &str = "Control API options";

/// Where the pages of the commands are.
pub(super) const PAGES: &str = "A command's own page: wharf COMMAND --help";

pub(super) const NEW: &str = "\
Examples:
  wharf new my-plugin
  wharf new --lang go my-plugin";

pub(super) const DEV: &str = "\
Examples:
  wharf dev my-plugin
  wharf dev my-plugin --listen 127.0.0.1:8000 --setting greeting=hello";

pub(super) const BUILD: &str = "\
Examples:
  wharf build my-plugin";

pub(super) const TEST: &str = "\
Examples:
  wharf test my-plugin
  wharf test echo.wasm --transcript short.txt --grant stdio";

pub(super) const COMPONENT: &str = "\
Examples:
  wharf component lines.wat --output lines.wasm";

pub(super) const CHECK: &str = "\
Examples:
  wharf check
  wharf check my-plugin";

pub(super) const SERVE: &str = "\
Examples:
  wharf serve
  wharf serve --plugin my-plugin --listen 127.0.0.1:7000 --grant stdio

Exit codes:
  0  stopped by a signal
  1  no server runs
  2  the command line is wrong";

pub(super) const CTL: &str = "\
Examples:
  wharf ctl servers
  wharf ctl suspend echo --newcomers reject

Exit codes:
  0  done
  1  refused, or not ready
  2  the command line, or a value on it, is wrong
  3  no process answers at the socket
  4  no such server or session
  5  the server's state forbids it, such as a lock or a canary";

pub(super) const PLUGIN: &str = "\
Examples:
  wharf plugin swap echo my-plugin
  wharf plugin canary echo my-plugin --share 0.1 --duration 5m
  wharf plugin push oci://registry.example.com/echo:1.0 my-plugin

Exit codes:
  0  done
  1  the version was rolled back
  5  sessions stayed that were to move
  Others as for `wharf ctl`.";

pub(super) const UPGRADE: &str = "\
Examples:
  wharf upgrade
  wharf upgrade --program ./wharf-next --drain 1h

Exit codes:
  0  the new process serves, and all sessions moved
  1  nothing changed
  5  the new process serves, and some sessions stayed
  Others as for `wharf ctl`.";

pub(super) const TOP: &str = "\
Examples:
  wharf top --every 5s";

pub(super) const COMPLETIONS: &str = "\
Examples:
  wharf completions bash > ~/.local/share/bash-completion/completions/wharf";

/// The commands that a new reader wants, as typed.
const FIRST: [(&str, &str); 3] =
    [("new", "wharf new my-plugin"), ("dev", "wharf dev my-plugin"), ("serve", "wharf serve")];

/// The page of bare `wharf`: three commands, each with its summary in `tree`, and where the others
/// are.
pub(super) fn start_page(tree: &Command) -> String {
    let summary = |command: &Command| command.get_about().map(ToString::to_string);
    let mut page = summary(tree).unwrap_or_default();
    page.push_str("\n\n");
    for (name, typed) in FIRST {
        let about = tree.find_subcommand(name).and_then(summary).unwrap_or_default();
        let _ = writeln!(page, "  {typed:19}  {about}");
    }
    page.push_str("\nAll commands: wharf --help\n");
    page.push_str(PAGES);
    page.push('\n');
    page
}

#[cfg(test)]
mod tests {
    use clap::{Command, CommandFactory};

    use super::super::args::Cli;
    use super::{FIRST, GLOBAL, start_page};

    const COLUMNS_MAX: usize = 80;

    /// Calls `check` with every command that people use, and with the words that lead to it.
    fn walk(command: &Command, path: &str, check: &mut impl FnMut(&Command, &str)) {
        check(command, path);
        for below in command.get_subcommands().filter(|one| !one.is_hide_set()) {
            if below.get_name() != "help" {
                walk(below, &format!("{path} {}", below.get_name()), check);
            }
        }
    }

    fn each_command(mut check: impl FnMut(&Command, &str)) {
        let mut tree = Cli::command().term_width(COLUMNS_MAX);
        tree.build();
        walk(&tree, "wharf", &mut check);
    }

    fn is_heading(page: &str, words: &str) -> bool {
        page.lines().any(|line| line == format!("{words}:"))
    }

    #[test]
    fn summaries_fit_one_line() {
        each_command(|command, path| {
            let page = command.clone().render_help().to_string();
            for below in command.get_subcommands().filter(|one| !one.is_hide_set()) {
                let (name, about) = (below.get_name(), below.get_about().map(ToString::to_string));
                let about = about.unwrap_or_default();
                assert!(!about.is_empty(), "{path} {name}: no summary");
                let is_whole = |line: &str| {
                    line.trim_start().starts_with(&format!("{name} ")) && line.ends_with(&about)
                };
                let line = page.lines().find(|line| is_whole(line));
                let line = line.unwrap_or_else(|| panic!("{path} {name}: on two lines:\n{page}"));
                assert!(line.chars().count() <= COLUMNS_MAX, "{path} {name}: {line:?}");
            }
        });
    }

    #[test]
    fn pages_stay_within_80_columns() {
        each_command(|command, path| {
            for page in [command.clone().render_help(), command.clone().render_long_help()] {
                let page = page.to_string();
                let wide = page.lines().find(|line| line.chars().count() > COLUMNS_MAX);
                // One word, such as an address, may be longer than its column.
                assert!(wide.is_none(), "{path}: {wide:?}");
            }
        });
    }

    #[test]
    fn pages_have_headings() {
        each_command(|command, path| {
            let page = command.clone().render_long_help().to_string();
            assert!(is_heading(&page, GLOBAL), "{path}: no {GLOBAL:?}:\n{page}");
            let holds_commands = command.get_subcommands().next().is_some();
            assert_eq!(is_heading(&page, "Commands"), holds_commands, "{path}:\n{page}");
            let positional = command.get_positionals().any(|one| !one.is_hide_set());
            assert_eq!(is_heading(&page, "Arguments"), positional, "{path}:\n{page}");
            if path.split(' ').count() == 2 {
                assert!(is_heading(&page, "Examples"), "{path}: no examples:\n{page}");
            }
            for option in command.get_opts() {
                assert!(option.get_help().is_some(), "{path}: {option}: no help");
            }
        });
    }

    #[test]
    fn global_options_stand_under_their_heading() {
        each_command(|command, path| {
            for name in ["log", "log_format"] {
                let option = command.get_arguments().find(|one| one.get_id() == name);
                let heading = option.and_then(clap::Arg::get_help_heading);
                assert_eq!(heading, Some(GLOBAL), "{path}: {name}");
            }
        });
    }

    #[test]
    fn bare_command_shows_three_commands() {
        let page = start_page(&Cli::command());
        for (name, typed) in FIRST {
            let line = page.lines().find(|line| line.starts_with(&format!("  {typed} ")));
            let line = line.unwrap_or_else(|| panic!("no {name}:\n{page}"));
            assert!(line.trim_start().len() > typed.len() + 10, "no summary: {line:?}");
        }
        assert_eq!(page.lines().filter(|line| line.starts_with("  wharf ")).count(), 3, "{page}");
        assert!(page.lines().all(|line| line.chars().count() <= COLUMNS_MAX), "{page}");
    }

    #[test]
    fn examples_parse() {
        use clap::Parser as _;
        each_command(|command, path| {
            let after = command.get_after_long_help().map(ToString::to_string).unwrap_or_default();
            let examples = after.lines().filter_map(|line| line.strip_prefix("  wharf "));
            for line in examples {
                let words = line.split(' ').take_while(|word| *word != ">");
                let parsed = Cli::try_parse_from(["wharf"].into_iter().chain(words));
                assert!(parsed.is_ok(), "{path}: {line}");
            }
        });
    }
}
