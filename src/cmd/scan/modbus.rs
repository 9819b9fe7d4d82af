//! Unit ids, at one or several line settings.

use std::io::Write;
use std::time::Duration;

use driver_api::exception::{Exception, Reaction};
use driver_modbus::function::refusal;
use serde::Serialize;

use super::super::carrier::Carrier;
use super::super::exit::Exit;
use super::Progress;
use super::identity::{Identity, identify};
use super::plan::{self, Settings};
use crate::poll::NotCarried;

/// What to look for.
pub(super) struct Search<'a> {
    /// The bus or port as the person named it.
    pub what: &'a str,
    /// Line settings to try; `None` where there are none, or they are fixed.
    pub settings: &'a [Option<Settings>],
    /// Unit ids to ask.
    pub units: &'a [u8],
    /// 3, 4, or both.
    pub functions: &'a [u8],
    /// Longest wait for each answer.
    pub wait: Duration,
    /// Print JSON.
    pub json: bool,
}

/// A unit that answered.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Found {
    unit: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    baud: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    parity: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stop_bits: Option<u8>,
    /// Time of the exchange.
    answer_ms: f64,
    /// What it answered to the first question.
    answer: String,
    #[serde(flatten)]
    identity: Identity,
}

/// Identification is asked of those that are there, so it may take longer.
const IDENTIFY: Duration = Duration::from_millis(500);

/// Opens a port at the settings; `None` where the carrier at hand is to be used.
pub(super) type Open<'o> = &'o mut dyn FnMut(Option<Settings>) -> Result<Option<Box<dyn Carrier>>, Exit>;

/// Asks everybody, prints who answers.
pub(super) fn run(
    search: &Search<'_>,
    mut fixed: Option<&mut dyn Carrier>,
    open: Open<'_>,
    out: &mut dyn Write,
) -> Result<(), Exit> {
    let units = u64::try_from(search.units.len()).unwrap_or(0);
    let each = |s: &Option<Settings>| plan::cost(*s, search.wait, search.functions.len());
    let expected: Duration =
        search.settings.iter().map(|s| each(s) * u32::try_from(units).unwrap_or(u32::MAX)).sum();
    let mut progress = Progress::new(units * u64::try_from(search.settings.len()).unwrap_or(1), expected);
    let (mut all, mut garbled) = (Vec::new(), Vec::new());
    for settings in search.settings {
        let opened = open(*settings)?;
        let mut own = opened;
        let carrier: &mut dyn Carrier = match (own.as_deref_mut(), fixed.as_deref_mut()) {
            (Some(own), _) => own,
            (None, Some(fixed)) => fixed,
            (None, None) => continue,
        };
        let at = settings.map_or(String::new(), |s| format!(" at {s}"));
        progress.part(&format!("{}: {units} units{at}", search.what));
        for &unit in search.units {
            match probe(carrier, unit, search) {
                Probe::Silent => {}
                Probe::Garbled => garbled.push(format!("unit {unit}{at}")),
                Probe::Answered(took, answer) => {
                    let found = Found {
                        unit,
                        baud: settings.map(|s| s.baud),
                        parity: settings.map(|s| s.parity.word()),
                        stop_bits: settings.map(|s| s.stop_bits),
                        answer_ms: (took.as_secs_f64() * 1e5).round() / 100.0,
                        answer,
                        identity: identify(carrier, unit, search.wait.max(IDENTIFY)),
                    };
                    progress.clear();
                    if !search.json {
                        writeln!(out, "{}", line(&found, *settings))?;
                        out.flush()?;
                    }
                    all.push(found);
                }
                Probe::Lost(why) => {
                    progress.clear();
                    return Err(Exit::Failed(format!("{}: {why}", search.what)));
                }
            }
            progress.step(&format!("unit {unit}{at}"));
        }
    }
    progress.clear();
    if search.json {
        super::print_json(&all, out)?;
    }
    if !garbled.is_empty() && !search.json {
        let shown = garbled.iter().take(5).cloned().collect::<Vec<_>>().join(", ");
        writeln!(
            out,
            "something answered, but not in good frames: {shown}{}",
            if garbled.len() > 5 { ", …" } else { "" }
        )?;
        writeln!(
            out,
            "  the line settings may be wrong, two devices may have one unit id, or A and B want termination"
        )?;
    }
    if all.is_empty() {
        let hint = if search.settings.iter().any(Option::is_some) {
            "are A and B exchanged, is the device on? `--parity odd`, `--baud 4800,57600` and `--timeout 1s` look further"
        } else {
            "is the device on? `--timeout 1s` waits longer"
        };
        return Err(Exit::Failed(format!("nobody answered on {}; {hint}", search.what)));
    }
    Ok(())
}

enum Probe {
    /// In this time, and this.
    Answered(Duration, String),
    Silent,
    Garbled,
    /// The bus itself, in words.
    Lost(String),
}

/// Asks one unit for one register. A refusal is an answer.
fn probe(carrier: &mut dyn Carrier, unit: u8, search: &Search<'_>) -> Probe {
    let mut worst = Probe::Silent;
    for &function in search.functions {
        match carrier.carry(unit, &[function, 0, 0, 0, 1], search.wait) {
            // A gateway that says the device behind it is silent.
            Ok(carried) if says_silent(&carried.answer) => {}
            Ok(carried) => {
                let answer = match (refusal(&carried.answer), &carried.answer[..]) {
                    (Some(code), _) => format!("exception {code:02x}"),
                    (None, &[_, _, high, low]) => {
                        format!("{} = {}", area(function), u16::from_be_bytes([high, low]))
                    }
                    _ => "something".to_owned(),
                };
                return Probe::Answered(carried.took, answer);
            }
            Err(NotCarried::Silent) => {}
            Err(NotCarried::Garbled(_)) => worst = Probe::Garbled,
            Err(failed @ (NotCarried::Busy | NotCarried::Down(_))) => return Probe::Lost(failed.to_string()),
        }
    }
    worst
}

/// Whether this is an exception that means that nobody answered.
fn says_silent(answer: &[u8]) -> bool {
    refusal(answer).is_some_and(|code| Exception::of(code).read == Reaction::Silent)
}

fn area(function: u8) -> &'static str {
    if function == 4 { "input:0" } else { "holding:0" }
}

fn line(found: &Found, settings: Option<Settings>) -> String {
    let at = settings.map_or(String::new(), |s| format!("  {:<12}", s.to_string()));
    let identity = found.identity.line();
    let text =
        format!("unit {:>3}{at}  {:>7.1} ms  {:<20}  {identity}", found.unit, found.answer_ms, found.answer);
    text.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::super::plan::{Parity, combinations};
    use super::*;
    use crate::poll::Carried;

    /// A line with units 5 (answers) and 9 (refuses), at one setting; unit 7 answers garbage, and for 3 and 4 a
    /// gateway says that they do not answer.
    struct Line(bool);

    impl Carrier for Line {
        fn carry(&mut self, unit: u8, request: &[u8], _: Duration) -> Result<Carried, NotCarried> {
            let answer = match (self.0, unit, request) {
                (true, 5, [3, 0, 0, 0, 1]) => vec![3, 2, 0, 42],
                (true, 9 | 5, [f, ..]) => vec![f | 0x80, 2],
                (true, 3 | 4, [f, ..]) => vec![f | 0x80, unit + 7],
                (true, 7, _) => return Err(NotCarried::Garbled("CRC".to_owned())),
                _ => return Err(NotCarried::Silent),
            };
            Ok(Carried { answer, took: Duration::from_millis(12) })
        }
    }

    fn scan(json: bool, there: bool) -> (Result<(), Exit>, String) {
        let settings: Vec<_> =
            combinations(&[9600, 19_200], &[Parity::Even], &[1]).into_iter().map(Some).collect();
        let units: Vec<u8> = (1..=10).collect();
        let search = Search {
            what: "/dev/x",
            settings: &settings,
            units: &units,
            functions: &[3],
            wait: Duration::from_millis(100),
            json,
        };
        let mut open = |s: Option<Settings>| {
            let right = s.is_some_and(|s| s.baud == 19_200) && there;
            Ok(Some(Box::new(Line(right)) as Box<dyn Carrier>))
        };
        let mut out = Vec::new();
        let result = run(&search, None, &mut open, &mut out);
        (result, String::from_utf8(out).expect("text"))
    }

    #[test]
    fn units_are_found_with_their_settings_and_a_refusal_is_an_answer() {
        let (result, text) = scan(false, true);
        assert!(result.is_ok());
        let mut lines = text.lines();
        assert_eq!(lines.next(), Some("unit   5  19200 8E1        12.0 ms  holding:0 = 42"));
        assert_eq!(lines.next(), Some("unit   9  19200 8E1        12.0 ms  exception 02"));
        assert!(
            lines.next().is_some_and(|l| l.contains("not in good frames: unit 7 at 19200 8E1")),
            "{text}"
        );
        let (_, text) = scan(true, true);
        let rows: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(
            (&rows[0]["unit"], &rows[0]["baud"], &rows[0]["parity"]),
            (&5.into(), &19_200.into(), &"even".into())
        );
    }

    #[test]
    fn nobody_there_is_said_with_what_to_try() {
        let (result, _) = scan(false, false);
        assert!(result.is_err_and(|exit| exit.code() == 1 && exit.to_string().contains("--parity odd")));
    }
}
