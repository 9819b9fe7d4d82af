//! The doors: one accept loop for each listener. A loop only accepts; everything that a client can delay
//! happens in the connection's own task.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::access::Access;
use super::greet::{self, Shared};
use super::state::Event;
use super::stats::Counters;
use super::{BrokerError, tls};
use crate::config::model::{Listener, Transport};

/// A listener as configured ([`Listener::bare`]), and what may change while it is open.
#[derive(Debug)]
pub(super) struct Door {
    pub config: Listener,
    /// Who may come in, and what they may do: renewed at reload.
    pub access: watch::Receiver<Arc<Access>>,
    /// Renewed at reload: certificates change more often than addresses.
    pub tls: watch::Receiver<Option<Arc<ServerConfig>>>,
    /// Closes the door and ends its connections.
    pub stop: CancellationToken,
}

impl Door {
    /// How its clients come, in words.
    pub fn transport(&self) -> &'static str {
        match (self.config.transport, self.config.tls.is_some()) {
            (Transport::Tcp, false) => "tcp",
            (Transport::Tcp, true) => "tls",
            (Transport::Websocket, false) => "websocket",
            (Transport::Websocket, true) => "websocket, tls",
        }
    }
}

/// An open door.
#[derive(Debug)]
pub(super) struct Open {
    pub door: Arc<Door>,
    pub address: SocketAddr,
    renew: watch::Sender<Option<Arc<ServerConfig>>>,
    access: watch::Sender<Arc<Access>>,
    /// Of its certificate files.
    stamp: Vec<u8>,
    task: Option<JoinHandle<()>>,
}

/// Reads the certificates of a listener, if it has TLS.
pub(super) fn acceptor(config: &Listener) -> Result<Option<Arc<ServerConfig>>, BrokerError> {
    config.tls.as_ref().map(tls::acceptor).transpose()
}

/// A bound socket, not yet accepting.
#[derive(Debug)]
pub(super) struct Bound {
    config: Listener,
    socket: TcpListener,
    address: SocketAddr,
    acceptor: Option<Arc<ServerConfig>>,
    access: Arc<Access>,
}

/// Binds one listener.
pub(super) async fn bind(
    config: &Listener,
    acceptor: Option<Arc<ServerConfig>>,
    access: Arc<Access>,
) -> Result<Bound, BrokerError> {
    let failed = |source| BrokerError::Bind { address: config.bind, source };
    let socket = TcpListener::bind(config.bind).await.map_err(failed)?;
    let address = socket.local_addr().map_err(failed)?;
    Ok(Bound { config: config.bare(), socket, address, acceptor, access })
}

impl Bound {
    /// Starts accepting.
    pub fn open(self, shared: &Arc<Shared>, tasks: &TaskTracker) -> Open {
        let Self { config, socket, address, acceptor, access } = self;
        let (renew, tls) = watch::channel(acceptor);
        let (access, rights) = watch::channel(access);
        let door = Arc::new(Door { config, access: rights, tls, stop: shared.stop.child_token() });
        let transport = door.config.transport;
        tracing::info!(%address, ?transport, tls = door.config.tls.is_some(), "broker listens");
        let task = tasks.spawn(accept(socket, door.clone(), shared.clone(), tasks.clone()));
        let stamp = tls::stamp(door.config.tls.as_ref());
        Open { door, address, renew, access, stamp, task: Some(task) }
    }
}

impl Open {
    pub fn transport(&self) -> Transport {
        self.door.config.transport
    }

    /// From now on new connections see these certificates. Returns whether they are others than before.
    pub fn renew(&mut self, acceptor: Option<Arc<ServerConfig>>) -> bool {
        self.renew.send_replace(acceptor);
        let stamp = tls::stamp(self.door.config.tls.as_ref());
        std::mem::replace(&mut self.stamp, stamp) != self.stamp
    }

    /// From now on these users and rights. What it was before, if it is another now.
    pub fn change(&self, access: &Arc<Access>) -> Option<Arc<Access>> {
        let mut was = None;
        self.access.send_if_modified(|now| {
            // (The same in content stays the same for those who compare pointers.)
            was = (**now != **access).then(|| std::mem::replace(now, Arc::clone(access)));
            was.is_some()
        });
        was
    }

    /// Closes the door; returns when its port is free again.
    pub async fn close(mut self) {
        self.door.stop.cancel();
        if let Some(task) = self.task.take() {
            let _ = task.await;
        }
    }
}

/// Which listeners are others than before, in words.
pub(super) fn changes(before: &[Listener], config: &crate::config::model::Broker) -> Vec<String> {
    let wanted: Vec<_> = config.listener.iter().map(Listener::bare).collect();
    let gone = before.iter().filter(|old| !wanted.contains(old)).map(|old| (old.bind, "closed"));
    let new = wanted.iter().filter(|new| !before.contains(new)).map(|new| (new.bind, "opened"));
    gone.chain(new).map(|(bind, what)| format!("listener {bind} {what}")).collect()
}

async fn accept(socket: TcpListener, door: Arc<Door>, shared: Arc<Shared>, tasks: TaskTracker) {
    let mut complained = false;
    loop {
        let accepted = tokio::select! {
            accepted = socket.accept() => accepted,
            () = door.stop.cancelled() => return,
        };
        let (tcp, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of file descriptors, mostly. Waiting is all that helps.
                if !std::mem::replace(&mut complained, true) {
                    tracing::warn!(%error, bind = %door.config.bind, "cannot accept a connection");
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        complained = false;
        let place = match shared.gate.arrive(peer.ip()) {
            Ok(place) => place,
            Err(why) => {
                shared.counters.refuse(why);
                continue;
            }
        };
        let (shared, door) = (shared.clone(), door.clone());
        // Two tasks: if the inner one panics, the outer one cleans up, and nobody else notices.
        tasks.spawn(async move {
            let number = shared.fresh();
            Counters::add(&shared.counters.connections, 1);
            let inner = tokio::spawn(greet::serve(shared.clone(), door, tcp, peer, number));
            if inner.await.is_err() {
                tracing::error!(%peer, "a fault of ours ended this connection");
                let _ = shared.events.send(Event::Panicked(number)).await;
            }
            shared.counters.connections.fetch_sub(1, std::sync::atomic::Ordering::Relaxed);
            drop(place);
        });
    }
}
