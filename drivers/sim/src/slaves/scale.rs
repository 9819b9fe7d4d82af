//! A scale on a pseudo-terminal: it prints its telegram by itself, or when asked, at the pace of its
//! line and cut at odd places, and it writes down what it said.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use driver_tty::Alarm;
use tokio::time::Instant;

use super::ledger::Fate;
use super::pace::{Line, later};
use super::plug::Plug;
use super::pty::{Look, Pty};
use super::telegram::{HEAVIEST, Style, on_the_wire, pieces, telegram};
use crate::bounds;
use crate::signals::{Signal, key, mix};

/// What lies on the scale.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Weight {
    /// Every telegram weighs 0.01 kg more than the one before, from 0.01 up to 9999.99 kg and then
    /// from zero: no two telegrams of a test are alike.
    Counts,
    /// A signal, in kilograms.
    Signal(Signal),
}

/// How the scale talks.
#[derive(Debug, Clone)]
pub struct ScaleOptions {
    /// Bits a second, not zero.
    pub baud: u32,
    /// Prints by itself so often; `None`: only when asked.
    pub every: Option<Duration>,
    /// Prints when it receives this (`P\r\n`); empty: it cannot be asked. At most 64 bytes.
    pub request: Vec<u8>,
    /// What it weighs.
    pub weight: Weight,
    /// How it fills up the number.
    pub style: Style,
    /// Share of telegrams with a few bytes of noise before them, 0.0 to 1.0.
    pub noise: f64,
    /// Share of telegrams with a destroyed byte inside, 0.0 to 1.0.
    pub spoil: f64,
    /// Extra time between the pieces of a telegram.
    pub pause: Duration,
    /// Sets where telegrams are cut and where noise falls.
    pub seed: u64,
    /// Path of a symbolic link to the terminal. Without it the path is `/dev/pts/…`.
    pub link: Option<PathBuf>,
}

impl Default for ScaleOptions {
    fn default() -> Self {
        Self {
            baud: 9600,
            every: Some(Duration::from_secs(1)),
            request: Vec::new(),
            weight: Weight::Counts,
            style: Style::Spaces,
            noise: 0.0,
            spoil: 0.0,
            pause: Duration::ZERO,
            seed: 1,
            link: None,
        }
    }
}

/// One telegram that was said to somebody.
#[derive(Debug, Clone, PartialEq)]
pub struct Telegram {
    /// As it should read, without line end and noise.
    pub text: String,
    /// In kilograms.
    pub weight: f64,
    /// [`Fate::Good`], or [`Fate::Spoiled`] if a byte of it was destroyed or lost.
    pub fate: Fate,
    /// When the weight was taken.
    pub at: Instant,
}

/// What the scale wrote down.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ScaleLedger {
    /// Telegrams that left whole.
    pub good: u64,
    /// Telegrams that left with a destroyed byte, or not whole.
    pub spoiled: u64,
    /// Telegrams that were due while nobody had the terminal open: never sent.
    pub unheard: u64,
    /// The newest telegrams that were said, oldest first, up to [`bounds::TELEGRAMS`].
    pub said: VecDeque<Telegram>,
    /// Telegrams that `said` no longer holds.
    pub forgotten: u64,
}

/// A running scale.
#[derive(Debug)]
pub struct ScaleSlave {
    options: ScaleOptions,
    line: Line,
    state: Arc<Mutex<State>>,
    origin: Instant,
    plug: Plug,
}

#[derive(Debug, Default)]
struct State {
    ledger: ScaleLedger,
    silent: bool,
    /// Telegrams begun, of any fate.
    number: u64,
}

impl ScaleSlave {
    /// Opens a pseudo-terminal and talks on it.
    ///
    /// # Errors
    /// A baud rate or interval of zero, a request over 64 bytes, no pseudo-terminal to be had, a
    /// link that cannot be made, or no tokio runtime.
    pub fn start(options: ScaleOptions) -> io::Result<Self> {
        let line =
            Line::new(options.baud).ok_or_else(|| io::Error::other("a line of 0 baud carries nothing"))?;
        if options.every.is_some_and(|every| every.is_zero()) {
            return Err(io::Error::other("a scale cannot print without end"));
        }
        if options.request.len() > REQUEST {
            return Err(io::Error::other("a request is at most 64 bytes long"));
        }
        let mut scale =
            Self { options, line, state: Arc::default(), origin: Instant::now(), plug: Plug::default() };
        scale.plug()?;
        Ok(scale)
    }

    /// The path to open; `None` while unplugged.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        self.plug.path()
    }

    /// What it said so far.
    #[must_use]
    pub fn ledger(&self) -> ScaleLedger {
        locked(&self.state).ledger.clone()
    }

    /// Falls silent, or talks again. What is due while silent is not said and not counted.
    pub fn silence(&self, silent: bool) {
        locked(&self.state).silent = silent;
    }

    /// Whether it is plugged in and works.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.plug.is_running()
    }

    /// Pulls the plug: the terminal hangs up and the link is gone.
    ///
    /// # Errors
    /// What had ended the scale before.
    pub async fn unplug(&mut self) -> io::Result<()> {
        self.plug.pull().await
    }

    /// Plugs it in again, as a new terminal under the same link. Does nothing while plugged in.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn plug(&mut self) -> io::Result<()> {
        if self.plug.is_in() {
            return Ok(());
        }
        let (pty, place) = Pty::open(self.options.link.as_deref(), Arc::default())?;
        let worker = Worker {
            pty,
            line: self.line,
            options: self.options.clone(),
            state: Arc::clone(&self.state),
            origin: self.origin,
            received: Vec::with_capacity(REQUEST),
        };
        self.plug.put_in(worker.run(), place)
    }

    /// Ends it.
    ///
    /// # Errors
    /// What had ended it before.
    pub async fn stop(mut self) -> io::Result<()> {
        self.unplug().await
    }
}

/// Longest request, and what is remembered of the bytes received.
const REQUEST: usize = 64;

struct Worker {
    pty: Pty,
    line: Line,
    options: ScaleOptions,
    state: Arc<Mutex<State>>,
    origin: Instant,
    received: Vec<u8>,
}

impl Worker {
    async fn run(mut self) -> io::Result<()> {
        let mut alarm = Alarm::new()?;
        let mut due = self.options.every.map(|every| later(Instant::now(), every));
        loop {
            let mut buffer = [0; REQUEST];
            tokio::select! {
                count = self.pty.read(&mut buffer) => {
                    let count = count?;
                    self.hear(&buffer[..count], &mut alarm).await?;
                }
                () = sleep_until(due) => {
                    // What could not be said in time is left out, not said in a heap.
                    due = due.zip(self.options.every).map(|(due, every)| {
                        let now = Instant::now();
                        if later(due, every) > now { later(due, every) } else { later(now, every) }
                    });
                    match self.pty.look(&mut buffer)? {
                        Look::Nobody => self.unheard(),
                        Look::Quiet => self.say(&mut alarm).await?,
                        Look::Bytes(count) => {
                            self.say(&mut alarm).await?;
                            self.hear(&buffer[..count], &mut alarm).await?;
                        }
                    }
                }
            }
        }
    }

    /// Takes bytes in and answers every request among them.
    async fn hear(&mut self, bytes: &[u8], alarm: &mut Alarm) -> io::Result<()> {
        let request = self.options.request.clone();
        alarm.until(Instant::now() + self.line.chars(bytes.len())).await?;
        for byte in bytes {
            if self.received.len() == REQUEST {
                self.received.remove(0);
            }
            self.received.push(*byte);
            if !request.is_empty() && self.received.ends_with(&request) {
                self.received.clear();
                self.say(alarm).await?;
            }
        }
        Ok(())
    }

    fn unheard(&self) {
        let mut state = locked(&self.state);
        if !state.silent {
            state.ledger.unheard += 1;
        }
    }

    /// Says one telegram and writes it down.
    async fn say(&mut self, alarm: &mut Alarm) -> io::Result<()> {
        let number = {
            let mut state = locked(&self.state);
            if state.silent {
                return Ok(());
            }
            state.number += 1;
            state.number
        };
        let at = Instant::now();
        let hundredths = match &self.options.weight {
            Weight::Counts => (number % (HEAVIEST.unsigned_abs() + 1)).cast_signed(),
            // `as` saturates, and no signal is NaN.
            Weight::Signal(signal) => {
                (signal.number(key(self.options.seed, "weight"), at - self.origin) * 100.0).round() as i64
            }
        };
        let text = telegram(hundredths, self.options.style);
        let dice = mix(self.options.seed ^ mix(number));
        let (bytes, fate) = on_the_wire(&text, dice, self.options.noise, self.options.spoil);
        let mut said = Said {
            state: Arc::clone(&self.state),
            telegram: Some(Telegram { text, weight: hundredths as f64 / 100.0, fate: Fate::Spoiled, at }),
        };
        let mut start = at;
        let mut sent = 0;
        let mut whole = true;
        for end in pieces(bytes.len(), dice) {
            start += self.line.chars(end - sent);
            alarm.until(start).await?;
            whole &= self.pty.write(&bytes[sent..end])? == end - sent;
            start = later(start, self.options.pause);
            sent = end;
        }
        if let Some(telegram) = &mut said.telegram
            && whole
        {
            telegram.fate = fate;
        }
        Ok(())
    }
}

/// A telegram on its way. It is written down when it has left, or, spoiled, when the plug is pulled.
struct Said {
    state: Arc<Mutex<State>>,
    telegram: Option<Telegram>,
}

impl Drop for Said {
    fn drop(&mut self) {
        let Some(telegram) = self.telegram.take() else { return };
        let ledger = &mut locked(&self.state).ledger;
        if telegram.fate == Fate::Good {
            ledger.good += 1;
        } else {
            ledger.spoiled += 1;
        }
        ledger.said.push_back(telegram);
        if ledger.said.len() > bounds::TELEGRAMS {
            ledger.said.pop_front();
            ledger.forgotten += 1;
        }
    }
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

/// Held for a counter or a list operation only, never across an await.
fn locked(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}
