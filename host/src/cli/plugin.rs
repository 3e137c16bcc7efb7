//! `wharf plugin`: versions of the plugins that a running process serves, and where they come from.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand, ValueEnum};
use serde_json::json;

use super::ctl::{self, Ask};
use super::publish::{self, PullArgs, PushArgs};
use crate::oci::Reference;

#[derive(Args)]
pub(super) struct PluginArgs {
    /// The control socket, as for `wharf ctl`.
    #[arg(long, global = true, env = "WHARF_CONTROL")]
    socket: Option<PathBuf>,
    /// Print what the API answers, for programs.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    verb: PluginVerb,
}

#[derive(Subcommand)]
enum PluginVerb {
    /// Give a server another version of its plugin: newcomers get it at once, live sessions as the policy says. Exit code 1 where it
    /// was taken back, 5 where sessions that were to move stayed.
    Swap {
        /// The server's name.
        server: String,
        /// A folder with plugin.toml, a .wasm component, or oci://REGISTRY/REPOSITORY:TAG.
        file: PathBuf,
        /// What becomes of live sessions.
        #[arg(long, value_enum, default_value = "hand-off")]
        policy: Policy,
    },
    /// Put a plugin into an OCI registry; prints its reference with its digest.
    Push(PushArgs),
    /// Get a plugin from an OCI registry into the store; prints its reference with its digest.
    Pull(PullArgs),
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Policy {
    /// Each moves with its state at its next event boundary.
    HandOff,
    /// They end on the version they have.
    Pin,
    /// They are ended gracefully.
    Disconnect,
}

pub(super) fn run(arguments: &PluginArgs) -> ExitCode {
    let (server, file, policy) = match &arguments.verb {
        PluginVerb::Swap { server, file, policy } => (server, file, policy),
        PluginVerb::Push(push) => return publish::push(push, arguments.json),
        PluginVerb::Pull(pull) => return publish::pull(pull, arguments.json),
    };
    let file = match Reference::in_place_of(file) {
        Some(Ok(_)) => file.clone(),
        Some(Err(error)) => return ctl::fail(&error.to_string(), 2),
        // The process may have another folder than whoever asks.
        None => match file.canonicalize() {
            Ok(file) => file,
            Err(error) => return ctl::fail(&format!("{}: {error}", file.display()), 2),
        },
    };
    let values = json!({ "file": file, "policy": ctl::name(*policy) });
    let ask = Ask::with("POST", ctl::at(server, "/plugin/swap"), values);
    ctl::send(arguments.socket.clone(), ask, arguments.json, |answer| {
        if answer["rolled_back"] == true {
            return 1;
        }
        let some = |key: &str| answer[key].as_object().is_some_and(|reasons| !reasons.is_empty());
        let stayed = some("stayed") || some("lost");
        if stayed && *policy == Policy::HandOff { 5 } else { 0 }
    })
}
