//! What can be wrong with an `[[uplink]]` beyond its types, said before anything connects. Pure.
//!
//! Files are not looked at here: whether they can be read is a matter of the machine, not of the text.

use super::endpoint::Endpoint;
use crate::config::model::{Compression, Format, Uplink};

/// One mistake: the key it is about, what is wrong, and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// The key in the uplink's table; `batch.max_readings` for a nested one.
    pub key: &'static str,
    /// What is wrong.
    pub message: String,
    /// What to write instead.
    pub hint: String,
}

/// MQTT's keep-alive is two bytes of seconds.
const KEEP_ALIVE_MAX_S: u64 = 65_535;

/// Most readings in one batch. 10,000 × about 40 B = 400 KB of JSON, more than most brokers accept.
const BATCH_MAX: u32 = 10_000;

/// Everything that is wrong with this uplink.
#[must_use]
pub fn check(uplink: &Uplink) -> Vec<Mistake> {
    let mut found = Vec::new();
    let mut wrong = |key, message: String, hint: &str| {
        found.push(Mistake { key, message, hint: hint.to_owned() });
    };

    let name = &uplink.name;
    if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-')) {
        wrong("name", format!("`{name}` cannot be part of a topic"), "use letters, digits, `_` and `-`");
    }
    let urls = std::iter::once(("url", &uplink.url))
        .chain(uplink.fallback_urls.iter().map(|url| ("fallback_urls", url)));
    let mut any_tls = false;
    for (key, url) in urls {
        match Endpoint::parse(url) {
            Ok(endpoint) => any_tls |= endpoint.tls,
            Err(e) => {
                any_tls = true; // Unknown; one mistake is enough.
                wrong(key, e.message, &e.hint);
            }
        }
    }
    for (key, file) in
        [("ca_file", &uplink.ca_file), ("cert_file", &uplink.cert_file), ("key_file", &uplink.key_file)]
    {
        if file.is_some() && !any_tls {
            wrong(key, format!("`{key}` has no effect without TLS"), "use mqtts:// or wss:// in url");
        }
    }
    match (&uplink.cert_file, &uplink.key_file) {
        (Some(_), None) => {
            wrong("cert_file", "a certificate without its key".to_owned(), "set key_file as well");
        }
        (None, Some(_)) => {
            wrong("key_file", "a key without its certificate".to_owned(), "set cert_file as well");
        }
        (Some(_), Some(_)) | (None, None) => {}
    }
    if uplink.password_file.is_some() && uplink.username.is_none() {
        wrong("password_file", "a password without a user name".to_owned(), "set username as well");
    }
    if uplink.keep_alive.0.as_secs() > KEEP_ALIVE_MAX_S {
        wrong("keep_alive", format!("{} is too long", uplink.keep_alive), "MQTT allows at most 65535s");
    } else if !uplink.keep_alive.0.is_zero() && uplink.keep_alive.0.as_secs() == 0 {
        wrong("keep_alive", format!("{} is too short", uplink.keep_alive), "MQTT counts whole seconds");
    }
    if uplink.compression == Compression::Zstd && uplink.format != Format::JsonBatch {
        wrong(
            "compression",
            "single readings are too short to compress".to_owned(),
            "use format = \"json-batch\", or leave compression out",
        );
    }
    if !(1..=BATCH_MAX).contains(&uplink.batch.max_readings) {
        wrong(
            "batch.max_readings",
            format!("{} readings make no batch", uplink.batch.max_readings),
            "a batch holds 1 to 10000 readings",
        );
    }
    if let Some((message, hint)) = wrong_root(&uplink.topic_root) {
        wrong("topic_root", message, hint);
    }
    found
}

fn wrong_root(root: &str) -> Option<(String, &'static str)> {
    const EXAMPLE: &str = "a root looks like gw/{gateway}";
    let plain = root.replace("{gateway}", "g");
    if plain.is_empty() {
        Some(("an empty root".to_owned(), EXAMPLE))
    } else if plain.contains(['+', '#', '\0']) {
        Some((format!("`{root}` holds a wildcard"), EXAMPLE))
    } else if plain.contains(['{', '}']) {
        Some((format!("`{root}` holds a placeholder that is not known"), "the only one is {gateway}"))
    } else if plain.starts_with(['/', '$']) || plain.ends_with('/') || plain.contains("//") {
        Some((format!("`{root}` has an empty level or starts with `$`"), EXAMPLE))
    } else if plain.len() > 1024 {
        Some(("a root of more than 1024 bytes".to_owned(), EXAMPLE))
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use driver_api::Span;

    fn uplink(text: &str) -> Uplink {
        toml::from_str(&format!("name = \"cloud\"\n{text}")).expect("a table")
    }

    #[test]
    fn the_defaults_are_right() {
        assert_eq!(check(&uplink("url = \"mqtts://b:8883\"")), []);
    }

    #[test]
    fn every_mistake_is_found_in_one_go() {
        let mut all = uplink(
            "url = \"b:1883\"\nfallback_urls = [\"mqtt://\"]\ncert_file = \"c\"\npassword_file = \"p\"\n\
             compression = \"zstd\"\ntopic_root = \"gw/#\"\nbatch = { max_readings = 0 }",
        );
        all.keep_alive = Span::s(70_000);
        let keys: Vec<&str> = check(&all).iter().map(|m| m.key).collect();
        assert_eq!(
            keys,
            [
                "url",
                "fallback_urls",
                "cert_file",
                "password_file",
                "keep_alive",
                "compression",
                "batch.max_readings",
                "topic_root"
            ]
        );
    }

    #[test]
    fn certificates_without_tls_are_pointed_out() {
        let keys: Vec<&str> =
            check(&uplink("url = \"mqtt://b\"\nca_file = \"ca.pem\"")).iter().map(|m| m.key).collect();
        assert_eq!(keys, ["ca_file"]);
    }

    #[test]
    fn a_root_that_is_no_topic_is_refused() {
        for root in ["", "/gw", "gw/", "gw//x", "gw/+", "$SYS", "gw/{gatway}"] {
            assert!(wrong_root(root).is_some(), "{root}");
        }
        assert_eq!(wrong_root("sites/{gateway}/up"), None);
    }
}
