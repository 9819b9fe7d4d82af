//! The files of a configuration: found, read, and freed of their syntax mistakes.
//!
//! Promises: nothing in a file can make this fail with anything but a problem at a place, and every
//! syntax mistake is reported while the rest of the file stays readable. A mistaken line is blanked
//! with spaces before the file is understood, so every byte keeps its offset.

use std::fs;
use std::io::Read;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use driver_api::{Place, Problem, SourceId};
use toml::de::DeTable;

/// Largest file that is read. A thousand points take about 150 KiB.
const MAX_FILE_BYTES: u64 = 4 << 20;
/// Most files in `conf.d`; [`SourceId`] could name 65,535.
const MAX_DROP_INS: usize = 1000;
/// Most syntax mistakes looked for in one file; each costs one more parse of it.
const MAX_SYNTAX: usize = 30;
/// Most dots in one dotted key. The TOML parser bounds the nesting of brackets (80) but not this,
/// and a key of a hundred thousand parts would exhaust the stack.
const MAX_DOTS: usize = 16;

/// One file.
#[derive(Debug, Default)]
pub struct Source {
    /// As it was found: the main file's path as given, the others beside it.
    pub path: PathBuf,
    /// What stands in it; bytes that are not UTF-8 replaced.
    pub text: String,
    /// The text with mistaken lines blanked.
    clean: String,
    /// What was blanked.
    blanked: Vec<Range<usize>>,
    /// Its lines hold secrets and are never shown.
    pub secret: bool,
}

/// All files of one configuration, in the order in which they were read.
#[derive(Debug, Default)]
pub struct Sources {
    files: Vec<Source>,
}

impl Sources {
    /// Reads the main file and then `conf.d/*.toml` beside it, in name order.
    #[must_use]
    pub fn read(main: &Path, problems: &mut Vec<Problem>) -> Self {
        let mut sources = Self::default();
        let _ = sources.add(main.to_owned(), problems);
        let directory = parent(main).join("conf.d");
        let listed = fs::read_dir(&directory)
            .and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>());
        let mut drop_ins = match listed {
            Ok(paths) => paths.into_iter().filter(|path| is_toml(path)).collect(),
            Err(_) if is_nowhere(&directory) => Vec::new(),
            Err(e) => {
                let place = Place { source: 0, range: 0..0 };
                let (what, hint) = absent(&directory, &e);
                let what = format!("`{}`: {what}", directory.display());
                problems.push(Problem::new(place, what).hint(hint));
                Vec::new()
            }
        };
        drop_ins.sort();
        if drop_ins.len() > MAX_DROP_INS {
            let place = Place { source: 0, range: 0..0 };
            let message = format!("`{}` has more than {MAX_DROP_INS} files", directory.display());
            problems.push(Problem::new(place, message).hint("put several devices into one file"));
            drop_ins.truncate(MAX_DROP_INS);
        }
        for path in drop_ins {
            let _ = sources.add_drop_in(path, problems);
        }
        sources
    }

    /// A file of `conf.d`. What has the name of one and is none is a mistake: whoever put it there meant a file, and a reload
    /// would take away what stood in it.
    fn add_drop_in(&mut self, path: PathBuf, problems: &mut Vec<Problem>) -> Option<SourceId> {
        let (what, hint) = match fs::metadata(&path) {
            // A link to /dev/null switches a file off, as with systemd.
            Ok(is)
                if is.is_file() || fs::canonicalize(&path).is_ok_and(|to| to == Path::new("/dev/null")) =>
            {
                return self.add(path, problems);
            }
            Ok(is) if is.is_dir() => {
                ("this is a directory".to_owned(), "give it a name without `.toml`, or remove it")
            }
            Ok(_) => ("this is no regular file".to_owned(), "remove it, or put a file in its place"),
            Err(e) => absent(&path, &e),
        };
        let id = self.add_text(path, String::new(), problems)?;
        problems.push(Problem::new(Place { source: id, range: 0..0 }, what).hint(hint));
        Some(id)
    }

    /// Reads one more file and notes its syntax mistakes. `None` if there are too many files to name.
    pub fn add(&mut self, path: PathBuf, problems: &mut Vec<Problem>) -> Option<SourceId> {
        let id = SourceId::try_from(self.files.len()).ok()?;
        let at_start = |message: String| Problem::new(Place { source: id, range: 0..0 }, message);
        let text = match read_bounded(&path) {
            Ok(bytes) => match String::from_utf8(bytes) {
                Ok(text) => text,
                Err(e) => {
                    let at = e.utf8_error().valid_up_to();
                    let place = Place { source: id, range: at..at };
                    problems.push(
                        Problem::new(place, "this is not UTF-8 text")
                            .hint("save the file as UTF-8; units such as `°C` are often Latin-1"),
                    );
                    let text = String::from_utf8_lossy(e.as_bytes()).into_owned();
                    // What the parser cannot read then may be nothing but the characters that are lost.
                    return self.add_text(path, text, &mut Vec::new());
                }
            },
            Err(e) => {
                problems.push(at_start(format!("cannot read it: {e}")));
                String::new()
            }
        };
        self.add_text(path, text, problems)
    }

    /// As [`Self::add`], for a text that is in no file; `path` is what it is called.
    pub fn add_text(&mut self, path: PathBuf, text: String, problems: &mut Vec<Problem>) -> Option<SourceId> {
        let id = SourceId::try_from(self.files.len()).ok()?;
        let (clean, blanked, found) = without_mistakes(id, &text);
        problems.extend(found);
        self.files.push(Source { path, text, clean, blanked, secret: false });
        Some(id)
    }

    /// One more file that is no TOML, so that mistakes in it have a place. `None` if there are too many files to name.
    pub fn add_other(&mut self, path: PathBuf, text: String, secret: bool) -> Option<SourceId> {
        let id = SourceId::try_from(self.files.len()).ok()?;
        self.files.push(Source { path, text, secret, ..Source::default() });
        Some(id)
    }

    /// The file with this id. Ids come from this list, so it is there; an empty file otherwise.
    #[must_use]
    pub fn get(&self, id: SourceId) -> &Source {
        static NONE: LazyLock<Source> = LazyLock::new(Source::default);
        self.files.get(usize::from(id)).unwrap_or(&NONE)
    }

    /// All files with their ids.
    pub fn iter(&self) -> impl Iterator<Item = (SourceId, &Source)> {
        (0..).zip(&self.files)
    }

    /// The tables of one file.
    #[must_use]
    pub fn parse(&self, id: SourceId) -> DeTable<'_> {
        DeTable::parse_recoverable(&self.get(id).clean).0.into_inner()
    }

    /// The directory that relative paths in this file start from.
    #[must_use]
    pub fn directory(&self, id: SourceId) -> &Path {
        parent(&self.get(id).path)
    }

    /// Whether a syntax mistake stands in the section around `place`, so that what is missing there
    /// may only have been unreadable.
    #[must_use]
    pub fn is_damaged(&self, place: &Place) -> bool {
        let source = self.get(place.source);
        let section = section_around(&source.text, place.range.start);
        source.blanked.iter().any(|b| b.start < section.end && b.end >= section.start)
    }

    /// Whether a whole section was unreadable, so that names it declares are unknown here.
    #[must_use]
    pub fn lost_sections(&self) -> bool {
        self.files.iter().any(|f| f.blanked.iter().any(|b| is_header(&f.text[b.clone()])))
    }
}

/// The directory of a file; `.` for a bare name.
fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(p) if p.as_os_str().is_empty() => Path::new("."),
        Some(p) => p,
        None => Path::new("."),
    }
}

/// Whether there is nothing of this name, not even a link.
fn is_nowhere(path: &Path) -> bool {
    fs::symlink_metadata(path).is_err_and(|e| e.kind() == std::io::ErrorKind::NotFound)
}

/// Why something that has a name cannot be read, and what to do.
fn absent(path: &Path, error: &std::io::Error) -> (String, &'static str) {
    match fs::read_link(path) {
        Ok(to) => {
            (format!("the link to `{}` leads nowhere: {error}", to.display()), "mend the link, or remove it")
        }
        Err(_) => (format!("cannot read it: {error}"), "let fieldgate read it, or remove it"),
    }
}

/// Whether it has the name of a drop-in, whatever it is.
fn is_toml(path: &Path) -> bool {
    let hidden = path.file_name().is_none_or(|n| n.as_encoded_bytes().starts_with(b"."));
    !hidden && path.extension().is_some_and(|e| e == "toml")
}

fn read_bounded(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let file = fs::File::open(path)?;
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(std::io::Error::other(format!("it is larger than {} MiB", MAX_FILE_BYTES >> 20)));
    }
    Ok(bytes)
}

/// Blanks every line that the TOML parser cannot read, one mistake at a time.
///
/// The parser's own recovery gives up on a key without value and takes the rest of the file with it.
fn without_mistakes(id: SourceId, text: &str) -> (String, Vec<Range<usize>>, Vec<Problem>) {
    let mut clean = text.to_owned();
    let mut blanked = Vec::new();
    let mut problems = Vec::new();
    for (start, line) in lines(text) {
        if too_deep(line) {
            let range = start..start + line.len();
            problems
                .push(Problem::new(Place { source: id, range: range.clone() }, "a key has too many dots"));
            blank(&mut clean, range.clone());
            blanked.push(range);
        }
    }
    for _ in 0..MAX_SYNTAX {
        let (_, errors) = DeTable::parse_recoverable(&clean);
        let Some(first) = errors.iter().min_by_key(|e| e.span().map_or(usize::MAX, |s| s.start)) else {
            return (clean, blanked, problems);
        };
        let span = first.span().unwrap_or(0..0);
        let place = Place { source: id, range: span.clone() };
        let lost = unreadable_around(&clean, span.start);
        problems.push(explain(first.message(), place, &clean));
        if clean.get(lost.clone()).is_none_or(|t| t.trim().is_empty()) {
            break;
        }
        blank(&mut clean, lost.clone());
        blanked.push(lost);
    }
    // Too broken to go on line by line: what the parser itself can recover is left to check.
    if !DeTable::parse_recoverable(&clean).1.is_empty() {
        blanked.push(0..text.len());
        blank(&mut clean, 0..text.len());
    }
    (clean, blanked, problems)
}

fn explain(message: &str, place: Place, text: &str) -> Problem {
    let message = message.lines().next().unwrap_or("this is not TOML");
    let word = text.get(place.range.clone()).unwrap_or_default();
    let before = text.get(..place.range.start).unwrap_or_default().trim_end_matches([' ', '\t']);
    if message == "duplicate key" {
        return Problem::new(place, format!("`{word}` stands here twice"))
            .hint("keep one; a second bus, device, point or uplink starts with its own `[[…]]` line");
    }
    if before.ends_with('=') && word.starts_with(|c: char| c.is_alphabetic() || c == '/') {
        return Problem::new(place, "text must be in quotes").hint("write `key = \"text\"`");
    }
    if message.starts_with("key with no value") {
        return Problem::new(place, "a key without a value")
            .hint("write `key = value`, or start the line with `#`");
    }
    Problem::new(place, format!("this is not TOML: {message}"))
        .hint("a line is `key = value`, `[section]`, `[[list]]` or `# a remark`; text is in quotes")
}

/// The lines of a text with their offsets, without their ends.
fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut start = 0;
    text.split_inclusive('\n').map(move |line| {
        let at = start;
        start += line.len();
        (at, line.trim_end_matches(['\n', '\r']))
    })
}

fn too_deep(line: &str) -> bool {
    let (mut quote, mut dots) = (None, 0);
    for c in line.chars() {
        match (quote, c) {
            (Some(q), c) if q == c => quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'') => quote = Some(c),
            (None, '#') => return false,
            (None, '=' | ',' | '[' | ']' | '{' | '}') => dots = 0,
            (None, '.') => dots += 1,
            (None, _) => {}
        }
        if dots > MAX_DOTS {
            return true;
        }
    }
    false
}

/// What to give up for a mistake at byte `at`: its line, or its whole section if the line is a header.
fn unreadable_around(text: &str, at: usize) -> Range<usize> {
    let at = floor_char(text, at);
    let start = text[..at].rfind('\n').map_or(0, |n| n + 1);
    let end = text[at..].find('\n').map_or(text.len(), |n| at + n);
    if is_header(&text[start..end]) { section_around(text, start) } else { start..end }
}

fn is_header(line: &str) -> bool {
    line.trim_start_matches('\u{feff}').trim_start().starts_with('[')
}

/// From the header at or before byte `at` up to the next header.
fn section_around(text: &str, at: usize) -> Range<usize> {
    let mut section = 0..text.len();
    for (start, line) in lines(text) {
        if line.starts_with('[') || (start == 0 && is_header(line)) {
            if start <= at {
                section.start = start;
            } else {
                section.end = start;
                break;
            }
        }
    }
    section
}

/// The nearest character boundary at or before `at`.
pub(super) fn floor_char(text: &str, at: usize) -> usize {
    (0..=at.min(text.len())).rev().find(|i| text.is_char_boundary(*i)).unwrap_or(0)
}

/// Overwrites a stretch with spaces, keeping line ends and every other byte's offset.
fn blank(text: &mut String, range: Range<usize>) {
    let Some(old) = text.get(range.clone()) else { return };
    let spaces: String =
        old.bytes().map(|b| if b == b'\n' || b == b'\r' { char::from(b) } else { ' ' }).collect();
    text.replace_range(range, &spaces);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn broken(text: &str) -> (String, Vec<String>) {
        let (clean, _, problems) = without_mistakes(0, text);
        assert_eq!(clean.len(), text.len(), "offsets stay");
        (clean, problems.into_iter().map(|p| format!("{}: {}", p.place.range.start, p.message)).collect())
    }

    #[test]
    fn several_syntax_mistakes_are_all_found_and_the_rest_survives() {
        let text = "[store]\npath = unquoted\nno value\nmax_size = '1GiB'\n[gateway\nid = 'x'\n[broker]\nx = 1\nx = 2\n";
        let (clean, found) = broken(text);
        assert_eq!(found.len(), 4, "{found:#?}");
        let doc = DeTable::parse(&clean).expect("clean");
        let sections: Vec<&str> = doc.get_ref().keys().map(|k| k.get_ref().as_ref()).collect();
        assert_eq!(sections, ["broker", "store"]);
        assert!(clean.contains("max_size") && !clean.contains("id ="));
    }

    #[test]
    fn a_key_of_a_hundred_thousand_parts_is_a_problem_and_not_a_crash() {
        let (_, found) = broken(&format!("{} = 1\n", ["a"; 100_000].join(".")));
        assert_eq!(found, ["0: a key has too many dots"]);
        let nested =
            format!("x = {}1{}", format!("{{ {} = ", ["a"; 16].join(".")).repeat(79), "}".repeat(79));
        let (clean, found) = broken(&nested);
        assert!(found.is_empty() && DeTable::parse(&clean).is_ok(), "{found:?}");
        assert!(!too_deep(
            "x = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]"
        ));
        assert!(!too_deep("pattern = '....................'"));
    }
}
