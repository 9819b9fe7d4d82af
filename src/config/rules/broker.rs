//! Rules of `[broker]`: no door open to everyone by accident, no door twice.

use std::net::SocketAddr;
use std::path::PathBuf;

use driver_api::{ByteSize, Place, Problem, Span};

use super::{Everything, Findings, Sections, last_place, must_exist};

/// Each takes a file descriptor and some 10 KiB; a box of this size serves no more.
const MOST_CONNECTIONS: u32 = 65_536;
/// A reading of the gateway must fit, and MQTT has no larger packet than 256 MiB less one byte. More than 16 MiB would be
/// a quarter of all that may wait for all clients.
const PACKET: (ByteSize, ByteSize) = (ByteSize(4096), ByteSize::mib(16));
/// Some forty messages each time.
const FASTEST_SYS: Span = Span::s(1);

pub(super) fn check(sections: &Sections<'_, '_>, all: &Everything<'_>, findings: &mut Findings) {
    let broker = &sections.broker;
    let problems = &mut findings.problems;
    let mut files =
        |password_file: &Option<PathBuf>, acl_file: &Option<PathBuf>, at: &dyn Fn(&str) -> Place| {
            for (key, path, hint) in [
                ("password_file", password_file, "make it with `fieldgate passwd FILE USER`"),
                ("acl_file", acl_file, "a relative path starts from the directory of this file"),
            ] {
                if let Some(path) = path {
                    must_exist(path, key, at(key), hint, problems);
                }
            }
        };
    files(&broker.password_file, &broker.acl_file, &|key| last_place(&all.broker, key));
    for (index, listener) in broker.listener.iter().enumerate() {
        files(&listener.password_file, &listener.acl_file, &|key| sections.listener(index, key));
    }
    if !broker.sys_interval.0.is_zero() && broker.sys_interval < FASTEST_SYS {
        let message = format!("`sys_interval` of {} is too short", broker.sys_interval);
        let place = last_place(&all.broker, "sys_interval");
        problems.push(
            Problem::new(place, message).hint(format!("it is at least {FASTEST_SYS}, or 0s for never")),
        );
    }
    let at = |key| last_place(&all.broker, key);
    for (key, connections) in [
        ("max_connections", broker.max_connections),
        ("max_connections_per_address", broker.max_connections_per_address),
    ] {
        if connections == 0 || connections > MOST_CONNECTIONS {
            let problem = Problem::new(at(key), format!("`{key}` of {connections} is out of range"));
            problems.push(problem.hint(format!("it goes from 1 to {MOST_CONNECTIONS}")));
        }
    }
    let packet = broker.max_packet_size;
    if packet < PACKET.0 || packet > PACKET.1 {
        let problem =
            Problem::new(at("max_packet_size"), format!("`max_packet_size` of {packet} is out of range"));
        problems.push(problem.hint(format!("it goes from {} to {}", PACKET.0, PACKET.1)));
    }
    for (index, listener) in broker.listener.iter().enumerate() {
        let place = |key| sections.listener(index, key);
        let bind = listener.bind;
        let users = listener.password_file.is_some() || broker.password_file.is_some();
        // A certificate of one's own CA is a name, too.
        let named = users || listener.tls.as_ref().is_some_and(|tls| tls.client_ca.is_some());
        if !bind.ip().is_loopback() && !named && listener.allow_anonymous != Some(true) {
            let problem = Problem::new(
                place("bind"),
                format!("`{bind}` is open to the network, and there are no users"),
            );
            problems.push(problem.hint(
                "set `password_file` here or in [broker], or `client_ca` in its `tls`, or bind to 127.0.0.1, or write `allow_anonymous = true` here",
            ));
        }
        if !named && listener.allow_anonymous == Some(false) {
            let problem =
                Problem::new(place("allow_anonymous"), "nobody can connect here: there are no users");
            findings.warnings.push(problem.hint("set `password_file` here or in [broker]"));
        }
        if let Some(earlier) = broker.listener[..index].iter().find(|other| collide(other.bind, bind)) {
            let mut problem = Problem::new(place("bind"), format!("`{bind}` is taken by another listener"));
            if earlier.bind != bind {
                problem = problem.hint(format!("`{}` covers it", earlier.bind));
            } else {
                problem = problem.hint("give each listener a port of its own");
            }
            problems.push(problem);
        }
        if let Some(tls) = &listener.tls {
            let hint = "a relative path starts from the directory of this file";
            must_exist(&tls.cert, "cert", place("tls.cert"), hint, problems);
            must_exist(&tls.key, "key", place("tls.key"), hint, problems);
            if let Some(ca) = &tls.client_ca {
                must_exist(ca, "client_ca", place("tls.client_ca"), hint, problems);
            }
        }
    }
}

/// Whether two sockets cannot be bound at once. Port 0 is any free port.
pub(super) fn collide(a: SocketAddr, b: SocketAddr) -> bool {
    let covers = |x: SocketAddr, y: SocketAddr| x.ip() == y.ip() || x.ip().is_unspecified();
    a.port() != 0 && a.port() == b.port() && a.is_ipv4() == b.is_ipv4() && (covers(a, b) || covers(b, a))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wildcard_covers_every_address_of_its_family() {
        let hit = |a: &str, b: &str| collide(a.parse().expect(a), b.parse().expect(b));
        assert!(hit("127.0.0.1:1883", "127.0.0.1:1883"));
        assert!(hit("0.0.0.0:1883", "127.0.0.1:1883") && hit("127.0.0.1:1883", "0.0.0.0:1883"));
        assert!(!hit("127.0.0.1:1883", "127.0.0.2:1883"));
        assert!(!hit("127.0.0.1:0", "127.0.0.1:0"), "any free port, twice");
        assert!(!hit("[::]:1883", "0.0.0.0:1883"), "an IPv6 listener is IPv6 only");
    }
}
