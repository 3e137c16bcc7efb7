//! `wharf plugin`: versions of the plugins that a running process serves.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand, ValueEnum};
use serde_json::json;

use super::ctl::{self, Ask};

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
        /// A folder with plugin.toml, or a .wasm component.
        file: PathBuf,
        /// What becomes of live sessions.
        #[arg(long, value_enum, default_value = "hand-off")]
        policy: Policy,
    },
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
    let PluginVerb::Swap { server, file, policy } = &arguments.verb;
    // The process may have another folder than whoever asks.
    let file = match file.canonicalize() {
        Ok(file) => file,
        Err(error) => return ctl::fail(&format!("{}: {error}", file.display()), 2),
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
