//! Writing to a device: one value, whatever functions the device knows, and what its refusals mean.

use std::time::Duration;

use driver_api::decode::BitPattern;
use driver_api::exception::{Exception, ILLEGAL_ADDRESS, Reaction};
use driver_api::{FrameError, ReadError, Value};
use tokio_modbus::Request;

use crate::bus::{Line, ModbusBus, Power};
use crate::chores::Found;
use crate::config::Area;
use crate::pdu::{Answer, encode as pdu_of};
use crate::place::Place;
use crate::plan::Span;
use crate::write::{Change, requests};

/// How often a write is sent to a device that says it is busy (exception 06), and the pause before each time.
const BUSY_TRIES: u8 = 3;
const BUSY_PAUSE: Duration = Duration::from_millis(50);

impl<L: Line> ModbusBus<L> {
    /// What a write of `value` changes, or why it cannot.
    fn change(&self, point: usize, value: &Value) -> Result<Change, String> {
        let info = &self.compiled.plan.points[point];
        if !info.writable {
            return Err(format!("`{}` is not writable", info.name));
        }
        let exponent = match self.compiled.factor_of[point].map(|factor| self.power(factor)) {
            None => None,
            Some(Power::Known(exponent, _)) => Some(exponent),
            Some(Power::Unknown) => {
                return Err(format!("the power of ten of `{}` is not read yet; try again", info.name));
            }
            Some(Power::Not(reason)) => {
                return Err(format!(
                    "the device gives no power of ten for `{}`: {}",
                    info.name,
                    reason.word()
                ));
            }
        };
        self.compiled.points[point].change(value, exponent)
    }

    /// Writes one value. Reading back is the caller's business.
    pub(crate) async fn write_point(&mut self, point: usize, value: &Value) -> Result<(), ReadError> {
        let refuse = |why: String| ReadError::Transient(FrameError::Protocol(why));
        let change = self.change(point, value).map_err(refuse)?;
        let device = self.compiled.plan.points[point].device;
        let Place { space, at } = self.compiled.points[point].place;
        let from = match self.locate(device, space).await? {
            Found::At(from) => from,
            Found::NotYet => {
                return Err(refuse("where its model is, is not known yet; try again".to_owned()));
            }
            Found::Nowhere => return Err(ReadError::Refused(ILLEGAL_ADDRESS)),
        };
        let at = at.saturating_add(from);
        let function = self.compiled.devices[device].write_function;
        if let Change::Bits(pattern) = change
            && self.lives[device].no_mask
        {
            return self.write_bits_whole(device, at, pattern).await;
        }
        for request in requests(function, at, &change) {
            match self.tell(device, &request).await {
                Err(ReadError::Refused(1)) if matches!(request, Request::MaskWriteRegister(..)) => {
                    tracing::info!(
                        device = self.compiled.plan.devices[device].name,
                        "device does not change single bits (function 22); its registers are read, changed and written",
                    );
                    self.lives[device].no_mask = true;
                    let Change::Bits(pattern) = change else { return Err(ReadError::Refused(1)) };
                    return self.write_bits_whole(device, at, pattern).await;
                }
                other => other?,
            }
        }
        Ok(())
    }

    /// Changes bits by reading the register and writing all of it.
    async fn write_bits_whole(&mut self, device: usize, at: u16, bits: BitPattern) -> Result<(), ReadError> {
        let word = match self.fetch(device, Area::Holding, Span { start: at, len: 1 }).await? {
            // Anything but the register itself would change the other bits.
            Ok((words, _)) => match words.as_slice() {
                [word] => *word,
                _ => return Err(ReadError::Transient(FrameError::Protocol("no register".to_owned()))),
            },
            Err(code) => return Err(failure(code, Exception::of(code).read)),
        };
        let function = self.compiled.devices[device].write_function;
        for request in requests(function, at, &Change::Registers(vec![bits.apply(word)])) {
            self.tell(device, &request).await?;
        }
        Ok(())
    }

    /// Sends a request that writes.
    async fn tell(&mut self, device: usize, request: &Request<'_>) -> Result<(), ReadError> {
        let spec = &self.compiled.devices[device];
        if spec.broadcast {
            let pdu = pdu_of(request).ok_or_else(|| {
                ReadError::Transient(FrameError::Protocol("too long for a frame".to_owned()))
            })?;
            return self.line.announce(&pdu, spec.turnaround).await;
        }
        let timeout = spec.timeout;
        let mut tries = 1;
        loop {
            let code = match self.ask(device, request, timeout).await?.answer {
                Answer::Data(_) => return Ok(()),
                Answer::Exception(code) => code,
            };
            match Exception::of(code).write {
                // It has the value; what is read back tells what became of it.
                Reaction::Working => return Ok(()),
                Reaction::SoonAgain if tries < BUSY_TRIES => {
                    tries += 1;
                    tokio::time::sleep(BUSY_PAUSE).await;
                }
                reaction => return Err(failure(code, reaction)),
            }
        }
    }
}

/// The error of an exception that nothing can be made of.
fn failure(code: u8, reaction: Reaction) -> ReadError {
    match reaction {
        Reaction::Refused | Reaction::RefusedHere => ReadError::Refused(code),
        Reaction::NextTurn | Reaction::SoonAgain | Reaction::Working | Reaction::Silent => {
            ReadError::Transient(FrameError::Exception(code))
        }
    }
}
