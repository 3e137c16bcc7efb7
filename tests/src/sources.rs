//! Sources as text: the tests that a file has.

/// Names of the tests of a file that run: functions below `#[test]` or `#[tokio::test]`, and those
/// of `proptest!`. An ignored test does not count.
#[must_use]
pub fn tests_of(text: &str) -> Vec<String> {
    let name = |line: &str| {
        let rest = line.trim_start().trim_start_matches("async ");
        let rest = rest.strip_prefix("fn ")?;
        rest.split_once('(').map(|(name, _)| name.to_owned())
    };
    let (mut found, mut is_property) = (Vec::new(), false);
    let (mut is_test, mut is_ignored) = (false, false);
    for line in text.lines() {
        let start = line.trim_start();
        is_property = is_property && line != "}" || start.starts_with("proptest! {");
        if start.starts_with("#[") {
            is_test |= start.starts_with("#[test]") || start.starts_with("#[tokio::test");
            is_ignored |= ["ignore]", "ignore)", "ignore ="].iter().any(|end| start.contains(end));
        } else if let Some(name) = name(line) {
            if !is_ignored && (is_test || is_property && line.starts_with("    fn ")) {
                found.push(name);
            }
            (is_test, is_ignored) = (false, false);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_that_run_are_found() {
        let cases = [
            ("#[test]", true),
            ("#[tokio::test]", true),
            ("#[tokio::test(start_paused = true)]", true),
            ("/// #[test]", false),
            ("#[allow(dead_code)]", false),
            ("", false),
        ];
        let ignores = ["#[ignore]", "#[ignore = \"slow\"]", "#[cfg_attr(miri, ignore)]"];
        for (attribute, is_test) in cases {
            for heading in ["fn one() {", "async fn one() {", "    fn one() {"] {
                for other in ["", "// A comment.\n", "#[allow(clippy::all)]\n"] {
                    let text = format!("{attribute}\n{other}{heading}\n}}\nfn helper() {{\n}}\n");
                    let expected = if is_test { vec!["one"] } else { vec![] };
                    assert_eq!(tests_of(&text), expected, "{text}");
                    for ignore in ignores {
                        let before = format!("{ignore}\n{text}");
                        let after = text.replacen(heading, &format!("{ignore}\n{heading}"), 1);
                        for text in [before, after] {
                            assert!(tests_of(&text).is_empty(), "{text}");
                        }
                    }
                }
            }
        }
        let property = "proptest! {\n    fn one(a in 0..9) {\n    }\n}\nfn helper() {\n}\n";
        assert_eq!(tests_of(property), ["one"]);
    }
}
