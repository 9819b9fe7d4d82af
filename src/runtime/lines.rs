//! A bus as people reach it from outside its points: one request carried for a scan or a look at registers, and
//! a trace of what goes over it.
//!
//! A trace holds nothing up: a watcher that is slow loses the oldest pieces and is told how many.

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use driver_api::Wire;
use driver_api::wire::Direction;
use serde_json::{Value as Json, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::broadcast::error::RecvError;
use tokio::time::{Instant, timeout};

use crate::clock::Clock;
use crate::poll::share::permit;
use crate::poll::{BusHandle, Carry, Guest, NotCarried};

/// One running bus.
#[derive(Debug, Clone)]
pub struct BusLine {
    /// Its driver.
    pub driver: &'static str,
    /// The way to its task.
    pub handle: BusHandle,
    /// What goes over it.
    pub wire: Wire,
}

/// All running buses by name.
pub type BusLines = BTreeMap<String, BusLine>;

/// Longest wait for an answer that a person may ask for.
const LONGEST: Duration = Duration::from_secs(10);
/// Longest wait for the turn of a person's request.
const TURN: Duration = Duration::from_secs(30);
/// A watcher of a trace that takes nothing for so long has gone to sleep (or was stopped with Ctrl-Z).
const ASLEEP: Duration = Duration::from_secs(60);

/// Carries one request and says what came of it.
pub async fn carry(lines: &BusLines, bus: &str, unit: u8, request: &str, wait: Duration) -> Json {
    let Some(line) = lines.get(bus) else { return json!({ "error": unknown(lines, bus) }) };
    let Some(request) = from_hex(request) else {
        return json!({ "error": "the request is not written in hex" });
    };
    if !only_reads(line.driver, unit, &request) {
        return json!({ "error": "only reads are carried; `fieldgate write` checks what it writes" });
    }
    let carry = Carry {
        unit,
        request,
        timeout: wait.min(LONGEST),
        guest: Guest::Person,
        not_after: Instant::now() + TURN,
    };
    match line.handle.carry(carry).await {
        Ok(carried) => json!({ "answer": hex(&carried.answer), "ms": millis(carried.took) }),
        Err(failed) => {
            let kind = match failed {
                NotCarried::Busy => "busy",
                NotCarried::Silent => "silent",
                NotCarried::Garbled(_) => "garbled",
                NotCarried::Down(_) => "down",
            };
            json!({ "failed": kind, "why": failed.to_string() })
        }
    }
}

/// Whether a request changes nothing, as far as its protocol says: what is written goes through a point's limits.
fn only_reads(driver: &str, unit: u8, request: &[u8]) -> bool {
    match driver {
        "i2c" => request.len() == 1,
        modbus if modbus.starts_with("modbus-") => permit::judge(unit, request, &[]).is_ok(),
        // It carries nothing anyway, and says so in its own words.
        _ => true,
    }
}

/// Writes what goes over a bus, one JSON object a piece, until the watcher goes. The first line names the driver.
///
/// # Errors
/// The watcher has gone, which is how it ends.
pub async fn trace(
    lines: &BusLines,
    bus: &str,
    clock: &dyn Clock,
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
) -> io::Result<()> {
    let Some(line) = lines.get(bus) else {
        return tell(&mut to, &json!({ "error": unknown(lines, bus) })).await;
    };
    let (mut pieces, began) = (line.wire.watch(), Instant::now());
    tell(&mut to, &json!({ "bus": bus, "driver": line.driver })).await?;
    let mut waste = [0; 64];
    loop {
        let heard = tokio::select! {
            heard = pieces.recv() => heard,
            // It says nothing more; this is how its end is seen while the bus is quiet.
            read = from.read(&mut waste) => match read {
                Ok(0) | Err(_) => return Ok(()),
                Ok(_) => continue,
            },
        };
        let row = match heard {
            Ok(piece) => json!({
                "ts": clock.wall_of(clock.boot_of(piece.at)).to_string(),
                "t_ms": millis(piece.at.saturating_duration_since(began)),
                "direction": match piece.direction { Direction::Sent => "sent", Direction::Received => "received" },
                "bytes": hex(&piece.bytes),
            }),
            Err(RecvError::Lagged(count)) => json!({ "lost": count }),
            Err(RecvError::Closed) => return tell(&mut to, &json!({ "end": "the bus was stopped" })).await,
        };
        tell(&mut to, &row).await?;
    }
}

async fn tell(to: &mut (impl AsyncWrite + Unpin), row: &Json) -> io::Result<()> {
    let mut bytes = row.to_string().into_bytes();
    bytes.push(b'\n');
    timeout(ASLEEP, to.write_all(&bytes)).await?
}

fn unknown(lines: &BusLines, bus: &str) -> String {
    let names: Vec<&str> = lines.keys().map(String::as_str).collect();
    format!("no bus `{bus}` is running; there is {}", names.join(", "))
}

/// Milliseconds with three decimals: bytes on a fast line are 0.09 ms apart.
fn millis(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}

/// `0103…`.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02X}");
        text
    })
}

/// The bytes of `0103…`; `None` if it is something else.
#[must_use]
pub fn from_hex(text: &str) -> Option<Vec<u8>> {
    // Asked of each character: the parser of numbers would take a `+` for a digit.
    if !text.bytes().all(|byte| byte.is_ascii_hexdigit()) || text.len() % 2 == 1 {
        return None;
    }
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(text.get(at..at + 2)?, 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncBufReadExt, BufReader};

    use super::*;
    use crate::clock::SystemClock;

    #[test]
    fn whoever_reaches_the_socket_can_read_but_not_write_past_the_points() {
        for (driver, request, allowed) in [
            ("modbus-rtu", "0300000001", true),
            ("modbus-tcp", "2B0E0100", true),
            ("modbus-rtu", "0600000001", false),
            ("modbus-tcp", "0500000000", false),
            ("modbus-rtu", "0800000000", false),
            ("i2c", "01", true),
            ("i2c", "01D0", false),
        ] {
            let request_bytes = from_hex(request).expect("hex");
            assert_eq!(only_reads(driver, 1, &request_bytes), allowed, "{driver}: {request}");
        }
    }

    #[test]
    fn hex_there_and_back() {
        assert_eq!((hex(&[1, 0xAB]).as_str(), from_hex("01ab")), ("01AB", Some(vec![1, 0xAB])));
        for wrong in ["1", "0x", "é", "+1", "01+2", " 1"] {
            assert_eq!(from_hex(wrong), None, "{wrong}");
        }
    }

    #[tokio::test]
    async fn a_slow_watcher_loses_pieces_and_is_told_and_its_end_is_seen() {
        let wire = Wire::default();
        let handle = crate::poll::BusHandle::unconnected();
        let lines = BusLines::from([("a".to_owned(), BusLine { driver: "x", handle, wire: wire.clone() })]);
        let (near, far) = tokio::io::duplex(1 << 16);
        let traced = tokio::spawn(async move {
            let (from, to) = tokio::io::split(near);
            trace(&lines, "a", &SystemClock::new(true), from, to).await
        });
        let mut rows = BufReader::new(far).lines();
        let mut next = async || -> Json {
            let line = rows.next_line().await.expect("readable").expect("a line");
            serde_json::from_str(&line).expect("JSON")
        };
        assert_eq!(next().await["driver"], "x");
        wire.sent(&[1, 3]);
        let row = next().await;
        assert_eq!((&row["direction"], &row["bytes"]), (&json!("sent"), &json!("0103")));
        // More than is kept, in one go.
        for _ in 0..driver_api::wire::PIECES + 7 {
            wire.received(&[9]);
        }
        let row = next().await;
        assert_eq!(row["lost"], 7);
        drop(rows);
        tokio::time::timeout(Duration::from_secs(5), traced).await.expect("it ends").expect("no panic").ok();
    }
}
