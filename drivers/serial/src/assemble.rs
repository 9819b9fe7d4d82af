//! Bytes into lines. Pure: bytes and their times go in, whole lines come out, whatever the splits.
//!
//! A doubtful line is dropped, never guessed at: the second half of `123.4 kg` is a valid and wrong
//! weight. Doubtful is what was under way when listening began, what is too long, what has a hole in
//! it, and what has a NUL in it, for as that the port hands on a character that arrived damaged. (The
//! glitch before the first character, when a line driver is switched on, is none of the line's.) No byte can make it panic, and it never holds more than one line.

use std::time::Duration;

use tokio::time::Instant;

/// Most bytes of a line without its terminator. Telegrams are 20 to 200 bytes, NMEA sentences 82;
/// a longer one is dropped up to the next terminator and counted.
pub const MAX_LINE: usize = 1024;

/// Most bytes of a configured terminator.
pub const MAX_TERMINATOR: usize = 16;

/// Silence that no line has inside. A character takes 33 ms at 300 baud, a USB adapter holds bytes
/// back for 16 ms, a busy machine for some 100 ms.
pub const HOLE: Duration = Duration::from_secs(1);

/// What ends a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Terminator {
    /// CR, LF, or both in any order.
    CrLf,
    /// Exactly these bytes; not empty.
    Bytes(Vec<u8>),
}

impl Terminator {
    /// Length of what `buffer` ends with, if that ends a line.
    fn at_end_of(&self, buffer: &[u8]) -> Option<usize> {
        match self {
            Self::CrLf => matches!(buffer.last(), Some(b'\r' | b'\n')).then_some(1),
            Self::Bytes(bytes) => buffer.ends_with(bytes).then_some(bytes.len()),
        }
    }
    fn len(&self) -> usize {
        match self {
            Self::CrLf => 1,
            Self::Bytes(bytes) => bytes.len(),
        }
    }
}

/// One whole line without its terminator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Its text; bytes that are not UTF-8 became U+FFFD.
    pub text: String,
    /// When its first byte arrived.
    pub at: Instant,
}

/// Lines that were dropped, by why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Dropped {
    /// Longer than [`MAX_LINE`].
    pub overlong: u64,
    /// Silent for [`HOLE`] in the middle.
    pub holes: u64,
    /// With a damaged character.
    pub damaged: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// What is in the buffer is a line from its first byte on.
    Whole,
    /// Listening began in an unknown place: the next terminator or a [`HOLE`] of silence tells.
    Unsure,
    /// Dropping up to the next terminator.
    Skipping,
}

/// Puts lines together. Starts unsure of where it is.
#[derive(Debug, Clone)]
pub struct Assembler {
    terminator: Terminator,
    buffer: Vec<u8>,
    state: State,
    started: Instant,
    last: Instant,
    dropped: Dropped,
}

impl Assembler {
    /// Begins to listen.
    #[must_use]
    pub fn new(terminator: Terminator, now: Instant) -> Self {
        Self {
            terminator,
            buffer: Vec::new(),
            state: State::Unsure,
            started: now,
            last: now,
            dropped: Dropped::default(),
        }
    }

    /// Lines dropped so far.
    #[must_use]
    pub fn dropped(&self) -> Dropped {
        self.dropped
    }

    /// Whether the next byte begins a line.
    #[must_use]
    pub fn at_boundary(&self) -> bool {
        self.state == State::Whole && self.buffer.is_empty()
    }

    /// Forgets the line under way. `silent`: the line was seen silent, so the next byte begins a new
    /// one; otherwise its rest is dropped too.
    pub fn discard(&mut self, silent: bool) {
        if silent {
            self.buffer.clear();
            self.state = State::Whole;
        } else if !self.at_boundary() {
            self.state = State::Skipping;
        }
    }

    /// Takes bytes that arrived at `at` and appends the lines they complete. Empty lines are nothing.
    pub fn push(&mut self, bytes: &[u8], at: Instant, lines: &mut Vec<Line>) {
        if bytes.is_empty() {
            return;
        }
        if at.saturating_duration_since(self.last) >= HOLE {
            match self.state {
                State::Unsure => self.discard(true),
                State::Whole if !self.buffer.is_empty() => {
                    self.dropped.holes += 1;
                    self.state = State::Skipping;
                }
                State::Whole | State::Skipping => {}
            }
        }
        self.last = at;
        for &byte in bytes {
            self.push_byte(byte, at, lines);
        }
    }

    fn push_byte(&mut self, byte: u8, at: Instant, lines: &mut Vec<Line>) {
        if self.buffer.is_empty() {
            self.started = at;
        }
        self.buffer.push(byte);
        if let Some(length) = self.terminator.at_end_of(&self.buffer) {
            self.buffer.truncate(self.buffer.len() - length);
            if self.state != State::Whole || self.buffer.is_empty() {
                // Nothing, or the end of something that is dropped.
            } else if damaged(&self.buffer) {
                self.dropped.damaged += 1;
            } else {
                let text = String::from_utf8_lossy(&self.buffer).into_owned();
                lines.push(Line { text, at: self.started });
            }
            self.buffer.clear();
            self.state = State::Whole;
            return;
        }
        // One byte less than a terminator may still be the beginning of one.
        let tail = self.terminator.len() - 1;
        if self.state == State::Whole && self.buffer.len() > MAX_LINE + tail {
            self.dropped.overlong += 1;
            self.state = State::Skipping;
        }
        if self.state != State::Whole && self.buffer.len() > tail {
            self.buffer.drain(..self.buffer.len() - tail);
        }
    }
}

/// Whether a NUL stands behind the first printable character.
fn damaged(line: &[u8]) -> bool {
    line.iter().skip_while(|byte| !byte.is_ascii_graphic()).any(|byte| *byte == 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn etx() -> Terminator {
        Terminator::Bytes(b"\x03\r".to_vec())
    }

    /// An assembler that knows it stands between two lines.
    fn between_lines(terminator: Terminator) -> (Assembler, Instant) {
        let now = Instant::now();
        let mut assembler = Assembler::new(terminator, now);
        assembler.discard(true);
        (assembler, now)
    }

    fn texts(lines: &[Line]) -> Vec<&str> {
        lines.iter().map(|l| l.text.as_str()).collect()
    }

    #[test]
    fn a_line_has_the_time_of_its_first_byte() {
        let (mut assembler, now) = between_lines(Terminator::CrLf);
        let mut lines = Vec::new();
        let ms = Duration::from_millis;
        assembler.push(b"\r\nS", now + ms(10), &mut lines);
        assembler.push(b"T,1\r", now + ms(30), &mut lines);
        assembler.push(b"\nx\n", now + ms(40), &mut lines);
        assert_eq!(
            lines,
            [Line { text: "ST,1".into(), at: now + ms(10) }, Line { text: "x".into(), at: now + ms(40) }]
        );
    }

    #[test]
    fn what_was_under_way_when_listening_began_is_not_a_line() {
        let now = Instant::now();
        let mut assembler = Assembler::new(Terminator::CrLf, now);
        let mut lines = Vec::new();
        assembler.push(b"3.4\r\n123.4\r\n", now, &mut lines);
        assert_eq!(texts(&lines), ["123.4"]);
    }

    #[test]
    fn after_a_silence_the_first_line_is_whole() {
        let now = Instant::now();
        let mut assembler = Assembler::new(Terminator::CrLf, now);
        let mut lines = Vec::new();
        assembler.push(b"123.4\r\n", now + HOLE, &mut lines);
        assert_eq!(texts(&lines), ["123.4"]);
    }

    #[test]
    fn a_line_with_a_hole_is_dropped_to_its_end() {
        let (mut assembler, now) = between_lines(Terminator::CrLf);
        let mut lines = Vec::new();
        assembler.push(b"12", now, &mut lines);
        assembler.push(b"3.4\r5.6\r", now + HOLE, &mut lines);
        assert_eq!(texts(&lines), ["5.6"]);
        assert_eq!(assembler.dropped(), Dropped { holes: 1, ..Dropped::default() });
    }

    #[test]
    fn a_line_with_a_damaged_character_is_dropped_and_a_glitch_before_it_is_not() {
        let (mut assembler, now) = between_lines(Terminator::CrLf);
        let mut lines = Vec::new();
        assembler.push(b"12\x004kg\r\n12.\x00\r\n\xff\x00 5kg\r\n\x00\r\n", now, &mut lines);
        assert_eq!(texts(&lines), ["\u{fffd}\0 5kg", "\0"]);
        assert_eq!(assembler.dropped().damaged, 2);
    }

    #[test]
    fn the_longest_line_passes_and_one_byte_more_is_dropped_to_its_end() {
        for terminator in [Terminator::CrLf, etx()] {
            let end: &[u8] = if terminator == Terminator::CrLf { b"\r" } else { b"\x03\r" };
            let (mut assembler, now) = between_lines(terminator);
            let mut lines = Vec::new();
            for (length, passes) in
                [(MAX_LINE, true), (MAX_LINE + 1, false), (5 * MAX_LINE, false), (3, true)]
            {
                lines.clear();
                assembler.push(&vec![b'x'; length], now, &mut lines);
                assembler.push(end, now, &mut lines);
                assert_eq!(lines.len(), usize::from(passes), "{length}");
            }
            assert_eq!(assembler.dropped().overlong, 2);
        }
    }

    #[test]
    fn the_rest_of_a_discarded_line_is_dropped_unless_the_line_was_silent() {
        let (mut assembler, now) = between_lines(etx());
        let mut lines = Vec::new();
        assembler.push(b"12", now, &mut lines);
        assembler.discard(false);
        assembler.push(b"3.4\x03\r7\x03", now, &mut lines);
        assembler.discard(true);
        assembler.push(b"\r8\x03\r", now, &mut lines);
        assert_eq!(texts(&lines), ["\r8"]);
    }

    proptest! {
        #[test]
        fn any_bytes_in_any_pieces_give_the_same_lines_and_never_more_than_one_in_hand(
            bytes in prop::collection::vec(prop_oneof![3 => any::<u8>(), 1 => Just(b'\r'), 1 => Just(3u8)], 0..4000),
            cuts in prop::collection::vec(1usize..400, 1..50),
            custom in any::<bool>(),
        ) {
            let terminator = if custom { etx() } else { Terminator::CrLf };
            let (mut whole, now) = between_lines(terminator.clone());
            let mut expected = Vec::new();
            whole.push(&bytes, now, &mut expected);

            let (mut pieces, _) = between_lines(terminator);
            let mut lines = Vec::new();
            let mut rest = bytes.as_slice();
            for cut in cuts.iter().cycle() {
                let (piece, tail) = rest.split_at((*cut).min(rest.len()));
                pieces.push(piece, now, &mut lines);
                prop_assert!(pieces.buffer.len() <= MAX_LINE + MAX_TERMINATOR);
                rest = tail;
                if rest.is_empty() {
                    break;
                }
            }
            prop_assert_eq!(texts(&lines), texts(&expected));
            prop_assert_eq!(pieces.dropped(), whole.dropped());
            // Lossy decoding turns one bad byte into three.
            prop_assert!(lines.iter().all(|l| !l.text.is_empty() && l.text.len() <= 3 * MAX_LINE));
        }
    }
}
