//! What the hub owns: subscriptions, retained messages, clients and their sessions. No I/O, no waiting.
//!
//! The methods are in `routing` (publish, subscribe) and `clients` (connect, take-over, end, wills).

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::time::Instant;

use super::access::Access;
use super::handing::{self, Forward, Handed};
use super::journal::Journal;
use super::keeping::Along;
use super::limits::Limits;
use super::message::Publish;
use super::pipe;
use super::queue::{self, Addressed, Walk};
use super::retained::{Portion, Retained};
use super::roster::{ClientRow, Kicked};
use super::session::Session;
use super::shared::Groups;
use super::stats::Counters;
use super::tap::{Receipt, Tap};
use super::traffic::About;
use super::trie::{Key, Trie};
use super::wire::Wish;
use crate::message::{Docket, Message, Standing};
use crate::topic;

/// What the hub is told, in the order in which it must happen.
#[derive(Debug)]
pub enum Event {
    /// A client with a good CONNECT wants a session.
    Connect(Box<Connecting>),
    /// A connection ended.
    Detach(Box<Detached>),
    /// A connection's task panicked.
    Panicked(u64),
    /// A message of a client; the permit is its share of the bytes on their way. The same below.
    Publish(Publish, Option<AckTo>, Permit),
    /// A message of a client that is kept, too.
    Forward(Box<Forward>),
    /// Such messages are stored.
    Stored(Vec<Receipt>),
    /// Messages of this process.
    Burst(Vec<Publish>),
    /// SUBSCRIBE.
    Subscribe(Box<Subscribing>, Permit),
    /// UNSUBSCRIBE: who, packet id, filters.
    Unsubscribe(AckTo, Vec<String>, Permit),
    /// The next portion of retained messages, for whom.
    More(Key, Walk, oneshot::Sender<Portion>),
    /// A subscriber of this process: name, filters; its queue comes back.
    Local(String, Vec<String>, oneshot::Sender<(Key, queue::Receiver)>),
    /// A snapshot of retained messages.
    Retained(String, oneshot::Sender<Vec<Message>>),
    /// A row for every session.
    Roster(oneshot::Sender<Vec<ClientRow>>),
    /// A client that shall go.
    Kick(String, oneshot::Sender<Kicked>),
    /// Listeners have other users and rights; these are those of any.
    Access(Vec<Arc<Access>>),
    /// The journal has nothing of what there is.
    NoteAll,
}

/// A share of the bytes on their way through the hub; small packets need none.
pub type Permit = Option<OwnedSemaphorePermit>;

/// A client that wants a session.
#[derive(Debug)]
pub struct Connecting {
    /// Never empty.
    pub client_id: Arc<str>,
    /// Proven.
    pub user: Option<Arc<str>>,
    /// By which users and rights it was let in.
    pub access: Arc<Access>,
    /// Begin anew.
    pub clean: bool,
    /// Seconds the session outlives the connection; `u32::MAX`: for ever.
    pub expiry: u32,
    /// Its will.
    pub will: Option<Will>,
    /// Number of the connection.
    pub conn: u64,
    /// Where it comes from, and how.
    pub about: Arc<About>,
    /// How to reach it.
    pub control: pipe::Sender<Control>,
    /// Where its session goes.
    pub reply: oneshot::Sender<Attached>,
}

/// A session on its way to its connection.
#[derive(Debug)]
pub struct Attached {
    /// The session.
    pub session: Box<Session>,
    /// It was there before.
    pub present: bool,
}

/// What a dying connection leaves.
#[derive(Debug)]
pub struct Detached {
    /// Which connection.
    pub conn: u64,
    /// The session.
    pub session: Box<Session>,
    /// How it ended.
    pub end: Ended,
    /// New session expiry, from DISCONNECT.
    pub expiry: Option<u32>,
    /// What it was told and did not hear any more.
    pub unheard: pipe::Receiver<Control>,
}

/// How a connection ended, as far as it concerns the client's will.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// It said good-bye: no will.
    Goodbye,
    /// In any other way: its will, when its time has come.
    Lost,
    /// The whole broker stops: the will is for the next start, if there is where to keep it.
    Stopped,
}

/// A will, checked.
#[derive(Debug, Clone)]
pub struct Will {
    /// What to publish.
    pub message: Publish,
    /// Seconds after its publication (not after CONNECT) in which it is worth anything.
    pub expiry: Option<u32>,
    /// Seconds to wait for the client to come back.
    pub delay: u32,
}

/// Whom to acknowledge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AckTo {
    /// Client.
    pub key: Key,
    /// Its connection: an acknowledgement for another one is not sent.
    pub conn: u64,
    /// Packet id.
    pub id: u16,
}

/// A SUBSCRIBE, its filters checked: `Err` is the refusal that goes into SUBACK in its place.
#[derive(Debug)]
pub struct Subscribing {
    /// Who, and packet id.
    pub ack: AckTo,
    /// Subscription identifier.
    pub subscription_id: Option<u32>,
    /// In the order of the packet.
    pub wishes: Vec<Result<Wish, u8>>,
}

/// What the hub tells a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Control {
    /// A message with this id has come through; whether anybody wanted it.
    Routed {
        /// Packet id.
        id: u16,
        /// 1 or 2.
        qos: u8,
        /// Somebody did.
        matched: bool,
        /// The group of the journal after which the client may be told; 0: at once. The same below.
        after: u64,
    },
    /// Answer to SUBSCRIBE.
    SubAck {
        /// Packet id.
        id: u16,
        /// One for each filter.
        codes: Vec<u8>,
        /// When.
        after: u64,
    },
    /// Answer to UNSUBSCRIBE.
    UnsubAck {
        /// Packet id.
        id: u16,
        /// One for each filter.
        codes: Vec<u8>,
        /// When.
        after: u64,
    },
    /// Give the session back and end, with this reason.
    Stop(u8),
}

/// On whose behalf a message is routed, and what of it is to be kept.
#[derive(Debug, Clone, Copy, Default)]
pub struct By {
    /// Somebody waits for an answer.
    pub ack: Option<AckTo>,
    /// As what its packet id is kept with it, if it is.
    pub id: Option<Standing>,
    /// If it is retained, it is to be kept.
    pub retain: bool,
}

/// Options of one subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Most it wants.
    pub qos: u8,
    /// Not its own messages.
    pub no_local: bool,
    /// Retain flag as it was published.
    pub as_published: bool,
    /// Subscription identifier.
    pub id: Option<u32>,
}

/// A subscriber.
#[derive(Debug)]
pub(super) struct Client {
    pub id: Arc<str>,
    pub user: Option<Arc<str>>,
    /// What it may do, or might where it was last; `None`: nobody knows, for there was a restart or a change since then.
    pub access: Option<Arc<Access>>,
    pub queue: queue::Sender,
    pub presence: Presence,
    /// Its subscriptions.
    pub filters: HashMap<Arc<str>, Options>,
    /// What they take, as [`super::limits::filter_cost`] reckons it; 0 for one of this process.
    pub filter_bytes: usize,
    pub will: Option<Will>,
    pub expiry: u32,
    /// It outlives the process.
    pub kept: bool,
    /// Its session does not, but its will is kept.
    pub willed: bool,
    /// What waits for it is not in the journal, which has begun anew: it is noted when the session is at hand.
    pub unnoted: bool,
    /// Counts what was kept for it.
    pub seq: u64,
}

impl Client {
    /// One that has subscribed to nothing yet, may do nothing, and is gone without a trace when it goes.
    pub fn new(id: Arc<str>, queue: queue::Sender, presence: Presence) -> Self {
        Self {
            id,
            user: None,
            access: None,
            queue,
            presence,
            filters: HashMap::default(),
            filter_bytes: 0,
            will: None,
            expiry: 0,
            kept: false,
            willed: false,
            unnoted: false,
            seq: 0,
        }
    }
}

/// Where a subscriber is.
#[derive(Debug)]
pub(super) enum Presence {
    /// Connected; others with the same id wait until it has given its session back.
    Online {
        conn: u64,
        about: Arc<About>,
        control: pipe::Sender<Control>,
        waiting: VecDeque<Box<Connecting>>,
    },
    /// Away; its session is here.
    Away { session: Box<Session>, left: Instant, since: u64, ends: Option<Instant>, will_at: Option<Instant> },
    /// In this process.
    Local,
}

/// All of it.
#[derive(Debug)]
pub(super) struct State {
    pub limits: Limits,
    pub counters: Arc<Counters>,
    /// What clients may do at any listener.
    pub access: Vec<Arc<Access>>,
    pub tap: Arc<Tap>,
    /// Filters, each with what its topics begin with.
    pub never_retain: Vec<(usize, String)>,
    /// Where it is noted what outlives the process, if anything does.
    pub journal: Option<Journal>,
    pub trie: Trie<Options>,
    pub groups: Groups,
    /// What the subscriptions of all clients take.
    pub filter_bytes: usize,
    pub retained: Retained,
    /// (Keys are numbers of ours: nobody can choose them to collide.)
    pub clients: HashMap<Key, Client, foldhash::fast::RandomState>,
    pub ids: HashMap<Arc<str>, Key>,
    /// Sessions of clients that are away, longest first.
    pub away: BTreeMap<u64, Key>,
    /// When to look at a client that is away: its will or its end.
    pub deadlines: BTreeSet<(Instant, Key)>,
    pub queued: Arc<AtomicUsize>,
    pub matches: Vec<(Key, Options)>,
    /// What is to be kept of the message that is being routed.
    pub keeping: Vec<(Key, Addressed)>,
    /// What a will that is being routed takes along into its group of the journal.
    pub along: Option<Along>,
    /// QoS 2 messages on their way into the log.
    pub handed: Handed,
    /// The last docket that was given.
    pub docket: Docket,
    /// So many messages more are measured, for one matched many filters of the same clients.
    pub costly: u16,
    /// Counts messages; retained ones remember theirs.
    pub number: u64,
    /// Counts keys and absences.
    pub next: u64,
}

impl State {
    pub fn new(
        limits: Limits,
        counters: Arc<Counters>,
        access: Vec<Arc<Access>>,
        tap: Arc<Tap>,
        never_retain: Vec<String>,
    ) -> Self {
        Self {
            retained: Retained::new(limits.retained, limits.retained_bytes),
            limits,
            counters,
            access,
            tap,
            never_retain: never_retain
                .into_iter()
                .map(|f| (topic::literal_prefix(&f).trim_end_matches('/').len(), f))
                .collect(),
            journal: None,
            trie: Trie::default(),
            groups: Groups::default(),
            filter_bytes: 0,
            clients: HashMap::default(),
            ids: HashMap::new(),
            away: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            queued: Arc::default(),
            matches: Vec::new(),
            keeping: Vec::new(),
            along: None,
            handed: Handed::new(),
            docket: handing::begin(),
            costly: 0,
            number: 0,
            next: 1,
        }
    }

    /// A number never given out before; 0 is this process as a publisher.
    pub fn fresh(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// After a change of subscriptions.
    pub fn count_subscriptions(&self) {
        Counters::set(&self.counters.subscriptions, self.trie.len());
        Counters::set(&self.counters.shared_subscriptions, self.groups.members());
    }

    /// Does what an event asks for.
    pub fn apply(&mut self, event: Event) {
        match event {
            Event::Connect(connecting) => self.connect(connecting),
            Event::Detach(detached) => self.detach(*detached),
            Event::Panicked(conn) => self.panicked(conn),
            Event::Publish(message, ack, permit) => {
                let qos = message.qos;
                let by = By { ack, id: (qos == 2).then_some(Standing::Taken), retain: true };
                let (matched, after) = self.route(&Arc::new(message), by);
                drop(permit);
                if let Some(ack) = ack {
                    self.tell(ack, Control::Routed { id: ack.id, qos, matched, after });
                }
            }
            Event::Forward(forward) => self.forward(*forward),
            Event::Stored(receipts) => self.stored(receipts),
            Event::Burst(messages) => {
                for message in messages {
                    // What an uplink brought is others'. What the gateway says itself it will say again.
                    let retain = message.origin.is_some();
                    self.route_own(message, retain);
                }
            }
            Event::Subscribe(subscribing, _permit) => self.subscribe(*subscribing),
            Event::Unsubscribe(ack, filters, _permit) => self.unsubscribe(ack, &filters),
            Event::More(key, walk, reply) => {
                let portion = self.portion(key, &walk);
                if let Err(portion) = reply.send(portion) {
                    self.take_back(key, walk, &portion);
                }
            }
            Event::Local(name, filters, reply) => self.local(&name, filters, reply),
            Event::Retained(filter, reply) => {
                let _ = reply.send(self.snapshot(&filter));
            }
            Event::Roster(reply) => {
                let _ = reply.send(self.roster(Instant::now()));
            }
            Event::Kick(client_id, reply) => {
                let _ = reply.send(self.kick(&client_id));
            }
            Event::Access(all) => self.change_access(all),
            Event::NoteAll => self.note_all(),
        }
    }

    /// Tells a connection something, if it is still the client's.
    pub fn tell(&self, to: AckTo, what: Control) {
        if let Some(Client { presence: Presence::Online { conn, control, .. }, .. }) =
            self.clients.get(&to.key)
            && *conn == to.conn
        {
            // Full cannot be: the connection counts what it is owed. Closed: it is ending.
            let _ = control.try_send(what);
        }
    }
}
