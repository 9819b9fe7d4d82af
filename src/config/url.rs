//! The address of a cloud broker: `mqtt://host:1883` or `mqtts://host:8883`.

use std::fmt;

/// A broker's address, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Whether TLS is spoken (`mqtts`).
    pub tls: bool,
    /// Host name or address; an IPv6 address without its brackets.
    pub host: String,
    /// TCP port; 1883, or 8883 with TLS, where the URL names none.
    pub port: u16,
}

/// What is wrong with a URL, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct UrlError {
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub hint: String,
}

const EXAMPLE: &str = "such as `mqtts://broker.example.com:8883`";

impl std::str::FromStr for Endpoint {
    type Err = UrlError;

    fn from_str(url: &str) -> Result<Self, UrlError> {
        let wrong = |message: String, hint: &str| UrlError { message, hint: hint.to_owned() };
        let (scheme, rest) = url
            .split_once("://")
            .ok_or_else(|| wrong(format!("`{url}` has no scheme"), &format!("write a URL {EXAMPLE}")))?;
        let tls = match scheme {
            "mqtt" => false,
            "mqtts" => true,
            "ssl" | "tls" => {
                return Err(wrong(format!("unknown scheme `{scheme}`"), "write `mqtts://` for TLS"));
            }
            "tcp" => return Err(wrong(format!("unknown scheme `{scheme}`"), "write `mqtt://`")),
            "ws" | "wss" => {
                let message = format!("this version does not speak `{scheme}` to the cloud");
                return Err(wrong(message, "write `mqtt://` or `mqtts://`"));
            }
            _ => return Err(wrong(format!("unknown scheme `{scheme}`"), "it is `mqtt` or `mqtts`")),
        };
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        if authority.contains('@') {
            return Err(wrong(
                "a user or password does not belong into the URL".to_owned(),
                "use `username` and `password_file`",
            ));
        }
        if let Some(at) = authority.find(['/', '?', '#']) {
            let message = format!("`{}` does not belong into the URL", &authority[at..]);
            return Err(wrong(message, "an MQTT broker has a host and a port, no path"));
        }
        let (host, port) = split(authority);
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '%');
        if host.is_empty() || !host.chars().all(allowed) {
            return Err(wrong(format!("`{host}` is not a host"), &format!("write a URL {EXAMPLE}")));
        }
        let port = match port {
            None if tls => 8883,
            None => 1883,
            Some(text) => text.parse().ok().filter(|p| *p > 0).ok_or_else(|| {
                wrong(format!("`{text}` is not a port"), "a port is a number from 1 to 65535")
            })?,
        };
        Ok(Self { tls, host: host.to_owned(), port })
    }
}

/// Host and port of `host:port`, `[v6]:port`, `host` or `[v6]`.
fn split(authority: &str) -> (&str, Option<&str>) {
    if let Some((host, rest)) = authority.strip_prefix('[').and_then(|r| r.split_once(']')) {
        return (host, rest.strip_prefix(':'));
    }
    match authority.rsplit_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (authority, None),
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "mqtts" } else { "mqtt" };
        if self.host.contains(':') {
            write!(f, "{scheme}://[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{scheme}://{}:{}", self.host, self.port)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_people_write_are_read() {
        for (url, tls, host, port) in [
            ("mqtt://10.0.0.1", false, "10.0.0.1", 1883),
            ("mqtts://broker.example.com", true, "broker.example.com", 8883),
            ("mqtt://localhost:18830/", false, "localhost", 18830),
            ("mqtts://[fe80::1%eth0]:8884", true, "fe80::1%eth0", 8884),
        ] {
            let endpoint: Endpoint = url.parse().expect(url);
            assert_eq!(endpoint, Endpoint { tls, host: host.into(), port });
            assert_eq!(endpoint.to_string().parse(), Ok(endpoint));
        }
    }

    #[test]
    fn a_wrong_address_says_what_to_write_instead() {
        for (url, hint) in [
            ("broker:1883", "mqtts://"),
            ("tcp://broker", "mqtt://"),
            ("ssl://broker", "mqtts://"),
            ("wss://broker", "mqtts://"),
            ("mqtt://me:secret@broker", "password_file"),
            ("mqtt://broker:0", "1 to 65535"),
            ("mqtt://broker:99999", "1 to 65535"),
            ("mqtt://", "mqtts://"),
            ("mqtt://a b", "mqtts://"),
            ("mqtt://broker/topic", "no path"),
        ] {
            let error = url.parse::<Endpoint>().expect_err(url);
            assert!(error.hint.contains(hint), "{url}: {error:?}");
        }
    }
}
