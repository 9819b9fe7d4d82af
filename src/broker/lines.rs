//! Mistakes in files that are read line by line: the ACL file and the password file. Pure.

use std::ops::Range;

/// A mistake in an ACL or password file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LineError {
    /// Line, from 1.
    pub line: usize,
    /// The character in the line, from 1.
    pub column: usize,
    /// Which bytes of the file.
    pub range: Range<usize>,
    /// What is wrong. Never holds a secret.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
}

impl LineError {
    /// A mistake at `part`, which is a piece of `whole`. (Of another text: at the start.)
    pub(super) fn at(whole: &str, part: &str, message: impl Into<String>) -> Self {
        let start = part.as_ptr().addr().wrapping_sub(whole.as_ptr().addr());
        let start = if whole.is_char_boundary(start) { start } else { 0 };
        let before = whole.get(..start).unwrap_or_default();
        let line_start = before.rfind('\n').map_or(0, |n| n + 1);
        Self {
            line: before.matches('\n').count() + 1,
            column: before.get(line_start..).unwrap_or_default().chars().count() + 1,
            range: start..start + part.len(),
            message: message.into(),
            hint: None,
        }
    }

    /// The same with a hint.
    #[must_use]
    pub(super) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistake_stands_where_its_words_stand() {
        let text = "# °C\r\n  user Jürgen x\n";
        let at = LineError::at(text, &text[text.find('x').unwrap()..][..1], "m");
        assert_eq!((at.line, at.column), (2, 15));
        assert_eq!(&text[at.range], "x");
        let foreign = LineError::at(text, "elsewhere", "m");
        assert_eq!((foreign.line, foreign.column), (1, 1));
    }
}
