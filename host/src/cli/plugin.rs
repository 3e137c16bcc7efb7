//! `wharf plugin`: swaps versions of plugins in a running process, and moves plugins to and from
//! registries.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};

use super::help::CONTROL;
use super::publish::{self, PullArgs, PushArgs};
use super::request::{self, Ask};
use super::{answer, words};
use crate::oci::Reference;

#[derive(Args)]
pub(super) struct PluginArgs {
    /// Control socket; by default `$XDG_RUNTIME_DIR/wharf/control.sock`.
    #[arg(long, global = true, env = "WHARF_CONTROL", help_heading = CONTROL)]
    socket: Option<PathBuf>,
    /// Print the API's answer as JSON.
    #[arg(long, global = true, help_heading = CONTROL)]
    json: bool,
    #[command(subcommand)]
    verb: PluginVerb,
}

#[derive(Subcommand)]
enum PluginVerb {
    /// Give a server another version of its plugin.
    ///
    /// New sessions get it at once, live sessions by the policy. Exit code 1 if the version was
    /// rolled back, 5 if sessions stayed that were to move.
    Swap {
        /// The server's name.
        server: String,
        /// A folder with plugin.toml, a .wasm component, or oci://REGISTRY/REPOSITORY:TAG.
        file: PathBuf,
        /// What becomes of live sessions; by default as the server's configuration says.
        #[arg(long, value_enum)]
        policy: Option<Policy>,
    },
    /// Try a version on a share of the sessions.
    ///
    /// All sessions get it after `--duration`, unless it does worse than the current version.
    Canary {
        /// The server's name.
        server: String,
        /// A folder with plugin.toml, a .wasm component, or oci://REGISTRY/REPOSITORY:TAG.
        file: PathBuf,
        /// Share of new sessions, above 0 and up to 1; by default as the server's configuration
        /// says.
        #[arg(long)]
        share: Option<f64>,
        /// Move the same share of live sessions, too.
        #[arg(long)]
        live: bool,
        /// For how long, such as 5m; by default as the server's configuration says.
        #[arg(long)]
        duration: Option<String>,
    },
    /// Give the canary to all sessions.
    Promote {
        /// The server's name.
        server: String,
    },
    /// Roll back the canary, or else the current version.
    ///
    /// New and live sessions get the version before.
    Rollback {
        /// The server's name.
        server: String,
    },
    /// Show a server's versions, with the sessions on each.
    History {
        /// The server's name.
        server: String,
    },
    /// Push a plugin to an OCI registry; print its pinned reference.
    Push(PushArgs),
    /// Pull a plugin from an OCI registry; print its pinned reference.
    Pull(PullArgs),
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Policy {
    /// Each session moves with its state at its next event boundary.
    HandOff,
    /// All sessions move at one moment, or none does.
    AllOrNothing,
    /// Sessions end on the version that they have.
    Pin,
    /// Sessions are ended gracefully.
    Disconnect,
}

pub(super) fn run(arguments: &PluginArgs) -> ExitCode {
    let ask = match &arguments.verb {
        PluginVerb::Swap { server, file, policy } => whole(file).map(|file| {
            let mut values = json!({ "file": file });
            if let Some(policy) = policy {
                values["policy"] = json!(words::name(*policy));
            }
            Ask::with("POST", request::at(server, "/plugin/swap"), values)
        }),
        PluginVerb::Canary { server, file, share, live, duration } => whole(file).map(|file| {
            let mut values = json!({ "file": file });
            if let Some(share) = share {
                values["share"] = json!(share);
            }
            if *live {
                values["live"] = json!(true);
            }
            if let Some(duration) = duration {
                values["duration"] = json!(duration);
            }
            Ask::with("POST", request::at(server, "/plugin/canary"), values)
        }),
        PluginVerb::Promote { server } => {
            Ok(Ask::with("POST", request::at(server, "/plugin/promote"), json!({})))
        }
        PluginVerb::Rollback { server } => {
            Ok(Ask::with("POST", request::at(server, "/plugin/rollback"), json!({})))
        }
        PluginVerb::History { server } => Ok(Ask::get(request::at(server, "/plugin/history"))),
        PluginVerb::Push(push) => return publish::push(push, arguments.json),
        PluginVerb::Pull(pull) => return publish::pull(pull, arguments.json),
    };
    let ask = match ask {
        Ok(ask) => ask,
        Err(mistake) => return answer::fail(&mistake, 2),
    };
    // A roll-back is no failure if the request asked for one. Sessions that stay are no failure
    // under a policy that lets them stay.
    let asked_for = matches!(arguments.verb, PluginVerb::Rollback { .. });
    let may_stay = matches!(
        arguments.verb,
        PluginVerb::Swap { policy: Some(Policy::Pin | Policy::Disconnect), .. }
    );
    let server = match &arguments.verb {
        PluginVerb::Swap { server, file, .. } | PluginVerb::Canary { server, file, .. } => {
            if !arguments.json {
                eprintln!("loading {}", super::text::printable(&file.display().to_string()));
            }
            server
        }
        PluginVerb::Promote { server } | PluginVerb::Rollback { server } => server,
        _ => return answer::send(arguments.socket.clone(), ask, arguments.json, |_| 0),
    };
    answer::send_and_watch(arguments.socket.clone(), (server, ask), arguments.json, |answer| {
        if answer["rolled_back"] == true && !asked_for {
            if !arguments.json {
                eprintln!("wharf: {}", not_kept(answer));
            }
            return 1;
        }
        let not_moved: u64 = ["stayed", "lost"]
            .iter()
            .filter_map(|key| answer[*key].as_object())
            .flatten()
            .filter(|(why, _)| *why != "pinned")
            .filter_map(|(_, count)| count.as_u64())
            .sum();
        if not_moved == 0 || may_stay {
            return 0;
        }
        if !arguments.json {
            let sessions = if not_moved == 1 { "session" } else { "sessions" };
            eprintln!("wharf: {not_moved} {sessions} did not move, for the reasons above");
        }
        5
    })
}

/// A sentence for below the table: the version is not the current one, and why.
fn not_kept(answer: &Value) -> String {
    let name = |key: &str| super::text::printable(answer[key].as_str().unwrap_or("the version"));
    let why = match answer["generation"].as_u64() {
        Some(0) => "was not put in force, because not all sessions could move to it",
        _ => "was rolled back, because too many sessions could not move to it",
    };
    format!("{} {why}; {} goes on serving", name("to"), name("from"))
}

/// Makes a path absolute, because the serving process may have another working folder. A registry
/// reference stays as it is.
fn whole(file: &Path) -> Result<PathBuf, String> {
    if let Some(reference) = Reference::in_place_of(file) {
        return reference.map(|_| file.to_owned()).map_err(|error| error.to_string());
    }
    let expected = "expected a folder with plugin.toml, a .wasm component, or oci://...";
    file.canonicalize().map_err(|error| format!("{}: {error}; {expected}", file.display()))
}
