//! From a name to a TCP connection: DNS, then its addresses in turn.
//!
//! The name is resolved anew for each attempt. An address that does not answer holds up the next one by
//! [`HEAD_START`] only (as RFC 8305 has it), so that a dead IPv6 does not eat the whole time limit.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::fault::Fault;
use super::stage::{Progress, Stage};

/// What an address gets before the next one is tried beside it. RFC 8305 recommends 250 ms; over a slow
/// mobile link a connection takes longer than that when nothing is wrong, and each try costs bytes.
pub const HEAD_START: Duration = Duration::from_millis(500);

/// Most addresses of one name that are tried in one attempt.
const ADDRESSES: usize = 8;

/// Connects to one of the addresses of a name.
///
/// # Errors
/// What is wrong with the name, or why none of its addresses can be reached.
pub async fn tcp(
    host: &str,
    port: u16,
    interface: Option<&str>,
    progress: &Progress,
) -> Result<TcpStream, Fault> {
    progress.reached(Stage::Name);
    let found: Vec<SocketAddr> = tokio::net::lookup_host((host, port))
        .await
        .map_err(|e| Fault::Dns { host: host.to_owned(), why: dns_words(&e.to_string()) })?
        .collect();
    if found.is_empty() {
        return Err(Fault::Dns { host: host.to_owned(), why: "has no address".to_owned() });
    }
    progress.reached(Stage::Dial);
    let stream = race(in_turn(found), interface, HEAD_START).await?;
    // A live reading must not wait for the acknowledgement of the segment before it.
    stream.set_nodelay(true).map_err(|e| Fault::broken(&e))?;
    Ok(stream)
}

/// The resolver's first address first, then the two families by turns.
#[must_use]
pub fn in_turn(found: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let first_is_v6 = found.first().is_some_and(SocketAddr::is_ipv6);
    let (mut first, mut second): (VecDeque<_>, VecDeque<_>) =
        found.into_iter().partition(|address| address.is_ipv6() == first_is_v6);
    let mut order = Vec::new();
    while let Some(address) = first.pop_front().or_else(|| second.pop_front()) {
        order.push(address);
        std::mem::swap(&mut first, &mut second);
    }
    order.truncate(ADDRESSES);
    order
}

/// Tries addresses until one answers; each gets `head_start` before the next is tried beside it, or less
/// if it refuses at once.
///
/// # Errors
/// Why the one that came closest cannot be reached.
pub async fn race(
    addresses: Vec<SocketAddr>,
    interface: Option<&str>,
    head_start: Duration,
) -> Result<TcpStream, Fault> {
    let mut waiting = VecDeque::from(addresses);
    let mut running = JoinSet::new();
    let mut nearest: Option<Fault> = None;
    loop {
        if let Some(address) = waiting.pop_front() {
            let interface = interface.map(str::to_owned);
            running.spawn(async move { connect(address, interface.as_deref()).await });
        }
        tokio::select! {
            Some(done) = running.join_next(), if !running.is_empty() => match done {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(fault)) => {
                    // Who refuses is there; that says more than a network that has no way.
                    if !matches!(nearest, Some(Fault::Refused(_))) {
                        nearest = Some(fault);
                    }
                }
                Err(e) => nearest = Some(Fault::Lost(e.to_string())),
            },
            () = sleep(head_start), if !waiting.is_empty() => {}
            else => {}
        }
        if running.is_empty() && waiting.is_empty() {
            return Err(nearest.unwrap_or_else(|| Fault::Lost("there is no address to try".to_owned())));
        }
    }
}

async fn connect(address: SocketAddr, interface: Option<&str>) -> Result<TcpStream, Fault> {
    let failed = |e: io::Error| Fault::connecting(address.to_string(), &e);
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }.map_err(failed)?;
    if let Some(name) = interface {
        socket
            .bind_device(Some(name.as_bytes()))
            .map_err(|e| Fault::Interface { name: name.to_owned(), why: interface_words(&e) })?;
    }
    socket.connect(address).await.map_err(failed)
}

fn interface_words(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::ENODEV) => {
            "there is none of that name now (`ip link` shows those that are there)".to_owned()
        }
        Some(libc::EPERM) => {
            "the system does not allow it (Linux before 5.7 wants the capability CAP_NET_RAW)".to_owned()
        }
        _ => error.to_string(),
    }
}

/// The resolver's words in ours. The C library gives text only: glibc's and musl's are known here.
fn dns_words(told: &str) -> String {
    let has = |words: &[&str]| words.iter().any(|w| told.contains(w));
    if has(&["Name or service not known", "Name does not resolve"]) {
        "does not exist; is the name right?".to_owned()
    } else if has(&["No address associated"]) {
        "has no address; is the name right?".to_owned()
    } else if has(&["Temporary failure", "Try again"]) {
        "cannot be looked up: no name server answers; is there a network, and is a name server set?"
            .to_owned()
    } else {
        format!("cannot be looked up ({told}); is the name right, is there a network?")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_families_take_turns() {
        let list = |texts: &[&str]| -> Vec<SocketAddr> {
            texts.iter().map(|t| t.parse().expect("an address")).collect()
        };
        assert_eq!(
            in_turn(list(&["[::1]:1", "[::2]:1", "[::3]:1", "1.1.1.1:1", "2.2.2.2:1"])),
            list(&["[::1]:1", "1.1.1.1:1", "[::2]:1", "2.2.2.2:1", "[::3]:1"])
        );
        assert_eq!(in_turn(list(&["1.1.1.1:1", "[::1]:1"])), list(&["1.1.1.1:1", "[::1]:1"]));
        assert_eq!(in_turn(vec!["1.1.1.1:1".parse().expect("an address"); 20]).len(), ADDRESSES);
    }

    #[test]
    fn a_wrong_name_and_a_missing_server_are_told_apart() {
        let full = |told: &str| format!("failed to lookup address information: {told}");
        assert!(dns_words(&full("Name or service not known")).contains("does not exist"));
        assert!(dns_words(&full("Temporary failure in name resolution")).contains("no name server answers"));
        assert!(dns_words(&full("Try again")).contains("no name server answers"));
        assert!(dns_words("odd").contains("odd"));
    }

    #[tokio::test]
    async fn a_dead_address_holds_up_the_next_one_by_its_head_start_only() {
        // A listener whose queue is full: Linux drops what else wants in, as a firewall would.
        let dead = TcpSocket::new_v4().expect("a socket");
        dead.bind("127.0.0.1:0".parse().expect("an address")).expect("bound");
        let dead = dead.listen(1).expect("listening");
        let hole = dead.local_addr().expect("bound");
        let mut queued = Vec::new();
        while let Ok(Ok(one)) =
            tokio::time::timeout(Duration::from_millis(300), TcpStream::connect(hole)).await
        {
            queued.push(one);
            assert!(queued.len() < 100, "the queue of one never fills");
        }
        let alive = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let there = alive.local_addr().expect("bound");
        let before = tokio::time::Instant::now();
        let stream = race(vec![hole, there], None, Duration::from_millis(50)).await.expect("the second");
        assert_eq!(stream.peer_addr().expect("connected"), there);
        assert!(before.elapsed() < Duration::from_millis(900), "{:?}", before.elapsed());
    }

    #[tokio::test]
    async fn a_refusal_moves_on_at_once_and_is_what_is_told() {
        let gone = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let at = gone.local_addr().expect("bound");
        drop(gone);
        let fault = race(vec![at], None, Duration::from_secs(60)).await.expect_err("nobody there");
        assert_eq!(fault, Fault::Refused(at.to_string()));
        let fault = race(vec![at], Some("no-such-if0"), HEAD_START).await.expect_err("no interface");
        assert!(fault.to_string().contains("interface `no-such-if0`: there is none"), "{fault}");
    }
}
