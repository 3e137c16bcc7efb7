//! Signatures of versions that were swapped in from a registry and are kept in the state directory.
//! The host verifies them again at every start and roll-back.

use std::os::unix::net::UnixStream;
use std::process::{Command, Output};

use wharf_tests::control_site::ControlSite;
use wharf_tests::docker_registry::DockerRegistry;
use wharf_tests::guests::{component, versioned, wharf_binary};
use wharf_tests::process::Wharf;
use wharf_tests::servers::eventually;

use super::common::{done, failed, wharf};
use super::signed::key;

/// A server whose configuration trusts `ours` and not `other`, and a version in a registry that
/// `ours` has signed.
struct Trusting {
    docker_registry: DockerRegistry,
    site: ControlSite,
    text: String,
    signed: String,
}

impl Trusting {
    fn new() -> Option<Self> {
        let docker_registry = DockerRegistry::open()?;
        let site = ControlSite::of_versions("", &['a', 'b']);
        let (ours, _) = key(site.folder.path(), "ours");
        key(site.folder.path(), "other");
        let signed = docker_registry.reference("team/echo:2");
        std::fs::write(site.path("signed.wasm"), component(&versioned('s', "", ""))).expect("kept");
        let file = |name: &str| site.path(name).display().to_string();
        let push = [
            "plugin",
            "push",
            &signed,
            &file("signed.wasm"),
            "--sign",
            &ours.display().to_string(),
        ];
        done(&wharf(&push, site.folder.path()));
        let text = std::fs::read_to_string(site.path("wharf.toml")).expect("its configuration");
        let trusting = Self { docker_registry, site, text, signed };
        trusting.believe("if-missing", "ours.pub");
        done(&trusting.site.ctl(&["reload"]));
        Some(trusting)
    }

    fn believe(&self, pull: &str, key: &str) {
        let trust = format!(
            "[registry]\npull = '{pull}'\nstore_dir = 'store'\n[[registry.trust]]\nprefix = \
             '{}'\nkeys = ['{key}']\n",
            self.docker_registry.address()
        );
        std::fs::write(self.site.path("wharf.toml"), format!("{trust}{}", self.text))
            .expect("kept");
    }

    fn swap(&self, place: &str) {
        done(&self.site.wharf_plugin(&["swap", "echo", place]));
    }

    fn end(&mut self) {
        self.site.wharf.kill();
        let socket = self.site.socket();
        eventually("no process has its sockets", || UnixStream::connect(&socket).is_err());
    }

    /// Starts the process, which must fail, and returns its output.
    fn start(&self) -> Output {
        let folder = self.site.folder.path();
        // If the process serves nevertheless, it is ended after 30 s.
        let mut command = Command::new("timeout");
        command.arg("30").arg(wharf_binary()).arg("serve").current_dir(folder);
        command
            .env("XDG_CACHE_HOME", folder.join("cache"))
            .env("XDG_STATE_HOME", folder.join("state"));
        command.output().expect("it runs")
    }

    fn starts(&mut self) {
        self.site.wharf = Wharf::run(&["serve"], self.site.folder.path());
        self.site.wharf.says("server started");
        let socket = self.site.socket();
        eventually("the control API is open", || UnixStream::connect(&socket).is_ok());
    }

    fn plugin(&self) -> String {
        done(&self.site.ctl(&["show", "echo", "--json"]))
    }
}

fn says(said: &str, words: &[&str]) {
    for words in words {
        assert!(said.contains(words), "no {words:?} in {said:?}");
    }
}

#[test]
fn recorded_version_needs_a_trusted_key_at_start() {
    let Some(mut trusting) = Trusting::new() else { return };
    trusting.swap(&trusting.signed.clone());
    trusting.end();
    // The version starts without its registry while its key is trusted.
    trusting.docker_registry.stop();
    trusting.starts();
    says(&trusting.plugin(), &["signed 2"]);
    trusting.end();
    let team = trusting.docker_registry.reference("team/echo@sha256:");
    for pull in ["never", "if-missing"] {
        trusting.believe(pull, "other.pub");
        let said = failed(&trusting.start(), 1);
        says(
            &said,
            &["record.json: ", &team, "a signature is required", "is believed here: other.pub"],
        );
        says(
            &said,
            &["[[registry.trust]]", "remove the file to start what the configuration names"],
        );
        assert_eq!(said.contains("cannot reach the registry"), pull == "if-missing", "{said}");
    }
    trusting.believe("never", "ours.pub");
    trusting.starts();
    // A reload that would keep the version is refused as well.
    trusting.believe("never", "other.pub");
    says(&failed(&trusting.site.ctl(&["reload"]), 1), &[&team, "is believed here: other.pub"]);
    trusting.swap(&trusting.site.path("a.wasm").display().to_string());
    done(&trusting.site.ctl(&["reload"]));
    trusting.end();
    trusting.starts();
}

#[test]
fn roll_back_needs_a_trusted_key() {
    let Some(mut trusting) = Trusting::new() else { return };
    let place = |trusting: &Trusting, name: &str| trusting.site.path(name).display().to_string();
    trusting.swap(&trusting.signed.clone());
    trusting.swap(&place(&trusting, "a.wasm"));
    trusting.believe("if-missing", "other.pub");
    done(&trusting.site.ctl(&["reload"]));
    let team = trusting.docker_registry.reference("team/echo@sha256:");
    let words = [
        "cannot go back to signed 2",
        &team,
        "a signature is required",
        "is believed here: other.pub",
    ];
    // First with the version in memory, then from the state directory.
    for _ in 0..2 {
        let said = failed(&trusting.site.wharf_plugin(&["rollback", "echo"]), 1);
        says(&said, &words);
        says(&said, &["[[registry.trust]]", "Swap in another version"]);
        trusting.end();
        trusting.starts();
    }
    trusting.believe("if-missing", "ours.pub");
    done(&trusting.site.ctl(&["reload"]));
    trusting.docker_registry.stop();
    done(&trusting.site.wharf_plugin(&["rollback", "echo"]));
}

#[test]
fn lost_signatures_are_pulled_again() {
    let Some(mut trusting) = Trusting::new() else { return };
    trusting.swap(&trusting.signed.clone());
    trusting.end();
    std::fs::remove_dir_all(trusting.site.path("store")).expect("removed");
    trusting.believe("never", "ours.pub");
    says(&failed(&trusting.start(), 1), &["none is in the store"]);
    trusting.believe("if-missing", "ours.pub");
    trusting.starts();
    trusting.end();
    trusting.docker_registry.stop();
    trusting.starts();
}
