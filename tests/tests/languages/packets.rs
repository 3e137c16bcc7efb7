//! Packets against the example of each language, which answers in bounded slices: no packet is a
//! fault in any class.

use wharf::authoring::Language;
use wharf_tests::languages::project;
use wharf_tests::packets::{Amount, Manner, Subject, feed, lines, repeated};

use crate::load;

/// The amount of packets for a language, the step between the messages used, and the number of
/// packets of one byte. Languages that are slow at a byte or at a start get less.
fn amount(language: Language) -> (Amount, usize, usize) {
    match language {
        Language::Rust | Language::C | Language::Wat => (Amount::ALL, 3, 40_000),
        Language::Go => (Amount { bytes_step: 8, random: 200, mixed: 20 }, 6, 40_000),
        Language::JavaScript | Language::TypeScript | Language::Python => {
            (Amount { bytes_step: 32, random: 50, mixed: 5 }, 12, 2_000)
        }
    }
}

pub(crate) fn answered(language: Language) {
    let project = project(language, "0.1.0", &[]);
    let subject = Subject::new(&load(&project), &[]);
    let (amount, step, singles) = amount(language);
    let messages: Vec<_> = lines().into_iter().step_by(step).collect();
    let most = feed(&subject, b"", &messages, amount);
    println!("{}: {most} fuel in the dearest event", language.name());
    // Many small packets are no fault either: the guest frees in time what each event leaves
    // behind.
    let singles: Vec<&[u8]> = b"a\n".chunks(1).cycle().take(singles).collect();
    let outcome = subject
        .play(&singles, Manner::Calm)
        .unwrap_or_else(|error| panic!("{}: {error}", language.name()));
    assert_eq!(outcome.written.len(), singles.len(), "{}", language.name());
    // No line is lost.
    let packet = repeated(b"a short line\n");
    let outcome = subject.play(&[&packet], Manner::Calm).expect("no fault");
    assert!(
        outcome.written == packet.to_ascii_uppercase(),
        "{}: not all lines were answered",
        language.name()
    );
}
