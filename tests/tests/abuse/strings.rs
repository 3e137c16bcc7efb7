//! Names that are not text: badly encoded, cut within a character, misaligned, or beyond the
//! guest's memory. Each is a name, a refusal, or a trap of that session.

use std::io::{Read, Write};

use wharf::plugin::Grant;
use wharf::server::{BreakerLimits, ServerHandle};
use wharf_tests::clients::Client;
use wharf_tests::guests::root;
use wharf_tests::imports::open;
use wharf_tests::oracle::judge;
use wharf_tests::servers::describe;
use wit_component::StringEncoding;

/// A text as a guest passes it: its bytes, its distance from an aligned address, and the length
/// that the guest claims.
struct Text {
    bytes: Vec<u8>,
    askew: u8,
    length: u32,
}

fn text(bytes: impl Into<Vec<u8>>, askew: u8, length: u32) -> Text {
    Text { bytes: bytes.into(), askew, length }
}

/// A valid text of bytes.
fn bytes(bytes: &[u8]) -> Text {
    text(bytes, 0, u32::try_from(bytes.len()).expect("short"))
}

/// A valid text of units of 16 bits.
fn units(units: &[u16]) -> Text {
    let bytes: Vec<u8> = units.iter().flat_map(|unit| unit.to_le_bytes()).collect();
    text(bytes, 0, u32::try_from(units.len()).expect("short"))
}

const TAKEN: Option<u8> = Some(0);
const TOO_LONG: Option<u8> = Some(2);
const EMPTY: Option<u8> = Some(3);
const TRAP: Option<u8> = None;
/// The flag in the length of a text in latin1 or UTF-16 that selects UTF-16.
const WIDE: u32 = 1 << 31;

/// Passes the text to the host call `what` of a new session. Returns the guest's answer, or `None`
/// if the session ended by a fault.
fn pass(server: &ServerHandle, what: u8, text: &Text) -> Option<u8> {
    let mut message = vec![what, text.askew, 0, 0];
    message.extend_from_slice(&text.length.to_le_bytes());
    message.resize(8 + usize::from(text.askew), 0);
    message.extend_from_slice(&text.bytes);
    let mut client = Client::connect(server.address());
    client.0.write_all(&message).expect("it is taken");
    let mut answer = [0];
    let answered = client.0.read_exact(&mut answer).is_ok();
    if answered {
        client.finish().expect_closed();
    }
    answered.then_some(answer[0])
}

fn each(name: &str, encoding: StringEncoding, texts: &[(Text, Option<u8>)]) {
    let handlers =
        std::fs::read_to_string(root().join("tests/guests/namer.wat")).expect("the guest");
    let off = BreakerLimits { faults: 0, ..BreakerLimits::default() };
    let counters = judge(
        || describe(open(name, &handlers, encoding, &[Grant::Server])).breaker(off),
        |server| {
            for (number, (text, expected)) in texts.iter().enumerate() {
                assert_eq!(pass(server, b'n', text), *expected, "text {number} as a name");
                // The session with that name has ended, so the search finds none or traps.
                let sought = expected.map(|_| 1);
                assert_eq!(pass(server, b'f', text), sought, "text {number} sought");
            }
        },
    );
    let traps = 2 * texts.iter().filter(|(_, expected)| expected.is_none()).count() as u64;
    assert_eq!(counters.faults.get("trap:contract"), Some(&traps), "{counters:?}");
    assert_eq!(counters.faults.len(), 1, "{counters:?}");
    assert_eq!(
        counters.ended.get("peer-closed"),
        Some(&(2 * texts.len() as u64 - traps)),
        "{counters:?}"
    );
}

#[test]
fn utf8_text_is_a_name_or_a_trap() {
    each(
        "namer-of-bytes",
        StringEncoding::UTF8,
        &[
            (bytes(b"front desk"), TAKEN),
            (bytes("\u{1f6a2}".repeat(127).as_bytes()), TAKEN),
            (bytes(b"a\0b"), TAKEN),
            (bytes(b"\x1b[2J\r\n"), TAKEN),
            (text(*b"askew", 1, 5), TAKEN),
            (bytes(b""), EMPTY),
            (bytes(&[b'x'; 128]), TOO_LONG),
            (bytes(&[b'x'; 60_000]), TOO_LONG),
            // Bytes of no text, half a surrogate pair, an overlong form, a cut character, and one
            // beyond the last character.
            (bytes(b"\xff\xfe"), TRAP),
            (bytes(b"\xed\xa0\x80"), TRAP),
            (bytes(b"\xc0\xaf"), TRAP),
            (bytes(b"ab\xe2\x82"), TRAP),
            (bytes(b"\xf4\x90\x80\x80"), TRAP),
            // Beyond the end of the memory, and around the whole address space.
            (text(*b"x", 0, 131_072), TRAP),
            (text(*b"x", 0, i32::MAX as u32), TRAP),
            (text(*b"x", 0, u32::MAX), TRAP),
        ],
    );
}

#[test]
fn utf16_text_is_a_name_or_a_trap() {
    each(
        "namer-of-units",
        StringEncoding::UTF16,
        &[
            (units(&[0x66, 0xfc, 0x72]), TAKEN),
            (units(&[0xd83d, 0xdea2]), TAKEN),
            (units(&[]), EMPTY),
            (units(&[0x78; 128]), TOO_LONG),
            // Half a surrogate pair: alone, at the end, and the pair in the wrong order.
            (units(&[0xd800]), TRAP),
            (units(&[0x61, 0xd83d]), TRAP),
            (units(&[0xdea2, 0xd83d]), TRAP),
            (text(*b"a\0", 1, 1), TRAP),
            (text(*b"a\0", 0, 70_000), TRAP),
            (text(*b"a\0", 0, i32::MAX as u32), TRAP),
            (text(*b"a\0", 0, u32::MAX), TRAP),
        ],
    );
}

#[test]
fn latin1_or_utf16_text_is_name_or_trap() {
    let wide = |text: Text| Text { length: text.length | WIDE, ..text };
    each(
        "namer-of-either",
        StringEncoding::CompactUTF16,
        &[
            (bytes(b"f\xfcr"), TAKEN),
            (bytes(b"\xff\xfe\x80"), TAKEN),
            (wide(units(&[0xd83d, 0xdea2])), TAKEN),
            (bytes(b""), EMPTY),
            (wide(units(&[])), EMPTY),
            (bytes(&[b'x'; 128]), TOO_LONG),
            (wide(units(&[0xd800])), TRAP),
            (wide(text(*b"a\0", 1, 1)), TRAP),
            (text(*b"a", 1, 1), TRAP),
            (text(*b"a", 0, 131_072), TRAP),
            (text(*b"a", 0, i32::MAX as u32), TRAP),
            (text(*b"a", 0, u32::MAX), TRAP),
        ],
    );
}
