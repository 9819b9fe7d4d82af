//! The laws a machine can see, each a function from one file to the faults in it.
//!
//! A fault reads `file:line: what is wrong; what to do instead`.

use std::collections::BTreeSet;

use crate::lexer::{Source, Token, lex};

/// Floors of `src/`, lowest first. An import goes down, or stays in its own room; never sideways.
pub const FLOORS: &[&[&str]] = &[
    &["bounds", "message", "topic"],
    &["backoff", "certificate", "clock", "columns", "counters", "points"],
    &["registry"],
    &["config"],
    &["forward", "pipeline"],
    &["broker", "store"],
    &["poll", "uplink"],
    &["status", "web"],
    &["runtime"],
    &["cmd"],
    &["cli"],
    &["main", "lib"],
];

/// Words that may not stand in code, and what to write instead.
const BANNED: &[(&[&str], &str, &str)] = &[
    (&["todo", "!"], "todo!", "build it, or leave it out"),
    (&["unimplemented", "!"], "unimplemented!", "build it, or leave it out"),
    (&["dbg", "!"], "dbg!", "tracing::debug!"),
    (&["#", "[", "allow", "("], "#[allow(", "#[expect(…, reason = \"…\")]"),
    (&["#", "!", "[", "allow", "("], "#![allow(", "#![expect(…, reason = \"…\")]"),
];

/// Ways to read a clock, and where the one clock is.
const CLOCKS: &[&[&str]] = &[
    &["SystemTime", "::", "now"],
    &["Timestamp", "::", "now"],
    &["Zoned", "::", "now"],
    &["clock_gettime"],
    &["gettimeofday"],
];

/// Which part of the repository a file belongs to, and so which laws hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// `src/`: all laws.
    Gateway,
    /// `drivers/*/src/`: all but the floors; channel lengths are constants of the crate itself.
    Driver,
    /// Tests, benches, examples: the words and the form only.
    Tests,
}

/// What the laws need to know from beyond the file at hand.
#[derive(Debug, Default)]
pub struct Known {
    /// Constants a channel length may come from: those of `src/bounds.rs`, or of the driver crate.
    pub bounds: BTreeSet<String>,
    /// Whether the module that declares this file does so under `#[cfg(test)]`.
    pub test_file: bool,
}

/// Every fault of one file. `path` is relative to the repository, with `/`.
pub fn faults(path: &str, text: &str, place: Place, known: &Known) -> Vec<String> {
    let mut source = lex(text);
    source.tokens.iter_mut().for_each(|token| token.test |= known.test_file);
    let mut found: Vec<(usize, String)> = Vec::new();
    found.extend(form(text));
    found.extend(words(&source));
    found.extend(unsafe_reasons(&source));
    if place != Place::Tests {
        found.extend(unwraps(&source));
        found.extend(channels(&source, place, known));
        found.extend(clocks(path, &source));
        found.extend(rooms(path, &source));
    }
    if place == Place::Gateway {
        found.extend(floors(path, &source));
    }
    found.sort();
    found.dedup();
    found.into_iter().map(|(line, what)| format!("{path}:{line}: {what}")).collect()
}

fn form(text: &str) -> Vec<(usize, String)> {
    let mut found = length(text);
    if !text.starts_with("//!") {
        found.push((1, "no `//!`; open the file by saying what it is for and what it promises".into()));
    }
    found
}

/// The limit for files of every kind.
pub fn length(text: &str) -> Vec<(usize, String)> {
    let lines = text.lines().count();
    if lines <= 500 {
        return Vec::new();
    }
    vec![(501, format!("{lines} lines; split the file by subject before 500"))]
}

fn words(source: &Source) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (i, token) in source.tokens.iter().enumerate() {
        for (pattern, name, instead) in BANNED {
            if matches(&source.tokens[i..], pattern) {
                found.push((token.line, format!("`{name}` is banned; use {instead}")));
            }
        }
        if token.text.contains("unbounded") || token.text.starts_with("Unbounded") && token.text.len() > 9 {
            let what = format!("`{}` is banned; use a channel with a length from bounds.rs", token.text);
            found.push((token.line, what));
        }
    }
    found
}

fn matches(tokens: &[Token], pattern: &[&str]) -> bool {
    tokens.len() >= pattern.len() && tokens.iter().zip(pattern).all(|(t, p)| t.text == *p)
}

fn unsafe_reasons(source: &Source) -> Vec<(usize, String)> {
    let explained = |line: usize| {
        let near = |(at, text): &(usize, String)| {
            (line.saturating_sub(6)..=line).contains(at)
                && (text.contains("SAFETY:") || text.contains("# Safety"))
        };
        source.comments.iter().any(near)
    };
    let bare = |t: &&Token| t.text == "unsafe" && !explained(t.line);
    let what = "`unsafe` without its proof; say above it in a `SAFETY:` comment why it is sound";
    source.tokens.iter().filter(bare).map(|t| (t.line, what.into())).collect()
}

fn unwraps(source: &Source) -> Vec<(usize, String)> {
    let at = |i: &usize| !source.tokens[*i].test && matches(&source.tokens[*i..], &[".", "unwrap", "(", ")"]);
    let what = "`unwrap()` outside tests; return the error, or `expect` with the proof as its text";
    (0..source.tokens.len()).filter(at).map(|i| (source.tokens[i].line, what.into())).collect()
}

fn channels(source: &Source, place: Place, known: &Known) -> Vec<(usize, String)> {
    let tokens = &source.tokens;
    let word = |i: usize| tokens.get(i).map_or("", |t| t.text.as_str());
    let mut found = Vec::new();
    for i in 0..tokens.len() {
        let line = tokens[i].line;
        if tokens[i].test {
            continue;
        }
        if matches!(word(i), "mpsc" | "broadcast") && word(i + 1) == "as" {
            found.push((
                line,
                format!("`{}` under another name; keep the name, the law looks for it", word(i)),
            ));
        }
        if !matches!(word(i), "channel" | "sync_channel") {
            continue;
        }
        let open =
            if word(i + 1) == "::" && word(i + 2) == "<" { generics_end(tokens, i + 2) } else { i + 1 };
        let (before, owner) = (word(i.wrapping_sub(1)), word(i.wrapping_sub(2)));
        if word(open) != "(" || matches!(before, "fn" | ".") {
            continue;
        }
        if before == "::" && !matches!(owner, "mpsc" | "broadcast") {
            continue;
        }
        if before != "::" {
            found.push((line, "a channel whose kind is not seen; write `mpsc::channel(…)` in full".into()));
            continue;
        }
        let argument = arguments(tokens, open);
        let is_path = |t: &&Token| {
            !t.text.is_empty() && t.text.chars().all(|c| c.is_alphanumeric() || "_:".contains(c))
        };
        let constant = argument.last().filter(|_| argument.iter().all(|t| is_path(&t)));
        if !constant.is_some_and(|t| known.bounds.contains(&t.text)) {
            let home = match place {
                Place::Driver => "a named `const` of this crate",
                _ => "a constant of src/bounds.rs",
            };
            found.push((
                line,
                format!("a channel length that is not {home}; put it there with its arithmetic"),
            ));
        }
    }
    found
}

/// Index after the `>` that closes the `<` at `open`.
fn generics_end(tokens: &[Token], open: usize) -> usize {
    let mut depth = 0;
    for (i, token) in tokens.iter().enumerate().skip(open) {
        match token.text.as_str() {
            "<" => depth += 1,
            ">" if tokens[i - 1].text != "-" => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return i + 1;
        }
    }
    tokens.len()
}

/// The tokens between the parenthesis at `open` and its partner, without a trailing comma.
fn arguments(tokens: &[Token], open: usize) -> &[Token] {
    let mut depth = 0;
    for (i, token) in tokens.iter().enumerate().skip(open) {
        match token.text.as_str() {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            let comma = i > open + 1 && tokens[i - 1].text == ",";
            return &tokens[open + 1..i - usize::from(comma)];
        }
    }
    &tokens[open + 1..]
}

fn clocks(path: &str, source: &Source) -> Vec<(usize, String)> {
    if path == "src/clock.rs" {
        return Vec::new();
    }
    let tokens = &source.tokens;
    // A plain thread may measure with it, and then says so to clippy, which checks the very line.
    let excused = tokens.windows(3).any(|w| w[0].text == "clippy" && w[2].text == "disallowed_types");
    let mut found = Vec::new();
    for (i, token) in tokens.iter().enumerate().filter(|(_, t)| !t.test) {
        for pattern in CLOCKS.iter().filter(|p| matches(&tokens[i..], p)) {
            let name = pattern.concat();
            found.push((
                token.line,
                format!("`{name}` reads a clock of its own; take a `Clock` (src/clock.rs)"),
            ));
        }
        let of_std = matches(&tokens[i..], &["std", "::", "time", "::"])
            && path_names(&tokens[i + 4..]).iter().any(|(name, _)| name == "Instant");
        if of_std && !excused {
            let what = "`std::time::Instant` is a clock no test can pause; use `tokio::time::Instant`";
            found.push((token.line, what.into()));
        }
    }
    found
}

/// What belongs to one room alone.
fn rooms(path: &str, source: &Source) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (word, room) in [("rusqlite", "src/store/"), ("rumqttd", "src/broker/")] {
        for token in source.tokens.iter().filter(|t| t.text == word && !path.starts_with(room)) {
            let what = format!("`{word}` outside {room}; ask that room for what you need in its own words");
            found.push((token.line, what));
        }
    }
    found
}

fn floors(path: &str, source: &Source) -> Vec<(usize, String)> {
    let home = module_path(path);
    let room = home.first().map_or_else(|| root_name(path), Clone::clone);
    let Some(floor) = floor_of(&room) else {
        return vec![(1, format!("`{room}` has no floor; give it one in tests/tidy/laws.rs"))];
    };
    let mut found = Vec::new();
    for (to, line) in imports(&home, path, source) {
        if to == room {
            continue;
        }
        let rule = match floor_of(&to) {
            None => "that is no room of src/; put the item into a module that has a floor",
            Some(other) if other == floor => {
                "rooms of one floor do not meet; move what both need down a floor"
            }
            Some(other) if other > floor => "imports go down; pass the value in, or move it to a lower floor",
            Some(_) => continue,
        };
        found.push((line, format!("`{room}` imports `{to}`; {rule}")));
    }
    found
}

fn floor_of(room: &str) -> Option<usize> {
    FLOORS.iter().position(|floor| floor.contains(&room))
}

/// `src/store/log.rs` → `["store", "log"]`; a crate root → `[]`.
fn module_path(path: &str) -> Vec<String> {
    let inner = path.trim_start_matches("src/").trim_end_matches(".rs");
    let mut parts: Vec<String> = inner.split('/').map(str::to_owned).collect();
    if matches!(parts.last().map(String::as_str), Some("mod" | "lib" | "main")) {
        parts.pop();
    }
    parts
}

fn root_name(path: &str) -> String {
    path.trim_start_matches("src/").trim_end_matches(".rs").to_owned()
}

/// First names of all paths that start at the crate's root, however they are written.
fn imports(home: &[String], path: &str, source: &Source) -> Vec<(String, usize)> {
    let tokens = &source.tokens;
    let mut found = Vec::new();
    for i in 0..tokens.len() {
        if i > 0 && tokens[i - 1].text == "::" {
            continue;
        }
        let mut rest = i;
        if matches(&tokens[i..], &["crate", "::"])
            || (path == "src/main.rs" && matches(&tokens[i..], &["fieldgate", "::"]))
        {
            rest += 2;
        } else {
            let mut depth = home.len() + tokens[i].inside.len();
            if matches(&tokens[i..], &["self", "::", "super"]) {
                rest += 2;
            }
            let mut supers = 0;
            while matches(&tokens[rest..], &["super", "::"]) {
                (rest, supers) = (rest + 2, supers + 1);
            }
            depth = depth.saturating_sub(supers);
            if supers == 0 || depth > 0 {
                continue;
            }
        }
        found.extend(path_names(&tokens[rest..]));
    }
    found
}

/// The names that a path goes on with: one, or those of a group at their first level.
fn path_names(tokens: &[Token]) -> Vec<(String, usize)> {
    let name = |t: &Token| (t.text.clone(), t.line);
    match tokens.first() {
        Some(first) if first.text == "{" => {
            let (mut depth, mut names) = (0, Vec::new());
            for (i, token) in tokens.iter().enumerate() {
                match token.text.as_str() {
                    "{" => depth += 1,
                    "}" => depth -= 1,
                    _ => {}
                }
                if depth == 0 {
                    break;
                }
                if depth == 1
                    && i > 0
                    && matches!(tokens[i - 1].text.as_str(), "{" | ",")
                    && token.text != "}"
                {
                    names.push(name(token));
                }
            }
            names
        }
        Some(first) => vec![name(first)],
        None => Vec::new(),
    }
}
