//! Text that somebody else chose, on its way to a log or a terminal.

/// Whether a character does something to its reader instead of being read: controls, marks that
/// hide or turn the direction of writing, and separators that some viewers break lines at.
#[must_use]
pub fn drives_reader(character: char) -> bool {
    let hidden = matches!(
        character,
        '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}'
    );
    character.is_control() || hidden
}
