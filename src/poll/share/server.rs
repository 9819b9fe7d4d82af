//! The server of a share: the listener, and one task a client.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use driver_api::exception::{BUSY, NO_ANSWER, NO_PATH};
use driver_modbus::function;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::super::ask::{BusHandle, Carry, Guest, NotCarried};
use super::super::stats::BusStats;
use super::cache::{Asked, Cache};
use super::frame::Inbox;
use super::permit::{self, Permitted};
use super::stats::Door;
use crate::bounds;
use crate::config::share::Share;

/// How long until a port that could not be had is tried again.
const RETRY: Duration = Duration::from_secs(2);
/// A client that says nothing for so long has gone without a word. Slow masters ask once a minute.
const IDLE: Duration = Duration::from_secs(150);
/// A client that has said nothing for so long makes room for a new one, when all places are taken.
const SPARE: Duration = Duration::from_secs(10);
/// A client that has begun a frame, or does not take its answer, is broken after this.
const PATIENCE: Duration = Duration::from_secs(5);
/// A request that has waited so long is answered with "busy": Modbus masters have given up by then.
const TURN: Duration = Duration::from_secs(5);
/// The same of a write: one that comes later than its sender believes is worse than none.
const WRITE_TURN: Duration = Duration::from_secs(1);

/// One share.
pub struct Server {
    share: Share,
    bus: BusHandle,
    stats: Arc<BusStats>,
    /// The configured devices' own timeouts by unit, and that of all others.
    timeouts: (BTreeMap<u8, Duration>, Duration),
    /// On a line there are only the units 1 to 247.
    line: bool,
    cache: Option<Mutex<Cache>>,
}

impl Server {
    /// A server onto `bus`. `timeouts` are those of the configured units and that of every other; `line`: units
    /// are those of a serial line.
    #[must_use]
    pub fn new(
        share: Share,
        bus: BusHandle,
        stats: Arc<BusStats>,
        timeouts: (BTreeMap<u8, Duration>, Duration),
        line: bool,
    ) -> Self {
        let cache = share.cache.map(|keep| Mutex::new(Cache::new(keep.0)));
        Self { share, bus, stats, timeouts, line, cache }
    }

    /// Serves until stopped.
    pub async fn run(self, stop: CancellationToken) {
        let server = Arc::new(self);
        while let Some(listener) = stop.run_until_cancelled(server.listen()).await {
            let served = stop.run_until_cancelled(server.clone().accept(listener)).await;
            let Some(error) = served else { break };
            server.shut(&error);
        }
        server.stats.share.set_door(Door::None);
    }

    /// The open port; tried again until it can be had.
    async fn listen(&self) -> TcpListener {
        loop {
            match TcpListener::bind(self.share.bind).await {
                Ok(listener) => {
                    let at = listener.local_addr().unwrap_or(self.share.bind);
                    info!(BUS = self.stats.name, "shared on {at}");
                    self.stats.share.set_door(Door::Open(at));
                    return listener;
                }
                Err(error) => self.shut(&error),
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    /// Clients are not let in, for this reason; it is logged once.
    fn shut(&self, error: &io::Error) {
        let bind = self.share.bind;
        let why = match error.kind() {
            io::ErrorKind::AddrInUse => format!("{bind} is taken by another program"),
            io::ErrorKind::AddrNotAvailable => format!("{bind} is no address of this machine"),
            io::ErrorKind::PermissionDenied => {
                format!("{bind}: permission denied; ports below 1024 are not for this user")
            }
            _ => format!("{bind}: {error}"),
        };
        let door = Door::Shut(why);
        if self.stats.share.door() != door {
            if let Door::Shut(why) = &door {
                warn!(BUS = self.stats.name, "cannot share the bus, trying again: {why}");
            }
            self.stats.share.set_door(door);
        }
    }

    /// Lets clients in until the listener fails, which is why it returns.
    async fn accept(self: Arc<Self>, listener: TcpListener) -> io::Error {
        // Dropped with this future: a share that stops ends its connections.
        let mut clients = JoinSet::new();
        let mut places: Vec<Place> = Vec::new();
        loop {
            while clients.try_join_next().is_some() {}
            let (stream, peer) = match listener.accept().await {
                Ok(accepted) => accepted,
                // The client's affair, or for the moment: no file descriptor is free.
                Err(error) if !fatal(&error) => {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
                Err(error) => return error,
            };
            places.retain(|place| !place.task.is_finished());
            if places.len() >= bounds::SHARE_CLIENTS && !make_room(&mut places) {
                self.stats.share.refuse();
                debug!(BUS = self.stats.name, "{peer} not let in: {} clients are", bounds::SHARE_CLIENTS);
                continue;
            }
            let quiet = Arc::new(Mutex::new(Some(Instant::now())));
            let task = clients.spawn(self.clone().client(stream, quiet.clone()));
            places.push(Place { task, quiet });
        }
    }

    async fn client(self: Arc<Self>, mut stream: TcpStream, quiet: Quiet) {
        let _present = Present::new(&self.stats);
        // An exchange is one small segment each way: waiting to fill one would only delay it.
        let _ = stream.set_nodelay(true);
        let mut inbox = Inbox::new(self.share.framing);
        loop {
            match inbox.request() {
                Ok(Some(request)) => {
                    *lock(&quiet) = None;
                    let answer = tokio::select! {
                        biased;
                        answer = self.answer(request.unit, &request.pdu) => request.answer(&answer),
                        // Nobody waits for it any more: what is not on the wire yet is not sent.
                        () = hung_up(&mut stream, &mut inbox) => return,
                    };
                    if !matches!(timeout(PATIENCE, stream.write_all(&answer)).await, Ok(Ok(()))) {
                        return;
                    }
                    *lock(&quiet) = Some(Instant::now());
                }
                Ok(None) => {
                    let wait = if inbox.holds_some() { PATIENCE } else { IDLE };
                    match timeout(wait, stream.read(inbox.room())).await {
                        Ok(Ok(count)) if count > 0 => inbox.took(count),
                        _ => return,
                    }
                }
                Err(_malformed) => {
                    self.stats.share.refuse();
                    debug!(BUS = self.stats.name, "a client sent what is no Modbus; closed");
                    return;
                }
            }
        }
    }

    /// The PDU that answers a client's.
    pub(super) async fn answer(&self, unit: u8, pdu: &[u8]) -> Vec<u8> {
        self.stats.share.requests.fetch_add(1, Relaxed);
        let refuse = |code: u8| {
            self.stats.share.refuse();
            function::refuse(pdu, code)
        };
        let does = match permit::judge(unit, pdu, &self.share.writes) {
            Ok(does) => does,
            Err(code) => return refuse(code),
        };
        if self.line && !(1..=247).contains(&unit) {
            return refuse(NO_PATH);
        }
        let writes = || self.stats.writes.load(Relaxed);
        let mut asked: Option<Asked> = None;
        if let (Permitted::Read, Some(cache)) = (does, &self.cache) {
            match lock(cache).answer(unit, pdu, writes(), Instant::now()) {
                Ok(answer) => return answer,
                Err(question) => asked = Some(question),
            }
        }
        let timeout = self.timeouts.0.get(&unit).copied().unwrap_or(self.timeouts.1);
        let turn = if does == Permitted::Write { WRITE_TURN } else { TURN };
        let carry = Carry {
            unit,
            request: pdu.to_vec(),
            timeout,
            guest: Guest::Client,
            not_after: Instant::now() + turn,
        };
        let answer = self.bus.carry(carry).await.map(|carried| carried.answer);
        if let (Some(cache), Ok(answer), Some(asked)) = (&self.cache, &answer, asked)
            && function::refusal(answer).is_none()
        {
            lock(cache).keep(asked, answer, writes(), Instant::now());
        }
        match answer {
            Ok(answer) => answer,
            Err(NotCarried::Busy) => refuse(BUSY),
            Err(NotCarried::Down(_)) => refuse(NO_PATH),
            Err(NotCarried::Silent | NotCarried::Garbled(_)) => refuse(NO_ANSWER),
        }
    }
}

/// A client that is counted as long as this lives.
struct Present<'s>(&'s BusStats);

impl<'s> Present<'s> {
    fn new(stats: &'s BusStats) -> Self {
        stats.share.clients.fetch_add(1, Relaxed);
        Self(stats)
    }
}

impl Drop for Present<'_> {
    fn drop(&mut self) {
        self.0.share.clients.fetch_sub(1, Relaxed);
    }
}

/// Since when a client has asked for nothing; `None` while it waits for an answer.
type Quiet = Arc<Mutex<Option<Instant>>>;

/// One client's place among them all.
struct Place {
    task: AbortHandle,
    quiet: Quiet,
}

/// Closes the connection that has been quiet for longest, if that is long enough: one host that opens connections
/// and forgets them must not lock the others out.
fn make_room(places: &mut Vec<Place>) -> bool {
    let quiet = places.iter().enumerate().filter_map(|(index, place)| Some(((*lock(&place.quiet))?, index)));
    match quiet.min() {
        Some((since, index)) if since.elapsed() >= SPARE => {
            places.swap_remove(index).task.abort();
            true
        }
        _ => false,
    }
}

/// Ends when the client is gone. What it says meanwhile is kept, as far as there is room.
async fn hung_up(stream: &mut TcpStream, inbox: &mut Inbox) {
    while !inbox.room().is_empty() {
        match stream.read(inbox.room()).await {
            Ok(count) if count > 0 => inbox.took(count),
            _ => return,
        }
    }
    std::future::pending().await
}

fn lock<T>(what: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    what.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether the listener itself is broken.
fn fatal(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::NotConnected)
}
