//! A TOML table that remembers where every key stands, and mistakes with their place.
//!
//! serde stops at the first mistake of a table. A person on a ladder edits the file once, so
//! [`Table::parse`] goes on: it notes the mistake, takes the offending entry out, and tries again
//! until the rest is understood.

use std::ops::Range;

use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::{DeTable, DeValue, ValueDeserializer};

/// Which of the loaded files: an index into the loader's list.
pub type SourceId = u16;

/// A stretch of one configuration file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The file.
    pub source: SourceId,
    /// Bytes of it.
    pub range: Range<usize>,
}

/// One mistake, with its place and, where there is one, the cure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Where.
    pub place: Place,
    /// What is wrong, one line, values in backticks.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
}

impl Problem {
    /// A problem without a hint.
    pub fn new(place: Place, message: impl Into<String>) -> Self {
        Self { place, message: message.into(), hint: None }
    }
    /// The same with a hint.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// One TOML table, with the places of its keys and values.
#[derive(Debug, Clone)]
pub struct Table<'i> {
    source: SourceId,
    header: Range<usize>,
    entries: DeTable<'i>,
    /// Keys that stand in the same table of the file but are somebody else's to read;
    /// they belong into "did you mean".
    siblings: &'static [&'static str],
}

impl<'i> Table<'i> {
    /// A table found at `header` of the file `source`.
    #[must_use]
    pub fn new(source: SourceId, header: Range<usize>, entries: DeTable<'i>) -> Self {
        Self { source, header, entries, siblings: &[] }
    }

    /// A table from text, for tests and built-in configurations.
    ///
    /// # Errors
    /// What the TOML parser says.
    pub fn from_text(source: SourceId, text: &'i str) -> Result<Self, toml::de::Error> {
        Ok(Self::new(source, 0..0, DeTable::parse(text)?.into_inner()))
    }

    /// Moves the entries named in `keys` into a table of their own, and remembers that they stood here.
    #[must_use]
    pub fn split(&mut self, keys: &'static [&'static str]) -> Self {
        let mut taken = DeTable::new();
        for key in keys {
            if let Some((k, v)) = self.entries.remove_entry(*key) {
                taken.insert(k, v);
            }
        }
        self.siblings = keys;
        Self { source: self.source, header: self.header.clone(), entries: taken, siblings: &[] }
    }

    /// Takes one entry out.
    pub fn remove(&mut self, key: &str) -> Option<Spanned<DeValue<'i>>> {
        self.entries.remove(key)
    }

    /// The file it stands in.
    #[must_use]
    pub fn source(&self) -> SourceId {
        self.source
    }

    /// Whether a key is there.
    #[must_use]
    pub fn contains(&self, key: &str) -> bool {
        self.entries.contains_key(key)
    }

    /// The keys that are there.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(|k| k.get_ref().as_ref())
    }

    /// The place of the table's header.
    #[must_use]
    pub fn place(&self) -> Place {
        Place { source: self.source, range: self.header.clone() }
    }

    /// The place of a key's value, or of the header where the key is absent.
    #[must_use]
    pub fn place_of(&self, key: &str) -> Place {
        match self.entries.get(key) {
            Some(value) => Place { source: self.source, range: value.span() },
            None => self.place(),
        }
    }

    /// The `n`th table, counted from 0, of the list under `key`, for the places of its keys; an empty one at the
    /// place of the list where there is none.
    #[must_use]
    pub fn nth(&self, key: &str, n: usize) -> Self {
        let item = match self.entries.get(key).map(Spanned::get_ref) {
            Some(DeValue::Array(items)) => items.get(n),
            _ => None,
        };
        let (header, entries) = match item.map(|item| (item.span(), item.get_ref())) {
            Some((span, DeValue::Table(entries))) => (span, entries.clone()),
            Some((span, _)) => (span, DeTable::new()),
            None => (self.place_of(key).range, DeTable::new()),
        };
        Self::new(self.source, header, entries)
    }

    /// Understands the whole table as a `T` with `deny_unknown_fields`, noting every mistake.
    /// `None` exactly when something was pushed onto `problems`.
    pub fn parse<T: DeserializeOwned>(&self, problems: &mut Vec<Problem>) -> Option<T> {
        let before = problems.len();
        let parsed = self.parse_rest(problems);
        if problems.len() == before { parsed } else { None }
    }

    /// As [`Self::parse`], but gives what could be understood without the mistaken entries, so that
    /// a caller can go on checking the rest. `None` only if too little was left to make a `T`.
    pub fn parse_rest<T: DeserializeOwned>(&self, problems: &mut Vec<Problem>) -> Option<T> {
        let mut entries = self.entries.clone();
        let mut removed: Vec<String> = Vec::new();
        let before = problems.len();
        loop {
            let value = Spanned::new(self.header.clone(), DeValue::Table(entries.clone()));
            let error = match T::deserialize(ValueDeserializer::from(value)) {
                Ok(parsed) => return Some(parsed),
                Err(error) => error,
            };
            let message = error.message().lines().next().unwrap_or_default();
            let at = error.span().filter(|span| *span != self.header);
            if let Some(field) = quoted_after(message, "missing field ") {
                // A key that was taken out as wrong, or misspelt, is not missing as well.
                let explained = removed.iter().any(|r| r == field)
                    || problems[before..]
                        .iter()
                        .any(|p| p.hint.as_deref().is_some_and(|h| h.contains(&format!("`{field}`"))));
                if !explained {
                    let range = at.clone().unwrap_or(self.header.clone());
                    problems.push(
                        Problem::new(Place { source: self.source, range }, format!("`{field}` is missing"))
                            .hint(format!("add `{field} = …` to this table")),
                    );
                }
                // A table inside this one may lack a key while the rest is still to be read.
                match at.and_then(|at| remove_at(&mut entries, at.start)) {
                    Some(key) => removed.push(key),
                    None => return None,
                }
                continue;
            }
            let Some(at) = at else {
                problems.push(Problem::new(self.place(), message));
                return None;
            };
            let key = remove_at(&mut entries, at.start);
            problems.push(self.explain(key.as_deref(), message, at));
            match key {
                Some(key) => removed.push(key),
                None => return None,
            }
        }
    }

    fn explain(&self, key: Option<&str>, message: &str, range: Range<usize>) -> Problem {
        let place = Place { source: self.source, range };
        if let Some(unknown) = quoted_after(message, "unknown field ") {
            let own = message.split_once(", expected ").map_or("", |(_, list)| list);
            let known: Vec<&str> =
                own.split('`').skip(1).step_by(2).chain(self.siblings.iter().copied()).collect();
            let problem = Problem::new(place, format!("unknown key `{unknown}`"));
            return match nearest(unknown, &known) {
                Some(near) => problem.hint(format!("did you mean `{near}`?")),
                None => problem.hint(format!("this table takes {}", known.join(", "))),
            };
        }
        if let Some(unknown) = quoted_after(message, "unknown variant ") {
            let own = message.split_once(", expected ").map_or("", |(_, list)| list);
            let known: Vec<&str> = own.split('`').skip(1).step_by(2).collect();
            let name = key.unwrap_or("this key");
            let problem = Problem::new(place, format!("`{name}` cannot be `{unknown}`"));
            return match nearest(unknown, &known) {
                Some(near) => problem.hint(format!("did you mean `{near}`?")),
                None => problem.hint(format!("it is one of {}", known.join(", "))),
            };
        }
        match key {
            Some(key) => Problem::new(place, format!("`{key}`: {message}")),
            None => Problem::new(place, message),
        }
    }
}

/// The closest of `known` to what was written, if close enough to be a slip.
#[must_use]
pub fn nearest<'a>(written: &str, known: &[&'a str]) -> Option<&'a str> {
    known
        .iter()
        .map(|k| (strsim::damerau_levenshtein(written, k), *k))
        .filter(|(distance, k)| *distance <= 1 + k.len() / 4)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, k)| k)
}

/// The backticked word behind `prefix`.
fn quoted_after<'a>(message: &'a str, prefix: &str) -> Option<&'a str> {
    message.strip_prefix(prefix)?.strip_prefix('`')?.split('`').next()
}

/// Takes the innermost entry out that holds byte `at`, and returns its key.
fn remove_at(table: &mut DeTable<'_>, at: usize) -> Option<String> {
    for (_, value) in table.iter_mut() {
        if let Some(key) = remove_inside(value.get_mut(), at) {
            return Some(key);
        }
    }
    let key = table
        .iter()
        .find(|(k, v)| k.span().contains(&at) || v.span().contains(&at))
        .map(|(k, _)| k.get_ref().clone().into_owned())?;
    table.remove(key.as_str());
    Some(key)
}

fn remove_inside(value: &mut DeValue<'_>, at: usize) -> Option<String> {
    match value {
        DeValue::Table(inner) => remove_at(inner, at),
        DeValue::Array(items) => items.iter_mut().find_map(|item| remove_inside(item.get_mut(), at)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;
    use crate::Span;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only its parsing is of interest")]
    struct Line {
        port: String,
        baud: u32,
        #[serde(default)]
        timeout: Option<Span>,
        #[serde(default)]
        inner: Option<Inner>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only its parsing is of interest")]
    struct Inner {
        depth: u8,
    }

    fn mistakes(text: &str) -> Vec<(String, String, Option<String>)> {
        let mut problems = Vec::new();
        let mut table = Table::from_text(0, text).expect("TOML");
        let _common = table.split(&["name", "interval"]);
        assert!(table.parse::<Line>(&mut problems).is_none());
        problems.into_iter().map(|p| (text[p.place.range].to_owned(), p.message, p.hint)).collect()
    }

    #[test]
    fn every_mistake_of_a_table_is_reported_at_its_place() {
        let text = "name = 'a'\nport = 5\nbuad = 9600\ntimeout = '5 weeks'\nintervall = '1s'\ninner = { depht = 1 }\n";
        let found = mistakes(text);
        let at: Vec<&str> = found.iter().map(|(at, _, _)| at.as_str()).collect();
        for word in ["5", "buad", "'5 weeks'", "intervall", "depht"] {
            assert!(at.contains(&word), "{word} in {found:#?}");
        }
        let hint = |word: &str| found.iter().find(|(at, _, _)| at == word).and_then(|(_, _, h)| h.clone());
        assert_eq!(hint("buad").as_deref(), Some("did you mean `baud`?"));
        assert_eq!(hint("intervall").as_deref(), Some("did you mean `interval`?"));
    }

    #[test]
    fn the_tables_of_a_list_have_places_of_their_own() {
        let text = "list = [{ a = 1 }, { a = 22, b = 3 }, 4]\nplain = 5\n[[many]]\na = 6\n[[many]]\na = 77\n";
        let table = Table::from_text(3, text).expect("TOML");
        let at = |place: Place| (place.source, text.get(place.range).expect("inside"));
        let second = table.nth("list", 1);
        assert_eq!(at(second.place()), (3, "{ a = 22, b = 3 }"));
        assert_eq!(at(second.place_of("a")), (3, "22"));
        assert_eq!(at(second.place_of("c")), at(second.place()), "the table where the key is absent");
        assert_eq!(at(table.nth("list", 2).place()), (3, "4"));
        assert_eq!(at(table.nth("many", 1).place_of("a")), (3, "77"));
        assert_eq!(at(table.nth("many", 1).place()), (3, "[[many]]"));
        assert_eq!(at(table.nth("list", 3).place()), at(table.place_of("list")));
        assert_eq!(at(table.nth("plain", 0).place()), (3, "5"));
    }

    #[test]
    fn a_missing_key_is_reported_once_and_not_when_it_was_only_wrong() {
        assert_eq!(mistakes("baud = 1\n")[0].1, "`port` is missing");
        assert_eq!(mistakes("baud = 1\nport = 2\n").len(), 1);
    }
}
