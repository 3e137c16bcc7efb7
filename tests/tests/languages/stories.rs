//! The transcript of the example, which is the same for all languages.

use wharf::authoring::Language;
use wharf::net::SocketOptions;
use wharf::server::{Server, ServerBuilder};
use wharf_tests::certificates::Certificates;
use wharf_tests::languages::project;
use wharf_tests::transcript::{Transcript, Wire, plain, play, secure, story};

use crate::{host, load};

fn describe(language: Language) -> (Transcript, ServerBuilder) {
    let project = project(language, "0.1.0", &[]);
    let story = story(&project.folder.join("transcript.txt"));
    let options = SocketOptions { no_delay: true, ..SocketOptions::default() };
    let mut server = Server::builder()
        .host(&host())
        .local_host("127.0.0.1")
        .options(options)
        .loaded_plugin(load(&project));
    for (key, value) in &story.settings {
        server = server.setting(key, value);
    }
    (story, server)
}

pub(crate) fn plain_and_bytewise(language: Language) {
    let (story, server) = describe(language);
    let server = server.start().expect("it starts");
    for bytewise in [false, true] {
        play(&story, &mut plain(server.address()), bytewise, language.name());
    }
}

pub(crate) fn over_tls(language: Language) {
    let certificates = Certificates::new();
    let (story, server) = describe(language);
    let server = server.credentials(certificates.credentials()).start().expect("it starts");
    play(&story, &mut secure(server.address(), &certificates), false, language.name());
}

/// Plays the transcript with `instance = "server"`. SDKs that keep an object for each session keep
/// their lines apart.
///
/// If state is in static variables (C, WebAssembly text) or in the one value of the instance
/// (Rust), only one session is played.
pub(crate) fn shared(language: Language) {
    let (story, server) = describe(language);
    let server = server.shared_instances(1).start().expect("it starts");
    if matches!(language, Language::Rust | Language::C | Language::Wat) {
        play(&story, &mut plain(server.address()), false, language.name());
        return;
    }
    let mut clients: Vec<_> = (0..3).map(|_| plain(server.address())).collect();
    let mut say = |client: usize, text: &str, answer: &str| {
        let wire: &mut dyn Wire = &mut clients[client];
        wire.write_all(text.as_bytes()).expect("the server takes it");
        let mut seen = vec![0; answer.len()];
        let outcome = wire.read_exact(&mut seen);
        assert_eq!(String::from_utf8_lossy(&seen), answer, "{}: {outcome:?}", language.name());
    };
    for (client, name) in ["zero", "one", "two"].into_iter().enumerate() {
        say(client, &format!("hello\n{name}"), "HELLO\n");
    }
    for (client, name) in ["ZERO", "ONE", "TWO"].into_iter().enumerate() {
        say(client, " ends\n", &format!("{name} ENDS\n"));
    }
}
