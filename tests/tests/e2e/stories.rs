//! The transcripts of the bundled plugins, played whole and in single bytes, plain and over TLS.
//! The test finds the transcripts by itself.

use std::path::{Path, PathBuf};

use wharf::server::ServerHandle;
use wharf_tests::certificates::Certificates;
use wharf_tests::guests::{bundled, root};
use wharf_tests::servers::{describe, eventually};
use wharf_tests::transcript::{Transcript, plain, play, secure, story};

fn folders() -> Vec<PathBuf> {
    let all = std::fs::read_dir(root().join("plugins"))
        .expect("the plugins")
        .map(|entry| entry.expect("one").path());
    let with: Vec<_> = all.filter(|folder| folder.join("transcript.txt").exists()).collect();
    assert!(with.len() >= 3, "the bundled plugins tell stories");
    with
}

fn server(folder: &Path, story: &Transcript, certificates: Option<&Certificates>) -> ServerHandle {
    let name = folder.strip_prefix(root()).expect("inside").to_str().expect("text");
    let mut server = describe(bundled(name));
    for (key, value) in &story.settings {
        server = server.setting(key, value);
    }
    if let Some(certificates) = certificates {
        server = server.credentials(certificates.credentials());
    }
    server.start().expect("it starts")
}

#[test]
fn every_transcript_plays_whole_and_in_bytes() {
    for folder in folders() {
        let story = story(&folder.join("transcript.txt"));
        let server = server(&folder, &story, None);
        for bytewise in [false, true] {
            play(&story, &mut plain(server.address()), bytewise, &folder.display().to_string());
            // A session that ends may still write to the others.
            eventually("the last client has left", || server.clients() == 0);
        }
    }
}

#[test]
fn every_transcript_plays_over_tls() {
    let certificates = Certificates::new();
    for folder in folders() {
        let story = story(&folder.join("transcript.txt"));
        let server = server(&folder, &story, Some(&certificates));
        play(
            &story,
            &mut secure(server.address(), &certificates),
            false,
            &folder.display().to_string(),
        );
    }
}
