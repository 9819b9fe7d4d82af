//! The control socket: how `fieldgate status`, `watch`, `read`, `write` and `scan` talk to the running
//! daemon. One JSON object a line, in both directions, on a Unix socket in the data directory.
//!
//! Who may open the directory may use it; there is no other key. Each connection serves one request; all have
//! one answer but `wire`, which is answered until the connection is closed, and `export` and `backup`, which are streams.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::backup::backup;
use super::export::{Wanted, export};
use super::lines::{self, BusLines};
use super::names::{split, unknown};
use crate::bounds;
use crate::broker::{Broker, Kicked};
use crate::clock::Clock;
use crate::pipeline::topics::Topics;
use crate::poll::commander::{self, Target, Targets};
use crate::poll::{Ask, Exchange, Failed};
use crate::store::Store;

/// What may be asked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "lowercase", deny_unknown_fields)]
pub enum Request {
    /// The whole snapshot.
    Status {},
    /// The latest reading of every point.
    Values {
        /// Only of this device, or of this `device/point`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        only: Option<String>,
    },
    /// One exchange for each block that holds the device's points (or the one point).
    Read {
        /// Device name.
        device: String,
        /// Point name; absent: all of the device.
        #[serde(default)]
        point: Option<String>,
    },
    /// One write with read-back.
    Write {
        /// Device name.
        device: String,
        /// Point name.
        point: String,
        /// What people mean: scaled, with limits.
        value: Json,
    },
    /// One exchange of the bus's own protocol with any unit.
    Carry {
        /// Bus name.
        bus: String,
        /// The unit, or I²C address.
        unit: u8,
        /// What to send, in hex (see `Bus::carry` of the drivers).
        request: String,
        /// Longest wait for the answer.
        timeout_ms: u64,
    },
    /// Readings out of the log (see `runtime/export.rs`).
    Export {
        /// Which.
        wanted: Wanted,
    },
    /// What waits for an uplink, or for all, is thrown away and declared lost.
    Purge {
        /// Uplink name; absent: all, and the history, too.
        #[serde(default)]
        uplink: Option<String>,
    },
    /// A row for every client of the local broker.
    Clients {},
    /// The connection of a client of the local broker shall end, or its session if it is away.
    Kick {
        /// Client id.
        client: String,
    },
    /// The database as of now (see `runtime/backup.rs`).
    Backup {},
    /// What goes over a bus from now on.
    Wire {
        /// Bus name.
        bus: String,
    },
}

/// The socket's place in the data directory.
#[must_use]
pub fn socket_path(store: &Path) -> PathBuf {
    store.join("control.sock")
}

/// Its second place, in the service's directory in RAM: a data directory that cannot be used has none, and that is when
/// somebody wants to know how the box is. The name tells one data directory from another.
#[must_use]
pub fn second_path(run: &Path, store: &Path) -> PathBuf {
    run.join(format!("control-{:08x}.sock", crc32fast::hash(store.as_os_str().as_encoded_bytes())))
}

/// What the socket gives access to.
#[derive(Clone)]
pub struct Access {
    /// The latest snapshot, as JSON.
    pub snapshot: Arc<dyn Fn() -> Json + Send + Sync>,
    /// The latest readings; `None` without a daemon.
    pub values: Option<Values>,
    /// The local broker; `None` without a daemon.
    pub broker: Option<Broker>,
    /// The log; `None` without a daemon.
    pub store: Option<Store>,
    /// Every point.
    pub targets: watch::Receiver<Arc<Targets>>,
    /// Every bus.
    pub lines: watch::Receiver<Arc<BusLines>>,
    /// Time, for traces.
    pub clock: Arc<dyn Clock>,
}

/// The latest readings, as the local broker retains them.
#[derive(Clone)]
pub struct Values {
    broker: Broker,
    filter: String,
}

impl Values {
    /// Of the gateway with these topics.
    #[must_use]
    pub fn new(broker: Broker, topics: &Topics) -> Self {
        Self { broker, filter: format!("{}/data/+/+", topics.root()) }
    }

    /// An array of reading payloads with `device` and `point` added, sorted by both; of all points, or of one device or point.
    pub async fn now(&self, only: Option<(&str, Option<&str>)>) -> Json {
        let mut rows: Vec<(Arc<str>, Json)> = self
            .broker
            .retained(&self.filter)
            .await
            .iter()
            .filter_map(|message| {
                let mut names = message.topic.rsplit('/');
                let (point, device) = (names.next()?, names.next()?);
                only.is_none_or(|(d, p)| d == device && p.is_none_or(|p| p == point)).then_some(())?;
                let mut row: Json = serde_json::from_slice(&message.payload).ok()?;
                row.as_object_mut()?.insert("device".to_owned(), device.into());
                row.as_object_mut()?.insert("point".to_owned(), point.into());
                Some((message.topic.clone(), row))
            })
            .collect();
        rows.sort_by(|(a, _), (b, _)| a.cmp(b));
        rows.into_iter().map(|(_, row)| row).collect()
    }
}

/// Longest request line, bytes.
const LONGEST_REQUEST: u64 = 64 * 1024;
/// Longest wait for a request line and for the taking of an answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// How often it is looked whether the socket is still under its name.
const LOOK: Duration = Duration::from_secs(1);

/// Serves the socket until stopped. A socket left behind by a killed daemon is replaced; the lock
/// on the store already proves that no other daemon lives here.
///
/// # Errors
/// The socket cannot be made; or (`NotFound`) it is not under its name any more, because the directory was removed, or
/// its file system unmounted. (A socket that stayed open there would keep that file system from being mounted again.)
pub async fn serve(path: &Path, access: Access, stop: CancellationToken) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o660))?;
    let ours = place(path);
    let mut look = tokio::time::interval(LOOK);
    let slots = Arc::new(Semaphore::new(bounds::CONTROL_CONNECTIONS));
    loop {
        let stream = tokio::select! {
            () = stop.cancelled() => break,
            _ = look.tick() => {
                if place(path) == ours {
                    continue;
                }
                return Err(io::Error::new(io::ErrorKind::NotFound, "the data directory is another one now"));
            }
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!("control socket: {error}");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            },
        };
        let Ok(slot) = slots.clone().try_acquire_owned() else {
            continue;
        };
        let access = access.clone();
        tokio::spawn(async move {
            let _slot = slot;
            // A client that goes away in the middle is its own affair.
            let _ = answer(stream, &access).await;
        });
    }
    let _ = std::fs::remove_file(path);
    Ok(())
}

fn place(path: &Path) -> Option<(u64, u64)> {
    std::fs::metadata(path).ok().map(|m| (m.dev(), m.ino()))
}

/// How long until a socket that could not be made is tried again: soon after a disk came back.
const RETRY: Duration = Duration::from_secs(5);

/// As [`serve`], but where the socket cannot be made (the data directory is not there, or cannot be
/// written) it is said once and tried again until stopped.
pub async fn serve_always(path: &Path, access: Access, stop: CancellationToken) {
    let mut said = false;
    while let Err(error) = serve(path, access.clone(), stop.clone()).await {
        if error.kind() == io::ErrorKind::NotFound && path.parent().is_some_and(Path::is_dir) {
            tracing::warn!("control socket {}: {error}; made again", path.display());
            continue;
        }
        if !said {
            tracing::error!(
                "control socket {}: {error}; trying again, until then `fieldgate status` needs the one in /run",
                path.display()
            );
            said = true;
        }
        if stop.run_until_cancelled(tokio::time::sleep(RETRY)).await.is_none() {
            return;
        }
    }
}

async fn answer(mut stream: UnixStream, access: &Access) -> io::Result<()> {
    let (read, mut write) = stream.split();
    let mut line = String::new();
    let mut limited = BufReader::new(read.take(LONGEST_REQUEST));
    timeout(PATIENCE, limited.read_line(&mut line)).await??;
    let answer = match serde_json::from_str(&line) {
        Err(error) => json!({ "error": format!("not a request: {error}") }),
        Ok(Request::Wire { bus }) => {
            let lines = access.lines.borrow().clone();
            return lines::trace(&lines, &bus, &*access.clock, limited, write).await;
        }
        Ok(Request::Export { wanted }) => match &access.store {
            Some(store) => return export(store, &wanted, write).await,
            None => json!({ "error": "there is no log here" }),
        },
        Ok(Request::Backup {}) => match &access.store {
            Some(store) => return backup(store, write).await,
            None => json!({ "error": "there is no log here" }),
        },
        Ok(request) => respond(&request, access).await,
    };
    let mut bytes = answer.to_string().into_bytes();
    bytes.push(b'\n');
    timeout(PATIENCE, write.write_all(&bytes)).await?
}

/// The answer to one request.
pub async fn respond(request: &Request, access: &Access) -> Json {
    match request {
        Request::Status {} => (access.snapshot)(),
        Request::Values { only } => {
            let only = only.as_deref().map(split);
            let targets = access.targets.borrow().clone();
            if let Some((device, point)) = only
                && !targets.keys().any(|(d, p)| d == device && point.is_none_or(|point| p == point))
            {
                return json!({ "error": unknown(&targets, device, point) });
            }
            match &access.values {
                Some(values) => values.now(only).await,
                None => json!([]),
            }
        }
        Request::Read { device, point } => read_points(access, device, point.as_deref()).await,
        Request::Write { device, point, value } => write_point(access, device, point, value).await,
        Request::Carry { bus, unit, request, timeout_ms } => {
            let lines = access.lines.borrow().clone();
            lines::carry(&lines, bus, *unit, request, Duration::from_millis(*timeout_ms)).await
        }
        Request::Purge { uplink } => match &access.store {
            Some(store) => match store.purge(uplink.as_deref()).await {
                Ok(purged) => json!({ "purged": purged.into_iter().collect::<BTreeMap<_, _>>() }),
                Err(error) => json!({ "error": error.to_string() }),
            },
            None => json!({ "error": "there is no log here" }),
        },
        Request::Clients {} => match &access.broker {
            Some(broker) => json!(broker.clients().await),
            None => json!([]),
        },
        Request::Kick { client } => match &access.broker {
            Some(broker) => json!({ "kicked": kicked(broker.kick(client).await) }),
            None => json!({ "kicked": kicked(Kicked::Unknown) }),
        },
        Request::Backup {} => json!({ "error": "a backup needs a connection of its own" }),
        Request::Export { .. } => json!({ "error": "an export needs a connection of its own" }),
        Request::Wire { .. } => json!({ "error": "a trace needs a connection of its own" }),
    }
}

fn kicked(what: Kicked) -> &'static str {
    match what {
        Kicked::Disconnected => "disconnected",
        Kicked::Forgotten => "forgotten",
        Kicked::Unknown => "unknown",
    }
}

async fn read_points(access: &Access, device: &str, point: Option<&str>) -> Json {
    let targets = access.targets.borrow().clone();
    let mut wanted: Vec<_> = targets
        .iter()
        .filter(|((d, p), _)| d == device && point.is_none_or(|point| point == p))
        .map(|((_, p), target)| (p.clone(), target.clone()))
        .collect();
    if wanted.is_empty() {
        return json!({ "error": unknown(&targets, device, point) });
    }
    wanted.sort_by_key(|(_, target)| target.point);
    // One exchange a block, however many of its points are wanted: what it brought along is not asked again.
    let mut exchanges: Vec<Exchange> = Vec::new();
    let mut points = Vec::new();
    for (name, target) in wanted {
        let known = exchanges.iter().find_map(|exchange| exchange.point(target.point).ok());
        let read = match known.map(|sample| sample.value.clone()) {
            Some(value) => Ok(value),
            None => match read_one(&target).await {
                Ok(exchange) => {
                    let read = exchange.point(target.point).map(|sample| sample.value.clone());
                    exchanges.push(exchange);
                    read
                }
                Err(failed) => Err(words(&failed)),
            },
        };
        let row = match read {
            Ok(Ok(raw)) => {
                let value = commander::json(&target.rule.scaled(raw));
                json!({ "point": name, "value": value, "unit": target.rule.key.unit })
            }
            Ok(Err(reason)) => json!({ "point": name, "error": reason.word() }),
            Err(why) => json!({ "point": name, "error": why }),
        };
        points.push(row);
    }
    json!({ "device": device, "points": points })
}

/// Most reads until a device gives a value: one with SunSpec models is first asked where they are, model by
/// model, one each time it is read (see `driver-modbus`, which follows at most 64 of them).
const READS: usize = 70;

/// Reads the block of a point, and again as long as the device has nothing to say yet.
async fn read_one(target: &Target) -> Result<Exchange, Failed> {
    let mut exchange = target.bus.ask(Ask::Read { point: target.point }).await?;
    for _ in 1..READS {
        if !matches!(&exchange.read, Ok(samples) if samples.is_empty()) {
            break;
        }
        exchange = target.bus.ask(Ask::Read { point: target.point }).await?;
    }
    Ok(exchange)
}

async fn write_point(access: &Access, device: &str, point: &str, value: &Json) -> Json {
    let targets = access.targets.borrow().clone();
    let Some(target) = targets.get(&(device.to_owned(), point.to_owned())) else {
        return json!({ "error": unknown(&targets, device, Some(point)) });
    };
    let raw = match target.rule.to_raw(value) {
        Ok(raw) => raw,
        Err(why) => return json!({ "error": why }),
    };
    if target.rule.readable {
        // A bus that was opened for this write alone does not know yet what only the device can say: its power
        // of ten, where its models are. Whether the write goes through is the write's own answer.
        let _ = read_one(target).await;
    }
    let not_after = Instant::now() + Duration::from_secs(30);
    let ask = Ask::Write { point: target.point, value: raw.clone(), not_after };
    let result = target.bus.ask(ask).await;
    let (state, value, error) = commander::judge(target, &raw, value.clone(), result);
    json!({ "state": state, "value": value, "error": error })
}

fn words(failed: &Failed) -> String {
    match failed {
        Failed::Expired => "its turn did not come within 30 s".to_owned(),
        Failed::Busy => "the bus has too much to do; try again".to_owned(),
        Failed::Failed(why) => why.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_socket_that_cannot_be_made_comes_once_its_directory_does() {
        let dir = tempfile::tempdir().expect("directory");
        let path = dir.path().join("late").join("control.sock");
        let (_targets, targets) = watch::channel(Arc::default());
        let (_lines, lines) = watch::channel(Arc::default());
        let clock = Arc::new(crate::clock::SystemClock::new(true));
        let access = Access {
            snapshot: Arc::new(|| Json::Null),
            values: None,
            broker: None,
            store: None,
            targets,
            lines,
            clock,
        };
        let stop = CancellationToken::new();
        let served = tokio::spawn({
            let (path, stop) = (path.clone(), stop.clone());
            async move { serve_always(&path, access, stop).await }
        });
        // Longer than one try: the first has failed.
        tokio::time::sleep(RETRY / 2).await;
        assert!(!served.is_finished());
        std::fs::create_dir(dir.path().join("late")).expect("made");
        let connected = async {
            while UnixStream::connect(&path).await.is_err() {
                tokio::time::sleep(RETRY).await;
            }
        };
        timeout(RETRY * 4, connected).await.expect("the socket comes");
        // The directory is another one: unmounted, mounted, or removed and made again.
        std::fs::rename(dir.path().join("late"), dir.path().join("away")).expect("moved");
        std::fs::create_dir(dir.path().join("late")).expect("made");
        let connected = async {
            while UnixStream::connect(&path).await.is_err() {
                tokio::time::sleep(LOOK).await;
            }
        };
        timeout(RETRY * 4, connected).await.expect("the socket comes again");
        stop.cancel();
        served.await.expect("it ends when stopped");
    }
}
