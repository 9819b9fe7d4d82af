//! Bytes of every kind through the search for an answer: no panic, and no value that the line did not carry
//! but by a checksum that fits by chance; those are counted.
//!
//! `FIELDGATE_FUZZ=10000000 cargo test --release -p driver-modbus --test fuzz -- --nocapture` is the deep run.

use driver_modbus::frame::{Scan, scan, seal};
use driver_modbus::pdu::{Answer, Expect};

/// A small generator of numbers (xorshift), so that a seed says everything.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % limit as u64).expect("below a usize")
    }

    fn byte(&mut self) -> u8 {
        self.below(256) as u8
    }

    fn bytes(&mut self, longest: usize) -> Vec<u8> {
        (0..self.below(longest + 1)).map(|_| self.byte()).collect()
    }
}

/// A request, and the frame of its true answer.
fn question(dice: &mut Dice) -> (Expect, Vec<u8>, Vec<u8>) {
    let unit = 1 + dice.below(3) as u8;
    let longest = if dice.below(8) == 0 { 125 } else { 6 };
    let count = 1 + dice.below(longest);
    let (request, data) = match dice.below(4) {
        0 => (vec![1, 0, 0, 0, count as u8], vec![0; count.div_ceil(8)]),
        1 => (vec![3, 0, 0, 0, count as u8], vec![0; count * 2]),
        2 => (vec![4, 0, 0, 0, count as u8], vec![0; count * 2]),
        _ => (vec![6, 0, 5, dice.byte(), dice.byte()], Vec::new()),
    };
    let data: Vec<u8> = data.iter().map(|_| dice.byte()).collect();
    let mut frame = vec![unit, request[0]];
    if request[0] == 6 {
        frame.extend_from_slice(&request[1..]);
    } else {
        frame.push(data.len() as u8);
        frame.extend_from_slice(&data);
    }
    seal(&mut frame);
    (Expect::answer_to(unit, &request).expect("a request"), frame, data)
}

/// Something like the truth: bits flipped, bytes lost, doubled or put in between.
fn damaged(mut frame: Vec<u8>, dice: &mut Dice) -> Vec<u8> {
    for _ in 0..=dice.below(3) {
        let at = dice.below(frame.len());
        match dice.below(5) {
            0 => frame[at] ^= 1 << dice.below(8),
            1 => drop(frame.remove(at)),
            2 => frame.insert(at, dice.byte()),
            3 => frame.truncate(at + 1),
            _ => frame[at] = dice.byte(),
        }
        if frame.is_empty() {
            frame.push(0);
        }
    }
    frame
}

/// A sealed frame of another unit, or answering another question.
fn foreign(expect: &Expect, dice: &mut Dice) -> Vec<u8> {
    let unit = expect.unit();
    let (unit, function) = if dice.below(2) == 0 { (unit + 4, 3) } else { (unit, 2) };
    let data = dice.bytes(20);
    let mut frame = vec![unit, function, data.len() as u8];
    frame.extend_from_slice(&data);
    seal(&mut frame);
    frame
}

#[test]
fn no_stream_of_bytes_panics_or_gives_a_value_that_was_not_sent() {
    let wanted: u64 = std::env::var("FIELDGATE_FUZZ").ok().and_then(|n| n.parse().ok()).unwrap_or(100_000);
    let seed = 0x0D15_EA5E_0BAD_CAFE_u64;
    let mut dice = Dice(seed);
    let (mut found, mut collisions, mut missed) = (0_u64, 0_u64, 0_u64);
    for _ in 0..wanted {
        let (expect, truth, data) = question(&mut dice);
        let (mut stream, mut sent) = (Vec::new(), false);
        for _ in 0..=dice.below(4) {
            let piece = match dice.below(5) {
                0 => dice.bytes(40),
                1 => damaged(truth.clone(), &mut dice),
                2 => foreign(&expect, &mut dice),
                3 => {
                    sent = true;
                    truth.clone()
                }
                _ => vec![expect.unit(); dice.below(5)],
            };
            stream.extend_from_slice(&piece);
        }
        // The line layer keeps the newest 260 bytes.
        stream.drain(..stream.len().saturating_sub(260));
        // In pieces, as they come; then the silence.
        let mut answer = None;
        let mut end = 0;
        while answer.is_none() && end < stream.len() {
            end = (end + 1 + dice.below(12)).min(stream.len());
            if let Scan::Found(a, _) = scan(&stream[..end], &expect, false) {
                answer = Some(a);
            }
        }
        if answer.is_none()
            && let Scan::Found(a, _) = scan(&stream, &expect, true)
        {
            answer = Some(a);
        }
        match answer {
            Some(Answer::Data(got)) if got == data && stream.windows(truth.len()).any(|w| w == truth) => {
                found += 1
            }
            // No piece but the truth has its shape and a checksum made on purpose: this one fits by chance.
            Some(_) => collisions += 1,
            None if sent => missed += 1,
            None => {}
        }
    }
    println!(
        "seed {seed:#x}: {wanted} streams, {found} answers found, {missed} hidden by noise, {collisions} checksums that fitted by chance"
    );
    // A stream offers a few dozen places for a checksum of 16 bits.
    assert!(collisions * 500 <= wanted, "{collisions} of {wanted} are more than chance");
    assert!(found * 10 > wanted, "{found} of {wanted}: answers are found at all");
}
