//! `fieldgate watch --wire BUS`: what goes over a bus, frame by frame.

use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::path::Path;
use std::time::Duration;

use driver_modbus::explain::{Said, explain};
use driver_modbus::wrap::Wrap;
use serde_json::{Value as Json, json};
use tokio::time::Instant;

use super::client;
use super::exit::Exit;
use crate::runtime::control::Request;
use crate::runtime::lines::{from_hex, hex};

/// Bytes in one direction that come no further apart than this are one frame. USB adapters hand bytes over in
/// heaps up to 16 ms apart.
const TOGETHER_MS: f64 = 25.0;
/// When so long nothing came, what is there is shown.
const QUIET: Duration = Duration::from_millis(60);
/// Bytes of one line; a Modbus TCP frame has 260.
const LONGEST: usize = 300;

/// Prints until the daemon or the reader goes, or Ctrl-C.
///
/// # Errors
/// No daemon runs, it has no such bus, or it went away.
pub fn run(store: &Path, bus: &str, as_json: bool, out: &mut dyn Write) -> Result<(), Exit> {
    let Some(stream) = client::stream(store, &Request::Wire { bus: bus.to_owned() })? else {
        return Err(Exit::Failed(format!("no daemon on {}; start it with `fieldgate run`", store.display())));
    };
    let gone = |why: String| Exit::Failed(format!("the trace ended: {why}"));
    let stream = stream.into_stream();
    stream.set_read_timeout(Some(QUIET)).map_err(|e| gone(e.to_string()))?;
    let mut lines = BufReader::new(stream);
    let (mut frames, mut row) = (None, Vec::new());
    let mut heard = Instant::now();
    loop {
        match lines.read_until(b'\n', &mut row) {
            Ok(0) => return Err(gone("the daemon closed it".to_owned())),
            Ok(_) if row.ends_with(b"\n") => {}
            Ok(_) => continue,
            Err(e)
                if matches!(
                    e.kind(),
                    ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
                ) =>
            {
                if let Some(frame) = frames.as_mut().and_then(Frames::flush) {
                    show(&frame, as_json, out)?;
                }
                // A bus may be silent for long; the daemon is not.
                if heard.elapsed() > client::SILENCE {
                    if !client::is_alive(store) {
                        return Err(gone(client::HANGS.to_owned()));
                    }
                    heard = Instant::now();
                }
                continue;
            }
            Err(e) => return Err(gone(e.to_string())),
        }
        heard = Instant::now();
        let told: Json = serde_json::from_slice(&row).map_err(|e| gone(e.to_string()))?;
        row.clear();
        if let Some(why) = told["error"].as_str().or(told["end"].as_str()) {
            return Err(Exit::Failed(why.to_owned()));
        }
        if let Some(count) = told["lost"].as_u64() {
            if as_json {
                writeln!(out, "{told}")?;
            } else {
                writeln!(out, "-- {count} pieces lost: the output was too slow for the line --")?;
            }
            continue;
        }
        let Some(frames) = frames.as_mut() else {
            frames = Some(Frames::new(Wrap::of_driver(told["driver"].as_str().unwrap_or_default())));
            continue;
        };
        let (Some(bytes), Some(t_ms)) = (told["bytes"].as_str().and_then(from_hex), told["t_ms"].as_f64())
        else {
            continue;
        };
        let ts = told["ts"].as_str().unwrap_or_default();
        for frame in frames.piece(ts, t_ms, told["direction"] == "sent", &bytes) {
            show(&frame, as_json, out)?;
        }
    }
}

fn show(frame: &Frame, as_json: bool, out: &mut dyn Write) -> Result<(), Exit> {
    if as_json {
        writeln!(out, "{}", frame.json())?;
    } else {
        writeln!(out, "{}", frame.line())?;
    }
    // Whoever pipes it wants to see it now.
    out.flush()?;
    Ok(())
}

/// Bytes that belong together.
#[derive(Debug, Clone, PartialEq)]
pub struct Frame {
    ts: String,
    sent: bool,
    /// Since the last byte before, in either direction.
    gap_ms: Option<f64>,
    bytes: Vec<u8>,
    said: Option<Said>,
}

impl Frame {
    /// `14:30:00.123 →  +12.300 ms  01 03 …   unit 1 read holding 0..9  CRC ok`.
    #[must_use]
    pub fn line(&self) -> String {
        let clock = self.ts.get(11..23).unwrap_or("");
        let arrow = if self.sent { '→' } else { '←' };
        let gap = self.gap_ms.map_or(String::new(), |gap| format!("+{gap:.3} ms"));
        let bytes: Vec<String> = self.bytes.iter().map(|byte| format!("{byte:02X}")).collect();
        let said = self.said.as_ref().map_or("", |said| said.text.as_str());
        format!("{clock} {arrow} {gap:>14}  {:<26} {said}", bytes.join(" ")).trim_end().to_owned()
    }

    fn json(&self) -> Json {
        json!({
            "ts": self.ts,
            "direction": if self.sent { "sent" } else { "received" },
            "gap_ms": self.gap_ms,
            "bytes": hex(&self.bytes),
            "frame": self.said.as_ref().map(|said| said.text.as_str()),
            "whole": self.said.as_ref().map(|said| said.whole),
        })
    }
}

/// Puts pieces together to frames. Pure: time comes in.
#[derive(Debug)]
pub struct Frames {
    wrap: Option<Wrap>,
    open: Option<Frame>,
    last_ms: Option<f64>,
}

impl Frames {
    /// Of a bus with these frames; `None`: bytes are only shown.
    #[must_use]
    pub fn new(wrap: Option<Wrap>) -> Self {
        Self { wrap, open: None, last_ms: None }
    }

    /// The frames that are complete with this piece.
    pub fn piece(&mut self, ts: &str, t_ms: f64, sent: bool, bytes: &[u8]) -> Vec<Frame> {
        let mut done = Vec::new();
        let gap_ms = self.last_ms.map(|last| (t_ms - last).max(0.0));
        let apart = gap_ms.is_some_and(|gap| gap > TOGETHER_MS);
        if self.open.as_ref().is_some_and(|open| open.sent != sent || apart || open.bytes.len() >= LONGEST) {
            done.extend(self.flush());
        }
        self.last_ms = Some(t_ms);
        let open = self.open.get_or_insert_with(|| Frame {
            ts: ts.to_owned(),
            sent,
            gap_ms,
            bytes: Vec::new(),
            said: None,
        });
        open.bytes.extend_from_slice(bytes);
        if let Some(wrap) = self.wrap
            && explain(wrap, open.sent, &open.bytes).whole
        {
            done.extend(self.flush());
        }
        done
    }

    /// Nothing more is to come: what is there.
    pub fn flush(&mut self) -> Option<Frame> {
        let mut frame = self.open.take()?;
        frame.said = self.wrap.map(|wrap| explain(wrap, frame.sent, &frame.bytes));
        Some(frame)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ASK: [u8; 8] = [1, 3, 0, 0, 0, 1, 0x84, 0x0A];
    const ANSWER: [u8; 7] = [1, 3, 2, 0, 1, 0x79, 0x84];

    #[test]
    fn pieces_become_frames_with_their_gaps_and_words() {
        let mut frames = Frames::new(Some(Wrap::Rtu));
        let ts = "2026-11-22T14:30:00.123Z";
        let asked = frames.piece(ts, 100.0, true, &ASK);
        assert_eq!(asked.len(), 1, "it is whole at once");
        assert_eq!(
            asked[0].line(),
            "14:30:00.123 →                 01 03 00 00 00 01 84 0A    unit 1 read holding 0  CRC ok"
        );
        assert!(frames.piece(ts, 112.3, false, &ANSWER[..3]).is_empty());
        let heard = frames.piece(ts, 113.0, false, &ANSWER[3..]);
        assert_eq!(
            (heard.len(), &heard[0].bytes[..], heard[0].gap_ms.map(f64::round)),
            (1, &ANSWER[..], Some(12.0))
        );
        assert_eq!(heard[0].json()["frame"], "unit 1 holding: 0001  CRC ok");
        assert!(frames.flush().is_none());
    }

    #[test]
    fn what_is_broken_is_shown_when_the_line_goes_on_or_falls_silent() {
        let mut frames = Frames::new(Some(Wrap::Rtu));
        let torn = [&ANSWER[..5], &[0, 0]].concat();
        assert!(frames.piece("", 1.0, false, &torn).is_empty());
        let shown = frames.piece("", 20.0, true, &ASK);
        assert!(shown.len() == 2 && shown[0].line().contains("CRC wrong"), "{shown:?}");
        assert!(frames.piece("", 30.0, false, &ANSWER[..3]).is_empty());
        let shown = frames.piece("", 90.0, false, &ANSWER);
        assert_eq!((shown.len(), shown[0].bytes.len()), (2, 3), "60 ms apart: another frame");
        assert!(frames.piece("", 91.0, false, &[9]).is_empty());
        assert_eq!(frames.flush().map(|frame| frame.bytes), Some(vec![9]));
        // A bus that speaks something else: bytes.
        let mut frames = Frames::new(None);
        assert!(frames.piece("", 1.0, false, b"ST,GS").is_empty());
        assert_eq!(frames.flush().map(|frame| (frame.bytes, frame.said)), Some((b"ST,GS".to_vec(), None)));
    }
}
