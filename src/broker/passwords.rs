//! Users and their passwords: the file format of `mosquitto_passwd`. Pure, but slow on purpose.
//!
//! A line is `name:$7$iterations$salt$hash`: PBKDF2 with HMAC-SHA512, salt and 64-byte hash in base64.

use std::collections::HashMap;
use std::num::NonZeroU32;

use ring::pbkdf2;

use super::lines::LineError;

/// Iterations of new hashes: about 30 ms on a Raspberry Pi 4, two hundred times `mosquitto_passwd`'s 101.
const ITERATIONS: NonZeroU32 = NonZeroU32::new(20_000).expect("not zero");
/// More than this in a file is a mistake: each login would take minutes.
const MAX_ITERATIONS: u32 = 5_000_000;
/// mosquitto takes no other length.
const SALT_BYTES: usize = 12;
const HASH_BYTES: usize = 64;
static ALGORITHM: pbkdf2::Algorithm = pbkdf2::PBKDF2_HMAC_SHA512;

#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    iterations: NonZeroU32,
    salt: Vec<u8>,
    hash: Vec<u8>,
}

/// A parsed password file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Passwords {
    users: HashMap<String, Entry>,
}

impl Passwords {
    /// Reads the text of a password file.
    ///
    /// # Errors
    /// Every line that cannot be understood.
    pub fn parse(text: &str) -> Result<Self, Vec<LineError>> {
        let mut users = HashMap::new();
        let mut errors = Vec::new();
        for line in text.lines().map(str::trim) {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            // Nothing of what may be a password is repeated: only the name before the colon.
            match line.split_once(':') {
                None => errors.push(
                    LineError::at(text, line, "there is no `name:` before a hash")
                        .hint("a line is `name:$7$…`; make one with `fieldgate passwd` or mosquitto_passwd"),
                ),
                Some(("", _)) => {
                    errors.push(LineError::at(text, line, "the name before the colon is missing"))
                }
                Some((name, _)) if users.contains_key(name) => {
                    let error = LineError::at(text, name, format!("`{name}` is there a second time"));
                    errors.push(error.hint("keep the line that counts"));
                }
                Some((name, hash)) => match entry(hash) {
                    Ok(entry) => drop(users.insert(name.to_owned(), entry)),
                    Err((message, hint)) => {
                        errors.push(LineError::at(text, hash, message).hint(hint));
                    }
                },
            }
        }
        if errors.is_empty() { Ok(Self { users }) } else { Err(errors) }
    }

    /// Whether `user` is there, with the password that it has in `other`.
    #[must_use]
    pub fn agrees(&self, other: &Self, user: &str) -> bool {
        self.users.get(user).is_some_and(|entry| other.users.get(user) == Some(entry))
    }

    /// Whether `user` is known and `password` is right. Takes as long as the hash wants (tens of
    /// milliseconds), for unknown users too: never call it on a thread that serves others.
    #[must_use]
    pub fn check(&self, user: &str, password: &[u8]) -> bool {
        match self.users.get(user) {
            Some(e) => pbkdf2::verify(ALGORITHM, e.iterations, &e.salt, password, &e.hash).is_ok(),
            None => {
                let iterations = self.users.values().next().map_or(ITERATIONS, |e| e.iterations);
                pbkdf2::derive(ALGORITHM, iterations, &[0; SALT_BYTES], password, &mut [0; HASH_BYTES]);
                false
            }
        }
    }
}

/// The part behind `name:`. An error is what is wrong, and the cure.
fn entry(text: &str) -> Result<Entry, (String, &'static str)> {
    let mut parts = text.split('$');
    match (parts.next(), parts.next()) {
        (Some(""), Some("7")) => {}
        (Some(""), Some(kind @ ("1" | "5" | "6"))) => {
            return Err((
                format!("a hash of the old kind `${kind}$`"),
                "set the password again, with `fieldgate passwd`, to get a `$7$` line",
            ));
        }
        _ => {
            return Err((
                "the password is not hashed".to_owned(),
                "use `fieldgate passwd`, or mosquitto_passwd -U for a whole file",
            ));
        }
    }
    let broken = |what: &str| (format!("the hash is damaged ({what})"), "set the password again");
    let iterations = parts
        .next()
        .and_then(|n| n.parse().ok())
        .filter(|n: &NonZeroU32| n.get() <= MAX_ITERATIONS)
        .ok_or_else(|| broken("iterations"))?;
    let salt = parts.next().and_then(decode64).filter(|s| !s.is_empty()).ok_or_else(|| broken("salt"))?;
    let hash =
        parts.next().and_then(decode64).filter(|h| h.len() == HASH_BYTES).ok_or_else(|| broken("length"))?;
    Ok(Entry { iterations, salt, hash })
}

/// Hashes a password for the password file: the part after `name:`. Takes tens of milliseconds.
///
/// # Errors
/// The system has no random numbers to give.
pub fn hash_password(password: &[u8]) -> Result<String, getrandom::Error> {
    let mut salt = [0; SALT_BYTES];
    getrandom::fill(&mut salt)?;
    let mut hash = [0; HASH_BYTES];
    pbkdf2::derive(ALGORITHM, ITERATIONS, &salt, password, &mut hash);
    Ok(format!("$7${ITERATIONS}${}${}", encode64(&salt), encode64(&hash)))
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

fn encode64(bytes: &[u8]) -> String {
    let mut out = String::new();
    for chunk in bytes.chunks(3) {
        let word = chunk.iter().fold(0u32, |w, b| w << 8 | u32::from(*b)) << (8 * (3 - chunk.len()));
        for i in 0..4 {
            let index = (word >> (18 - 6 * i)) & 63;
            out.push(if i <= chunk.len() { char::from(ALPHABET[index as usize]) } else { '=' });
        }
    }
    out
}

fn decode64(text: &str) -> Option<Vec<u8>> {
    let text = text.trim_end_matches('=').as_bytes();
    let mut out = Vec::new();
    for chunk in text.chunks(4) {
        let mut word = 0u32;
        for byte in chunk {
            let value = ALPHABET.iter().position(|a| a == byte)?;
            word = word << 6 | u32::try_from(value).ok()?;
        }
        word <<= 6 * (4 - chunk.len());
        let bytes = word.to_be_bytes();
        match chunk.len() {
            1 => return None,
            n => out.extend_from_slice(&bytes[1..n]),
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Written by `mosquitto_passwd -b -c` 2.0.11 with password `secret`.
    const MOSQUITTO: &str = "anna:$7$101$p02LGyhhZTGEZhwN$B8C9Bu++kKLM6JZOAYVndnG3B+avJ76A/X9h6XzfXrOHlNs0OHjfbhhtcfDXVFv2SV9cjxuLOtM7XZT54A/BPg==";

    #[test]
    fn a_line_of_mosquitto_passwd_is_understood() {
        let users = Passwords::parse(MOSQUITTO).unwrap();
        assert!(users.check("anna", b"secret"));
        assert!(!users.check("anna", b"Secret"));
        assert!(!users.check("anna", b""));
        assert!(!users.check("nobody", b"secret"));
    }

    #[test]
    fn a_hash_of_ours_reads_back() {
        let line = format!("bert:{}", hash_password(b"p\xc3\xa4ss").unwrap());
        assert_eq!(line.split('$').nth(3).map(str::len), Some(16), "mosquitto takes no other salt: {line}");
        assert!(Passwords::parse(&line).unwrap().check("bert", b"p\xc3\xa4ss"));
    }

    #[test]
    fn every_wrong_line_is_named() {
        let text =
            "anna:plain\nbert\n:x\n# fine\ncarl:$6$abc$def\ndora:$7$0$AA==$AA==\nemil:$7$101$AAAA$AAAA\n";
        let errors = Passwords::parse(text).unwrap_err();
        assert_eq!(errors.iter().map(|e| e.line).collect::<Vec<_>>(), [1, 2, 3, 5, 6, 7]);
        assert!(errors[0].message.contains("not hashed"));
    }

    proptest! {
        #[test]
        fn base64_reads_back(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            prop_assert_eq!(decode64(&encode64(&bytes)), Some(bytes));
        }

        #[test]
        fn no_text_panics(text in "\\PC*") {
            let _ = Passwords::parse(&text);
            let _ = decode64(&text);
        }
    }
}
