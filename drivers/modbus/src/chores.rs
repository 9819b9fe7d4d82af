//! What a device needs besides its polls: its setup, powers of ten that no block covers, the way to its models.
//!
//! One exchange of it is made before a poll, and more only in the time that the plan of the whole bus leaves
//! ([`Compiled::spare`]), and only while the device answers, so that nobody else on the line misses a turn for it;
//! besides, once a minute, a look whether a model is where it was. Of a setup there is never more than one before a
//! poll: what was written may take a moment before it shows. A device appears when the bus is opened, when it answers again after [`AWAY`] silences, and when a model is not
//! where it was: then nothing is known of it any more.

use std::collections::BTreeMap;
use std::time::Duration;

use driver_api::exception::{Exception, ILLEGAL_ADDRESS, Reaction};
use driver_api::{FrameError, ReadError, Reason};
use tokio::time::Instant;

use crate::bus::{Line, ModbusBus, Power};
use crate::compile::{Extra, RENEWED};
use crate::config::Area;
use crate::device::Device;
use crate::learned::ASK_AGAIN;
use crate::pdu::Answer;
use crate::place::Space;
use crate::plan::Span;
use crate::setup::{Action, News, Outcome, Progress};
use crate::sunspec::{Model, Walk};
use crate::upkeep::HEAD;
use crate::write::requests;

/// A device that is silent so often in a row is away; once may be a glitch.
const AWAY: u8 = 2;

/// How soon one that could not be read is asked for again.
const POWER_RETRY: Duration = Duration::from_secs(10);

/// How long a model is believed to be where its head was seen. A device that was given other firmware within a
/// second has other values there.
pub(crate) const HEAD_AGE: Duration = Duration::from_secs(60);

/// A poll that comes this much before powers of ten are due reads them again all the same, or a device that is
/// polled every 20 s would have them read every 40 s, because each poll is a little early or late.
const EARLY: Duration = Duration::from_millis(500);

/// What the bus knows of a device while it is open.
#[derive(Debug)]
pub(crate) struct Life {
    /// Exchanges in a row without an answer.
    silences: u8,
    /// It does not know function 22.
    pub no_mask: bool,
    pub walk: Walk,
    /// When the heads of its models were seen, by their addresses.
    seen: BTreeMap<u16, Instant>,
    /// It does not give the head of a model and its values at once.
    heads_apart: bool,
    /// When the search for its models is begun anew, after one in vain or that did not come to the end.
    search_again: Option<Instant>,
    /// The chain that was last written into the log.
    told: Option<String>,
    setup: Progress,
}

/// Where an address space of a device begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Found {
    /// Here.
    At(u16),
    /// The device is still being asked.
    NotYet,
    /// It has no such model.
    Nowhere,
}

impl Life {
    fn new(device: &Device) -> Self {
        Self {
            silences: 0,
            no_mask: false,
            walk: Walk::new(device.sunspec_base),
            seen: BTreeMap::new(),
            heads_apart: false,
            search_again: None,
            told: None,
            setup: Progress::new(device.setup.len()),
        }
    }

    /// The bus is opened anew: only what must not be written any more is still known.
    pub fn reopened(device: &Device, before: Option<Self>) -> Self {
        let mut life = Self::new(device);
        if let Some(before) = before {
            life.setup = before.setup;
            life.setup.again();
        }
        life
    }
}

impl<L: Line> ModbusBus<L> {
    /// A device answered, or did not.
    pub(crate) fn heard(&mut self, device: usize, answered: bool) {
        let Some(life) = self.lives.get_mut(device) else { return };
        life.silences = if answered { 0 } else { life.silences.saturating_add(1) };
        if life.silences == AWAY {
            self.is_another(device);
        }
    }

    /// Whether a device is silent so often that nothing is known of it any more.
    pub(crate) fn is_away(&self, device: usize) -> bool {
        self.lives[device].silences >= AWAY
    }

    /// What answers from now on may have lost its settings, and may be another device.
    fn is_another(&mut self, device: usize) {
        let Some(life) = self.lives.get_mut(device) else { return };
        life.setup.again();
        life.walk.again();
        life.search_again = None;
        life.seen.clear();
        life.heads_apart = false;
        for (factor, power) in self.compiled.factors.iter().zip(&mut self.powers) {
            if factor.device == device {
                *power = Power::Unknown;
            }
        }
        for (extra, due) in self.compiled.extras.iter().zip(&mut self.extras_due) {
            if extra.device == device {
                *due = Instant::now();
            }
        }
        let blocks = self.compiled.plan.blocks.iter().zip(&self.compiled.blocks).zip(&mut self.blocks);
        for ((_, _), learned) in blocks
            .filter(|((block, (space, _)), _)| block.device == device && matches!(space, Space::Model(_)))
        {
            learned.forget();
        }
    }

    /// What the device needs before it is polled. Only the loss of the port is an error: a chore that fails must
    /// not cost the poll.
    pub(crate) async fn chores(&mut self, device: usize) -> Result<(), ReadError> {
        let mut until = None;
        while self.lives[device].silences == 0 {
            let done = match (self.extra_due(device), until) {
                (Some(extra), None) => self.read_extra(extra).await,
                (Some(extra), Some(until))
                    if self.in_time(device, self.compiled.extras[extra].run.span, until) =>
                {
                    self.read_extra(extra).await
                }
                // One step of it, and that only where nothing goes before it.
                (None, None) => self.setup_step(device).await,
                (_, Some(_)) => break,
            };
            match done {
                Err(error @ ReadError::Bus(_)) => return Err(error),
                Ok(()) | Err(ReadError::Transient(_) | ReadError::Refused(_)) => {}
            }
            until = until.or(Some(Instant::now() + self.compiled.spare));
        }
        Ok(())
    }

    /// Whether one more read of registers is likely to be over by then.
    fn in_time(&self, device: usize, span: Span, until: Instant) -> bool {
        Instant::now() + self.compiled.planned_for[device].read(span.len, false) <= until
    }

    /// The read of factors alone that is to be done now.
    fn extra_due(&self, device: usize) -> Option<usize> {
        let now = Instant::now();
        // The one that waits longest: a device that is polled rarely would otherwise never come to the others.
        let due = self.compiled.extras.iter().zip(&self.extras_due).enumerate();
        let due = due.filter(|(_, (extra, due))| {
            extra.device == device && **due <= now && self.known(device, extra.space)
        });
        due.min_by_key(|(_, (_, due))| **due).map(|(index, _)| index)
    }

    /// Whether it is known where the space begins, or that it is nowhere.
    fn known(&self, device: usize, space: Space) -> bool {
        match space {
            Space::Table(_) => true,
            Space::Model(_) => self.lives[device].walk.next().is_none(),
        }
    }

    /// Where the space begins, as far as it is known.
    fn place_of(&self, device: usize, space: Space) -> Found {
        let Space::Model(which) = space else { return Found::At(0) };
        let walk = &self.lives[device].walk;
        match walk.chain() {
            Some(chain) => chain.find(which).map_or(Found::Nowhere, |model| Found::At(model.at)),
            None if walk.nowhere() => Found::Nowhere,
            None => Found::NotYet,
        }
    }

    /// Where the space begins; asks the device for it, if there is something left to ask and as far as there is time.
    pub(crate) async fn locate(&mut self, device: usize, space: Space) -> Result<Found, ReadError> {
        if let Space::Model(_) = space {
            let life = &mut self.lives[device];
            if life.search_again.take_if(|at| *at <= Instant::now()).is_some() {
                if life.walk.nowhere() { life.walk.again() } else { life.walk.resume() }
            }
            self.walk_on(device).await?;
            let until = Instant::now() + self.compiled.spare;
            while self.place_of(device, space) == Found::NotYet && self.in_time(device, HEAD, until) {
                self.walk_on(device).await?;
            }
            self.look_at_head(device, space).await?;
        }
        Ok(self.place_of(device, space))
    }

    /// The model that the space is, where the device has it.
    pub(crate) fn model(&self, device: usize, space: Space) -> Option<Model> {
        let Space::Model(which) = space else { return None };
        self.lives[device].walk.chain()?.find(which)
    }

    /// Looks whether a model is still where it was, unless its head was seen of late.
    async fn look_at_head(&mut self, device: usize, space: Space) -> Result<(), ReadError> {
        let Some(model) = self.model(device, space) else { return Ok(()) };
        if self.lives[device].seen.get(&model.at).is_some_and(|at| at.elapsed() < HEAD_AGE) {
            return Ok(());
        }
        let head = match self.fetch(device, Area::Holding, Span { start: model.at, len: 2 }).await? {
            Ok((words, _)) => words,
            Err(code) => match Exception::of(code).read {
                Reaction::Refused | Reaction::RefusedHere => Vec::new(),
                Reaction::NextTurn | Reaction::SoonAgain | Reaction::Working | Reaction::Silent => {
                    return Err(ReadError::Transient(FrameError::Exception(code)));
                }
            },
        };
        self.is_head(device, model, &head);
        Ok(())
    }

    /// Whether these registers begin with the head of this model. If not, it is looked for anew.
    pub(crate) fn is_head(&mut self, device: usize, model: Model, words: &[u16]) -> bool {
        let there = words.starts_with(&[model.id, model.len]);
        if there {
            self.lives[device].seen.insert(model.at, Instant::now());
        } else {
            tracing::warn!(
                DEVICE = self.compiled.plan.devices[device].name,
                "SunSpec model {} is not at {} any more; looking for the models anew",
                model.id,
                model.at
            );
            self.is_another(device);
        }
        there
    }

    /// What to read of a model so that its head is seen with the values, where that costs next to nothing.
    pub(crate) fn with_head(&self, device: usize, space: Space, span: Span) -> Option<(Model, Span)> {
        let model = self.model(device, space).filter(|_| !self.lives[device].heads_apart)?;
        Some((model, self.compiled.devices[device].with_head(space, span)?))
    }

    /// The device refused that. Perhaps the model is elsewhere, so its head is looked at alone before the next read.
    pub(crate) fn heads_apart(&mut self, device: usize, model: Model) {
        let life = &mut self.lives[device];
        life.heads_apart = true;
        life.seen.remove(&model.at);
    }

    /// One read along the chain of models.
    async fn walk_on(&mut self, device: usize) -> Result<(), ReadError> {
        let Some(span) = self.lives[device].walk.next() else { return Ok(()) };
        let result = self.fetch(device, Area::Holding, span).await;
        let Life { walk, seen, .. } = &mut self.lives[device];
        let failed = !matches!(result, Ok(Ok(_)) | Err(ReadError::Bus(_)));
        match result {
            Ok(Ok((words, _))) => {
                walk.read(&words);
                seen.insert(span.start, Instant::now());
            }
            // Nothing that is known waits for what may be behind it.
            _ if failed && walk.resumed() => walk.refused(),
            Ok(Err(code)) => match Exception::of(code).read {
                Reaction::Refused | Reaction::RefusedHere => walk.refused(),
                Reaction::NextTurn | Reaction::SoonAgain | Reaction::Working | Reaction::Silent => {
                    return Err(ReadError::Transient(FrameError::Exception(code)));
                }
            },
            Err(error) => {
                if matches!(error, ReadError::Transient(FrameError::Timeout(_))) {
                    walk.silent();
                }
                return Err(error);
            }
        }
        self.tell_chain(device);
        Ok(())
    }

    /// Writes the chain into the log, once.
    fn tell_chain(&mut self, device: usize) {
        let name = &self.compiled.plan.devices[device].name;
        let life = &mut self.lives[device];
        if life.walk.next().is_some() {
            return;
        }
        let text = match life.walk.chain() {
            Some(chain) => {
                life.search_again = chain.cut().map(|_| Instant::now() + ASK_AGAIN);
                chain.to_string()
            }
            None if life.walk.nowhere() => {
                life.search_again = Some(Instant::now() + ASK_AGAIN);
                "nowhere".to_owned()
            }
            None => return,
        };
        if life.told.as_ref() == Some(&text) {
            return;
        }
        match life.walk.chain() {
            Some(chain) => {
                tracing::info!(DEVICE = name, "SunSpec models at {text}");
                if let Some(why) = chain.cut() {
                    tracing::warn!(
                        DEVICE = name,
                        "the list of SunSpec models does not end as it should: {why}"
                    );
                }
            }
            None => tracing::warn!(
                DEVICE = name,
                "no SunSpec models: `SunS` is not at holding {}; `sunspec_base` names another place",
                life.walk.places()
            ),
        }
        life.told = Some(text);
    }

    /// Reads powers of ten that no block covers.
    async fn read_extra(&mut self, index: usize) -> Result<(), ReadError> {
        let Extra { device, space, ref run } = self.compiled.extras[index];
        let run = run.clone();
        let from = match self.locate(device, space).await? {
            Found::At(from) => from,
            Found::NotYet => return Ok(()),
            Found::Nowhere => {
                self.extras_due[index] = Instant::now() + RENEWED;
                let nowhere = Err(Reason::Exception(ILLEGAL_ADDRESS));
                self.take_powers(&run, nowhere, Instant::now());
                return Ok(());
            }
        };
        let span = Span { start: run.span.start.saturating_add(from), len: run.span.len };
        let asked = Instant::now();
        let result = self.fetch(device, space.area(), span).await;
        let (reason, wait) = match &result {
            Ok(Ok(_)) => (None, RENEWED - EARLY),
            Ok(Err(code)) => (Some(Reason::Exception(*code)), POWER_RETRY),
            Err(error) => (Some(error.reason()), POWER_RETRY),
        };
        self.extras_due[index] = asked + wait;
        match (&result, reason) {
            (Ok(Ok((words, at))), _) => self.take_powers(&run, Ok(words), *at),
            // What was read before is still the best guess, until it is too old.
            (_, Some(reason)) if self.none_known(&run.wanted) => {
                self.take_powers(&run, Err(reason), Instant::now());
            }
            _ => {}
        }
        result.map(|_| ())
    }

    fn none_known(&self, wants: &[usize]) -> bool {
        let points = self.compiled.points.len();
        wants
            .iter()
            .filter_map(|want| want.checked_sub(points))
            .all(|factor| !matches!(self.power(factor), Power::Known(..)))
    }

    /// One exchange of the device's setup.
    async fn setup_step(&mut self, device: usize) -> Result<(), ReadError> {
        let targets = &self.compiled.devices[device].setup;
        if targets.is_empty() {
            return Ok(());
        }
        let possible = |step: usize| targets.get(step).is_some_and(|t| self.known(device, t.place.space));
        let Some((step, action)) = self.lives[device].setup.next(possible) else {
            // What is left stands in a model, and no point leads the way there.
            let left = self.lives[device].setup.next(|_| true).is_some();
            return if left { self.walk_on(device).await } else { Ok(()) };
        };
        let target = targets[step].clone();
        let space = target.place.space;
        let from = match self.locate(device, space).await? {
            Found::At(from) => from,
            Found::NotYet => return Ok(()),
            Found::Nowhere => {
                let refused = Outcome::Exception(ILLEGAL_ADDRESS);
                let news = self.lives[device].setup.after(step, refused);
                self.tell_setup(device, step, news);
                return Ok(());
            }
        };
        let at = target.place.at.saturating_add(from);
        let result = match action {
            Action::Look => {
                let span = Span { start: at, len: target.len() };
                self.fetch(device, space.area(), span).await.map(|read| match read {
                    Ok((words, _)) => Outcome::Holds(target.holds(&words)),
                    Err(code) => Outcome::Exception(code),
                })
            }
            Action::Write(part) => {
                let (function, timeout) = {
                    let spec = &self.compiled.devices[device];
                    (spec.write_function, spec.timeout)
                };
                let all = requests(function, at, &target.change);
                let more = part + 1 < all.len();
                match all.get(part) {
                    Some(request) => {
                        self.ask(device, request, timeout).await.map(|reply| match reply.answer {
                            Answer::Data(_) => Outcome::Written { more },
                            Answer::Exception(code) => Outcome::Exception(code),
                        })
                    }
                    None => Ok(Outcome::Written { more: false }),
                }
            }
        };
        let outcome = match &result {
            Ok(outcome) => *outcome,
            Err(ReadError::Transient(FrameError::Exception(code)) | ReadError::Refused(code)) => {
                Outcome::Exception(*code)
            }
            Err(ReadError::Transient(_) | ReadError::Bus(_)) => Outcome::Silent,
        };
        let news = self.lives[device].setup.after(step, outcome);
        self.tell_setup(device, step, news);
        result.map(|_| ())
    }

    fn tell_setup(&self, device: usize, step: usize, news: Option<News>) {
        let name = &self.compiled.plan.devices[device].name;
        let place = self.compiled.devices[device].setup[step].place;
        match news {
            None => {}
            Some(News::Set) => tracing::info!(DEVICE = name, "setup: {place} was written and holds"),
            Some(News::NotKept) => tracing::warn!(
                DEVICE = name,
                "setup: {place} was written and reads back as another; it is not written again until the \
                 configuration is loaded anew"
            ),
            Some(News::Failed(why)) => tracing::warn!(
                DEVICE = name,
                "setup: {place} could not be set: {why}; tried again when the device comes back"
            ),
        }
    }
}
