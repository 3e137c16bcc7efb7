//! A real OCI registry on loopback: Debian's `docker-registry`, in a folder of its own. If the
//! program is missing, a test says so and checks nothing. `WHARF_TESTS_REGISTRY=required` makes
//! that a failure.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use crate::certificates::Certificates;
use crate::ports::free_port;

/// The login `ann` with the password `secret`, in the form that registries read.
const LOGINS: &str = "ann:$2y$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n";

/// A running registry. Dropping it ends the registry.
pub struct DockerRegistry {
    server: Child,
    folder: TempDir,
    port: u16,
}

impl DockerRegistry {
    /// A registry without logins and without TLS. `None` if the program is missing.
    #[must_use]
    pub fn open() -> Option<Self> {
        Self::start(false, None)
    }

    /// A registry that admits only `ann` with the password `secret`.
    #[must_use]
    pub fn closed() -> Option<Self> {
        Self::start(true, None)
    }

    /// A registry without logins, with TLS.
    #[must_use]
    pub fn secure(certificates: &Certificates) -> Option<Self> {
        Self::start(false, Some(certificates))
    }

    fn start(closed: bool, certificates: Option<&Certificates>) -> Option<Self> {
        let (folder, port) = (tempfile::tempdir().expect("a folder"), free_port());
        let root = folder.path().display();
        let mut text = format!(
            "version: 0.1\nlog: {{level: info, accesslog: {{disabled: true}}}}\n\
             storage: {{filesystem: {{rootdirectory: \"{root}/data\"}}}}\n\
             http:\n  addr: \"127.0.0.1:{port}\"\n  secret: \"of a test\"\n"
        );
        if let Some(certificates) = certificates {
            let (chain, key) = (certificates.path("server.pem"), certificates.path("server.key"));
            writeln!(
                text,
                "  tls: {{certificate: \"{}\", key: \"{}\"}}",
                chain.display(),
                key.display()
            )
            .expect("text");
        }
        if closed {
            std::fs::write(folder.path().join("logins"), LOGINS).expect("kept");
            writeln!(text, "auth: {{htpasswd: {{realm: test, path: \"{root}/logins\"}}}}")
                .expect("text");
        }
        let file = folder.path().join("registry.yml");
        std::fs::write(&file, text).expect("kept");
        let mut command = Command::new("docker-registry");
        command
            .arg("serve")
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let mut server = match command.spawn() {
            Ok(server) => server,
            Err(error) => {
                let required = std::env::var_os("WHARF_TESTS_REGISTRY").is_some();
                assert!(!required, "docker-registry: {error}");
                eprintln!(
                    "SKIPPED: nothing was tried with a real registry: docker-registry: {error}"
                );
                return None;
            }
        };
        let mut said =
            BufReader::new(server.stderr.take().expect("its words")).lines().map_while(Result::ok);
        assert!(said.any(|line| line.contains("listening on")), "the registry does not start");
        std::thread::spawn(move || said.for_each(drop));
        Some(Self { server, folder, port })
    }

    /// The registry's host and port.
    #[must_use]
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// A reference to a plugin in the registry. `place` is a repository and tag, such as `echo:1`.
    #[must_use]
    pub fn reference(&self, place: &str) -> String {
        format!("oci://{}/{place}", self.address())
    }

    /// Ends the registry. Its content cannot be pulled any more.
    pub fn stop(&mut self) {
        let _ = (self.server.kill(), self.server.wait());
    }

    /// Overwrites the content of a digest on disk, without the registry's knowledge.
    pub fn corrupt(&self, hex: &str, content: &[u8]) {
        let blobs = self.folder.path().join("data/docker/registry/v2/blobs/sha256");
        let file = blobs.join(&hex[..2]).join(hex).join("data");
        assert!(file.exists(), "{} is there", file.display());
        std::fs::write(file, content).expect("overwritten");
    }
}

impl Drop for DockerRegistry {
    fn drop(&mut self) {
        self.stop();
    }
}
