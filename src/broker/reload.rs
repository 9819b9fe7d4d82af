//! Another configuration for a running broker. A listener that stays where it is keeps its connections, whoever may come in by it
//! from now on.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::access::All;
use super::limits::Limits;
use super::state::Event;
use super::{Broker, BrokerError, listener, places};
use crate::config::model;

/// Both cannot be open at once: the same port at the same address, or at all addresses.
fn collide(one: SocketAddr, other: SocketAddr) -> bool {
    let all = one.ip().is_unspecified() || other.ip().is_unspecified();
    one.port() == other.port() && (all || one.ip() == other.ip())
}

impl Broker {
    /// Reads the files again and opens and closes listeners. What did not change keeps its connections;
    /// certificates are read again for new connections. Users and rights count from the next packet, and who would not be
    /// let in any more is disconnected. Returns what changed, in words.
    ///
    /// # Errors
    /// As [`Broker::start_with`]; then nothing has changed, unless a port had to be closed to be opened
    /// in another way.
    pub async fn reconfigure(&self, config: &model::Broker) -> Result<Vec<String>, BrokerError> {
        let inner = &*self.inner;
        let all = All::load(config)?;
        let mut acceptors = Vec::new();
        for listener in &config.listener {
            acceptors.push(listener::acceptor(listener)?);
        }
        let mut doors = inner.doors.lock().await;
        let doors_before: Vec<_> = doors.iter().map(|open| open.door.config.clone()).collect();
        let mut gone: Vec<_> = doors.drain(..).collect();
        let (mut kept, mut wanted) = (Vec::new(), Vec::new());
        for ((listener, acceptor), access) in config.listener.iter().zip(acceptors).zip(&all.listeners) {
            let bare = listener.bare();
            match gone.iter().position(|open| open.door.config == bare) {
                Some(at) => kept.push((gone.remove(at), acceptor, access)),
                None => wanted.push((bare, acceptor, access)),
            }
        }
        let mut bound = Vec::new();
        let mut failed = None;
        for (listener, acceptor, access) in wanted {
            // The same port in another way: the old door must close first.
            while let Some(at) = gone.iter().position(|o| collide(o.address, listener.bind)) {
                gone.swap_remove(at).close().await;
            }
            match listener::bind(&listener, acceptor, Arc::clone(access)).await {
                Ok(new) => bound.push(new),
                Err(error) => {
                    failed = Some(error);
                    break;
                }
            }
        }
        if let Some(error) = failed {
            doors.extend(kept.into_iter().map(|(open, ..)| open).chain(gone));
            inner.addresses.send_replace(places(&doors));
            return Err(error);
        }
        let was = inner.access.send_replace(Arc::clone(&all.common));
        let mut changes = all.common.changes(&was, "the local broker", None);
        for (mut open, acceptor, access) in kept {
            let bind = open.door.config.bind;
            if let Some(old) = open.change(access) {
                let but = Some((&*all.common, &*was));
                changes.extend(access.changes(&old, &format!("listener {bind}"), but));
            }
            if open.renew(acceptor) {
                changes.push(format!("certificate of listener {bind} changed"));
            }
            doors.push(open);
        }
        changes.extend(listener::changes(&doors_before, config));
        for open in gone {
            open.close().await;
        }
        doors.extend(bound.into_iter().map(|b| b.open(&inner.shared, &inner.tasks)));
        inner.addresses.send_replace(places(&doors));
        let limits = Limits::of(config);
        inner.shared.gate.with(|doorman| doorman.change(limits.rules()));
        inner.shared.publish_rate.store(limits.publish_rate, Relaxed);
        inner.sys_every.send_if_modified(|every| {
            let changed = *every != config.sys_interval.0;
            *every = config.sys_interval.0;
            changed
        });
        inner.local.send(Event::Access(all.each())).await.map_err(|_| BrokerError::Stopped)?;
        Ok(changes)
    }
}
