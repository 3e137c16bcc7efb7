//! Pages and sources name the same things: reasons, notices, codes of the API, and tests.

use std::fs;

use wharf::admission::Refusal;
use wharf::event::{DisconnectReason, FaultKind};
use wharf::net::{HandshakeError, ProxyError};
use wharf::server::Occurrence;
use wharf::upgrade::SessionsSent;
use wharf_tests::sources::tests_of;

use super::{root, rust_files};

/// The text of pages for operators.
fn operating(pages: &[&str]) -> String {
    let page = |name: &&str| {
        fs::read_to_string(root().join("docs/operating").join(name)).expect("the page")
    };
    pages.iter().map(page).collect()
}

/// Asserts that each word is in one of these pages, as code.
fn explained<T: AsRef<str>>(pages: &[&str], words: impl IntoIterator<Item = T>) {
    let (text, mut missing) = (operating(pages), Vec::new());
    for word in words {
        let word = format!("`{}`", word.as_ref());
        if !text.contains(&word) {
            missing.push(word);
        }
    }
    assert!(missing.is_empty(), "docs/operating: {pages:?} do not explain {missing:?}");
}

/// Texts that begin right after `start`, in the sources of a folder of the host.
fn texts_after(folder: &str, start: &str) -> Vec<String> {
    let mut found = Vec::new();
    for file in rust_files(&root().join("host/src").join(folder)) {
        let source = fs::read_to_string(&file).expect("a source");
        let rests = source.split(start).skip(1);
        found.extend(rests.filter_map(|rest| rest.split('"').next()).map(str::to_owned));
    }
    found
}

#[test]
fn every_reason_is_explained_to_operators() {
    explained(&["reasons.md"], Refusal::ALL.map(Refusal::name));
    explained(&["reasons.md"], DisconnectReason::ALL.map(DisconnectReason::name));
    explained(&["reasons.md"], FaultKind::NAMED.map(FaultKind::name));
    explained(&["reasons.md"], HandshakeError::NAMES);
    explained(&["reasons.md"], ProxyError::NAMES);
}

#[test]
fn every_notice_is_explained_to_operators() {
    explained(&["reasons.md"], Occurrence::ALL.map(Occurrence::name));
    let counted = texts_after("telemetry", "Kind::Notice, \"");
    assert!(counted.len() > 8, "only {counted:?} were found");
    explained(&["reasons.md"], counted);
}

#[test]
fn every_reason_to_stay_is_explained() {
    explained(&["upgrades.md", "systemd.md"], SessionsSent::reasons());
    let of_swaps = texts_after("rollout", ".stay(\"");
    assert!(of_swaps.len() > 6, "only {of_swaps:?} were found");
    explained(&["swaps.md"], of_swaps);
}

#[test]
fn every_api_code_is_documented() {
    let document =
        fs::read_to_string(root().join("host/src/control/openapi.json")).expect("the document");
    let mut seen = 0;
    for file in fs::read_dir(root().join("host/src/control")).expect("a folder").flatten() {
        let Some(text) = file
            .path()
            .extension()
            .filter(|end| *end == "rs")
            .and(fs::read_to_string(file.path()).ok())
        else {
            continue;
        };
        // The code is the first text in a call that makes a problem.
        let makers = ["Problem::new(", "Problem::bad(", "Problem::conflict("];
        for (at, _) in makers.iter().flat_map(|maker| text.match_indices(maker)) {
            let made = &text[at..(at + 120).min(text.len())];
            let Some(code) = made.split_once(';').map_or(made, |(made, _)| made).split('"').nth(1)
            else {
                continue;
            };
            if code.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-') {
                let listed = document.contains(&format!("\"{code}\""))
                    && document.contains(&format!("`{code}` ("));
                assert!(listed, "openapi.json does not list or describe `{code}`");
                seen += 1;
            }
        }
    }
    assert!(seen > 20, "{seen}");
}

#[test]
fn page_of_isolation_names_tests_that_exist() {
    let page = fs::read_to_string(root().join("docs/isolation.md")).expect("the page");
    let (mut wrong, mut seen) = (Vec::new(), 0);
    for line in page.lines().filter(|line| line.contains("](../")) {
        let file =
            line.split("](../").nth(1).and_then(|rest| rest.split(')').next()).expect("a file");
        let test = line.split('`').nth(1).expect("a test");
        let text = fs::read_to_string(root().join(file)).unwrap_or_default();
        // Some suites list their tests by name.
        let is_listed = text.contains(&format!("(\"{test}\", "));
        if !is_listed && !tests_of(&text).iter().any(|name| name == test) {
            wrong.push(format!("docs/isolation.md: {file} has no test `{test}` that runs"));
        }
        seen += 1;
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(seen > 80, "{seen}");
}
