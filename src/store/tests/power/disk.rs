//! A model of what a disk holds: what was synced, and what has only been written. Pure.
//!
//! Promises: after [`Node::sync`] the contents survive every cut; until then each 4 KiB page survives in any of the
//! states it had since, or not at all, and the length in any of the lengths it had since.

use std::collections::BTreeMap;
use std::sync::Arc;

pub const PAGE: usize = 4096;
const SECTOR: usize = 512;

/// A write or a change of length that is not synced.
#[derive(Debug, Clone)]
enum Op {
    Write(u64, Arc<[u8]>),
    Size(u64),
}

/// One file.
#[derive(Debug, Clone, Default)]
pub struct Node {
    synced: Arc<Vec<u8>>,
    /// With the moment of each, over all files of the disk.
    ops: Vec<(u64, Op)>,
    /// When the name was made; 0: the directory was synced since.
    named: u64,
}

/// All files, as they are at one moment.
#[derive(Debug, Clone, Default)]
pub struct Image {
    nodes: BTreeMap<String, Node>,
    /// Names that were removed in a directory that was not synced since, and when.
    ghosts: BTreeMap<String, (u64, Arc<Vec<u8>>)>,
    clock: u64,
}

/// What of the unsynced survives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Survives {
    Nothing,
    /// In the order of the writes, up to a random one.
    Prefix,
    /// Each page in one of the states it had.
    Some,
    /// As after the end of a process: nothing is lost.
    All,
}

impl Image {
    /// A file that was there before, durable.
    pub fn put(&mut self, name: &str, bytes: Vec<u8>) {
        self.nodes.insert(name.to_owned(), Node { synced: Arc::new(bytes), ..Node::default() });
    }

    /// A file is opened, and made if there is none.
    pub fn open(&mut self, name: &str) {
        self.clock += 1;
        let named = self.clock;
        self.nodes.entry(name.to_owned()).or_insert(Node { named, ..Node::default() });
    }

    pub fn write(&mut self, name: &str, at: u64, bytes: &[u8]) {
        self.push(name, Op::Write(at, bytes.into()));
    }

    pub fn resize(&mut self, name: &str, len: u64) {
        self.push(name, Op::Size(len));
    }

    fn push(&mut self, name: &str, op: Op) {
        // Room for the pages of one write between two moments.
        self.clock += 64;
        if let Some(node) = self.nodes.get_mut(name) {
            node.ops.push((self.clock, op));
        }
    }

    pub fn sync(&mut self, name: &str) {
        let Some(node) = self.nodes.get_mut(name) else { return };
        let bytes = Arc::make_mut(&mut node.synced);
        for (_, op) in node.ops.drain(..) {
            match op {
                Op::Write(at, data) => {
                    let at = at as usize;
                    bytes.resize(bytes.len().max(at + data.len()), 0);
                    bytes[at..at + data.len()].copy_from_slice(&data);
                }
                Op::Size(len) => bytes.resize(len as usize, 0),
            }
        }
    }

    /// A sync that failed: the kernel takes the pages for clean, and no later sync writes them again.
    pub fn sync_failed(&mut self, name: &str) {
        if let Some(node) = self.nodes.get_mut(name) {
            node.ops.clear();
        }
    }

    pub fn remove(&mut self, name: &str) {
        self.clock += 1;
        if let Some(node) = self.nodes.remove(name)
            && node.named == 0
        {
            self.ghosts.insert(name.to_owned(), (self.clock, node.synced));
        }
    }

    /// A name is another file's from now on.
    pub fn forget(&mut self, name: &str) {
        self.nodes.remove(name);
        self.ghosts.remove(name);
    }

    /// A file has another name, and the directory is synced.
    pub fn rename(&mut self, from: &str, to: &str) {
        if let Some(node) = self.nodes.remove(from) {
            self.nodes.insert(to.to_owned(), Node { named: 0, ..node });
        }
        self.ghosts.remove(to);
    }

    /// The directory is synced: names that were made stay, names that were removed do not come back.
    pub fn sync_dir(&mut self) {
        self.ghosts.clear();
        self.nodes.values_mut().for_each(|n| n.named = 0);
    }

    /// The files after a cut. `torn`: one of the pages that survive does so up to a sector only.
    pub fn after(
        &self,
        survives: Survives,
        torn: bool,
        random: &mut fastrand::Rng,
    ) -> BTreeMap<String, Vec<u8>> {
        let moments: Vec<u64> = self.nodes.values().flat_map(Node::moments).collect();
        let until = match survives {
            Survives::Nothing => 0,
            Survives::All => u64::MAX,
            Survives::Prefix | Survives::Some => random.choice(&moments).copied().unwrap_or(u64::MAX),
        };
        let mut named = |moment: u64| match survives {
            Survives::Some => moment == 0 || random.bool(),
            _ => moment <= until,
        };
        let there: Vec<&String> =
            self.nodes.iter().filter(|(_, n)| named(n.named)).map(|(name, _)| name).collect();
        let back = self.ghosts.iter().filter(|(name, (gone, _))| !there.contains(name) && !named(*gone));
        let mut files: BTreeMap<String, Vec<u8>> =
            back.map(|(name, (_, bytes))| (name.clone(), bytes.to_vec())).collect();
        let torn = torn.then(|| random.usize(..there.len().max(1)));
        for (n, name) in there.iter().enumerate() {
            let free = survives == Survives::Some;
            files.insert((*name).clone(), self.nodes[*name].after(until, free, torn == Some(n), random));
        }
        files
    }
}

/// The states of the pages that were touched, oldest first: moment and contents.
type States = BTreeMap<usize, Vec<(u64, [u8; PAGE])>>;

impl Node {
    fn moments(&self) -> impl Iterator<Item = u64> {
        // A write that goes over a page's end is two pages.
        self.ops.iter().flat_map(|(at, _)| [*at, *at + 1])
    }

    fn page(&self, page: usize) -> [u8; PAGE] {
        let mut bytes = [0; PAGE];
        let from = self.synced.get(page * PAGE..).unwrap_or_default();
        let n = from.len().min(PAGE);
        bytes[..n].copy_from_slice(&from[..n]);
        bytes
    }

    fn states(&self) -> (States, Vec<(u64, u64)>) {
        let mut states = States::new();
        let mut sizes = vec![(0, self.synced.len() as u64)];
        for (moment, op) in &self.ops {
            let size = sizes.last().map_or(0, |s| s.1);
            let mut touch = |page: usize, moment: u64, change: &dyn Fn(&mut [u8; PAGE])| {
                let known = states.entry(page).or_insert_with(|| vec![(0, self.page(page))]);
                let mut now = known.last().map_or([0; PAGE], |s| s.1);
                change(&mut now);
                known.push((moment, now));
            };
            match op {
                Op::Write(at, data) => {
                    let (mut at, mut rest, mut moment) = (*at as usize, &data[..], *moment);
                    while !rest.is_empty() {
                        let (page, skip) = (at / PAGE, at % PAGE);
                        let (piece, after) = rest.split_at(rest.len().min(PAGE - skip));
                        touch(page, moment, &|now| now[skip..skip + piece.len()].copy_from_slice(piece));
                        at += piece.len();
                        moment += 1;
                        rest = after;
                    }
                    sizes.push((moment - 1, size.max(at as u64)));
                }
                Op::Size(len) => {
                    for page in *len as usize / PAGE..(size as usize).div_ceil(PAGE) {
                        let keep = (*len as usize).saturating_sub(page * PAGE).min(PAGE);
                        touch(page, *moment, &|now| now[keep..].fill(0));
                    }
                    sizes.push((*moment, *len));
                }
            }
        }
        (states, sizes)
    }

    /// When it was made shorter, and how long it was then.
    fn shorter(&self) -> Vec<(u64, u64)> {
        let mut size = self.synced.len() as u64;
        let mut found = Vec::new();
        for (moment, op) in &self.ops {
            match op {
                Op::Write(at, data) => size = size.max(at + data.len() as u64),
                Op::Size(len) => {
                    if *len < size {
                        found.push((*moment, *len));
                    }
                    size = *len;
                }
            }
        }
        found
    }

    fn after(&self, until: u64, free: bool, torn: bool, random: &mut fastrand::Rng) -> Vec<u8> {
        let (states, sizes) = self.states();
        // A file is made shorter as a whole or not at all; what was written where it had been cut off is on new room,
        // and there only if it was.
        let shorter: Vec<(u64, u64)> = self.shorter();
        let done = if free { random.usize(..=shorter.len()) } else { 0 };
        let window = |touches: &dyn Fn(u64) -> bool| {
            let from = shorter[..done].iter().filter(|s| touches(s.1)).map(|s| s.0).max().unwrap_or(0);
            let to = shorter[done..].iter().filter(|s| touches(s.1)).map(|s| s.0).min().unwrap_or(u64::MAX);
            (from, to)
        };
        let mut pick = |moments: &[u64], (from, to): (u64, u64)| {
            if !free {
                return moments.partition_point(|m| *m <= until) - 1;
            }
            let to = moments.partition_point(|m| *m < to).max(1);
            let from = moments.partition_point(|m| *m < from).min(to - 1);
            match random.u8(..4) {
                0 => from,
                1 => random.usize(from..to),
                _ => to - 1,
            }
        };
        let moments: Vec<u64> = sizes.iter().map(|s| s.0).collect();
        let size = sizes[pick(&moments, window(&|_| true))].1 as usize;
        let mut bytes = self.synced.to_vec();
        bytes.resize(size, 0);
        let mut survivors = Vec::new();
        for (&page, states) in &states {
            let moments: Vec<u64> = states.iter().map(|s| s.0).collect();
            let n = pick(&moments, window(&|len| len < ((page + 1) * PAGE) as u64));
            put(&mut bytes, page, &states[n].1);
            if n > 0 {
                survivors.push((page, n));
            }
        }
        if torn && let Some((page, n)) = random.choice(&survivors) {
            let (old, new) = (&states[page][random.usize(..*n)].1, &states[page][*n].1);
            let (mut mixed, at) = (*old, random.usize(1..PAGE / SECTOR) * SECTOR);
            if random.bool() {
                mixed[..at].copy_from_slice(&new[..at]);
            } else {
                mixed[at..].copy_from_slice(&new[at..]);
            }
            put(&mut bytes, *page, &mixed);
        }
        bytes
    }
}

fn put(bytes: &mut [u8], page: usize, from: &[u8; PAGE]) {
    if let Some(to) = bytes.get_mut(page * PAGE..) {
        let n = to.len().min(PAGE);
        to[..n].copy_from_slice(&from[..n]);
    }
}

#[test]
fn a_cut_takes_only_what_was_not_synced() {
    let mut random = fastrand::Rng::with_seed(1);
    let mut image = Image::default();
    image.put("a", vec![1; 2 * PAGE]);
    image.write("a", 0, &[2; PAGE]);
    image.sync("a");
    image.write("a", 100, &[3; PAGE]);
    image.resize("a", 2 * PAGE as u64 - 10);
    image.open("b");
    let lost = image.after(Survives::Nothing, true, &mut random);
    assert!(lost["a"][..PAGE].iter().all(|b| *b == 2) && lost["a"][PAGE..].iter().all(|b| *b == 1));
    assert!(lost["a"].len() == 2 * PAGE && !lost.contains_key("b"), "nor its name");
    let all = image.after(Survives::All, false, &mut random);
    assert!(all["a"].len() == 2 * PAGE - 10 && all.contains_key("b"));
    let (mut first, mut second, mut both, mut torn) = (0, 0, 0, 0);
    for n in 0..400 {
        let free =
            image.after(if n % 2 == 0 { Survives::Some } else { Survives::Prefix }, n % 3 == 0, &mut random);
        let (a, b) = (free["a"][PAGE - 1] == 3, free["a"][PAGE + 99] == 3);
        first += usize::from(a && !b);
        second += usize::from(b && !a);
        both += usize::from(a && b);
        torn += usize::from(a && free["a"][100] != 3 && free["a"][..100].iter().all(|b| *b == 2));
    }
    assert!(first > 20 && second > 20 && both > 20 && torn > 2, "{first} {second} {both} {torn}");
    image.sync_dir();
    image.remove("a");
    assert!(
        image.after(Survives::Nothing, false, &mut random).contains_key("a"),
        "a removed name comes back"
    );
}
