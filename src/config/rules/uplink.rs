//! Rules of `[[uplink]]`.

use std::time::Duration;

use driver_api::{Problem, Span};

use super::{Findings, Names, Sections, Sources, must_exist, routes};
use crate::config::model::{Compression, Format, MqttVersion, Order, Qos, Uplink};
use crate::config::problems::locate;
use crate::config::proxy::ProxyKind;
use crate::config::raw::Raw;
use crate::config::url::Endpoint;

/// Most readings in one message.
const MAX_BATCH: u32 = crate::bounds::UPLINK_BATCH as u32;
/// The least rate that is any use: a ping, an acknowledgement and a reading still get through.
const SLOWEST_RATE: u64 = 256;
/// Longest wait for a batch to fill: beyond an hour nobody would call it live.
const MAX_DELAY: Span = Span::s(3600);
/// A clock that is not set in a day will hardly be, and nobody waits longer for a reading.
const MAX_CLOCK_WAIT: Span = Span::s(86_400);

pub(super) fn check(sections: &Sections<'_, '_>, sources: &Sources, findings: &mut Findings) {
    let mut names = Names::of("uplink", sources);
    for (uplink, raw) in &sections.uplinks {
        names.add(&uplink.name, raw.at("name"), &mut findings.problems);
        check_addresses(uplink, raw, findings);
        check_way(uplink, raw, findings);
        check_files(uplink, raw, &mut findings.problems);
        check_limits(uplink, raw, &mut findings.problems);
        check_sparkplug(uplink, raw, &mut findings.problems);
        routes::check(uplink, &sections.gateway.id, raw, &mut findings.problems);
    }
    check_clients(sections, sources, &mut findings.problems);
    routes::check_circles(&sections.uplinks, &sections.gateway.id, &mut findings.problems);
}

/// Longest text in MQTT, bytes.
const LONGEST_TEXT: usize = 65_535;

/// Names by which brokers know us: what MQTT can carry, and no two alike at one broker.
fn check_clients(sections: &Sections<'_, '_>, sources: &Sources, problems: &mut Vec<Problem>) {
    let mut seen: Vec<(String, u16, String, driver_api::Place)> = Vec::new();
    for (uplink, raw) in &sections.uplinks {
        for (key, text) in [("client_id", &uplink.client_id), ("username", &uplink.username)] {
            let Some(text) = text else { continue };
            let wrong = if text.contains(char::is_control) {
                "holds control characters"
            } else if text.len() > LONGEST_TEXT {
                "is longer than 65535 bytes"
            } else {
                continue;
            };
            let problem = Problem::new(raw.at(key), format!("`{key}` {wrong}"));
            problems.push(problem.hint("MQTT cannot carry it, or brokers hang up on it; use plain text"));
        }
        let id = uplink.client_id.as_ref().unwrap_or(&sections.gateway.id);
        let key = if uplink.client_id.is_some() { "client_id" } else { "url" };
        let urls = std::iter::once(&uplink.url).chain(&uplink.fallback_urls);
        let mut ours: Vec<_> = urls
            .filter_map(|url| Endpoint::parse(url).ok())
            .map(|endpoint| (endpoint.host.to_ascii_lowercase(), endpoint.port))
            .collect();
        ours.sort();
        ours.dedup();
        let same =
            seen.iter().find(|(host, port, other, _)| other == id && ours.contains(&(host.clone(), *port)));
        if let Some((host, port, _, first)) = same {
            let at = locate(sources, first);
            let message = format!(
                "two uplinks are `{id}` at {host}:{port}: the broker would throw one out for the other"
            );
            let hint =
                format!("the first is at {}:{}; give this one a `client_id` of its own", at.file, at.line);
            problems.push(Problem::new(raw.at(key), message).hint(hint));
        }
        seen.extend(ours.into_iter().map(|(host, port)| (host, port, id.clone(), raw.at("url"))));
    }
}

fn check_addresses(uplink: &Uplink, raw: &Raw<'_>, findings: &mut Findings) {
    let mut endpoints = Vec::new();
    let fallbacks = uplink.fallback_urls.iter().enumerate();
    let urls = std::iter::once(("url".to_owned(), &uplink.url))
        .chain(fallbacks.map(|(i, url)| (format!("fallback_urls.{i}"), url)));
    for (key, url) in urls {
        match Endpoint::parse(url) {
            Ok(endpoint) => endpoints.push((key, endpoint)),
            Err(e) => findings.problems.push(Problem::new(raw.at(&key), e.message).hint(e.hint)),
        }
    }
    for (key, endpoint) in &endpoints {
        let loopback = matches!(endpoint.host.as_str(), "localhost" | "127.0.0.1" | "::1");
        if !endpoint.tls && !loopback && uplink.password_file.is_some() {
            let problem = Problem::new(raw.at(key), "the password travels in clear text");
            findings.warnings.push(problem.hint("use `mqtts://` or `wss://`"));
        }
    }
    if !endpoints.is_empty() && endpoints.iter().all(|(_, e)| !e.tls) {
        for (key, set) in [
            ("ca_file", uplink.ca_file.is_some()),
            ("cert_file", uplink.cert_file.is_some()),
            ("key_file", uplink.key_file.is_some()),
            ("alpn", !uplink.alpn.is_empty()),
        ] {
            if set {
                let problem = Problem::new(raw.key(key), format!("`{key}` has no effect without TLS"));
                findings.warnings.push(problem.hint("use `mqtts://` or `wss://` in `url`"));
            }
        }
    }
}

/// Linux names interfaces with at most 15 bytes (`IFNAMSIZ`).
const INTERFACE_MAX: usize = 15;

/// The keys about the way to the broker.
fn check_way(uplink: &Uplink, raw: &Raw<'_>, findings: &mut Findings) {
    for (index, name) in uplink.alpn.iter().enumerate() {
        if name.is_empty() || name.len() > 255 {
            let message = format!("`alpn` cannot hold a name of {} bytes", name.len());
            let problem = Problem::new(raw.at(&format!("alpn.{index}")), message);
            findings.problems.push(problem.hint("a name has 1 to 255 bytes, such as \"mqtt\""));
        }
    }
    let aws = Endpoint::parse(&uplink.url)
        .is_ok_and(|e| e.port == 443 && e.websocket.is_none() && e.host.contains(".amazonaws.com"));
    if aws && uplink.alpn.is_empty() {
        let problem = Problem::new(raw.at("url"), "AWS IoT speaks MQTT on port 443 only if it is asked to");
        findings.warnings.push(problem.hint("add `alpn = [\"x-amzn-mqtt-ca\"]`"));
    }
    if uplink.mqtt_version == MqttVersion::V311 {
        for (key, set) in [("allow_redirect", uplink.allow_redirect), ("content_type", uplink.content_type)] {
            if set {
                let problem = Problem::new(raw.key(key), format!("`{key}` has no effect in MQTT 3.1.1"));
                findings.warnings.push(problem.hint("use `mqtt_version = \"5\"`, or leave it out"));
            }
        }
    }
    let user = uplink.proxy.as_ref().and_then(|proxy| proxy.user.as_ref());
    if uplink.proxy_password_file.is_some() && user.is_none() {
        let problem = Problem::new(raw.key("proxy_password_file"), "a password for a proxy without a user");
        findings.problems.push(problem.hint("write the user into `proxy`: http://user@host:3128"));
    }
    if let Some(proxy) = &uplink.proxy
        && proxy.kind == ProxyKind::Socks5
        && user.is_some()
        && uplink.proxy_password_file.is_none()
        && !raw.table.contains_key("proxy_password_file")
    {
        let problem = Problem::new(raw.at("proxy"), "SOCKS5 has no user without a password");
        findings.problems.push(problem.hint("add `proxy_password_file`"));
    }
    if let Some(name) = &uplink.interface {
        let allowed = |c: char| !c.is_whitespace() && !c.is_control() && c != '/';
        if name.is_empty() || name.len() > INTERFACE_MAX || !name.chars().all(allowed) {
            let problem = Problem::new(raw.at("interface"), format!("`{name}` is no network interface"));
            findings.problems.push(problem.hint("`ip link` shows their names, such as wwan0"));
        }
    }
}

fn check_files(uplink: &Uplink, raw: &Raw<'_>, problems: &mut Vec<Problem>) {
    let beside = "a relative path starts from the directory of this file";
    for (key, path, hint) in [
        ("password_file", &uplink.password_file, "put the password on the first line of that file"),
        ("ca_file", &uplink.ca_file, "leave it out to use the system's CAs"),
        ("cert_file", &uplink.cert_file, beside),
        ("key_file", &uplink.key_file, beside),
        (
            "proxy_password_file",
            &uplink.proxy_password_file,
            "put the password on the first line of that file",
        ),
    ] {
        if let Some(path) = path {
            must_exist(path, key, raw.at(key), hint, problems);
        }
    }
    for (has, lacks, present, absent) in [
        ("cert_file", "key_file", &uplink.cert_file, &uplink.key_file),
        ("key_file", "cert_file", &uplink.key_file, &uplink.cert_file),
    ] {
        if present.is_some() && absent.is_none() && !raw.table.contains_key(lacks) {
            let problem = Problem::new(raw.key(has), format!("`{has}` without `{lacks}`"));
            problems.push(problem.hint("a client certificate needs both"));
        }
    }
    if uplink.mqtt_version == MqttVersion::V311 && uplink.password_file.is_some() && uplink.username.is_none()
    {
        let problem =
            Problem::new(raw.key("password_file"), "MQTT 3.1.1 has no password without a user name");
        problems.push(problem.hint("add `username`, or use `mqtt_version = \"5\"`"));
    }
}

fn check_limits(uplink: &Uplink, raw: &Raw<'_>, problems: &mut Vec<Problem>) {
    if uplink.compression != Compression::None && uplink.format != Format::JsonBatch {
        let problem = Problem::new(raw.at("compression"), "only `json-batch` can be compressed");
        problems.push(problem.hint(match uplink.format {
            Format::SparkplugB => {
                "leave it out; where the host knows it, `sparkplug = { …, compression = \"deflate\" }`"
            }
            Format::Compact => "leave it out: `compact` messages are packed already",
            _ => "add `format = \"json-batch\"`",
        }));
    }
    let readings = uplink.batch.max_readings;
    if !(1..=MAX_BATCH).contains(&readings) {
        let problem =
            Problem::new(raw.at("batch.max_readings"), format!("`max_readings` cannot be {readings}"));
        problems.push(problem.hint(format!("it goes from 1 to {MAX_BATCH}")));
    }
    if uplink.batch.max_delay > MAX_DELAY {
        let message = format!("`max_delay` of {} is too long", uplink.batch.max_delay);
        problems.push(
            Problem::new(raw.at("batch.max_delay"), message).hint(format!("it goes up to {MAX_DELAY}")),
        );
    }
    let rate = uplink.max_rate;
    if rate.0 != 0 && rate.0 < SLOWEST_RATE {
        let problem = Problem::new(raw.at("max_rate"), format!("a `max_rate` of {rate} is too little"));
        problems.push(
            problem.hint(format!("it is bytes per second, at least {SLOWEST_RATE}B; \"0\" is no limit")),
        );
    }
    let alive = uplink.keep_alive;
    if alive.0 < Duration::from_secs(1) || alive.0 > Duration::from_secs(65_535) {
        let problem = Problem::new(raw.at("keep_alive"), format!("`keep_alive` cannot be {alive}"));
        problems.push(problem.hint("MQTT takes 1s to 65535s; without it a dead link is not noticed"));
    }
    if uplink.wait_for_clock > MAX_CLOCK_WAIT {
        let message = format!("`wait_for_clock` of {} is too long", uplink.wait_for_clock);
        problems.push(
            Problem::new(raw.at("wait_for_clock"), message).hint(format!("it goes up to {MAX_CLOCK_WAIT}")),
        );
    }
    if let Some(message) = wrong_root(&uplink.topic_root) {
        let problem = Problem::new(raw.at("topic_root"), message);
        problems.push(problem.hint("such as `gw/{gateway}`; `{gateway}` stands for the gateway's id"));
    }
}

fn check_sparkplug(uplink: &Uplink, raw: &Raw<'_>, problems: &mut Vec<Problem>) {
    let ours = uplink.format == Format::SparkplugB;
    let Some(sparkplug) = &uplink.sparkplug else {
        if ours {
            let problem = Problem::new(raw.at("format"), "`sparkplug-b` needs a group");
            problems.push(problem.hint("add `sparkplug = { group = \"…\" }`"));
        }
        return;
    };
    if !ours {
        let problem = Problem::new(raw.key("sparkplug"), "`sparkplug` has no effect with this format");
        problems.push(problem.hint("add `format = \"sparkplug-b\"`"));
    }
    for (key, name) in [
        ("group", Some(&sparkplug.group)),
        ("node", sparkplug.node.as_ref()),
        ("primary_host", sparkplug.primary_host.as_ref()),
    ] {
        let wrong = |n: &&String| n.is_empty() || n.contains(['/', '+', '#']) || n.contains(char::is_control);
        if let Some(name) = name.filter(wrong) {
            let problem = Problem::new(
                raw.at(&format!("sparkplug.{key}")),
                format!("`{key}` cannot be `{}`", name.escape_debug()),
            );
            problems
                .push(problem.hint("it is one level of a topic: not empty, and without `/`, `+` and `#`"));
        }
    }
    if ours && uplink.order == Order::Strict {
        let problem = Problem::new(raw.at("order"), "Sparkplug has no strict order");
        problems
            .push(problem.hint("leave it out: what was missed goes beside the live values, as historical"));
    }
    if ours && uplink.qos == Qos::ExactlyOnce {
        let problem = Problem::new(raw.at("qos"), "Sparkplug data cannot go with qos 2");
        problems.push(
            problem.hint("leave it out: Sparkplug demands QoS 0 for data; hosts tell repeats by their time"),
        );
    }
    if ours && uplink.retain {
        let problem = Problem::new(raw.at("retain"), "Sparkplug data is never retained");
        problems.push(problem.hint("leave it out: births tell a late subscriber, on request"));
    }
}

/// What is wrong with a topic under which the tree appears upstream.
fn wrong_root(root: &str) -> Option<String> {
    let rest = root.replace("{gateway}", "");
    if root.is_empty() || root.starts_with('/') || root.ends_with('/') {
        return Some(format!("`topic_root` `{root}` is empty, or starts or ends with `/`"));
    }
    if let Some(c) = rest.chars().find(|c| matches!(c, '+' | '#' | '{' | '}') || c.is_control()) {
        return Some(format!("`topic_root` cannot hold `{}`", c.escape_debug()));
    }
    (root.starts_with('$') || root.len() > 1024)
        .then(|| "`topic_root` starts with `$` or is too long".to_owned())
}
