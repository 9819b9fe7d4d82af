//! Clients with sessions that stay, which do what the specification asks of them: a publisher sends again what is not
//! acknowledged under its old packet id, a subscriber knows a QoS 2 message by its packet id until PUBREL. And they say what
//! the broker owes them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::wire::{Gone, Packet, Wire};

/// What all clients of a run share.
#[derive(Default)]
pub struct Stage {
    /// Publishers begin nothing new, and end when all is acknowledged.
    pub finish: AtomicBool,
    /// Subscribers end.
    pub end: AtomicBool,
    faults: Mutex<Vec<String>>,
    /// Retained topics: what was last acknowledged, and what was last sent.
    pub retained: Mutex<BTreeMap<String, [u64; 2]>>,
}

impl Stage {
    /// Something is wrong.
    pub fn fault(&self, what: String) {
        self.faults.lock().expect("no client failed").push(what);
    }

    /// All that was wrong.
    pub fn faults(&self) -> Vec<String> {
        self.faults.lock().expect("no client failed").clone()
    }
}

fn pid_of((_, body): &Packet) -> u16 {
    u16::from_be_bytes([body[0], body[1]])
}

/// A message that is not finished.
struct Open {
    pid: u16,
    flags: u8,
    topic: String,
    payload: String,
    /// PUBREC came.
    received: bool,
}

/// A publisher of QoS 1 and 2, some of it retained.
pub struct Publisher {
    name: String,
    port: u16,
    v5: bool,
    stage: Arc<Stage>,
    random: fastrand::Rng,
    open: VecDeque<Open>,
    pid: u16,
    count: u64,
    known: bool,
    /// Messages on `t/…` by QoS, all that were sent.
    pub sent: [u64; 3],
}

const WINDOW: usize = 20;

impl Publisher {
    pub fn new(name: &str, port: u16, v5: bool, stage: &Arc<Stage>, seed: u64) -> Self {
        let random = fastrand::Rng::with_seed(seed);
        Self {
            name: name.to_owned(),
            port,
            v5,
            stage: Arc::clone(stage),
            random,
            open: VecDeque::new(),
            pid: 0,
            count: 0,
            known: false,
            sent: [0; 3],
        }
    }

    /// Runs to the end; gives back what was sent.
    pub fn run(mut self) -> (String, [u64; 3]) {
        while !self.is_done() {
            if self.connection().is_err() {
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        (self.name, self.sent)
    }

    fn is_done(&self) -> bool {
        self.open.is_empty() && self.stage.finish.load(SeqCst)
    }

    fn connection(&mut self) -> Result<(), Gone> {
        let mut wire = Wire::connect(self.port, &self.name, self.v5, true)?;
        if self.known && !wire.present {
            self.stage.fault(format!("{} lost its session", self.name));
        }
        self.known = true;
        // MQTT-4.4.0-1: in the old order, under the old ids.
        for open in &self.open {
            match open.received {
                true => wire.answer(6, open.pid)?,
                false => wire.publish(open.flags | 8, &open.topic, open.pid, &open.payload)?,
            }
        }
        while !self.is_done() {
            for _ in 0..self.random.u8(..8) {
                if self.open.len() < WINDOW && !self.stage.finish.load(SeqCst) {
                    self.publish(&mut wire);
                }
            }
            // It breaks by itself, too.
            if self.random.u16(..) < 100 {
                return Ok(());
            }
            while let Some(packet) = wire.next(Duration::from_millis(2))? {
                self.answered(&mut wire, &packet)?;
            }
        }
        wire.bye();
        Ok(())
    }

    fn publish(&mut self, wire: &mut Wire) {
        // The lowest that is free: what was given back is used again at once.
        self.pid = (1..).find(|pid| self.open.iter().all(|open| open.pid != *pid)).unwrap_or(1);
        let mut qos = self.random.u8(1..3);
        self.count += 1;
        let (topic, payload, retain) = if self.random.u8(..8) == 0 {
            let number = self.random.u8(..10);
            let topic = format!("r/{}/{number}", self.name);
            // Of QoS 1 and 2 on one topic, both said again, the first counts again and the second does not: then the older stays.
            qos = 1 + number % 2;
            let mut retained = self.stage.retained.lock().expect("no client failed");
            retained.entry(topic.clone()).or_default()[1] = self.count;
            // Some are cleared: then what was acknowledged is nothing.
            let payload = if self.count.is_multiple_of(4) { String::new() } else { self.count.to_string() };
            (topic, payload, 1)
        } else {
            self.sent[usize::from(qos)] += 1;
            (format!("t/{qos}/{}", self.name), self.sent[usize::from(qos)].to_string(), 0)
        };
        let flags = qos << 1 | retain;
        // If the connection is gone, that is noticed soon enough: from now on the message is open in any case.
        let _ = wire.publish(flags, &topic, self.pid, &payload);
        self.open.push_back(Open { pid: self.pid, flags, topic, payload, received: false });
    }

    fn answered(&mut self, wire: &mut Wire, packet: &Packet) -> Result<(), Gone> {
        if packet.1.len() < 2 {
            // DISCONNECT with a reason.
            return Ok(());
        }
        let pid = pid_of(packet);
        if packet.1.get(2).is_some_and(|code| *code >= 0x80) && packet.0 >> 4 != 7 {
            self.stage.fault(format!("{}: {packet:02x?}", self.name));
        }
        let at = self.open.iter().position(|open| open.pid == pid);
        let qos = at.map_or(0, |at| self.open[at].flags >> 1 & 3);
        match (packet.0 >> 4, at) {
            (4, Some(at)) if qos == 1 => self.done(at),
            (5, Some(at)) if qos == 2 => {
                self.open[at].received = true;
                wire.answer(6, pid)?;
            }
            (7, Some(at)) if self.open[at].received => self.done(at),
            // Answers to what was sent twice.
            _ => {}
        }
        Ok(())
    }

    fn done(&mut self, at: usize) {
        let Some(open) = self.open.remove(at) else { return };
        if open.flags & 1 == 1 {
            let mut retained = self.stage.retained.lock().expect("no client failed");
            let entry = retained.entry(open.topic).or_default();
            // A cleared one is found by the number it would have had: what is acknowledged is the newest of either.
            entry[0] = entry[0].max(open.payload.parse().unwrap_or(0));
        }
    }
}

/// A subscriber with a session that stays.
pub struct Subscriber {
    pub name: String,
    port: u16,
    v5: bool,
    filter: &'static str,
    pub qos: u8,
    /// How often it goes away by itself, of 65536 packets.
    breaks: u16,
    stage: Arc<Stage>,
    random: fastrand::Rng,
    known: bool,
    /// QoS 2 packet ids before their PUBREL.
    held: BTreeSet<u16>,
    /// What came, by topic, in order.
    pub heard: BTreeMap<String, Vec<u64>>,
    /// PUBLISH packets marked as repeats.
    pub dups: u64,
    /// Packets since the start, for who waits for silence.
    pub count: Arc<std::sync::atomic::AtomicU64>,
}

impl Subscriber {
    pub fn new(
        name: &str,
        (port, v5): (u16, bool),
        (filter, qos): (&'static str, u8),
        breaks: u16,
        stage: &Arc<Stage>,
        seed: u64,
    ) -> Self {
        Self {
            name: name.to_owned(),
            port,
            v5,
            filter,
            qos,
            breaks,
            stage: Arc::clone(stage),
            random: fastrand::Rng::with_seed(seed),
            known: false,
            held: BTreeSet::new(),
            heard: BTreeMap::new(),
            dups: 0,
            count: Arc::default(),
        }
    }

    pub fn run(mut self) -> Self {
        while !self.stage.end.load(SeqCst) {
            if self.connection().is_err() {
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        self
    }

    /// Subscribes, once for all its connections.
    pub fn begin(&mut self) -> Result<(), Gone> {
        let mut wire = Wire::connect(self.port, &self.name, self.v5, true)?;
        wire.subscribe(1, self.filter, self.qos)?;
        let (first, body) = wire.next(Duration::from_secs(10))?.ok_or(Gone)?;
        assert!(first == 0x90 && body.last() == Some(&self.qos), "{first} {body:?}");
        self.known = true;
        wire.bye();
        Ok(())
    }

    fn connection(&mut self) -> Result<(), Gone> {
        let mut wire = Wire::connect(self.port, &self.name, self.v5, true)?;
        if self.known && !wire.present {
            self.stage.fault(format!("{} lost its session", self.name));
        }
        while !self.stage.end.load(SeqCst) {
            let Some(packet) = wire.next(Duration::from_millis(20))? else { continue };
            self.count.fetch_add(1, SeqCst);
            if self.random.u16(..) < self.breaks {
                // What was just received may or may not be answered.
                if self.random.bool() {
                    self.heard(&mut wire, &packet)?;
                }
                drop(wire);
                std::thread::sleep(Duration::from_millis(self.random.u64(..300)));
                return Ok(());
            }
            self.heard(&mut wire, &packet)?;
        }
        Ok(())
    }

    fn heard(&mut self, wire: &mut Wire, packet: &Packet) -> Result<(), Gone> {
        match packet.0 >> 4 {
            3 => {
                let (topic, pid, payload) = wire.read_publish(packet);
                let qos = packet.0 >> 1 & 3;
                self.dups += u64::from(packet.0 & 8 != 0);
                if qos < 2 || self.held.insert(pid) {
                    self.heard.entry(topic).or_default().push(payload.parse().unwrap_or(u64::MAX));
                }
                match qos {
                    1 => wire.answer(4, pid),
                    2 => wire.answer(5, pid),
                    _ => Ok(()),
                }
            }
            6 => {
                let pid = pid_of(packet);
                self.held.remove(&pid);
                wire.answer(7, pid)
            }
            _ => Ok(()),
        }
    }
}
