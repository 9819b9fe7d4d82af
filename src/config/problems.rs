//! Mistakes as a person reads them: `file:line:column: message`, the line with a caret, a hint.
//!
//! Lines and columns count from one, columns in characters. Colour only where asked for.

use std::fmt;
use std::fmt::Write as _;
use std::ops::Range;

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};
use driver_api::{Place, Problem};

use super::named::Named;
use super::source::{Sources, floor_char};

/// Everything that one run found, with the files it was found in.
#[derive(Debug, Default)]
pub struct Report {
    /// The files.
    pub sources: Sources,
    /// Mistakes: with one of these nothing starts. Sorted by file and place.
    pub problems: Vec<Problem>,
    /// What works but is probably not meant. Sorted by file and place.
    pub warnings: Vec<Problem>,
    /// The other files that the configuration names. What stands in them is not looked at here.
    pub named: Box<Named>,
}

/// A place as a person names it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Spot {
    /// The file.
    pub file: String,
    /// Its line, from 1.
    pub line: usize,
    /// The character in the line, from 1.
    pub column: usize,
}

/// The line around a place, cut out of its file.
struct Line<'a> {
    number: usize,
    column: usize,
    text: &'a str,
    /// Bytes of `text`.
    marked: Range<usize>,
}

impl Report {
    /// Sorts by file and place, and drops what was found twice (a profile used by two devices) or
    /// what is only missing because its line was unreadable.
    pub(crate) fn tidy(&mut self) {
        let sources = &self.sources;
        self.problems.retain(|p| !(p.message.ends_with("is missing") && sources.is_damaged(&p.place)));
        for list in [&mut self.problems, &mut self.warnings] {
            list.sort_by_key(|p| (p.place.source, p.place.range.start, p.place.range.end));
            list.dedup_by(|a, b| a.place == b.place && a.message == b.message);
        }
    }

    /// Where a problem stands.
    #[must_use]
    pub fn spot(&self, place: &Place) -> Spot {
        locate(&self.sources, place)
    }

    /// All problems and then all warnings, as text for a terminal or a log.
    #[must_use]
    pub fn render(&self, colour: bool) -> String {
        let mut text = String::new();
        for problem in &self.problems {
            self.render_one(&mut text, problem, &Level::ERROR, "", colour);
        }
        for warning in &self.warnings {
            self.render_one(&mut text, warning, &Level::WARNING, "warning: ", colour);
        }
        text
    }

    fn render_one(&self, out: &mut String, p: &Problem, level: &Level<'static>, word: &str, colour: bool) {
        let source = self.sources.get(p.place.source);
        let line = line_around(&source.text, &p.place.range);
        let (bold, plain) = if colour { ("\x1b[1m", "\x1b[0m") } else { ("", "") };
        let path = printable(&source.path.display().to_string());
        let message = printable(&p.message);
        let at = format!("{path}:{}:{}", line.number, line.column);
        let _infallible = writeln!(out, "{bold}{at}: {word}{message}{plain}");
        if !source.secret && !line.text.trim().is_empty() {
            let renderer = if colour { Renderer::styled() } else { Renderer::plain() };
            let marked = AnnotationKind::Primary.span(line.marked);
            let snippet = Snippet::source(line.text).line_start(line.number).annotation(marked);
            out.push_str(&renderer.render(&[Group::with_level(level.clone()).element(snippet)]));
            out.push('\n');
        }
        if let Some(hint) = &p.hint {
            let _infallible = writeln!(out, "  hint: {}", printable(hint));
        }
    }
}

/// A place in words.
#[must_use]
pub fn locate(sources: &Sources, place: &Place) -> Spot {
    let source = sources.get(place.source);
    let line = line_around(&source.text, &place.range);
    Spot { file: source.path.display().to_string(), line: line.number, column: line.column }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.render(false).trim_end())
    }
}

impl std::error::Error for Report {}

/// Cuts the first line of a range out of a text, whatever the range.
fn line_around<'a>(text: &'a str, range: &Range<usize>) -> Line<'a> {
    let at = floor_char(text, range.start);
    let mut start = text[..at].rfind('\n').map_or(0, |n| n + 1);
    let number = text[..start].matches('\n').count() + 1;
    let end = text[at..].find('\n').map_or(text.len(), |n| at + n);
    if start == 0 && text.starts_with('\u{feff}') {
        start = '\u{feff}'.len_utf8();
    }
    let start = start.min(end);
    let at = at.max(start);
    let line = text[start..end].trim_end_matches('\r');
    let from = (at - start).min(line.len());
    let to = floor_char(line, range.end.saturating_sub(start)).max(from);
    Line { number, column: line[..from].chars().count() + 1, text: line, marked: from..to }
}

/// The text without characters that could steer a terminal.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn spot(text: &str, word: &str) -> (usize, usize, String) {
        let at = text.find(word).expect("word");
        let line = line_around(text, &(at..at + word.len()));
        (line.number, line.column, line.text[line.marked].to_owned())
    }

    #[test]
    fn lines_and_columns_are_right_with_utf8_tabs_crlf_and_a_byte_order_mark() {
        assert_eq!(spot("a = 1\r\nunit = \"°C\" # µ\r\nbaud = x\r\n", "x"), (3, 8, "x".into()));
        assert_eq!(spot("unit = '°C', bad", "bad"), (1, 14, "bad".into()));
        assert_eq!(spot("\t\tbad = 1", "bad"), (1, 3, "bad".into()));
        assert_eq!(spot("\u{feff}bad = 1", "bad"), (1, 1, "bad".into()));
        assert_eq!(spot("a\n\nbad", "bad"), (3, 1, "bad".into()));
        assert_eq!(spot("x = [\r\n 1]", "[\r\n 1]"), (1, 5, "[".into()), "only the first line is marked");
    }

    proptest! {
        #[test]
        fn no_place_in_no_text_can_break_the_rendering(text in "\\PC{0,40}|[\\x00-\\xff]{0,40}", from in 0usize..60, to in 0usize..60, colour: bool) {
            let dir = tempfile::tempdir().expect("directory");
            let path = dir.path().join("x.toml");
            std::fs::write(&path, &text).expect("written");
            let mut report = Report::default();
            let _ = report.sources.add(path, &mut Vec::new());
            report.warnings.push(Problem::new(Place { source: 0, range: from..to }, "m\x1b[2J").hint("h"));
            report.problems.push(Problem::new(Place { source: 7, range: from..to }, "no such file"));
            let shown = report.render(colour);
            prop_assert!(colour || !shown.contains('\x1b'), "{shown:?}");
        }
    }
}
