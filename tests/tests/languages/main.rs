//! Every language of `wharf new`: its project builds, plays its transcript, and migrates live
//! sessions to another version. Each of its faults ends one session, with words that its authors
//! understand.
//!
//! If a toolchain is missing, its tests count as ignored and name it.
//! `WHARF_TESTS_LANGUAGES=required` makes that a failure. `tests/toolchains.sh` installs all
//! toolchains.

mod builds;
mod dev;
mod faults;
mod packets;
mod stories;
mod swaps;
mod words;

use std::sync::OnceLock;

use libtest_mimic::{Arguments, Failed, Trial};
use wharf::authoring::Language;
use wharf::plugin::{Compiler, Plugin};
use wharf::server::{Host, HostConfig};
use wharf_tests::guests::wharf_binary;
use wharf_tests::languages::{Project, compiled, missing};

type Promise = fn(Language);

/// Claims about every language.
const PROMISES: [(&str, Promise); 7] = [
    ("its_transcript_plays_whole_and_in_single_bytes", stories::plain_and_bytewise),
    ("its_transcript_plays_without_sockets_and_while_it_is_handed_over", words::rehearsed),
    ("its_transcript_plays_over_tls", stories::over_tls),
    ("no_packet_is_a_fault", packets::answered),
    ("sessions_on_one_instance_are_kept_apart_where_the_sdk_does_so", stories::shared),
    ("live_sessions_move_under_load_with_their_partial_lines", swaps::under_load),
    ("a_crash_a_loop_and_exhausted_memory_end_one_session_each_and_say_why", faults::each),
];

/// Claims about the commands for authors.
const COMMANDS: [(&str, fn()); 10] = [
    ("a_new_project_serves_at_once_and_a_change_moves_live_sessions", dev::serves_at_once),
    ("a_story_that_fails_says_where", words::a_story_that_fails_says_where),
    ("usual_mistakes_are_explained", words::usual_mistakes_are_explained),
    ("what_is_no_plugin_is_told_by_name", words::what_is_no_plugin_is_told_by_name),
    ("a_story_has_limits_and_so_has_what_is_said_of_it", words::a_story_has_limits),
    ("what_a_build_started_ends_with_it", builds::what_a_build_started_ends_with_it),
    ("a_build_without_a_component_is_told", builds::a_build_without_a_component_is_told),
    ("what_dev_cannot_watch_or_build_is_told", builds::what_dev_cannot_watch_or_build_is_told),
    ("a_new_rust_project_passes_its_tests", builds::a_new_rust_project_passes_its_tests),
    ("what_is_refused_leaves_nothing_behind", builds::what_is_refused_leaves_nothing_behind),
];

fn main() {
    let arguments = Arguments::from_args();
    let required = std::env::var_os("WHARF_TESTS_LANGUAGES").is_some();
    let mut trials: Vec<_> = COMMANDS
        .into_iter()
        .map(|(name, promise)| {
            Trial::test(format!("commands::{name}"), move || {
                promise();
                Ok(())
            })
        })
        .collect();
    for language in Language::ALL {
        let missing = missing(language);
        if let (Some(tool), false) = (missing, required) {
            eprintln!(
                "SKIPPED: {}: `{tool}` is missing; tests/toolchains.sh installs it",
                language.name()
            );
        }
        for (name, promise) in PROMISES {
            let trial =
                Trial::test(format!("{}::{name}", language.name()), move || match missing {
                    Some(tool) => Err(Failed::from(format!(
                        "`{tool}` is missing; tests/toolchains.sh installs it"
                    ))),
                    None => {
                        promise(language);
                        Ok(())
                    }
                });
            trials.push(trial.with_ignored_flag(missing.is_some() && !required));
        }
    }
    libtest_mimic::run(&arguments, trials).exit();
}

/// The host of all servers of this test, with a cache of compiled components.
fn host() -> Host {
    static HOST: OnceLock<Host> = OnceLock::new();
    // A compiler process with the limits of the command, which must be enough for every language.
    let compiler = Some(Compiler { program: wharf_binary(), ..Compiler::this_program() });
    let config = HostConfig {
        workers: 2,
        sessions_max: 256,
        cache_dir: Some(compiled()),
        compiler,
        ..HostConfig::default()
    };
    HOST.get_or_init(|| Host::new(&config).expect("a host")).clone()
}

fn load(project: &Project) -> std::sync::Arc<Plugin> {
    let loaded = host().loader().share(&project.folder, &project.grants());
    loaded.unwrap_or_else(|error| panic!("{}: {error}", project.language.name()))
}
