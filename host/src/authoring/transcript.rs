//! `transcript.txt`: a client's story, kept beside the plugin that it tests.
//!
//! | line | meaning |
//! |---|---|
//! | `# text` | nothing |
//! | `setting KEY = VALUE` | a setting of the plugin; before everything else |
//! | `send "TEXT"` | the client sends, with the escapes `\r \n \t \\ \" \xHH` |
//! | `expect "TEXT"` | the client reads exactly this |
//! | `finish` | the client finishes sending |
//! | `closed` | the server ends the connection properly |

use std::path::{Path, PathBuf};

use crate::files;

/// The file's usual name.
pub const TRANSCRIPT_FILE: &str = "transcript.txt";
/// Largest file that is read, in bytes. A replay in single bytes makes as many events.
const TRANSCRIPT_MAX_BYTES: u64 = 1 << 20;
/// How many characters of an unknown line an error shows.
const SHOWN_MAX_CHARS: usize = 60;

/// One act of the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Act {
    /// Sends these bytes.
    Send(Vec<u8>),
    /// Reads exactly these bytes.
    Expect(Vec<u8>),
    /// Finishes sending.
    Finish,
    /// Sees the server close the connection.
    Closed,
}

/// A whole transcript.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Transcript {
    /// Settings of the plugin.
    pub settings: Vec<(String, String)>,
    /// The client's acts in order, each with its line in the file.
    pub acts: Vec<(usize, Act)>,
}

/// Why there is no transcript.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TranscriptError {
    /// The file does not exist, is too large, or is no text.
    #[error("{}: cannot read it: {source}", .file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// A line has no meaning.
    #[error("{}: line {line}: {problem}", .file.display())]
    Line {
        /// The file.
        file: PathBuf,
        /// The number of the line.
        line: usize,
        /// What was expected and found.
        problem: String,
    },
}

impl Transcript {
    /// Reads a transcript.
    ///
    /// # Errors
    /// [`TranscriptError`], with the line.
    pub fn read(file: &Path) -> Result<Self, TranscriptError> {
        let text = files::read_text(file, TRANSCRIPT_MAX_BYTES)
            .map_err(|source| TranscriptError::Unreadable { file: file.into(), source })?;
        Self::parse(&text).map_err(|(line, problem)| TranscriptError::Line {
            file: file.into(),
            line,
            problem,
        })
    }

    fn parse(text: &str) -> Result<Self, (usize, String)> {
        let mut story = Self::default();
        for (at, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            story.line(at + 1, line).map_err(|problem| (at + 1, problem))?;
        }
        if story.acts.is_empty() {
            Err((1, "nothing happens in it; expected a send, expect, finish or closed".to_owned()))
        } else {
            Ok(story)
        }
    }

    fn line(&mut self, at: usize, line: &str) -> Result<(), String> {
        let act = match line.split_once(' ').unwrap_or((line, "")) {
            ("setting", rest) => {
                let (key, value) = rest.split_once('=').ok_or("expected `setting KEY = VALUE`")?;
                if !self.acts.is_empty() {
                    return Err("a setting comes before everything that happens".into());
                }
                self.settings.push((key.trim().into(), value.trim().into()));
                return Ok(());
            }
            ("send", text) => Act::Send(unquote(text)?),
            ("expect", text) => Act::Expect(unquote(text)?),
            ("finish", "") => Act::Finish,
            ("closed", "") => Act::Closed,
            _ => {
                let shown: String = line.chars().take(SHOWN_MAX_CHARS).collect();
                let cut = if shown.len() < line.len() { "..." } else { "" };
                return Err(format!(
                    "expected setting, send, expect, finish or closed, found `{shown}{cut}`"
                ));
            }
        };
        self.acts.push((at, act));
        Ok(())
    }
}

fn unquote(text: &str) -> Result<Vec<u8>, String> {
    let inner = text.trim().strip_prefix('"').and_then(|text| text.strip_suffix('"'));
    let mut bytes = inner.ok_or("expected text in double quotes")?.bytes();
    let mut out = Vec::new();
    while let Some(byte) = bytes.next() {
        if byte != b'\\' {
            out.push(byte);
            continue;
        }
        out.push(match bytes.next() {
            Some(b'r') => b'\r',
            Some(b'n') => b'\n',
            Some(b't') => b'\t',
            Some(b'x') => {
                let digits: String = bytes.by_ref().take(2).map(char::from).collect();
                // `from_str_radix` alone would take a sign or a single digit as well.
                let whole =
                    digits.len() == 2 && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
                let byte = u8::from_str_radix(&digits, 16).ok().filter(|_| whole);
                byte.ok_or("expected two hexadecimal digits after `\\x`")?
            }
            Some(byte @ (b'\\' | b'"')) => byte,
            _ => return Err("expected one of the escapes \\r \\n \\t \\\\ \\\" \\xHH".into()),
        });
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_story_is_read_with_its_escapes() {
        let story = Transcript::parse(
            "# a\nsetting a = b = c\n\nsend \"\\x00\\\\\\\"\\r\\n\\t\"\nfinish\nclosed\n",
        );
        let story = story.expect("a story");
        assert_eq!(story.settings, [("a".to_owned(), "b = c".to_owned())]);
        assert_eq!(
            story.acts,
            [(4, Act::Send(b"\0\\\"\r\n\t".to_vec())), (5, Act::Finish), (6, Act::Closed)]
        );
    }

    #[test]
    fn bad_transcript_line_is_named_with_number() {
        for bad in [
            "sned \"a\"",
            "send a",
            "send \"\\q\"",
            "send \"\\x9\"",
            "setting a",
            "finish now",
            "send \"a\"\nsetting a = b",
        ] {
            let (line, _) = Transcript::parse(&format!("# first\n{bad}")).expect_err(bad);
            assert_eq!(line, 1 + bad.lines().count(), "{bad}");
        }
        assert!(Transcript::parse("# nothing").is_err());
        let (_, long) = Transcript::parse(&"x".repeat(100_000)).expect_err("no line of a story");
        assert!(long.len() < 200 && long.contains("..."), "{long}");
    }
}
