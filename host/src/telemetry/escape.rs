//! Escapes of foreign text on its way to a log or a terminal.

/// Returns whether a character acts on its reader instead of being read. Such characters are
/// controls, marks that hide or turn the direction of writing, and separators at which some viewers
/// break lines.
#[must_use]
pub fn drives_reader(character: char) -> bool {
    let hidden = matches!(
        character,
        '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}'
    );
    character.is_control() || hidden
}
