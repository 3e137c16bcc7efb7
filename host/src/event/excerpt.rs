//! Bounds on text that a plugin, a peer or a registry chose, applied where the text enters.

use std::fmt::{self, Display, Write};

/// Bytes kept of a message about a plugin from an engine, a parser or a library.
pub const EXCERPT_MAX_BYTES: usize = 2 << 10;
/// Bytes kept of the name of a function, an import or an export.
pub const NAME_MAX_BYTES: usize = 128;
/// Names that a list shows at most.
pub const NAMES_SHOWN_MAX: usize = 16;

/// The mark at the end of a text that was cut.
const CUT: &str = " [cut]";

/// Returns what `text` displays, in at most `max_bytes`.
///
/// A text that is cut ends with a mark inside that limit. Control characters are escaped, except
/// line ends and tabs. Formatting stops at the limit, so an endless text costs no more than its
/// excerpt.
#[must_use]
pub fn excerpt(text: impl Display, max_bytes: usize) -> String {
    let mut bounded = Bounded { text: String::new(), max_bytes };
    if write!(bounded, "{text}").is_err() {
        let at = bounded.text.floor_char_boundary(max_bytes.saturating_sub(CUT.len()));
        bounded.text.truncate(at);
        bounded.text.push_str(CUT);
    }
    bounded.text
}

/// Returns some of these names, each cut and quoted, and how many more there are.
#[must_use]
pub fn some_of<'a>(names: impl ExactSizeIterator<Item = &'a str>) -> String {
    let more = names.len().saturating_sub(NAMES_SHOWN_MAX);
    let shown: Vec<_> = names
        .take(NAMES_SHOWN_MAX)
        .map(|name| format!("`{}`", excerpt(name, NAME_MAX_BYTES)))
        .collect();
    let shown = shown.join(", ");
    if more == 0 { shown } else { format!("{shown} and {more} more") }
}

struct Bounded {
    text: String,
    max_bytes: usize,
}

impl Write for Bounded {
    fn write_str(&mut self, more: &str) -> fmt::Result {
        for character in more.chars() {
            let before = self.text.len();
            match character {
                '\n' | '\t' => self.text.push(character),
                control if control.is_control() => self.text.extend(control.escape_default()),
                other => self.text.push(other),
            }
            if self.text.len() > self.max_bytes {
                self.text.truncate(before);
                return Err(fmt::Error);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn excerpts_keep_to_their_limit() {
        let whole = "a\u{7}é漢\u{1f600}\n\t";
        for max_bytes in CUT.len()..40 {
            for times in 0..8 {
                let text = whole.repeat(times);
                let kept = excerpt(&text, max_bytes);
                assert!(kept.len() <= max_bytes, "{kept:?} has more than {max_bytes} bytes");
                let escaped = text.replace('\u{7}', "\\u{7}");
                match escaped.len() <= max_bytes {
                    true => assert_eq!(kept, escaped),
                    false => assert!(
                        kept.strip_suffix(CUT).is_some_and(|kept| escaped.starts_with(kept)),
                        "{kept:?}"
                    ),
                }
            }
        }
    }

    #[test]
    fn endless_text_ends() {
        struct Endless;
        impl Display for Endless {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                loop {
                    f.write_str("and so on ")?;
                }
            }
        }
        assert_eq!(excerpt(Endless, 100).len(), 100);
    }

    #[test]
    fn names_beyond_those_shown_are_counted() {
        let names: Vec<_> =
            (0..=NAMES_SHOWN_MAX).map(|number| format!("{number:0>1000}")).collect();
        let of = |count: usize| some_of(names[..count].iter().map(String::as_str));
        assert_eq!(of(0), "");
        assert!(!of(NAMES_SHOWN_MAX).contains("more"));
        assert!(of(NAMES_SHOWN_MAX + 1).ends_with(" and 1 more"));
        assert!(of(NAMES_SHOWN_MAX + 1).len() < NAMES_SHOWN_MAX * (NAME_MAX_BYTES + 4) + 20);
    }
}
