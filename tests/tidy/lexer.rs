//! Just enough of Rust's grammar to tell code from comments and strings.
//!
//! The laws look at tokens, so a banned word in a comment or a message is no fault, and a line break
//! in the middle of a path hides nothing.

/// One word or sign of the code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// The identifier, the number, one punctuation character, or `::`. A string or character literal
    /// is `""`, whatever was in it.
    pub text: String,
    /// Line in the file, from 1.
    pub line: usize,
    /// Whether it stands inside something marked `#[cfg(test)]`.
    pub test: bool,
    /// Names of the inline modules around it, outermost first.
    pub inside: Vec<String>,
}

/// A source file, split into what the compiler sees and what people read.
pub struct Source {
    /// The code.
    pub tokens: Vec<Token>,
    /// Line and text of every comment.
    pub comments: Vec<(usize, String)>,
}

/// Splits a file. Never fails: on text that is not Rust the result is only less useful.
pub fn lex(text: &str) -> Source {
    let (plain, comments) = split(text);
    Source { tokens: mark(plain), comments }
}

/// Words of the code and comments of the text, each with its line.
type Split = (Vec<(String, usize)>, Vec<(usize, String)>);

fn split(text: &str) -> Split {
    let chars: Vec<char> = text.chars().collect();
    let (mut tokens, mut comments) = (Vec::new(), Vec::new());
    let (mut i, mut line) = (0, 1);
    while i < chars.len() {
        let start = i;
        let begun = line;
        let next = chars.get(i + 1).copied();
        match chars[i] {
            '\n' => {
                line += 1;
                i += 1;
            }
            c if c.is_whitespace() => i += 1,
            '/' if next == Some('/') => {
                i = find(&chars, i, |c| c == '\n');
                comments.push((begun, chars[start..i].iter().collect()));
            }
            '/' if next == Some('*') => {
                i = block_comment(&chars, i);
                comments.push((begun, chars[start..i].iter().collect()));
                line += newlines(&chars[start..i]);
            }
            '\'' if is_lifetime(&chars, i) => i = find(&chars, i + 1, |c| !is_word(c)),
            '"' | '\'' => {
                i = quoted(&chars, i);
                tokens.push((String::from("\"\""), begun));
                line += newlines(&chars[start..i]);
            }
            c if is_word(c) => {
                i = find(&chars, i, |c| !is_word(c));
                let word: String = chars[start..i].iter().collect();
                match literal_after(&chars, i, &word) {
                    Some(end) => {
                        i = end;
                        tokens.push((String::from("\"\""), begun));
                        line += newlines(&chars[start..i]);
                    }
                    None => tokens.push((word, begun)),
                }
            }
            ':' if next == Some(':') => {
                i += 2;
                tokens.push((String::from("::"), begun));
            }
            c => {
                i += 1;
                tokens.push((c.to_string(), begun));
            }
        }
    }
    (tokens, comments)
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn find(chars: &[char], from: usize, end: impl Fn(char) -> bool) -> usize {
    (from..chars.len()).find(|&i| end(chars[i])).unwrap_or(chars.len())
}

fn newlines(chars: &[char]) -> usize {
    chars.iter().filter(|c| **c == '\n').count()
}

fn is_lifetime(chars: &[char], quote: usize) -> bool {
    chars.get(quote + 1).is_some_and(|c| is_word(*c)) && chars.get(quote + 2) != Some(&'\'')
}

fn block_comment(chars: &[char], mut i: usize) -> usize {
    let mut depth = 0;
    while i < chars.len() {
        match (chars[i], chars.get(i + 1)) {
            ('/', Some('*')) => {
                depth += 1;
                i += 2;
            }
            ('*', Some('/')) => {
                depth -= 1;
                i += 2;
                if depth == 0 {
                    return i;
                }
            }
            _ => i += 1,
        }
    }
    i
}

fn quoted(chars: &[char], start: usize) -> usize {
    let mut i = start + 1;
    while i < chars.len() && chars[i] != chars[start] {
        i += if chars[i] == '\\' { 2 } else { 1 };
    }
    (i + 1).min(chars.len())
}

/// The end of a string that a prefix such as `r#`, `b` or `c` opens right after `word`.
fn literal_after(chars: &[char], after: usize, word: &str) -> Option<usize> {
    if matches!(word, "b" | "c") && matches!(chars.get(after), Some('"' | '\'')) {
        return Some(quoted(chars, after));
    }
    if !matches!(word, "r" | "br" | "cr") {
        return None;
    }
    let open = find(chars, after, |c| c != '#');
    if chars.get(open) != Some(&'"') {
        return None;
    }
    let hashes = open - after;
    let closes = |i: usize| chars[i] == '"' && (1..=hashes).all(|n| chars.get(i + n) == Some(&'#'));
    Some((open + 1..chars.len()).find(|&i| closes(i)).map_or(chars.len(), |i| i + 1 + hashes))
}

/// Adds to each token whether it is test code, and the inline modules around it.
fn mark(plain: Vec<(String, usize)>) -> Vec<Token> {
    let words: Vec<&str> = plain.iter().map(|(text, _)| text.as_str()).collect();
    let mut tokens: Vec<Token> = Vec::with_capacity(plain.len());
    let mut modules: Vec<(String, usize)> = Vec::new();
    let (mut depth, mut test_until) = (0, 0);
    for (i, (text, line)) in plain.iter().enumerate() {
        match text.as_str() {
            "{" => {
                depth += 1;
                if i >= 2 && words[i - 2] == "mod" {
                    modules.push((words[i - 1].to_owned(), depth));
                }
            }
            "}" => {
                if modules.last().is_some_and(|(_, at)| *at == depth) {
                    modules.pop();
                }
                depth = depth.saturating_sub(1);
            }
            "#" if words[i..].starts_with(&["#", "[", "cfg", "(", "test", ")", "]"]) => {
                test_until = test_until.max(item_end(&words, i + 7));
            }
            _ => {}
        }
        let inside = modules.iter().map(|(name, _)| name.clone()).collect();
        tokens.push(Token { text: text.clone(), line: *line, test: i < test_until, inside });
    }
    tokens
}

/// Where the item that starts at `from` ends: after its `;`, or after its braces.
fn item_end(words: &[&str], from: usize) -> usize {
    let (mut depth, mut i) = (0_usize, from);
    while i < words.len() {
        match words[i] {
            "{" | "(" | "[" => depth += 1,
            "}" | ")" | "]" => {
                depth = depth.saturating_sub(1);
                if depth == 0 && words[i] == "}" {
                    return i + 1;
                }
            }
            ";" if depth == 0 => return i + 1,
            _ => {}
        }
        i += 1;
    }
    i
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        lex(text).tokens.into_iter().map(|t| t.text).collect()
    }

    #[test]
    fn comments_and_strings_are_not_code() {
        assert_eq!(words("a // b\n/* c /* d */ e */ f \"g \\\" h\" i"), ["a", "f", "\"\"", "i"]);
        assert_eq!(
            words("r#\"todo!\"# b'x' b\"y\" '\\'' 'a' &'a str"),
            ["\"\"", "\"\"", "\"\"", "\"\"", "\"\"", "&", "str"]
        );
    }

    #[test]
    fn lines_are_counted_through_strings_and_comments() {
        let source = lex("/* 1\n2 */ a\n\"3\n4\" b // five\nc");
        let lines: Vec<_> = source.tokens.iter().map(|t| (t.text.as_str(), t.line)).collect();
        assert_eq!(lines, [("a", 2), ("\"\"", 3), ("b", 4), ("c", 5)]);
        assert_eq!(source.comments[1], (4, "// five".to_owned()));
    }

    #[test]
    fn test_code_and_inline_modules_are_marked() {
        let source = lex("a #[cfg(test)] mod tests { fn b() { c } } mod d { e } #[cfg(test)] use f; g");
        let of = |name: &str| source.tokens.iter().find(|t| t.text == name).expect("is in the text");
        assert!(!of("a").test && of("c").test && !of("e").test && of("f").test && !of("g").test);
        assert_eq!(of("c").inside, ["tests"]);
        assert_eq!(of("e").inside, ["d"]);
        assert!(of("g").inside.is_empty());
    }
}
