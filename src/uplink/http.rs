//! The little of HTTP that is met on the way to a broker: the head of an answer. Pure.
//!
//! Somebody who answers in HTTP where MQTT or TLS was expected is a web server, or a captive portal that
//! wants a person to log in first.

/// Longest head that is looked at.
pub const HEAD_MAX: usize = 8 << 10;

/// The part of an answer's head that counts here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// The status code.
    pub status: u16,
    /// Where it sends us, made fit for a log.
    pub location: Option<String>,
    /// Bytes up to the body; `None` while the head is not there whole.
    pub len: Option<usize>,
}

/// Reads the head of an answer, whole or not; `None` if this is no HTTP.
#[must_use]
pub fn head(bytes: &[u8]) -> Option<Head> {
    let rest = bytes.strip_prefix(b"HTTP/1.")?;
    let status = std::str::from_utf8(rest.get(2..5)?).ok()?.parse().ok()?;
    let len = bytes.windows(4).position(|four| four == b"\r\n\r\n").map(|at| at + 4);
    let text = String::from_utf8_lossy(&bytes[..len.unwrap_or(bytes.len())]);
    let location = text.split("\r\n").skip(1).find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("location").then(|| printable(value.trim()))
    });
    Some(Head { status, location, len })
}

/// What such an answer means where none was expected.
#[must_use]
pub fn portal_words(head: &Head) -> String {
    /// Network Authentication Required (RFC 6585, §6).
    const NETWORK_LOGIN: u16 = 511;
    match (&head.location, head.status) {
        (Some(to), status) => format!(
            "a web page answers instead of the broker (HTTP {status}, sends us to {to}); is this a captive portal where a person has to log in?"
        ),
        (None, NETWORK_LOGIN) => {
            "the network wants a login first (HTTP 511): a captive portal, where a person has to log in"
                .to_owned()
        }
        (None, status) => format!(
            "a web server answers instead of the broker (HTTP {status}); is the port right, or is this a captive portal?"
        ),
    }
}

/// Text from outside, for messages: no control characters, at most 200 characters.
#[must_use]
pub fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(200).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_head_is_read_whole_or_in_part() {
        let whole = b"HTTP/1.1 302 Found\r\nlocation: http://login.example/\x07\r\n\r\n<html>";
        let head_of = |n: usize| head(&whole[..n]);
        let full = head_of(whole.len()).expect("HTTP");
        assert_eq!((full.status, full.len), (302, Some(whole.len() - 6)));
        assert_eq!(full.location.as_deref(), Some("http://login.example/ "));
        assert_eq!(head_of(20).expect("begun").len, None);
        assert_eq!((head_of(6), head(b"\x20\x02\0\0"), head(b"HTTP/1.1 abc")), (None, None, None));
        assert!(
            portal_words(&full).contains("captive portal") && portal_words(&full).contains("login.example")
        );
        assert!(portal_words(&Head { status: 511, location: None, len: None }).contains("511"));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = head(&bytes);
            let _ = head(&[b"HTTP/1.1 200 OK\r\n".to_vec(), bytes].concat());
        }
    }
}
