//! `transcript.txt`: a story of one client, beside the plugin that it tells of.
//!
//! | line | meaning |
//! |---|---|
//! | `# text` | nothing |
//! | `setting KEY = VALUE` | a setting of the plugin; before everything else |
//! | `send "TEXT"` | the client sends, with the escapes `\r \n \t \\ \" \xHH` |
//! | `expect "TEXT"` | the client reads exactly this |
//! | `finish` | the client finishes sending |
//! | `closed` | the server ends the connection properly |

use std::path::Path;

/// One thing a client does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Act {
    /// Sends.
    Send(Vec<u8>),
    /// Reads exactly this.
    Expect(Vec<u8>),
    /// Finishes sending.
    Finish,
    /// Sees the end.
    Closed,
}

/// A whole story.
#[derive(Debug, Default)]
pub struct Transcript {
    /// Settings of the plugin.
    pub settings: Vec<(String, String)>,
    /// What happens.
    pub acts: Vec<Act>,
}

impl Transcript {
    /// Reads a story. Panics with the line where it is none.
    #[must_use]
    pub fn read(file: &Path) -> Self {
        let text = std::fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let mut story = Self::default();
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
            match line.split_once(' ').unwrap_or((line, "")) {
                ("setting", rest) => {
                    let (key, value) = rest.split_once('=').unwrap_or_else(|| panic!("no value: {line}"));
                    story.settings.push((key.trim().into(), value.trim().into()));
                }
                ("send", text) => story.acts.push(Act::Send(unquote(text))),
                ("expect", text) => story.acts.push(Act::Expect(unquote(text))),
                ("finish", "") => story.acts.push(Act::Finish),
                ("closed", "") => story.acts.push(Act::Closed),
                _ => panic!("{}: no line of a transcript: {line}", file.display()),
            }
        }
        assert!(!story.acts.is_empty(), "{}: nothing happens", file.display());
        story
    }
}

fn unquote(text: &str) -> Vec<u8> {
    let inner = text.strip_prefix('"').and_then(|text| text.strip_suffix('"'));
    let mut bytes = inner.unwrap_or_else(|| panic!("no quotes: {text}")).bytes();
    let mut out = Vec::new();
    while let Some(byte) = bytes.next() {
        if byte != b'\\' {
            out.push(byte);
            continue;
        }
        match bytes.next() {
            Some(b'r') => out.push(b'\r'),
            Some(b'n') => out.push(b'\n'),
            Some(b't') => out.push(b'\t'),
            Some(b'x') => {
                let digits: String = bytes.by_ref().take(2).map(char::from).collect();
                out.push(u8::from_str_radix(&digits, 16).unwrap_or_else(|_| panic!("bad \\x in {text}")));
            }
            Some(byte @ (b'\\' | b'"')) => out.push(byte),
            other => panic!("unknown escape {other:?} in {text}"),
        }
    }
    out
}
