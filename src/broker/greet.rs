//! From an accepted socket to a session: handshakes, CONNECT, login. Everything has one deadline.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed};

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::{Duration, Instant, timeout, timeout_at};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::access::Access;
use super::connection::Connection;
use super::doorman::Gate;
use super::intake::{Intake, Partials, SMALL};
use super::journal::Journal;
use super::limits::Limits;
use super::listener::Door;
use super::message::Publish;
use super::pipe;
use super::state::{Attached, Connecting, Event, State, Will};
use super::stats::{Counters, Refusal};
use super::tap::Tap;
use super::traffic::{About, Traffic};
use super::wire::encode::{self, Welcome};
use super::wire::{Connect, Fault, Version, decode, reader, reason};
use super::ws;
use crate::bounds;
use crate::certificate;
use crate::config::model::Transport;
use crate::topic;

/// What all connections share.
#[derive(Debug)]
pub(super) struct Shared {
    pub limits: Limits,
    pub counters: Arc<Counters>,
    pub events: mpsc::Sender<Event>,
    /// What of all that is published is kept.
    pub tap: Arc<Tap>,
    /// Where it is noted what outlives the process, if anything does.
    pub journal: Option<Journal>,
    /// KiB of large payloads on their way through the hub.
    pub kib: Arc<Semaphore>,
    /// Who may come in.
    pub gate: Arc<Gate>,
    /// Messages a second of one client; 0: as many as come.
    pub publish_rate: AtomicU32,
    /// Large packets that are not complete.
    pub partials: Arc<Partials>,
    /// Bytes that wait for clients: queued, in flight, and being written.
    pub held: Arc<AtomicUsize>,
    /// Password checks at work, and those that may still wait.
    pub checkers: Semaphore,
    pub checks: Semaphore,
    pub stop: CancellationToken,
    pub numbers: AtomicU64,
}

/// A byte stream of any transport.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// How long a refusal may take to be written.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Largest CONNECT: room for a will and a client id of 64 KiB each, and no more for those who have not
/// yet said who they are.
const CONNECT_MAX: usize = 160 * 1024;

/// Serves one accepted socket to its end. `number` is unlike any other connection's.
pub(super) async fn serve(
    shared: Arc<Shared>,
    door: Arc<Door>,
    tcp: TcpStream,
    peer: SocketAddr,
    number: u64,
) {
    let deadline = Instant::now() + shared.limits.connect_deadline;
    // Who says nothing costs no TLS and no WebSocket, and no room for either.
    let mut first = [0];
    let spoken = tokio::select! {
        spoken = timeout_at(deadline, tcp.peek(&mut first)) => spoken,
        () = door.stop.cancelled() => return,
    };
    let opened = match spoken {
        Ok(Ok(0)) => return,
        Ok(Ok(_)) => tokio::select! {
            opened = timeout_at(deadline, Box::pin(open(&shared, &door, tcp))) => opened,
            () = door.stop.cancelled() => return,
        },
        Ok(Err(error)) => Ok(Err(error)),
        Err(late) => Err(late),
    };
    match opened {
        Ok(Ok((io, name))) => Box::pin(greet(shared, door, io, (peer, name), number, deadline)).await,
        Ok(Err(error)) => refused(&shared, peer, Refusal::Handshake, &error.to_string()),
        Err(_) => refused(&shared, peer, Refusal::Handshake, "nothing to greet in time"),
    }
}

/// Serves a stream on which MQTT is spoken. `from`: who is at the other end, and the name that its certificate proves.
pub(super) async fn greet(
    shared: Arc<Shared>,
    door: Arc<Door>,
    mut io: Box<dyn Io>,
    from: (SocketAddr, Option<Arc<str>>),
    number: u64,
    deadline: Instant,
) {
    let peer = from.0;
    let mut input = Intake::default();
    let greeting = Box::pin(async {
        let connect = match timeout_at(deadline, read_connect(&shared, &mut io, &mut input)).await {
            Ok(Ok(connect)) => connect,
            Ok(Err(No::Fault(version, fault))) => {
                let why = if fault.reason == reason::PACKET_TOO_LARGE {
                    Refusal::Packet
                } else {
                    Refusal::Protocol
                };
                refused(&shared, peer, why, fault.what);
                // A client that does not even say MQTT gets no answer (§4.13.1, §3.1.4).
                if let Some(version) = version {
                    say_no(&mut io, version, fault.reason, u32::MAX).await;
                }
                return None;
            }
            Ok(Err(No::Closed)) => return None,
            Ok(Err(No::Slow)) => {
                refused(&shared, peer, Refusal::Slow, "a large CONNECT that came slowly");
                return None;
            }
            Err(_) => {
                refused(&shared, peer, Refusal::Handshake, "no CONNECT in time");
                return None;
            }
        };
        let max = connect.maximum_packet;
        match Box::pin(admit(&shared, &door, connect, (number, from))).await {
            Ok(wanted) => Some(wanted),
            Err((version, why, code)) => {
                refused(&shared, peer, why, "CONNECT is not accepted");
                say_no(&mut io, version, code, max).await;
                None
            }
        }
    });
    let greeted = tokio::select! {
        greeted = greeting => greeted,
        () = door.stop.cancelled() => None,
    };
    // From here on a door that closes cuts nothing short: a session that was given to nobody would never be given back.
    if let Some(wanted) = greeted
        && let Some(admitted) = Box::pin(enter(&shared, &mut io, peer, wanted)).await
    {
        let connection = Box::new(Connection::new(shared.clone(), io, input, admitted, number));
        Box::pin(connection.run(&door.stop)).await;
    }
}

/// Waits for the session, which the hub gives at once, or when the connection that has it gives it back.
async fn enter(shared: &Shared, io: &mut Box<dyn Io>, peer: SocketAddr, wanted: Wanted) -> Option<Admitted> {
    let Wanted { connecting, attached, connect, user, about, control } = wanted;
    if shared.events.send(Event::Connect(connecting)).await.is_ok()
        && let Ok(attached) = attached.await
    {
        return Some(Admitted { connect, attached, user, about, control });
    }
    refused(shared, peer, Refusal::Connections, "CONNECT is not accepted");
    say_no(io, connect.version, reason::SERVER_UNAVAILABLE, connect.maximum_packet).await;
    None
}

fn refused(shared: &Shared, peer: SocketAddr, why: Refusal, what: &str) {
    shared.counters.refuse(why);
    tracing::debug!(%peer, ?why, what, "connection refused");
}

/// Refuses, unless even that is larger than the client takes, and closes.
async fn say_no(io: &mut Box<dyn Io>, version: Version, code: u8, max: u32) {
    let mut out = BytesMut::new();
    encode::refuse(&mut out, version, code);
    if out.len() > usize::try_from(max).unwrap_or(usize::MAX) {
        out.clear();
    }
    let _ = timeout(LAST_WORDS, async {
        io.write_all(&out).await?;
        io.flush().await?;
        io.shutdown().await
    })
    .await;
}

/// Does what comes before MQTT. Also the name that a client's certificate proves: the listener's `client_ca` has signed it.
async fn open(
    shared: &Shared,
    door: &Door,
    tcp: TcpStream,
) -> std::io::Result<(Box<dyn Io>, Option<Arc<str>>)> {
    tcp.set_nodelay(true)?;
    let tls = door.tls.borrow().clone().map(TlsAcceptor::from);
    let max = shared.limits.packet;
    let partials = || (shared.partials.clone(), shared.limits.packet_deadline);
    let websocket = door.config.transport == Transport::Websocket;
    let io: (Box<dyn Io>, _) = match (tls, websocket) {
        (None, false) => (Box::new(tcp), None),
        (None, true) => {
            (Box::new(ws::accept(tcp, max, partials()).await.map_err(std::io::Error::other)?), None)
        }
        (Some(tls), false) => {
            let stream = tls.accept(tcp).await?;
            let name = proved(&stream);
            (Box::new(stream), name)
        }
        (Some(tls), true) => {
            let stream = tls.accept(tcp).await?;
            let name = proved(&stream);
            (Box::new(ws::accept(stream, max, partials()).await.map_err(std::io::Error::other)?), name)
        }
    };
    Ok(io)
}

/// The common name of the client's certificate, which was verified in the handshake.
fn proved(stream: &tokio_rustls::server::TlsStream<TcpStream>) -> Option<Arc<str>> {
    let certificate = stream.get_ref().1.peer_certificates()?.first()?;
    certificate::common_name(certificate).map(Arc::from)
}

/// Why there is no CONNECT.
enum No {
    /// The bytes are none; and in which version that can be said.
    Fault(Option<Version>, Fault),
    /// The connection was closed.
    Closed,
    /// It gave way to others; see [`Intake`].
    Slow,
}

/// Reads until CONNECT is complete.
async fn read_connect(shared: &Shared, io: &mut Box<dyn Io>, input: &mut Intake) -> Result<Connect, No> {
    loop {
        if let Some(first) = input.bytes.first()
            && *first != 0x10
        {
            return Err(No::Fault(None, Fault::protocol("the first packet is not CONNECT")));
        }
        if let Some(frame) =
            reader::frame(&input.bytes, CONNECT_MAX).map_err(|fault| No::Fault(None, fault))?
        {
            let packet = input.bytes.split_to(frame.end);
            let body = &packet[frame.start..];
            return decode::connect(frame.first, body)
                .and_then(|connect| frame.checked(connect.version).map(|_| connect))
                .map_err(|fault| No::Fault(answerable(body, fault), fault));
        }
        input.settle(false, &shared.partials, shared.limits.connect_deadline);
        // Before CONNECT nobody gets more memory than a small packet needs, unless it sends a large one.
        let most = SMALL.saturating_sub(input.bytes.len()).max(1024);
        match input.read(io, most).await {
            Ok(0) => return Err(No::Closed),
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::TimedOut => return Err(No::Slow),
            Err(_) => return Err(No::Closed),
        }
    }
}

/// In which version a refusal of this CONNECT can be said; `None`: not at all.
fn answerable(body: &[u8], fault: Fault) -> Option<Version> {
    match body {
        [0, 4, b'M', b'Q', b'T', b'T', 5, ..] => Some(Version::V5),
        // MQTT 3.1.1 answers a malformed CONNECT by closing, an unknown version by code 1.
        _ if fault.reason == reason::UNSUPPORTED_VERSION => Some(Version::V4),
        _ => None,
    }
}

/// A client that may come in, and has no session yet.
struct Wanted {
    connecting: Box<Connecting>,
    attached: oneshot::Receiver<Attached>,
    connect: Connect,
    user: Option<Arc<str>>,
    about: Arc<About>,
    control: pipe::Receiver<super::state::Control>,
}

/// A client that was let in.
pub(super) struct Admitted {
    pub connect: Connect,
    pub attached: Attached,
    pub user: Option<Arc<str>>,
    pub about: Arc<About>,
    pub control: pipe::Receiver<super::state::Control>,
}

type Refused = (Version, Refusal, u8);

async fn admit(
    shared: &Arc<Shared>,
    door: &Arc<Door>,
    mut connect: Connect,
    (number, (peer, proved)): (u64, (SocketAddr, Option<Arc<str>>)),
) -> Result<Wanted, Refused> {
    let version = connect.version;
    let no = |why, code| Err((version, why, code));
    if connect.wants_auth {
        return no(Refusal::Login, reason::BAD_AUTH_METHOD);
    }
    let needs_id = match version {
        Version::V3 => true,
        Version::V4 => !connect.clean,
        Version::V5 => false,
    };
    if connect.client_id.is_empty() && needs_id {
        return no(Refusal::Protocol, reason::CLIENT_ID_INVALID);
    }
    let access = door.access.borrow().clone();
    let refused = |(why, code)| (version, why, code);
    // Who says no name that a password could prove is who the certificate says.
    let by_certificate = proved.is_some() && (connect.user.is_none() || access.passwords.is_none());
    let user = match proved.filter(|_| by_certificate) {
        Some(name) => Some(name),
        None => login(shared, &access, door, &mut connect, peer).await.map_err(refused)?,
    };
    let client_id: Arc<str> = match connect.client_id.as_str() {
        "" => State::made_up_id(),
        id => id.into(),
    };
    let assigned = connect.client_id.is_empty().then_some(&*client_id);
    if version == Version::V5 && (connect.maximum_packet as usize) < encode::welcome_len(assigned) {
        // It could not even be told what we allow it (MQTT-3.1.2-24).
        return no(Refusal::Limit, reason::PACKET_TOO_LARGE);
    }
    let will = match connect.will.take() {
        None => None,
        Some(w) => {
            if !topic::is_name(&w.topic, shared.limits.levels) {
                return no(Refusal::Protocol, reason::TOPIC_INVALID);
            }
            if !access.may_write(user.as_deref(), &client_id, &w.topic) {
                return no(Refusal::Access, reason::NOT_AUTHORIZED);
            }
            let mut message = Publish::plain(w.topic, w.payload, w.qos, w.retain);
            message.props = w.props;
            Some(Will { message, expiry: w.expiry, delay: w.delay })
        }
    };
    let about = Arc::new(About {
        door: Arc::clone(door),
        by_certificate,
        peer,
        version,
        keep_alive: connect.keep_alive,
        since: Instant::now(),
        traffic: Traffic::default(),
        costly_us: Default::default(),
    });
    let (control, hears) = pipe::channel(bounds::BROKER_CONTROL);
    let (reply, attached) = oneshot::channel();
    let connecting = Connecting {
        client_id,
        user: user.clone(),
        access,
        clean: connect.clean,
        expiry: connect.session_expiry,
        will,
        conn: number,
        about: about.clone(),
        control,
        reply,
    };
    Ok(Wanted { connecting: Box::new(connecting), attached, connect, user, about, control: hears })
}

async fn login(
    shared: &Arc<Shared>,
    access: &Arc<Access>,
    door: &Door,
    connect: &mut Connect,
    peer: SocketAddr,
) -> Result<Option<Arc<str>>, (Refusal, u8)> {
    let (Some(user), Some(_)) = (connect.user.take(), &access.passwords) else {
        // Without a password file a name proves nothing, and so is not used.
        let open = access.anonymous(&door.config);
        return if open { Ok(None) } else { Err((Refusal::Login, reason::NOT_AUTHORIZED)) };
    };
    let busy = (Refusal::Busy, reason::SERVER_BUSY);
    let _knocked = shared.gate.knock(peer.ip()).await.ok_or(busy)?;
    let _place = shared.checks.try_acquire().map_err(|_| busy)?;
    let _turn = shared.checkers.acquire().await.map_err(|_| busy)?;
    let (access, name, password) =
        (access.clone(), user.clone(), connect.password.take().unwrap_or_default());
    let check = move || access.passwords.as_ref().is_some_and(|p| p.check(&name, &password));
    match tokio::task::spawn_blocking(check).await {
        Ok(true) => Ok(Some(user.into())),
        Ok(false) => {
            shared.gate.with(|doorman| doorman.wrong(peer.ip(), Instant::now()));
            Err((Refusal::Login, reason::BAD_USER_OR_PASSWORD))
        }
        Err(_) => Err(busy),
    }
}

/// The CONNACK that lets a client in.
pub(super) fn welcome(out: &mut BytesMut, limits: &Limits, admitted: &Admitted) {
    let id = &admitted.attached.session.client_id;
    let welcome = Welcome {
        session_present: admitted.attached.present,
        receive_maximum: limits.in_flight_in,
        maximum_packet: u32::try_from(limits.packet).unwrap_or(u32::MAX),
        topic_alias_maximum: limits.topic_aliases,
        assigned_id: admitted.connect.client_id.is_empty().then_some(id),
    };
    encode::welcome(out, admitted.connect.version, &welcome);
}

impl Shared {
    pub fn fresh(&self) -> u64 {
        self.numbers.fetch_add(1, Relaxed)
    }
}
