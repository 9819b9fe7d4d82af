//! A life of a store on a watched disk, frozen at many moments.
//!
//! Promises: everything follows from the seed but the random part of an epoch: the store's thread does something only
//! while the test waits for it. What is taken in the middle of a commit is taken by the call of SQLite that is going on.

use std::collections::BTreeMap;
use std::path::PathBuf;

use rusqlite::ffi;

use super::super::*;
use super::Facts;
use super::disk::{Image, Survives};
use super::vfs::{self, Call, Disk};
use super::witness::Ledger;
use crate::message::Docket;
use crate::store::Posted;
use crate::store::writer::Shared;

/// The state of everything at one moment, to be cut there.
#[derive(Debug, Clone)]
pub struct Cut {
    image: Image,
    mark: Option<Vec<u8>>,
    /// The mark's other name, half written.
    torn_mark: bool,
    /// The states of the head, the last one last.
    heads: Vec<Vec<u8>>,
    lock: Vec<u8>,
    pub facts: Facts,
    /// Where: number of the call, which, of which file.
    pub at: String,
}

impl Cut {
    /// What is left of it, in a directory of its own.
    pub fn leave(&self, to: &Path, survives: Survives, torn: bool, random: &mut fastrand::Rng) {
        std::fs::create_dir_all(to).expect("creates");
        let put = |name: &str, bytes: &[u8]| std::fs::write(to.join(name), bytes).expect("writes");
        for (name, bytes) in self.image.after(survives, torn, random) {
            put(&name, &bytes);
        }
        if let Some(mark) = &self.mark {
            put("mark", mark);
        }
        if self.torn_mark {
            put("mark.tmp", b"1234abcd {\"epoch\":[");
        }
        match random.u8(..4) {
            0 => put("lock", b""),
            1 => {}
            _ => put("lock", &self.lock),
        }
        let last = self.heads.len().saturating_sub(1);
        match (survives, random.u8(..8)) {
            (Survives::All, _) | (_, 0..3) => self.heads.get(last).into_iter().for_each(|h| put("head", h)),
            (_, 3 | 4) => random.choice(&self.heads).into_iter().for_each(|h| put("head", h)),
            (_, 5) => put("head", b""),
            _ => {}
        }
    }
}

/// What the hook and the test share.
#[derive(Debug)]
pub struct Track {
    pub random: fastrand::Rng,
    pub facts: Facts,
    pub ledger: Ledger,
    pub cuts: Vec<Cut>,
    /// One call of so many is frozen; 0: none.
    pub every: u32,
    /// These calls fail; writes because the disk is full, if `true`.
    pub fail: Option<(std::ops::Range<u64>, bool)>,
    /// Which did first.
    pub failed: Option<(Call, String)>,
    /// Readings are taken during calls.
    pub busy: bool,
    /// Texts are short, so that a block becomes smaller when its numbers are thinned out.
    pub terse: bool,
    /// The process ends at this call. `Some(cut)` afterwards.
    pub end_at: Option<u64>,
    pub end: Option<Cut>,
    store: Option<Store>,
    shared: Option<Arc<Shared>>,
    calls: u64,
    heads: Vec<Vec<u8>>,
    mark: Option<Vec<u8>>,
    lock: Vec<u8>,
    made: u64,
    /// Messages given to this life of the store, in order.
    posted: Vec<u64>,
    life: u64,
    pub offset: i64,
}

/// A directory whose disk is watched.
pub struct Scene {
    pub dir: PathBuf,
    pub disk: Arc<Disk>,
    pub track: Arc<Mutex<Track>>,
}

use std::sync::{Mutex, MutexGuard, PoisonError};

impl Scene {
    pub fn new(dir: PathBuf, seed: u64, every: u32, facts: Facts) -> Self {
        std::fs::create_dir_all(&dir).expect("creates");
        let disk = vfs::watch(&dir);
        let read = |name: &str| std::fs::read(dir.join(name)).ok();
        let track = Track {
            random: fastrand::Rng::with_seed(seed),
            facts,
            ledger: Ledger::default(),
            cuts: Vec::new(),
            every,
            fail: None,
            failed: None,
            busy: false,
            terse: false,
            end_at: None,
            end: None,
            store: None,
            shared: None,
            calls: 0,
            heads: read("head").into_iter().collect(),
            mark: read("mark"),
            lock: Vec::new(),
            made: 0,
            posted: Vec::new(),
            life: 0,
            offset: NOW + 10_000,
        };
        let scene = Self { dir, disk, track: Arc::new(Mutex::new(track)) };
        scene.listen();
        scene
    }

    fn listen(&self) {
        let (track, disk, dir) = (Arc::clone(&self.track), Arc::downgrade(&self.disk), self.dir.clone());
        self.disk.on_call(Some(Box::new(move |call, name| {
            let disk = disk.upgrade()?;
            let mut track = track.lock().unwrap_or_else(PoisonError::into_inner);
            track.called(&disk, &dir, call, name)
        })));
    }

    pub fn track(&self) -> MutexGuard<'_, Track> {
        self.track.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The same life goes on in another directory, after a cut.
    pub fn move_to(&mut self, dir: PathBuf) {
        vfs::unwatch(&self.dir);
        self.disk.on_call(None);
        self.disk = vfs::watch(&dir);
        self.dir = dir;
        {
            let mut track = self.track();
            track.heads = std::fs::read(self.dir.join("head")).into_iter().collect();
            track.mark = std::fs::read(self.dir.join("mark")).ok();
        }
        self.listen();
    }

    /// What is known of this store is known to every cut from now on.
    pub fn follow(&self, store: &Store) {
        let mut track = self.track();
        track.shared = Some(Arc::clone(&store.inner.shared));
        track.store = Some(store.clone());
        track.posted.clear();
        track.life += 1;
        track.look();
        track.marked(&self.disk.image(), &self.dir);
    }

    /// The store ends: nobody holds it any more. Returns the cut at its end, if it came.
    pub fn leave(&self) -> Option<Cut> {
        let mut track = self.track();
        track.look();
        track.store = None;
        track.end_at = None;
        track.end.take()
    }

    /// Takes readings, and notes what they became.
    pub fn take(&self, store: &Store, n: u64) -> crate::message::Id {
        let (batch, offset) = {
            let mut track = self.track();
            (track.batch(n), track.offset)
        };
        let taken = store.take(batch.clone());
        self.track().ledger.note(taken, &batch, offset);
        taken.first
    }

    /// Gives the store messages of other devices.
    pub fn post(&self, store: &Store, n: u64) {
        let messages = self.track().letters(n);
        store.post(messages);
    }

    /// Everything as it is now.
    pub fn now(&self) -> Cut {
        let mut track = self.track();
        track.look();
        let image = self.disk.image();
        track.marked(&image, &self.dir);
        track.freeze(&image, "the end".into())
    }

    /// Waits until the store has done what it was woken for, and freezes what it wrote beside the database.
    pub async fn settle(&self, store: &Store) {
        let drain = store.drain(super::witness::UPLINKS[0]).expect("configured");
        // What was woken before comes before; a mark is written after an answer, so two are asked for.
        let _ = drain.read(0..0, 1).await;
        let _ = drain.read(0..0, 1).await;
        let mut track = self.track();
        track.look();
        track.marked(&self.disk.image(), &self.dir);
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        self.disk.on_call(None);
        vfs::unwatch(&self.dir);
    }
}

impl Track {
    /// Readings that nobody else has.
    fn batch(&mut self, n: u64) -> Vec<Reading> {
        let mut readings = Vec::new();
        for _ in 0..n {
            self.made += 1;
            let (made, point) = (self.made, key(self.random.usize(..9)));
            let at = BootMs(made);
            readings.push(match self.random.u8(..12) {
                0 => Reading::bad(point, at, driver_api::Reason::Timeout),
                1 => Reading::uncertain(point, at, Value::UInt(u64::MAX - made), driver_api::Reason::Stale),
                2..4 => Reading::good(point, at, Value::Bool(made.is_multiple_of(2))),
                4..6 => {
                    let text: String = (0..self.random.usize(..if self.terse { 8 } else { 500 }))
                        .map(|_| self.random.alphanumeric())
                        .collect();
                    Reading::good(point, at, Value::Text(format!("{made} {text}").into()))
                }
                6..9 => Reading::good(point, at, Value::Float(self.random.f64() * made as f64)),
                _ => Reading::good(point, at, Value::Int(made.cast_signed())),
            });
        }
        readings
    }

    /// Messages that nobody else has; each says its number.
    fn letters(&mut self, n: u64) -> Vec<Posted> {
        let one = |_| {
            self.made += 1;
            self.posted.push(self.made);
            let docket = Docket { life: self.life, n: self.made };
            self.facts.dockets.insert(self.made, docket);
            Posted { message: super::witness::letter(self.made), docket: Some(docket) }
        };
        (0..n).map(one).collect()
    }

    /// What the store says now.
    fn look(&mut self) {
        let Some(shared) = &self.shared else { return };
        let state = shared.state();
        self.facts.next = self.facts.next.max(state.next);
        self.facts.bound = state.bound_saved;
        self.facts.burst = state.bound > state.bound_saved;
        self.facts.stored = self.facts.stored.max(state.proven);
        let through = usize::try_from(*state.post.stored().borrow()).expect("few");
        self.facts.kept.extend(self.posted.iter().take(through));
    }

    fn freeze(&self, image: &Image, at: String) -> Cut {
        let (heads, mark, facts) = (self.heads.clone(), self.mark.clone(), self.facts.clone());
        Cut { image: image.clone(), mark, torn_mark: false, heads, lock: self.lock.clone(), facts, at }
    }

    /// If the mark is another one than at the last look, it could have been cut in the middle of that.
    fn marked(&mut self, image: &Image, dir: &Path) {
        if let Ok(head) = std::fs::read(dir.join("head"))
            && self.heads.last() != Some(&head)
        {
            self.heads.push(head);
            let old = self.heads.len().saturating_sub(8);
            self.heads.drain(..old);
        }
        self.lock = std::fs::read(dir.join("lock")).unwrap_or_default();
        let mark = std::fs::read(dir.join("mark")).ok();
        if mark != self.mark {
            if self.every > 0 {
                let cut = Cut { torn_mark: true, ..self.freeze(image, format!("{} mark", self.calls)) };
                self.cuts.push(cut);
            }
            self.mark = mark;
        }
    }

    fn called(&mut self, disk: &Disk, dir: &Path, call: Call, name: &str) -> Option<std::ffi::c_int> {
        if self.end.is_some() {
            return Some(ffi::SQLITE_IOERR);
        }
        self.calls += 1;
        if let Some((calls, full)) = &self.fail
            && calls.contains(&self.calls)
            // On a full disk everything but writing works.
            && (!full || calls.end - calls.start == 1 || call == Call::Write)
        {
            let full = *full;
            self.failed.get_or_insert((call, name.to_owned()));
            return Some(match call {
                Call::Open => ffi::SQLITE_CANTOPEN,
                Call::Read => ffi::SQLITE_IOERR_READ,
                Call::Write if full => ffi::SQLITE_FULL,
                Call::Write => ffi::SQLITE_IOERR_WRITE,
                Call::Truncate => ffi::SQLITE_IOERR_TRUNCATE,
                Call::Sync => ffi::SQLITE_IOERR_FSYNC,
                Call::Delete => ffi::SQLITE_IOERR_DELETE,
            });
        }
        let frozen = call != Call::Read && self.every > 0 && self.random.u32(..self.every) == 0;
        let ends = self.end_at.is_some_and(|at| at <= self.calls);
        if frozen || ends {
            self.look();
            let image = disk.image();
            self.marked(&image, dir);
            let cut = self.freeze(&image, format!("{} {call:?} {name}", self.calls));
            if ends {
                self.end = Some(cut);
                return Some(ffi::SQLITE_IOERR);
            }
            self.cuts.push(cut);
        }
        if self.busy
            && call != Call::Read
            && self.random.u8(..5) == 0
            && let Some(store) = self.store.clone()
        {
            let n = self.random.u64(1..12);
            let batch = self.batch(n);
            let taken = store.take(batch.clone());
            self.ledger.note(taken, &batch, self.offset);
        }
        None
    }

    pub fn calls(&self) -> u64 {
        self.calls
    }

    pub fn end_in(&mut self, calls: u64) {
        self.end_at = Some(self.calls + calls);
    }

    /// What every uplink's broker knows of one.
    pub fn said(&mut self, uplink: &str) -> &mut super::witness::Said {
        self.facts.said.entry(uplink.to_owned()).or_default()
    }
}

/// As a table.
pub fn counted(counts: &BTreeMap<String, u64>) -> String {
    counts.iter().map(|(what, n)| format!("{what} {n}")).collect::<Vec<_>>().join(", ")
}
