//! The address of a cloud broker: `mqtt://host:port` and its three siblings, taken apart. Pure.

use std::fmt;

/// A broker's address, as the configuration names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Inside TLS.
    pub tls: bool,
    /// Inside WebSocket: the path of the request, such as `/mqtt`.
    pub websocket: Option<String>,
    /// Host name or address, without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

/// What is wrong with a URL, and how to mend it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct WrongUrl {
    /// What is wrong.
    pub message: String,
    /// What to write instead.
    pub hint: String,
}

impl Endpoint {
    /// Takes `scheme://host[:port][/path]` apart.
    ///
    /// # Errors
    /// What is wrong, and what to write instead.
    pub fn parse(url: &str) -> Result<Self, WrongUrl> {
        let wrong = |message: String, hint: &str| Err(WrongUrl { message, hint: hint.to_owned() });
        let Some((scheme, rest)) = url.split_once("://") else {
            return wrong(format!("`{url}` has no scheme"), "write mqtt://host:1883 or mqtts://host:8883");
        };
        let (tls, ws, default_port) = match scheme {
            "mqtt" => (false, false, 1883),
            "mqtts" => (true, false, 8883),
            "ws" => (false, true, 80),
            "wss" => (true, true, 443),
            "ssl" | "tls" => return wrong(format!("unknown scheme `{scheme}`"), "write `mqtts://` for TLS"),
            "tcp" => return wrong(format!("unknown scheme `{scheme}`"), "write `mqtt://`"),
            other => {
                return wrong(
                    format!("`{other}` is no way to reach a broker"),
                    "the schemes are mqtt, mqtts (TLS), ws and wss (WebSocket)",
                );
            }
        };
        let (place, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
        if place.contains('@') {
            return wrong(
                "a user name does not belong into the url".to_owned(),
                "use the keys `username` and `password_file`",
            );
        }
        if !ws && !matches!(path, "" | "/") {
            return wrong(format!("`{path}` means nothing to {scheme}"), "only ws and wss have a path");
        }
        let (host, port) = authority(place, default_port)?;
        let websocket = ws.then(|| if path.is_empty() { "/mqtt".to_owned() } else { path.to_owned() });
        Ok(Self { tls, websocket, host: host.to_owned(), port })
    }

    /// The same way to another server, which a broker names as `host` or `host:port` (MQTT 5, §4.11). TLS
    /// stays TLS.
    #[must_use]
    pub fn moved(&self, reference: &str) -> Option<Self> {
        let (host, port) = authority(reference, self.port).ok()?;
        Some(Self { host: host.to_owned(), port, ..self.clone() })
    }

    /// As it stands in the configuration.
    #[must_use]
    pub fn url(&self) -> String {
        let scheme = match (self.websocket.is_some(), self.tls) {
            (false, false) => "mqtt",
            (false, true) => "mqtts",
            (true, false) => "ws",
            (true, true) => "wss",
        };
        format!("{scheme}://{self}{}", self.websocket.as_deref().unwrap_or_default())
    }
}

/// Takes `host[:port]` apart; an IPv6 address stands in brackets.
pub(super) fn authority(text: &str, default_port: u16) -> Result<(&str, u16), WrongUrl> {
    let wrong = |message: String, hint: &str| Err(WrongUrl { message, hint: hint.to_owned() });
    let (host, port) = match text.strip_prefix('[') {
        Some(v6) => match v6.split_once(']') {
            Some((host, "")) => (host, None),
            Some((host, port)) => (host, port.strip_prefix(':').or(Some("-"))),
            None => return wrong(format!("`{text}` lacks a `]`"), "write [2001:db8::1]:8883"),
        },
        None => match text.split_once(':') {
            Some((_, more)) if more.contains(':') => {
                return wrong(
                    format!("`{text}` is ambiguous"),
                    "an IPv6 address stands in brackets: [2001:db8::1]:8883",
                );
            }
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '%');
    if host.is_empty() || !host.chars().all(allowed) {
        return wrong(format!("`{host}` is not a host"), "write mqtt://host:1883");
    }
    match port.map(str::parse::<u16>) {
        None => Ok((host, default_port)),
        Some(Ok(port)) if port != 0 => Ok((host, port)),
        Some(_) => wrong(format!("`{text}` has no valid port"), "a port is 1 to 65535"),
    }
}

impl fmt::Display for Endpoint {
    /// `host:port`, as in messages to people.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_four_schemes_and_their_usual_ports() {
        let plain = |tls, port| Endpoint { tls, websocket: None, host: "b.example".into(), port };
        assert_eq!(Endpoint::parse("mqtt://b.example"), Ok(plain(false, 1883)));
        assert_eq!(Endpoint::parse("mqtts://b.example/"), Ok(plain(true, 8883)));
        assert_eq!(Endpoint::parse("mqtt://b.example:9"), Ok(plain(false, 9)));
        let ws = Endpoint::parse("wss://b.example/x?y=1").expect("a url");
        assert_eq!((ws.tls, ws.websocket.as_deref(), ws.port), (true, Some("/x?y=1"), 443));
        assert_eq!(ws.url(), "wss://b.example:443/x?y=1");
        let moved = ws.moved("c.example:8443").expect("a server");
        assert_eq!(moved.url(), "wss://c.example:8443/x?y=1");
        assert_eq!((ws.moved("d").expect("a server").port, ws.moved("a b"), ws.moved("")), (443, None, None));
        let v6 = Endpoint::parse("mqtt://[::1]:1884").expect("a url");
        assert_eq!((v6.host.as_str(), v6.to_string().as_str()), ("::1", "[::1]:1884"));
    }

    #[test]
    fn a_wrong_url_says_what_to_write_instead() {
        for (url, hint) in [
            ("broker.example:1883", "mqtt://"),
            ("http://b", "the schemes are"),
            ("tcp://b", "mqtt://"),
            ("ssl://b", "mqtts://"),
            ("mqtt://a b", "mqtt://"),
            ("mqtt://", "host"),
            ("mqtt://u:p@b", "username"),
            ("mqtt://b:0", "1 to 65535"),
            ("mqtt://b:99999", "1 to 65535"),
            ("mqtt://b/path", "only ws"),
            ("mqtt://::1:1883", "brackets"),
            ("mqtt://[::1", "["),
        ] {
            let wrong = Endpoint::parse(url).expect_err(url);
            assert!(wrong.hint.contains(hint), "{url}: {wrong:?}");
        }
    }

    proptest! {
        #[test]
        fn no_text_can_make_it_panic(url in "\\PC*") {
            let _ = Endpoint::parse(&url);
            let _ = Endpoint::parse(&format!("mqtt://{url}"));
        }
    }
}
