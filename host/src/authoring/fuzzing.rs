//! Checks of what authors of plugins write: see `crate::fuzzing`.

use super::component::without_debug_sections;
use super::{Act, Transcript};
use crate::files::scratch;

/// A transcript is no larger than its file, and is read again from its own text.
pub fn transcript(bytes: &[u8]) -> bool {
    let read = scratch::with_file(bytes, |path| {
        Transcript::read(path).map_err(|error| (error.to_string(), path.display().to_string()))
    });
    let story = match read {
        Ok(story) => story,
        Err((said, file)) => {
            assert!(said.starts_with(&file) && said.len() > file.len() + 2, "{said}");
            assert!(said.len() <= 1 << 10, "{} bytes: {said:.100}", said.len());
            return false;
        }
    };
    let settings = story.settings.iter().map(|(key, value)| key.len() + value.len());
    let acts = story.acts.iter().map(|(_, act)| match act {
        Act::Send(data) | Act::Expect(data) => data.len(),
        Act::Finish | Act::Closed => 0,
    });
    assert!(settings.chain(acts).sum::<usize>() <= bytes.len(), "it is larger than its file");
    let lines: Vec<_> = story.acts.iter().map(|(line, _)| *line).collect();
    assert!(lines.is_sorted_by(|one, next| one < next), "{lines:?}");
    let written = text(&story);
    let again = scratch::with_file(written.as_bytes(), Transcript::read).expect("its own text");
    assert_eq!(again.settings, story.settings);
    assert!(again.acts.iter().map(|(_, act)| act).eq(story.acts.iter().map(|(_, act)| act)));
    true
}

fn text(story: &Transcript) -> String {
    let mut text = String::new();
    for (key, value) in &story.settings {
        text += &format!("setting {key} = {value}\n");
    }
    let quoted = |data: &[u8]| data.iter().map(|byte| format!("\\x{byte:02x}")).collect::<String>();
    for (_, act) in &story.acts {
        text += &match act {
            Act::Send(data) => format!("send \"{}\"\n", quoted(data)),
            Act::Expect(data) => format!("expect \"{}\"\n", quoted(data)),
            Act::Finish => "finish\n".to_owned(),
            Act::Closed => "closed\n".to_owned(),
        };
    }
    text
}

/// What is left of a module without its debug sections has no more of them.
pub fn core_module(bytes: &[u8]) -> bool {
    let left = without_debug_sections(bytes.to_vec());
    assert!(left.len() <= bytes.len());
    assert_eq!(without_debug_sections(left.clone()), left, "a second time something is left out");
    left.len() < bytes.len()
}
