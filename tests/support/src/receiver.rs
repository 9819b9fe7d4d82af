//! A far side for exactly once that may be killed as well: the receiving half of MQTT (3.1.1 and 5), with one client and
//! one file. Whatever it answers is in the file first, and synced; so what it has said it knows after any `kill -9`.
//! It shares no code with the client under test.
//!
//! The file has a line for each event: `C <clean> <kept>` a login, `P <id> <dup> <at> <topic> <hex>` a message with QoS 2
//! under an id that was free, `D <id>` one under an id that was not, `R <id> <known>` a release, `Q <at> <topic> <hex>` a
//! message with QoS 0 or 1. A line that is not whole was never answered.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::messages::Message;

/// What the file says.
#[derive(Debug, Default)]
pub struct Book {
    /// Messages as a broker hands them on that does so with the PUBLISH, and all with QoS 0 and 1.
    pub received: Vec<Message>,
    /// Topic and payload as a broker hands them on that does so with the PUBREL.
    pub released: Vec<Message>,
    /// Messages that came again and were known.
    pub known: u64,
    /// Messages that came again, as they said, and were not known.
    pub unknown: u64,
    /// Releases of what was not there (any more).
    pub released_again: u64,
    /// Sessions that were begun anew after something had come with QoS 2.
    pub sessions: u64,
    /// Logins.
    pub logins: u64,
    session: Option<BTreeSet<u16>>,
}

impl Book {
    /// Reads the file.
    #[must_use]
    pub fn read(path: &Path) -> Self {
        let bytes = std::fs::read(path).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        let mut book = Self::default();
        let mut held: Vec<(u16, Message)> = Vec::new();
        for line in whole.lines() {
            let words: Vec<&str> = line.split(' ').collect();
            let id = || words[1].parse::<u16>().expect("an id");
            match words[0] {
                "C" => {
                    book.logins += 1;
                    if words[1] == "1" || book.session.is_none() {
                        book.sessions += u64::from(book.received.iter().any(|message| message.qos == 2));
                        book.session = None;
                        held.clear();
                    }
                    if words[2] == "1" {
                        book.session.get_or_insert_default();
                    }
                }
                "P" => {
                    book.unknown += u64::from(words[2] == "1");
                    let message = message(2, &words[3..]);
                    book.session.get_or_insert_default().insert(id());
                    book.received.push(message.clone());
                    held.push((id(), message));
                }
                "D" => book.known += 1,
                "R" => {
                    book.session.get_or_insert_default().remove(&id());
                    match held.iter().position(|(held, _)| *held == id()) {
                        Some(at) => book.released.push(held.remove(at).1),
                        None => book.released_again += 1,
                    }
                }
                _ => book.received.push(message(1, &words[1..])),
            }
        }
        book
    }
}

fn message(qos: u8, words: &[&str]) -> Message {
    let hex = words[2].as_bytes().chunks_exact(2);
    let byte = |pair| u8::from_str_radix(std::str::from_utf8(pair).expect("ASCII"), 16).expect("hex");
    Message {
        at: words[0].parse().expect("a time"),
        qos,
        retain: false,
        topic: words[1].to_owned(),
        payload: hex.map(byte).collect(),
    }
}

struct Desk {
    file: File,
    session: Option<BTreeSet<u16>>,
    /// Number of the connection that counts: a later login takes over.
    turn: u64,
}

/// Serves for ever. `pace`: the longest wait before an answer, so that something is always under way.
///
/// # Panics
/// If it cannot listen or write.
pub fn serve(listener: &TcpListener, path: &Path, pace: Duration) -> ! {
    let session = Book::read(path).session;
    let file = OpenOptions::new().create(true).append(true).open(path).expect("the book can be opened");
    // What was cut off in the middle was never answered.
    let bytes = std::fs::read(path).expect("the book can be read");
    let whole = bytes.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
    file.set_len(whole as u64).expect("the book can be cut");
    let desk = Arc::new(Mutex::new(Desk { file, session, turn: 0 }));
    loop {
        let Ok((stream, _)) = listener.accept() else { continue };
        let desk = Arc::clone(&desk);
        std::thread::spawn(move || talk(stream, &desk, pace));
    }
}

fn talk(mut stream: TcpStream, desk: &Mutex<Desk>, pace: Duration) -> Option<()> {
    let (mut bytes, mut buffer) = (Vec::new(), vec![0; 1 << 16]);
    let (mut turn, mut v5) = (0, false);
    let mut wait = 0u64;
    loop {
        let n = stream.read(&mut buffer).ok().filter(|n| *n > 0)?;
        bytes.extend_from_slice(&buffer[..n]);
        let (mut answer, mut over) = (Vec::new(), false);
        {
            let mut desk = desk.lock().unwrap_or_else(PoisonError::into_inner);
            let mut lines = String::new();
            while let Some((first, body)) = packet(&mut bytes) {
                if first >> 4 == 1 {
                    desk.turn += 1;
                    (turn, v5) = (desk.turn, body[6] == 5);
                    login(&mut desk, &body, v5, &mut lines, &mut answer);
                } else if desk.turn == turn && turn > 0 {
                    over |= handle(&mut desk, first, &body, v5, &mut lines, &mut answer);
                } else {
                    return None;
                }
            }
            desk.file.write_all(lines.as_bytes()).expect("the book can be written");
            desk.file.sync_data().expect("the book can be synced");
        }
        // Spread over the pace without any randomness of its own.
        wait = (wait * 31 + 17) % 101;
        std::thread::sleep(pace * u32::try_from(wait).unwrap_or(0) / 100);
        stream.write_all(&answer).ok()?;
        if over {
            return Some(());
        }
    }
}

/// Takes one whole packet off the front.
fn packet(bytes: &mut Vec<u8>) -> Option<(u8, Vec<u8>)> {
    let (mut len, mut at) = (0usize, 1);
    loop {
        let byte = *bytes.get(at)?;
        len |= usize::from(byte & 0x7f) << (7 * (at - 1));
        at += 1;
        if byte & 0x80 == 0 {
            break;
        }
    }
    if bytes.len() < at + len {
        return None;
    }
    let rest = bytes.split_off(at + len);
    let packet = std::mem::replace(bytes, rest);
    Some((packet[0], packet[at..].to_vec()))
}

fn login(desk: &mut Desk, body: &[u8], v5: bool, lines: &mut String, answer: &mut Vec<u8>) {
    let clean = body[7] & 2 != 0;
    // A session expiry is the only property here of which there may be more than 5 bytes.
    let kept = if v5 { body[10] > 5 } else { !clean };
    if clean {
        desk.session = None;
    }
    let present = desk.session.is_some();
    if kept {
        desk.session.get_or_insert_default();
    }
    let _ = writeln!(lines, "C {} {}", u8::from(clean), u8::from(kept));
    answer.extend_from_slice(if v5 { &[0x20, 3] } else { &[0x20, 2] });
    answer.extend_from_slice(&[u8::from(present), 0]);
    answer.extend_from_slice(if v5 { &[0] } else { &[] });
}

/// One packet of a client that is logged in; `true`: it says goodbye.
fn handle(
    desk: &mut Desk,
    first: u8,
    body: &[u8],
    v5: bool,
    lines: &mut String,
    answer: &mut Vec<u8>,
) -> bool {
    match first >> 4 {
        3 => {
            let (qos, topic_len) = (first >> 1 & 3, usize::from(u16::from_be_bytes([body[0], body[1]])));
            let topic = String::from_utf8_lossy(&body[2..2 + topic_len]).into_owned();
            let mut rest = &body[2 + topic_len..];
            let mut id = 0;
            if qos > 0 {
                id = u16::from_be_bytes([rest[0], rest[1]]);
                rest = &rest[2..];
            }
            if v5 {
                rest = &rest[1 + usize::from(rest[0])..];
            }
            let [a, b] = id.to_be_bytes();
            let payload: String = rest.iter().fold(String::new(), |mut text, byte| {
                let _ = write!(text, "{byte:02x}");
                text
            });
            let at = crate::now();
            if qos == 2 {
                if desk.session.get_or_insert_default().insert(id) {
                    let dup = u8::from(first & 8 != 0);
                    let _ = writeln!(lines, "P {id} {dup} {at:.3} {topic} {payload}");
                } else {
                    let _ = writeln!(lines, "D {id}");
                }
                answer.extend_from_slice(&[0x50, 2, a, b]);
            } else {
                let _ = writeln!(lines, "Q {at:.3} {topic} {payload}");
                answer.extend_from_slice(if qos == 1 { &[0x40, 2] } else { &[] });
                answer.extend_from_slice(if qos == 1 { &body[2 + topic_len..4 + topic_len] } else { &[] });
            }
        }
        6 => {
            let id = u16::from_be_bytes([body[0], body[1]]);
            let known = desk.session.get_or_insert_default().remove(&id);
            let _ = writeln!(lines, "R {id} {}", u8::from(known));
            answer.extend_from_slice(&[0x70, 2, body[0], body[1]]);
        }
        8 => {
            let granted: &[u8] = if v5 { &[0x90, 4] } else { &[0x90, 3] };
            answer.extend_from_slice(granted);
            answer.extend_from_slice(&body[..2]);
            answer.extend_from_slice(if v5 { &[0, 0] } else { &[0] });
        }
        12 => answer.extend_from_slice(&[0xd0, 0]),
        14 => return true,
        _ => {}
    }
    false
}
