//! The frames of a shared bus's clients: Modbus TCP, or RTU over TCP.
//!
//! Pure. The sources are the *Modbus Messaging on TCP/IP Implementation Guide V1.0b*, the *Application Protocol
//! Specification V1.1b3* and *Modbus over Serial Line V1.02*. No bytes panic; wherever TCP cuts the bytes, the same
//! requests come out; and a full [`Inbox`] always holds a request or a mistake, so that it never waits for room.

use driver_modbus::frame::{MAX_RTU, seal, sealed};
use driver_modbus::function::Function;
use driver_modbus::wrap::{Header, MAX_TCP, Wrap};

use crate::config::share::Framing;

/// Longest frame of either kind.
pub const LONGEST: usize = MAX_TCP;
const _: () = assert!(MAX_RTU <= LONGEST);

/// One request of a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    wrap: Wrap,
    /// The client's number of it; 0 in RTU.
    transaction: u16,
    /// For whom it is.
    pub unit: u8,
    /// Function code and data. Never empty.
    pub pdu: Vec<u8>,
}

impl Request {
    /// The frame that answers it with this PDU.
    #[must_use]
    pub fn answer(&self, pdu: &[u8]) -> Vec<u8> {
        match self.wrap {
            Wrap::Tcp => Header::frame(self.transaction, self.unit, pdu),
            Wrap::Rtu => {
                let mut frame = Vec::with_capacity(MAX_RTU);
                frame.push(self.unit);
                frame.extend_from_slice(pdu);
                seal(&mut frame);
                frame
            }
        }
    }
}

/// The bytes do not make a frame; the connection is of no use any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed;

/// What a stretch of bytes begins with.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    /// A request of so many bytes.
    Request(Request, usize),
    /// The beginning of one.
    More,
    /// None.
    Nothing,
}

/// What came from one client and is not yet understood.
#[derive(Debug)]
pub struct Inbox {
    wrap: Option<Wrap>,
    bytes: [u8; LONGEST],
    filled: usize,
}

impl Inbox {
    /// For a connection that speaks this.
    #[must_use]
    pub fn new(framing: Framing) -> Self {
        let wrap = match framing {
            Framing::Auto => None,
            Framing::Tcp => Some(Wrap::Tcp),
            Framing::Rtu => Some(Wrap::Rtu),
        };
        Self { wrap, bytes: [0; LONGEST], filled: 0 }
    }

    /// Where the next bytes go. Never empty after [`Self::request`] had nothing.
    pub fn room(&mut self) -> &mut [u8] {
        self.bytes.get_mut(self.filled..).unwrap_or_default()
    }

    /// So many bytes were put there.
    pub fn took(&mut self, count: usize) {
        self.filled = (self.filled + count).min(LONGEST);
    }

    /// Whether part of a request is there.
    #[must_use]
    pub fn holds_some(&self) -> bool {
        self.filled > 0
    }

    /// The next whole request.
    ///
    /// # Errors
    /// The bytes are no frame.
    pub fn request(&mut self) -> Result<Option<Request>, Malformed> {
        let bytes = self.bytes.get(..self.filled).unwrap_or_default();
        let found = match self.wrap {
            Some(Wrap::Tcp) => tcp(bytes),
            Some(Wrap::Rtu) => rtu(bytes),
            None => either(bytes),
        };
        match found {
            Found::Request(request, length) => {
                self.wrap = Some(request.wrap);
                self.bytes.copy_within(length.min(self.filled)..self.filled, 0);
                self.filled = self.filled.saturating_sub(length);
                Ok(Some(request))
            }
            Found::More if self.filled < LONGEST => Ok(None),
            Found::More | Found::Nothing => Err(Malformed),
        }
    }
}

/// How long a request's PDU is, judged by its first bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Length {
    Known(usize),
    /// It depends on a byte that is not there yet.
    Later,
    /// Not a function that we know.
    Unknown,
}

fn pdu_length(pdu: &[u8]) -> Length {
    let Some(code) = pdu.first() else { return Length::Later };
    match Function::of(*code) {
        None => Length::Unknown,
        Some(known) => known.request.length(pdu).map_or(Length::Later, Length::Known),
    }
}

fn tcp(bytes: &[u8]) -> Found {
    let Some((header, rest)) = bytes.split_first_chunk::<{ Header::LEN }>() else {
        // Protocol 0 is all there is.
        let wrong = bytes.iter().skip(2).take(2).any(|protocol| *protocol != 0);
        return if wrong { Found::Nothing } else { Found::More };
    };
    let Some(Header { transaction, unit, pdu: length }) = Header::of(*header) else { return Found::Nothing };
    match rest.get(..length) {
        Some(pdu) => Found::Request(
            Request { wrap: Wrap::Tcp, transaction, unit, pdu: pdu.to_vec() },
            Header::LEN + length,
        ),
        None => Found::More,
    }
}

fn rtu(bytes: &[u8]) -> Found {
    let request = |length: usize| match bytes.get(..length).filter(|frame| sealed(frame)) {
        Some([unit, pdu @ .., _, _]) if !pdu.is_empty() => Found::Request(
            Request { wrap: Wrap::Rtu, transaction: 0, unit: *unit, pdu: pdu.to_vec() },
            length,
        ),
        _ => Found::Nothing,
    };
    let Some(pdu) = bytes.get(1..) else { return Found::More };
    match pdu_length(pdu) {
        Length::Known(n) if n + 3 > MAX_RTU => Found::Nothing,
        Length::Known(n) if bytes.len() < n + 3 => Found::More,
        Length::Known(n) => request(n + 3),
        Length::Later => Found::More,
        // Nobody can tell where it ends but by its checksum at the end of what came.
        Length::Unknown if bytes.len() < 4 => Found::More,
        Length::Unknown => match request(bytes.len()) {
            Found::Nothing if bytes.len() < MAX_RTU => Found::More,
            found => found,
        },
    }
}

/// The first frame of a connection tells what it speaks. A checksum that fits proves RTU; Modbus TCP must have the
/// length that its function wants, where RTU is not yet out of the question.
fn either(bytes: &[u8]) -> Found {
    let as_rtu = match bytes.get(1..).map(pdu_length) {
        Some(Length::Unknown) => Found::Nothing,
        _ => rtu(bytes),
    };
    match (as_rtu, tcp(bytes)) {
        (Found::Request(request, length), _) => Found::Request(request, length),
        (Found::More, Found::Request(request, length))
            if pdu_length(&request.pdu) == Length::Known(request.pdu.len()) =>
        {
            Found::Request(request, length)
        }
        (Found::Nothing, found) => found,
        (Found::More, _) => Found::More,
    }
}

#[cfg(test)]
mod tests {
    use driver_api::testing::hex;
    use proptest::prelude::*;

    use super::*;

    fn inbox_of(framing: Framing, bytes: &[u8]) -> Inbox {
        let mut inbox = Inbox::new(framing);
        inbox.room()[..bytes.len()].copy_from_slice(bytes);
        inbox.took(bytes.len());
        inbox
    }

    fn one(framing: Framing, bytes: &[u8]) -> Result<Option<Request>, Malformed> {
        inbox_of(framing, bytes).request()
    }

    fn wrapped(wrap: Wrap, transaction: u16, unit: u8, pdu: &[u8]) -> Vec<u8> {
        let transaction = if wrap == Wrap::Rtu { 0 } else { transaction };
        Request { wrap, transaction, unit, pdu: pdu.to_vec() }.answer(pdu)
    }

    #[test]
    fn the_first_frame_tells_what_a_client_speaks() {
        // From the guide, and from Modbus over Serial Line, appendix B.
        let tcp =
            one(Framing::Auto, &hex("15 01 00 00 00 06 FF 03 00 04 00 01")).expect("a frame").expect("whole");
        assert_eq!(
            (tcp.wrap, tcp.transaction, tcp.unit, &tcp.pdu[..]),
            (Wrap::Tcp, 0x1501, 0xFF, &hex("03 00 04 00 01")[..])
        );
        assert_eq!(tcp.answer(&hex("03 02 00 05")), hex("15 01 00 00 00 05 FF 03 02 00 05"));
        let rtu = one(Framing::Auto, &wrapped(Wrap::Rtu, 0, 1, &hex("03 00 00 00 06")))
            .expect("a frame")
            .expect("whole");
        assert_eq!((rtu.wrap, rtu.unit, &rtu.pdu[..]), (Wrap::Rtu, 1, &hex("03 00 00 00 06")[..]));
        assert_eq!(rtu.answer(&hex("83 02")), hex("01 83 02 C0 F1"));
        // Beginnings that could become either.
        for bytes in [&[][..], &[1], &[1, 3, 0, 0, 0, 6], &[0, 0, 0, 0, 0, 6, 1, 3]] {
            assert_eq!(one(Framing::Auto, bytes), Ok(None), "{bytes:02X?}");
        }
        for noise in
            [&b"GET / HTTP/1.1\r\n\r\n"[..], b"\x16\x03\x01\x02\x00\x01\x00\x01\xFC", b"SSH-2.0-x\r\n"]
        {
            assert_eq!(one(Framing::Auto, noise), Err(Malformed), "{noise:02X?}");
        }
    }

    #[test]
    fn once_it_is_known_the_other_is_a_mistake() {
        let rtu = wrapped(Wrap::Rtu, 0, 1, &hex("03 00 10 00 06"));
        let tcp = wrapped(Wrap::Tcp, 7, 1, &hex("03 00 10 00 06"));
        let mut inbox = inbox_of(Framing::Auto, &[tcp.clone(), rtu.clone()].concat());
        assert!(matches!(inbox.request(), Ok(Some(_))));
        assert_eq!(inbox.request(), Err(Malformed));
        assert_eq!(one(Framing::Tcp, &rtu), Err(Malformed));
        assert_eq!(one(Framing::Rtu, &tcp), Err(Malformed), "its checksum is none");
        let mut wrong = rtu;
        wrong[7] ^= 1;
        assert_eq!(one(Framing::Rtu, &wrong), Err(Malformed));
    }

    #[test]
    fn a_function_nobody_knows_has_an_end_too() {
        let tcp = wrapped(Wrap::Tcp, 7, 1, &hex("65 01 02"));
        assert!(matches!(one(Framing::Tcp, &tcp), Ok(Some(_))));
        let rtu = wrapped(Wrap::Rtu, 0, 1, &hex("65 01 02 03"));
        assert_eq!(one(Framing::Rtu, &rtu[..6]), Ok(None));
        assert!(matches!(one(Framing::Rtu, &rtu), Ok(Some(_))));
        assert_eq!(one(Framing::Rtu, &[0x65; LONGEST]), Err(Malformed));
    }

    fn pdus() -> impl Strategy<Value = Vec<u8>> {
        let words = |function: std::ops::RangeInclusive<u8>| {
            (function, any::<[u8; 4]>()).prop_map(|(f, rest)| [&[f][..], &rest].concat())
        };
        prop_oneof![
            words(1..=6),
            Just(vec![17]),
            Just(vec![43, 14, 1, 0]),
            (15u8..=16, any::<[u8; 4]>(), prop::collection::vec(any::<u8>(), 1..246)).prop_map(
                |(f, head, data)| [&[f][..], &head, &[u8::try_from(data.len()).expect("small")], &data]
                    .concat()
            ),
        ]
    }

    proptest! {
        #[test]
        fn wherever_tcp_cuts_the_bytes_the_same_requests_come_out(
            all in prop::collection::vec((pdus(), 1u8..=247, any::<u16>()), 1..8),
            rtu: bool,
            cuts in prop::collection::vec(1usize..90, 1..40),
        ) {
            let wrap = if rtu { Wrap::Rtu } else { Wrap::Tcp };
            let bytes: Vec<u8> = all.iter().flat_map(|(pdu, unit, n)| wrapped(wrap, *n, *unit, pdu)).collect();
            for framing in [Framing::Auto, if rtu { Framing::Rtu } else { Framing::Tcp }] {
                let (mut inbox, mut rest, mut heard) = (Inbox::new(framing), &bytes[..], Vec::new());
                for cut in cuts.iter().cycle() {
                    while let Some(request) = inbox.request().expect("good frames") {
                        heard.push((request.pdu, request.unit));
                    }
                    if rest.is_empty() {
                        break;
                    }
                    let room = inbox.room();
                    let n = (*cut).min(rest.len()).min(room.len());
                    prop_assert!(n > 0, "no room");
                    room[..n].copy_from_slice(&rest[..n]);
                    inbox.took(n);
                    rest = &rest[n..];
                }
                let said: Vec<_> = all.iter().map(|(pdu, unit, _)| (pdu.clone(), *unit)).collect();
                prop_assert_eq!(&heard, &said, "{:?}", framing);
            }
        }

        #[test]
        fn no_bytes_panic_and_a_full_inbox_never_waits(
            bytes in prop::collection::vec(any::<u8>(), 0..1000),
            zeros: bool,
            choice in 0usize..3,
        ) {
            let framing = [Framing::Auto, Framing::Tcp, Framing::Rtu][choice];
            let (mut inbox, mut rest) = (Inbox::new(framing), &bytes[..]);
            let bytes_like_a_header;
            if zeros && bytes.len() > 4 {
                let mut like = bytes.clone();
                like[2..5].fill(0);
                bytes_like_a_header = like;
                rest = &bytes_like_a_header;
            }
            loop {
                match inbox.request() {
                    Err(Malformed) => break,
                    Ok(Some(request)) => {
                        prop_assert!(!request.pdu.is_empty() && request.answer(&request.pdu).len() <= LONGEST);
                        continue;
                    }
                    Ok(None) => {}
                }
                if rest.is_empty() {
                    break;
                }
                let room = inbox.room();
                prop_assert!(!room.is_empty());
                let n = room.len().min(rest.len()).min(37);
                room[..n].copy_from_slice(&rest[..n]);
                inbox.took(n);
                rest = &rest[n..];
            }
        }
    }
}
