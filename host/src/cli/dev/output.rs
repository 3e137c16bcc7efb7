//! The output of `wharf dev`: a few lines for each build, and the output of the build itself as it
//! arrives.
//!
//! The output is the same on a terminal and in a file. The server's log does not pass through here.

use std::collections::{BTreeSet, VecDeque};
use std::path::PathBuf;
use std::time::Duration;

use crate::server::SwapReport;

/// Most bytes of one build's output that are shown at once. Of the rest only the end is shown.
pub(super) const SHOWN_MAX_BYTES: usize = 256 << 10;
/// Lines that are shown of the end of a longer output.
const TAIL_LINES_MAX: usize = 40;
/// Most bytes of a line. A longer line becomes several.
pub(super) const LINE_MAX_BYTES: usize = 4 << 10;
/// Most changed files that are named.
const NAMED_MAX: usize = 3;
/// Most changed files that are remembered.
const REMEMBERED_MAX: usize = 100;

/// Writes one line of `wharf dev` itself.
pub(super) fn say(words: &str) {
    write(&format!("[dev] {}", crate::cli::text::printable(words)));
}

fn write(line: &str) {
    use std::io::Write;
    // A closed standard error is no reason to stop.
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// The output of one build.
#[derive(Debug, Default)]
pub(super) struct Shown {
    bytes: usize,
    left_out: usize,
    tail: VecDeque<String>,
}

impl Shown {
    /// Takes one more line, and returns it if it is to be shown at once.
    fn take(&mut self, line: String) -> Option<String> {
        self.bytes = self.bytes.saturating_add(line.len() + 1);
        if self.bytes <= SHOWN_MAX_BYTES {
            return Some(line);
        }
        self.tail.push_back(line);
        if self.tail.len() > TAIL_LINES_MAX {
            self.tail.pop_front();
            self.left_out += 1;
        }
        None
    }

    /// Takes one more line, and shows it or keeps it for the end.
    pub(super) fn line(&mut self, bytes: &[u8]) {
        let text = String::from_utf8_lossy(bytes);
        if let Some(line) = self.take(text.trim_end_matches(['\n', '\r']).to_owned()) {
            write(&format!("  | {line}"));
        }
    }

    /// Shows the end of a longer output.
    pub(super) fn end(self) {
        if self.left_out > 0 {
            say(&format!("{} lines of the build are left out; it ends with:", self.left_out));
        }
        self.tail.iter().for_each(|line| write(&format!("  | {line}")));
    }
}

/// Files that changed since the last build began.
#[derive(Debug, Default)]
pub(super) struct Changed(BTreeSet<PathBuf>);

impl Changed {
    pub(super) fn add(&mut self, paths: impl Iterator<Item = PathBuf>) {
        let room = REMEMBERED_MAX.saturating_sub(self.0.len());
        self.0.extend(paths.take(room));
    }

    /// The changed files as part of a line.
    pub(super) fn named(&self) -> String {
        let mut named: Vec<_> =
            self.0.iter().take(NAMED_MAX).map(|path| path.display().to_string()).collect();
        match self.0.len() {
            0 => return "something changed".to_owned(),
            all if all > NAMED_MAX => named.push(format!("{} more", all - NAMED_MAX)),
            _ => {}
        }
        format!("{} changed", named.join(", "))
    }
}

/// A duration in words for people.
pub(super) fn took(time: Duration) -> String {
    match time.as_secs() {
        0 => format!("{} ms", time.as_millis()),
        1..60 => format!("{:.1} s", time.as_secs_f64()),
        seconds => format!("{} min {} s", seconds / 60, seconds % 60),
    }
}

/// The result of a swap, in one line.
pub(super) fn swapped(report: &SwapReport, took: &str) -> String {
    let SwapReport { to, revision, moved, stayed, lost, rolled_back, ended, .. } = report;
    let mut words = match (rolled_back, revision) {
        (true, _) => {
            format!(
                "{to} was rolled back, too many sessions could not move to it; the build before it \
                 goes on serving"
            )
        }
        (false, number) => format!("version {number} is in force: {to}"),
    };
    words
        .push_str(&format!("; {moved} {} moved", if *moved == 1 { "session" } else { "sessions" }));
    for (what, reasons) in [("stayed", stayed), ("lost", lost)] {
        let count: usize = reasons.values().sum();
        if count > 0 {
            let why: Vec<_> = reasons.iter().map(|(why, count)| format!("{why} {count}")).collect();
            words.push_str(&format!(", {count} {what} ({})", why.join(", ")));
        }
    }
    if *ended > 0 {
        words.push_str(&format!(", {ended} ended"));
    }
    format!("{words}; in {took}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_output_shows_its_start_and_end() {
        let mut shown = Shown::default();
        let line = "x".repeat(1_023);
        let at_once = (0..300).filter(|_| shown.take(line.clone()).is_some()).count();
        assert_eq!(at_once, SHOWN_MAX_BYTES >> 10);
        assert_eq!(
            (shown.tail.len(), shown.left_out),
            (TAIL_LINES_MAX, 300 - at_once - TAIL_LINES_MAX)
        );
    }

    #[test]
    fn few_changes_are_named_and_many_are_counted() {
        let mut changed = Changed::default();
        assert_eq!(changed.named(), "something changed");
        changed.add(["a", "b"].into_iter().map(PathBuf::from));
        assert_eq!(changed.named(), "a, b changed");
        changed.add((0..1_000).map(|number| PathBuf::from(number.to_string())));
        assert_eq!(
            changed.named(),
            format!("0, 1, 10, {} more changed", REMEMBERED_MAX - NAMED_MAX)
        );
    }

    #[test]
    fn swap_is_reported_in_one_line() {
        let mut report =
            SwapReport { to: "echo 2".into(), revision: 3, moved: 12, ..SwapReport::default() };
        assert_eq!(
            swapped(&report, "5 ms"),
            "version 3 is in force: echo 2; 12 sessions moved; in 5 ms"
        );
        report.stayed.insert("busy".into(), 2);
        report.stayed.insert("handoff-refused".into(), 1);
        report.ended = 1;
        let line = swapped(&report, "5 ms");
        assert!(
            line.ends_with(
                "12 sessions moved, 3 stayed (busy 2, handoff-refused 1), 1 ended; in 5 ms"
            ),
            "{line}"
        );
    }
}
