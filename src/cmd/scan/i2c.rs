//! I²C addresses that acknowledge: every address a chip can have is asked for one byte, as `i2cdetect -r` does.
//!
//! Reserved addresses are left out. A read of one byte changes nothing in the chips fieldgate knows; there are
//! parts (some EEPROMs, alert responders) that step on by it.

use std::io::Write;
use std::time::Duration;

use driver_i2c::chips::CHIPS;
use serde::Serialize;

use super::super::carrier::Carrier;
use super::super::exit::Exit;
use super::Progress;
use crate::poll::NotCarried;

/// 0x00 to 0x07 and 0x78 to 0x7F mean other things (UM10204, table 4).
const ADDRESSES: std::ops::RangeInclusive<u8> = 0x08..=0x77;
/// The kernel gives an exchange up after a second.
const WAIT: Duration = Duration::from_secs(2);

#[derive(Debug, PartialEq, Eq, Serialize)]
struct Found {
    address: u8,
    /// `answers`, or `kernel driver`.
    state: &'static str,
    /// Chips of this build that may sit there.
    chips: Vec<&'static str>,
}

/// Asks every address and prints who acknowledges.
pub(super) fn run(carrier: &mut dyn Carrier, json: bool, out: &mut dyn Write) -> Result<(), Exit> {
    let mut progress = Progress::new(ADDRESSES.count() as u64, Duration::from_millis(100));
    let (mut all, mut trouble) = (Vec::new(), None);
    for address in ADDRESSES {
        let state = match carrier.carry(address, &[1], WAIT) {
            Ok(_) => Some("answers"),
            Err(NotCarried::Garbled(why)) if why.contains("no acknowledge") => None,
            Err(NotCarried::Garbled(why)) if why.contains("kernel driver") => Some("kernel driver"),
            Err(failed @ (NotCarried::Down(_) | NotCarried::Busy)) => {
                progress.clear();
                return Err(Exit::Failed(failed.to_string()));
            }
            Err(failed @ (NotCarried::Silent | NotCarried::Garbled(_))) => {
                trouble.get_or_insert(format!("{address:#04x}: {failed}"));
                None
            }
        };
        progress.step(&format!("address {address:#04x}"));
        let Some(state) = state else { continue };
        let may_be = CHIPS.iter().filter(|chip| chip.addresses().contains(&address));
        let found = Found { address, state, chips: may_be.map(|chip| chip.name()).collect() };
        progress.clear();
        if !json {
            let chips = if found.chips.is_empty() {
                String::new()
            } else {
                format!("may be {}", found.chips.join(", "))
            };
            writeln!(out, "{}", format!("{address:#04x}  {state:<13}  {chips}").trim_end())?;
        }
        all.push(found);
    }
    progress.clear();
    if json {
        super::print_json(&all, out)?;
    }
    match (all.is_empty(), trouble) {
        (true, Some(why)) => Err(Exit::Failed(format!("nothing acknowledged; {why}"))),
        (true, None) => Err(Exit::Failed(
            "nothing acknowledged; are SDA and SCL exchanged, is the sensor powered?".to_owned(),
        )),
        (false, _) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::poll::Carried;

    /// A chip at 0x76, one at 0x48 that the kernel owns, and one that answers where no chip of ours sits.
    struct Chips(Vec<u8>);

    impl Carrier for Chips {
        fn carry(&mut self, unit: u8, request: &[u8], _: Duration) -> Result<Carried, NotCarried> {
            assert_eq!(request, [1], "one byte is read and none is written");
            self.0.push(unit);
            match unit {
                0x76 | 0x20 => Ok(Carried { answer: vec![0], took: Duration::ZERO }),
                0x48 => Err(NotCarried::Garbled("0x48 belongs to a kernel driver: read it".to_owned())),
                _ => Err(NotCarried::Garbled(format!("no acknowledge from {unit:#04x}"))),
            }
        }
    }

    #[test]
    fn addresses_that_acknowledge_are_told_with_what_may_sit_there() {
        let (mut chips, mut out) = (Chips(Vec::new()), Vec::new());
        run(&mut chips, false, &mut out).expect("found");
        let text = String::from_utf8(out).expect("text");
        assert_eq!(text.lines().next(), Some("0x20  answers"));
        assert!(text.contains("0x48  kernel driver  may be lm75"), "{text}");
        assert!(text.contains("0x76  answers        may be bme280"), "{text}");
        assert_eq!((chips.0.first(), chips.0.last(), chips.0.len()), (Some(&0x08), Some(&0x77), 112));
        let mut out = Vec::new();
        run(&mut Chips(Vec::new()), true, &mut out).expect("found");
        let rows: serde_json::Value = serde_json::from_slice(&out).expect("JSON");
        assert_eq!((&rows[2]["address"], &rows[2]["chips"][0]), (&0x76.into(), &"bme280".into()));
    }
}
