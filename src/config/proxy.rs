//! `proxy = "http://user@host:3128"` or `"socks5://host:1080"`: the way out of a network that lets nothing
//! else out. Pure.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Deserialize, Deserializer, Error};
use serde::{Serialize, Serializer};

use super::url::authority;

/// A proxy as the configuration names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proxy {
    /// What it speaks.
    pub kind: ProxyKind,
    /// Who we say we are.
    pub user: Option<String>,
    /// Host name or address, without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

/// What a proxy speaks. Both kinds are given the broker's name, not its address: who needs a proxy often
/// has no DNS for names outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyKind {
    /// HTTP with the method CONNECT (RFC 9110, §9.3.6).
    Http,
    /// SOCKS version 5 (RFC 1928, login RFC 1929).
    Socks5,
}

impl ProxyKind {
    /// The scheme.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Socks5 => "socks5",
        }
    }
}

impl FromStr for Proxy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = |why: String| Err(format!("{why}, such as http://proxy.example.com:3128"));
        let Some((scheme, rest)) = text.split_once("://") else {
            return wrong(format!("`{text}` has no scheme (http or socks5)"));
        };
        let (kind, default_port) = match scheme {
            "http" => (ProxyKind::Http, 3128),
            "socks5" | "socks5h" => (ProxyKind::Socks5, 1080),
            "https" => return wrong("a proxy that is itself behind TLS is not supported".to_owned()),
            other => return wrong(format!("`{other}` is no kind of proxy; there are http and socks5")),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (user, place) = match rest.rsplit_once('@') {
            None => (None, rest),
            Some((user, place)) => (Some(user), place),
        };
        if user.is_some_and(|user| user.contains(':')) {
            return Err(
                "a password does not stand in `proxy`; put it into the file of `proxy_password_file`, such as http://user@proxy.example.com:3128"
                    .to_owned(),
            );
        }
        if user.is_some_and(|user| user.is_empty() || user.len() > 255 || user.contains(char::is_control)) {
            return wrong("the user name is empty or too long".to_owned());
        }
        match authority(place, default_port) {
            Ok((host, port)) => Ok(Self { kind, user: user.map(str::to_owned), host: host.to_owned(), port }),
            Err(e) => wrong(e.message),
        }
    }
}

impl Proxy {
    /// `host:port`, as in messages to people.
    #[must_use]
    pub fn place(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = self.user.as_ref().map_or(String::new(), |user| format!("{user}@"));
        write!(f, "{}://{at}{}", self.kind.word(), self.place())
    }
}

impl<'de> Deserialize<'de> for Proxy {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Cow::<'de, str>::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

impl Serialize for Proxy {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl JsonSchema for Proxy {
    fn schema_name() -> Cow<'static, str> {
        "Proxy".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "pattern": "^(http|socks5|socks5h)://([^:@/]+@)?[^@/]+/?$",
            "examples": ["http://proxy.example.com:3128"]
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_with_and_without_a_user() {
        for (text, kind, user, place) in [
            ("http://proxy:8080", ProxyKind::Http, None, "proxy:8080"),
            ("http://me@proxy/", ProxyKind::Http, Some("me"), "proxy:3128"),
            ("socks5://10.0.0.1", ProxyKind::Socks5, None, "10.0.0.1:1080"),
            ("socks5h://me@[::1]:9", ProxyKind::Socks5, Some("me"), "[::1]:9"),
        ] {
            let proxy: Proxy = text.parse().expect(text);
            assert_eq!((proxy.kind, proxy.user.as_deref(), &*proxy.place()), (kind, user, place));
            assert_eq!(proxy.to_string().parse(), Ok(proxy));
        }
    }

    #[test]
    fn what_is_no_proxy_says_why() {
        for (text, why) in [
            ("proxy:3128", "no scheme"),
            ("https://proxy", "behind TLS"),
            ("ftp://proxy", "no kind of proxy"),
            ("http://me:secret@proxy", "proxy_password_file"),
            ("http://@proxy", "user name"),
            ("http://", "is not a host"),
            ("socks5://proxy:0", "no valid port"),
            ("socks5://proxy/path", "not a host"),
        ] {
            let error = text.parse::<Proxy>().expect_err(text);
            assert!(error.contains(why) && error.contains(", such as http"), "{text}: {error}");
        }
    }
}
