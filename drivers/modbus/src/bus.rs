//! A compiled Modbus bus over any [`Line`]: block reads, what refusing devices teach, and writes.
//!
//! A device may refuse (exceptions 02 and 03) to read a block whose points it would give one by one:
//! it has a hole in it. Then the block is split, first at the gaps between points, then point by
//! point, and the parts are remembered until the bus is opened again. A point that refuses alone is a
//! sample with the reason; only a block that never was more than one span fails as a whole.
//!
//! A device that is starting may refuse what it gives a minute later, and a serial port stays open for
//! months: so a block of which a part is refused begins again as a whole after [`ASK_AGAIN`].

use std::borrow::Cow;
use std::io;
use std::time::Duration;

use async_trait::async_trait;
use driver_api::decode::{Kind, decode, decode_bits, encode, encode_bits};
use driver_api::{Bus, FrameError, Plan, ReadError, Reason, Sample, Value};
use tokio::time::Instant;
use tokio_modbus::Request;

use crate::compile::{Compiled, Device};
use crate::config::Area;
use crate::pdu::{Answer, Expect, coils, encode as pdu_of, registers};

use crate::plan::{Run, Span, split};
use crate::rtu::unspeakable;

/// Something that carries one request and one believed answer at a time.
#[async_trait]
pub(crate) trait Line: Send {
    /// Opens it anew.
    async fn open(&mut self) -> io::Result<()>;

    /// One request, as a PDU, and the answer to exactly this request, within `timeout` of its end.
    async fn exchange(&mut self, unit: u8, pdu: &[u8], timeout: Duration) -> Result<Reply, ReadError>;

    /// Several requests, and the answer or the error of each. A line that can has them under way at once.
    async fn exchange_all(&mut self, asks: &[Ask<'_>]) -> Vec<Result<Reply, ReadError>> {
        let mut replies = Vec::with_capacity(asks.len());
        for ask in asks {
            replies.push(self.exchange(ask.unit, ask.pdu, ask.timeout).await);
        }
        replies
    }

    /// A request to everybody, which nobody answers; then a rest before anything else is asked.
    async fn announce(&mut self, pdu: &[u8], rest: Duration) -> Result<(), ReadError>;
}

/// One request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ask<'a> {
    pub unit: u8,
    pub pdu: &'a [u8],
    pub timeout: Duration,
}

/// A believed answer.
#[derive(Debug)]
pub(crate) struct Reply {
    pub answer: Answer,
    /// When the request's last bit was on its way.
    pub asked: Instant,
    /// When the answer's first byte arrived.
    pub at: Instant,
}

/// How long a refusal within a block is believed. Learning a block anew costs at most one request for every
/// point of it and every gap between them, which is nothing every ten minutes.
const ASK_AGAIN: Duration = Duration::from_secs(600);

/// One block and what was learned about it.
#[derive(Debug)]
struct Learned {
    /// How it is read, in address order.
    parts: Vec<Part>,
    /// When it is tried as a whole again; `None` while no part is refused.
    again: Option<Instant>,
    /// That it is split was logged since the bus was opened.
    told: bool,
}

/// One read of a block. At first there is one for the whole block.
#[derive(Debug)]
struct Part {
    run: Run,
    /// The exception that this part earned, and is not asked for the time being.
    refused: Option<u8>,
}

pub(crate) struct ModbusBus<L> {
    compiled: Compiled,
    line: L,
    blocks: Vec<Learned>,
}

impl<L: Line> ModbusBus<L> {
    pub fn new(compiled: Compiled, line: L) -> Self {
        let blocks = compiled.blocks.iter().map(|(_, run)| Learned::new(run)).collect();
        Self { compiled, line, blocks }
    }

    async fn read_parts(&mut self, block: usize, out: &mut Vec<Sample>) -> Result<(), ReadError> {
        let (area, ref run) = self.compiled.blocks[block];
        let device = &self.compiled.devices[self.compiled.plan.blocks[block].device];
        let Learned { parts, again, told } = &mut self.blocks[block];
        if again.take_if(|at| *at <= Instant::now()).is_some() {
            *parts = vec![Part::new(run.clone())];
        }
        let mut next = 0;
        loop {
            let alone = parts.len() == 1;
            let Some(part) = parts.get_mut(next) else { return Ok(()) };
            if let Some(code) = part.refused {
                let at = Instant::now();
                out.extend(part.run.wanted.iter().map(|&point| Sample {
                    point,
                    value: Err(Reason::Exception(code)),
                    at,
                }));
                next += 1;
                continue;
            }
            let request = read_request(area, part.run.span);
            let reply = exchange(&mut self.line, device, &request).await?;
            match reply.answer {
                Answer::Data(data) => {
                    let words = if area.bits() {
                        coils(&data, part.run.span.len)
                            .map(|bits| bits.into_iter().map(u16::from).collect())
                            .unwrap_or_default()
                    } else {
                        registers(&data)
                    };
                    for &point in &part.run.wanted {
                        let value = self.compiled.value(point, part.run.span, &words);
                        out.push(Sample { point, value, at: reply.at });
                    }
                    next += 1;
                }
                Answer::Exception(code @ (2 | 3)) => match split(&self.compiled.spans, &part.run) {
                    Some(runs) => {
                        if !std::mem::replace(told, true) {
                            tracing::info!(
                                device =
                                    self.compiled.plan.devices[self.compiled.plan.blocks[block].device].name,
                                block = self.compiled.plan.blocks[block].what,
                                "device refuses {area} {}..{} with exception {code:02x}; reading it in {} parts",
                                part.run.span.start,
                                part.run.span.end() - 1,
                                runs.len(),
                            );
                        }
                        parts.splice(next..=next, runs.into_iter().map(Part::new));
                    }
                    None if alone => return Err(ReadError::Refused(code)),
                    None => part.refuse(code, again),
                },
                Answer::Exception(1) if alone => return Err(ReadError::Refused(1)),
                Answer::Exception(1) => part.refuse(1, again),
                Answer::Exception(code) => return Err(ReadError::Transient(FrameError::Exception(code))),
            }
        }
    }

    /// The request that writes `value`, or why there is none.
    fn write_request(&self, point: usize, value: &Value) -> Result<Request<'static>, String> {
        let info = &self.compiled.plan.points[point];
        if !info.writable {
            return Err(format!("`{}` is not writable", info.name));
        }
        let device = &self.compiled.devices[info.device];
        let spec = &self.compiled.points[point];
        let at = self.compiled.spans[point].start;
        if spec.area == Area::Coil {
            let on = encode(Kind::Bool, spec.order, value).map_err(|e| e.to_string())? == [1];
            return Ok(if device.write_multiple {
                Request::WriteMultipleCoils(at, Cow::Owned(vec![on]))
            } else {
                Request::WriteSingleCoil(at, on)
            });
        }
        if let Some(bits) = spec.bits {
            // The device changes these bits alone: no other writer's bits are lost between a read and a write.
            let pattern = encode_bits(spec.order, bits, value).map_err(|e| e.to_string())?;
            return Ok(Request::MaskWriteRegister(at, !pattern.mask, pattern.ones));
        }
        let words = encode(spec.kind, spec.order, value).map_err(|e| e.to_string())?;
        Ok(match words[..] {
            [word] if !device.write_multiple => Request::WriteSingleRegister(at, word),
            _ => Request::WriteMultipleRegisters(at, Cow::Owned(words)),
        })
    }
}

impl Compiled {
    /// The value of one point out of the registers (or bits) of a read.
    fn value(&self, point: usize, read: Span, words: &[u16]) -> Result<Value, Reason> {
        let (spec, span) = (&self.points[point], self.spans[point]);
        let from = usize::from(span.start.checked_sub(read.start).ok_or(Reason::Protocol)?);
        let words = words.get(from..from + usize::from(span.len)).ok_or(Reason::Protocol)?;
        match (spec.bits, words) {
            (Some(bits), [word]) => Ok(decode_bits(spec.kind, spec.order, bits, *word)),
            _ => decode(spec.kind, spec.order, words),
        }
    }
}

impl Learned {
    fn new(run: &Run) -> Self {
        Self { parts: vec![Part::new(run.clone())], again: None, told: false }
    }
}

impl Part {
    fn new(run: Run) -> Self {
        Self { run, refused: None }
    }

    fn refuse(&mut self, code: u8, again: &mut Option<Instant>) {
        self.refused = Some(code);
        again.get_or_insert_with(|| Instant::now() + ASK_AGAIN);
    }
}

/// One exchange with a device.
async fn exchange<L: Line>(line: &mut L, device: &Device, request: &Request<'_>) -> Result<Reply, ReadError> {
    let pdu = pdu_of(request).ok_or_else(|| {
        ReadError::Transient(FrameError::Protocol(format!("{request:?} is too long for a frame")))
    })?;
    line.exchange(device.unit, &pdu, device.timeout).await
}

fn read_request(area: Area, span: Span) -> Request<'static> {
    match area {
        Area::Coil => Request::ReadCoils(span.start, span.len),
        Area::Discrete => Request::ReadDiscreteInputs(span.start, span.len),
        Area::Input => Request::ReadInputRegisters(span.start, span.len),
        Area::Holding => Request::ReadHoldingRegisters(span.start, span.len),
    }
}

#[async_trait]
impl<L: Line> Bus for ModbusBus<L> {
    fn plan(&self) -> &Plan {
        &self.compiled.plan
    }

    async fn open(&mut self) -> io::Result<()> {
        self.blocks = self.compiled.blocks.iter().map(|(_, run)| Learned::new(run)).collect();
        self.line.open().await
    }

    async fn read(&mut self, block: usize, out: &mut Vec<Sample>) -> Result<(), ReadError> {
        let before = out.len();
        let result = self.read_parts(block, out).await;
        if result.is_err() {
            out.truncate(before);
        }
        result
    }

    async fn write(&mut self, point: usize, value: &Value) -> Result<(), ReadError> {
        let request = self
            .write_request(point, value)
            .map_err(|why| ReadError::Transient(FrameError::Protocol(why)))?;
        let device = &self.compiled.devices[self.compiled.plan.points[point].device];
        let reply = exchange(&mut self.line, device, &request).await?;
        match reply.answer {
            Answer::Data(_) => Ok(()),
            Answer::Exception(code @ 1..=3) => Err(ReadError::Refused(code)),
            Answer::Exception(code) => Err(ReadError::Transient(FrameError::Exception(code))),
        }
    }
    async fn carry(&mut self, unit: u8, request: &[u8], timeout: Duration) -> Result<Vec<u8>, ReadError> {
        let expect = Expect::answer_to(unit, request).ok_or_else(|| unspeakable(request))?;
        let reply = self.line.exchange(unit, request, timeout).await?;
        Ok(expect.pdu_of(&reply.answer))
    }
}
