//! A compiled Modbus bus over any [`Line`]: block reads, and what refusing devices teach. Writes are in
//! `writing`.
//!
//! A device may refuse (exceptions 02 and 03) to read a block whose points it would give one by one:
//! it has a hole in it. Then the block is split, first at the gaps between points, then point by
//! point, and the parts are remembered until the bus is opened again, over new plans too. A point that refuses alone is a
//! sample with the reason; only a block that never was more than one span fails as a whole.
//!
//! A device that is starting may refuse what it gives a minute later, and a serial port stays open for
//! months: so a block of which a part is refused begins again as a whole after
//! [`crate::learned::ASK_AGAIN`].
//!
//! What else a device needs (its setup, powers of ten that no block covers, the way to its models) is done
//! before its polls, see [`crate::chores`].

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use async_trait::async_trait;
use driver_api::decode::{Kind, MAX_EXPONENT, WordOrder, decode, scaled};
use driver_api::exception::{Exception, ILLEGAL_ADDRESS, Reaction};
use driver_api::{Block, Bus, FrameError, Plan, ReadError, Reason, Sample, Value};
use tokio::time::Instant;
use tokio_modbus::Request;

use crate::chores::{Found, Life};
use crate::compile::Compiled;
use crate::config::Area;
use crate::learned::{Facts, Learned, Part, Refusal};
use crate::lessons::Lessons;
use crate::pdu::{Answer, Expect, coils, encode as pdu_of, registers};
use crate::place::Space;
use crate::plan::{Run, Span};
use crate::rtu::unspeakable;
use crate::sunspec::Model;

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

/// What is known of a power of ten.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Power {
    /// Not yet read: its points have no value.
    Unknown,
    /// As read then.
    Known(i16, Instant),
    /// The device does not have it, or does not give it.
    Not(Reason),
}

pub(crate) struct ModbusBus<L> {
    pub(crate) compiled: Compiled,
    pub(crate) line: L,
    pub(crate) blocks: Vec<Learned>,
    /// One per device.
    pub(crate) lives: Vec<Life>,
    /// One per factor.
    pub(crate) powers: Vec<Power>,
    /// When each read of factors alone is due.
    pub(crate) extras_due: Vec<Instant>,
    lessons: Lessons,
}

/// What came of one part of a block.
pub(crate) struct Got {
    pub run: Run,
    pub words: Result<Vec<u16>, Reason>,
    pub at: Instant,
}

impl<L: Line> ModbusBus<L> {
    pub fn new(compiled: Compiled, line: L) -> Self {
        let lessons = Lessons::new(compiled.devices.len());
        let mut bus = Self {
            compiled,
            line,
            lessons,
            blocks: Vec::new(),
            lives: Vec::new(),
            powers: Vec::new(),
            extras_due: Vec::new(),
        };
        bus.forget();
        bus
    }

    /// Nothing is known of any device.
    fn forget(&mut self) {
        self.blocks = self.compiled.blocks.iter().map(|_| Learned::default()).collect();
        let mut before = std::mem::take(&mut self.lives).into_iter();
        let devices = self.compiled.devices.iter();
        self.lives = devices.map(|device| Life::reopened(device, before.next())).collect();
        self.powers = vec![Power::Unknown; self.compiled.factors.len()];
        self.extras_due = vec![Instant::now(); self.compiled.extras.len()];
    }

    /// One exchange with a device: the only way there, so that it is always known whether it answers.
    pub(crate) async fn ask(
        &mut self,
        device: usize,
        request: &Request<'_>,
        patience: Duration,
    ) -> Result<Reply, ReadError> {
        let unit = self.compiled.devices[device].unit;
        let pdu = pdu_of(request).ok_or_else(|| {
            ReadError::Transient(FrameError::Protocol(format!("{request:?} is too long for a frame")))
        })?;
        let result = self.line.exchange(unit, &pdu, patience).await;
        self.note(device, &result);
        result
    }

    /// How fast a device answered a read, or that it did not.
    pub(crate) fn learn(&mut self, device: usize, reply: &Result<Reply, ReadError>) {
        match reply {
            Ok(reply) => self.lessons.answered(device, reply.at.saturating_duration_since(reply.asked)),
            Err(ReadError::Transient(FrameError::Timeout(_))) => self.lessons.silent(device, Instant::now()),
            Err(_) => {}
        }
    }

    /// Whether a device answered is always known.
    pub(crate) fn note(&mut self, device: usize, result: &Result<Reply, ReadError>) {
        let silent = |code: u8| Exception::of(code).read == Reaction::Silent;
        let answered = match result {
            Ok(Reply { answer: Answer::Exception(code), .. })
            | Err(ReadError::Transient(FrameError::Exception(code))) => !silent(*code),
            Ok(Reply { answer: Answer::Data(_), .. }) => true,
            Err(ReadError::Transient(_) | ReadError::Bus(_) | ReadError::Refused(_)) => false,
        };
        self.heard(device, answered);
    }

    /// Reads a span, as words; a bit is a word of 0 or 1. `Ok(Err(code))` where the device refuses.
    pub(crate) async fn fetch(
        &mut self,
        device: usize,
        area: Area,
        span: Span,
    ) -> Result<Result<(Vec<u16>, Instant), u8>, ReadError> {
        let (timeout, length) =
            (self.compiled.devices[device].timeout, self.compiled.answer_time(area, span));
        let patience = self.lessons.patience(device, timeout, length, Instant::now());
        let reply = self.ask(device, &read_request(area, span), patience).await;
        self.learn(device, &reply);
        let reply = reply?;
        Ok(match reply.answer {
            Answer::Data(data) => Ok((words(area, span, &data), reply.at)),
            Answer::Exception(code) => Err(code),
        })
    }

    pub(crate) async fn read_block(&mut self, block: usize, out: &mut Vec<Sample>) -> Result<(), ReadError> {
        let device = self.compiled.plan.blocks[block].device;
        let space = self.compiled.blocks[block].0;
        let from = match self.locate(device, space).await? {
            Found::At(from) => from,
            Found::NotYet => return Ok(()),
            Found::Nowhere => {
                let run = self.compiled.blocks[block].1.clone();
                let words = Err(Reason::Exception(ILLEGAL_ADDRESS));
                self.hand_up(vec![Got { run, words, at: Instant::now() }], out);
                return Ok(());
            }
        };
        let mut learned = std::mem::take(&mut self.blocks[block]);
        let result = self.read_parts(block, &mut learned, from).await;
        // A device that went away meanwhile may come back with another model.
        if self.is_away(device) && matches!(space, Space::Model(_)) {
            learned.forget();
        }
        self.blocks[block] = learned;
        match result? {
            Ok(got) => self.hand_up(got, out),
            // Only now, so that what was learned of this block is forgotten with the rest.
            Err((model, words)) => {
                self.is_head(device, model, &words);
            }
        }
        Ok(())
    }

    /// Reads every part of a block; `from` is where its address space begins. Where the model that it should be does
    /// not stand there, nothing was read: then it gives what stands there.
    async fn read_parts(
        &mut self,
        block: usize,
        learned: &mut Learned,
        from: u16,
    ) -> Result<Result<Vec<Got>, (Model, Vec<u16>)>, ReadError> {
        let device = self.compiled.plan.blocks[block].device;
        let space = self.compiled.blocks[block].0;
        let area = space.area();
        learned.refresh(|| self.whole(block), Instant::now());
        let mut got = Vec::new();
        let mut next = 0;
        while let Some(part) = learned.parts.get(next) {
            let run = part.run.clone();
            if let Some(code) = part.refused {
                got.push(Got { run, words: Err(Reason::Exception(code)), at: Instant::now() });
                next += 1;
                continue;
            }
            let head = self.with_head(device, space, run.span);
            let read = head.map_or(run.span, |(_, span)| span);
            let span = Span { start: read.start.saturating_add(from), len: read.len };
            let code = match self.fetch(device, area, span).await? {
                Ok((words, at)) => {
                    if let Some((model, _)) = head
                        && (!words.starts_with(&[model.id, model.len])
                            || !self.is_head(device, model, &words))
                    {
                        return Ok(Err((model, words)));
                    }
                    let run = Run { span: read, ..run };
                    got.push(Got { run, words: Ok(words), at });
                    next += 1;
                    continue;
                }
                Err(code) => code,
            };
            let here = match Exception::of(code).read {
                Reaction::RefusedHere => true,
                Reaction::Refused => false,
                Reaction::NextTurn | Reaction::SoonAgain | Reaction::Working | Reaction::Silent => {
                    return Err(ReadError::Transient(FrameError::Exception(code)));
                }
            };
            if let Some((model, _)) = head {
                self.heads_apart(device, model);
                continue;
            }
            match learned.refuse(next, code, here, &self.compiled.spans, Instant::now()) {
                Refusal::Split { parts, first } => {
                    if first {
                        tracing::info!(
                            device = self.compiled.plan.devices[device].name,
                            block = self.compiled.plan.blocks[block].what,
                            "device refuses {area} {}..{} with {}; reading it in {parts} parts",
                            span.start,
                            span.end() - 1,
                            Exception::of(code),
                        );
                    }
                }
                // It stands there as refused, and is told with the others.
                Refusal::Left => {}
                Refusal::Whole => return Err(ReadError::Refused(code)),
            }
        }
        Ok(Ok(got))
    }

    /// A block as it is first tried.
    pub(crate) fn whole(&self, block: usize) -> Vec<Part> {
        let (space, run) = &self.compiled.blocks[block];
        let device = self.compiled.plan.blocks[block].device;
        match (space, self.lives[device].walk.chain()) {
            (Space::Model(which), Some(chain)) => match chain.find(*which) {
                Some(model) => Part::of_model(run, &self.compiled.spans, model),
                None => vec![Part::new(run.clone())],
            },
            _ => vec![Part::new(run.clone())],
        }
    }

    /// Powers of ten first, then the points that they belong to.
    pub(crate) fn hand_up(&mut self, got: Vec<Got>, out: &mut Vec<Sample>) {
        for Got { run, words, at } in &got {
            self.take_powers(run, words.as_deref().map_err(|reason| *reason), *at);
        }
        for Got { run, words, at } in got {
            for want in run.wanted.iter().copied().filter(|want| *want < self.compiled.points.len()) {
                let value = match &words {
                    Ok(words) => self.value(want, run.span, words),
                    Err(reason) => Some(Err(*reason)),
                };
                out.extend(value.map(|value| Sample { point: want, value, at }));
            }
        }
    }

    /// A power of ten. One that was not read for long is none: the device may have changed its range meanwhile.
    pub(crate) fn power(&self, factor: usize) -> Power {
        match self.powers[factor] {
            Power::Known(_, at) if at.elapsed() > self.compiled.factors[factor].max_age() => {
                Power::Not(Reason::Stale)
            }
            power => power,
        }
    }

    /// Notes the powers of ten among what was read.
    pub(crate) fn take_powers(&mut self, run: &Run, words: Result<&[u16], Reason>, at: Instant) {
        let points = self.compiled.points.len();
        for want in run.wanted.iter().copied() {
            let Some(index) = want.checked_sub(points) else { continue };
            let (Some(factor), Some(power)) = (self.compiled.factors.get(index), self.powers.get_mut(index))
            else {
                continue;
            };
            let order = if factor.swapped { WordOrder::Badc } else { WordOrder::Abcd };
            let read = words.and_then(|words| {
                let word = cut(self.compiled.spans[want], run.span, words)?;
                decode(Kind::I16, order, word)
            });
            *power = match read {
                // Not there, or what no power of ten is: a wrong one would make a wrong value.
                Ok(Value::Int(exponent)) => i16::try_from(exponent)
                    .ok()
                    .filter(|e| (-MAX_EXPONENT..=MAX_EXPONENT).contains(e))
                    .map_or(Power::Not(Reason::SensorFault), |e| Power::Known(e, at)),
                Ok(_) => Power::Not(Reason::Protocol),
                Err(reason) => Power::Not(reason),
            };
        }
    }

    /// The value of one point out of what was read; `None` while its power of ten is not known.
    fn value(&self, point: usize, read: Span, words: &[u16]) -> Option<Result<Value, Reason>> {
        let value = cut(self.compiled.spans[point], read, words)
            .and_then(|words| self.compiled.points[point].value(words));
        let power = self.compiled.factor_of[point].map(|factor| self.power(factor));
        Some(match (value, power) {
            (Err(reason), _) => Err(reason),
            (value, None) => value,
            (Ok(_), Some(Power::Unknown)) => return None,
            (Ok(_), Some(Power::Not(reason))) => Err(reason),
            (Ok(raw), Some(Power::Known(exponent, _))) => scaled(&raw, exponent).ok_or(Reason::SensorFault),
        })
    }
}

/// The words of `wanted` among those of `read`.
fn cut(wanted: Span, read: Span, words: &[u16]) -> Result<&[u16], Reason> {
    let from = usize::from(wanted.start.checked_sub(read.start).ok_or(Reason::Protocol)?);
    words.get(from..from + usize::from(wanted.len)).ok_or(Reason::Protocol)
}

/// The words of an answer; a bit is a word of 0 or 1.
pub(crate) fn words(area: Area, span: Span, data: &[u8]) -> Vec<u16> {
    if area.bits() {
        coils(data, span.len).unwrap_or_default().into_iter().map(u16::from).collect()
    } else {
        registers(data)
    }
}

pub(crate) fn read_request(area: Area, span: Span) -> Request<'static> {
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
        self.forget();
        self.line.open().await
    }

    async fn read(&mut self, block: usize, out: &mut Vec<Sample>) -> Result<(), ReadError> {
        self.chores(self.compiled.plan.blocks[block].device).await?;
        let before = out.len();
        let result = self.read_block(block, out).await;
        if result.is_err() {
            out.truncate(before);
        }
        result
    }

    async fn read_together(&mut self, blocks: &[usize]) -> Vec<Result<Vec<Sample>, ReadError>> {
        self.read_all(blocks).await
    }

    async fn write(&mut self, point: usize, value: &Value) -> Result<(), ReadError> {
        self.write_point(point, value).await
    }

    fn replan(&mut self) -> bool {
        let (before, devices) = (self.compiled.blocks.clone(), &self.compiled.plan.blocks);
        let devices: Vec<usize> = devices.iter().map(|block| block.device).collect();
        if !self.compiled.replan(|device| self.lessons.usual(device)) {
            return false;
        }
        let mut facts: BTreeMap<(usize, Space), Facts> = BTreeMap::new();
        for ((learned, (space, _)), device) in self.blocks.iter().zip(&before).zip(&devices) {
            facts.entry((*device, *space)).or_default().note(learned, Instant::now());
        }
        // What was learned of a block holds for the same block; a new one has what concerns its registers.
        let mut known: Vec<Option<Learned>> =
            std::mem::take(&mut self.blocks).into_iter().map(Some).collect();
        let new = self.compiled.blocks.iter().zip(&self.compiled.plan.blocks).enumerate();
        let new = new.map(|(index, (block, Block { device, .. }))| {
            let same = before.iter().zip(&devices).position(|(b, of)| b == block && of == device);
            let kept = same.and_then(|same| known.get_mut(same)?.take());
            let handed_on =
                || Some(facts.get(&(*device, block.0))?.of(self.whole(index), &self.compiled.spans));
            kept.or_else(handed_on).unwrap_or_default()
        });
        self.blocks = new.collect();
        self.extras_due = vec![Instant::now(); self.compiled.extras.len()];
        true
    }

    fn learned(&self, device: usize) -> driver_api::Learned {
        let blocks = self.blocks.iter().zip(&self.compiled.plan.blocks);
        let split = || blocks.clone().filter(|(l, b)| b.device == device && l.parts.len() > 1);
        driver_api::Learned {
            turnaround: self.lessons.usual(device),
            split_blocks: split().count(),
            split_parts: split().map(|(learned, _)| learned.parts.len()).sum(),
        }
    }

    async fn carry(&mut self, unit: u8, request: &[u8], timeout: Duration) -> Result<Vec<u8>, ReadError> {
        let expect = Expect::answer_to(unit, request).ok_or_else(|| unspeakable(request))?;
        let reply = self.line.exchange(unit, request, timeout).await?;
        Ok(expect.pdu_of(&reply.answer))
    }
}
