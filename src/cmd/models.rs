//! Where the SunSpec models of a device are, for whoever asks it himself: the same walk that the driver makes,
//! over a [`Carrier`].

use std::time::Duration;

use driver_api::ReadError;
use driver_api::exception::{Exception, Reaction};
use driver_modbus::config::Area;
use driver_modbus::function::refusal;
use driver_modbus::place::Which;
use driver_modbus::sunspec::{Chain, Walk};

use super::carrier::Carrier;
use crate::poll::{Carried, NotCarried};

/// What came back from a read.
pub enum Answer {
    /// The registers, or the bits as words of 0 and 1, and how long it took.
    Words(Vec<u16>, Duration),
    /// The device's exception.
    Exception(u8),
    /// Nothing.
    Silence,
}

/// Reads registers or bits of any unit.
///
/// # Errors
/// Why nothing could be asked, or what was wrong with the answer.
pub fn read(
    carrier: &mut dyn Carrier,
    unit: u8,
    area: Area,
    (first, count): (u16, u16),
    wait: Duration,
) -> Result<Answer, String> {
    let ([a, b], [c, d]) = (first.to_be_bytes(), count.to_be_bytes());
    let Carried { answer, took } = match carrier.carry(unit, &[area.read_function(), a, b, c, d], wait) {
        Ok(carried) => carried,
        Err(NotCarried::Silent) => return Ok(Answer::Silence),
        Err(failed) => return Err(failed.to_string()),
    };
    if let Some(code) = refusal(&answer) {
        return Ok(Answer::Exception(code));
    }
    let data = match &answer[..] {
        [_, _, data @ ..] => data,
        _ => return Err("an answer without data".to_owned()),
    };
    let words = if area.bits() {
        let bits = data.iter().flat_map(|byte| (0..8).map(move |bit| u16::from(byte >> bit & 1)));
        bits.take(usize::from(count)).collect()
    } else {
        data.chunks_exact(2).map(|w| u16::from_be_bytes([w[0], w[1]])).collect()
    };
    Ok(Answer::Words(words, took))
}

/// Asks a unit for its models, one read after the other; `base` is where they begin, if the configuration says it.
///
/// # Errors
/// It has none, or did not answer.
pub fn chain(
    carrier: &mut dyn Carrier,
    unit: u8,
    base: Option<u16>,
    wait: Duration,
) -> Result<Chain, String> {
    let mut walk = Walk::new(base);
    let mut heard = false;
    while let Some(span) = walk.next() {
        let answer = read(carrier, unit, Area::Holding, (span.start, span.len), wait)?;
        heard |= !matches!(answer, Answer::Silence);
        match answer {
            Answer::Words(words, _) => walk.read(&words),
            Answer::Exception(code) => match Exception::of(code).read {
                Reaction::Refused | Reaction::RefusedHere => walk.refused(),
                Reaction::NextTurn | Reaction::SoonAgain | Reaction::Working | Reaction::Silent => {
                    return Err(ReadError::Refused(code).to_string());
                }
            },
            // Some say nothing where they have nothing. In the middle of the list it is a lost answer.
            Answer::Silence if walk.begun() => return Err(NotCarried::Silent.to_string()),
            Answer::Silence => walk.refused(),
        }
    }
    match walk.chain() {
        Some(chain) => Ok(chain.clone()),
        None if heard => Err(format!("no SunSpec models: `SunS` is not at holding {}", walk.places())),
        None => Err(NotCarried::Silent.to_string()),
    }
}

/// The address of the register `offset` of a model, if so many registers from there on belong to it.
///
/// # Errors
/// The device has no such model, or it is shorter; with what there is.
pub fn locate(chain: &Chain, which: Which, offset: u16, count: u16) -> Result<u16, String> {
    let Some(model) = chain.find(which) else {
        let cut =
            chain.cut().map(|why| format!(" (it does not end as it should: {why})")).unwrap_or_default();
        return Err(format!("the device has no model {which}; its models are at {chain}{cut}"));
    };
    let end = u32::from(offset) + u32::from(count);
    if end > model.registers() {
        return Err(format!(
            "model {which} of this device has the registers 0 to {}; {offset} to {} are not all in it",
            model.registers() - 1,
            end - 1
        ));
    }
    model.at.checked_add(offset).ok_or_else(|| format!("model {which} reaches beyond register 65535"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    const WAIT: Duration = Duration::from_secs(1);

    /// A device with these holding registers; what is elsewhere it refuses, or leaves without an answer.
    pub struct Device {
        registers: BTreeMap<u16, u16>,
        mute: bool,
    }

    impl Carrier for Device {
        fn carry(&mut self, _: u8, request: &[u8], _: Duration) -> Result<Carried, NotCarried> {
            let &[3, a, b, c, d] = request else { return Err(NotCarried::Silent) };
            let (first, count) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
            let words: Option<Vec<u16>> =
                (first..first + count).map(|at| self.registers.get(&at).copied()).collect();
            let answer = match words {
                Some(words) => {
                    [3, d * 2].into_iter().chain(words.into_iter().flat_map(u16::to_be_bytes)).collect()
                }
                None if self.mute => return Err(NotCarried::Silent),
                None => vec![0x83, 2],
            };
            Ok(Carried { answer, took: WAIT })
        }
    }

    /// `SunS` at `base`, then model 1 with 2 registers, 160 with 4, 160 with 3.
    fn device(base: u16, mute: bool) -> Device {
        let words = [0x5375, 0x6E53, 1, 2, 0, 0, 160, 4, 0, 0, 7, 0, 160, 3, 0, 0, 8, 0xFFFF, 0];
        Device { registers: (base..).zip(words).collect(), mute }
    }

    #[test]
    fn models_are_found_as_the_driver_finds_them() {
        for (base, named, mute) in
            [(40_000, None, false), (50_000, None, true), (1000, Some(1000), false), (0, None, true)]
        {
            let chain = chain(&mut device(base, mute), 1, named, WAIT).expect("there");
            let at = |nth, offset, count| locate(&chain, Which { id: 160, nth }, offset, count);
            assert_eq!((at(1, 4, 1), at(2, 4, 1)), (Ok(base + 10), Ok(base + 16)));
            let none = at(3, 4, 1).expect_err("there are two");
            assert!(none.contains("no model 160#3") && none.contains("160 (4 registers), 160 (3"), "{none}");
            let behind = at(2, 4, 2).expect_err("5 is behind its end");
            assert!(behind.contains("registers 0 to 4; 4 to 5"), "{behind}");
        }
    }

    #[test]
    fn a_device_without_models_and_one_that_is_away_are_told_apart() {
        let none = chain(&mut device(7, false), 1, None, WAIT).expect_err("none");
        assert_eq!(none, "no SunSpec models: `SunS` is not at holding 40000, 50000, 0");
        assert_eq!(chain(&mut device(7, true), 1, None, WAIT).expect_err("away"), "no answer");
    }
}
