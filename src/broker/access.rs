//! Who is let in and what they may do: the password and ACL files, those of `[broker]` and those that listeners have of their
//! own in their place; and what other ones mean for clients that are there already.
//!
//! A client has the rights of the listener it came in by. While it is away its session has those of the listener it was at last;
//! after a restart or a change of rights, what any listener lets it read is kept for it. When it comes, by whichever listener, what
//! waits for it is judged by the rights that it has there.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::BrokerError;
use super::acl::{Access as Right, Acl};
use super::lines::LineError;
use super::passwords::Passwords;
use super::queue::{Addressed, Item};
use super::session::Session;
use super::state::{Client, Connecting, Control, Presence, State, Will};
use super::trie::Key;
use super::wire::reason;
use crate::config::model;

/// Both files as read at start or reload. Without a file, the thing it would say is open.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// Users, if there is a password file.
    pub passwords: Option<Arc<Passwords>>,
    /// Rights, if there is an ACL file.
    pub acl: Option<Arc<Acl>>,
}

/// Those of all listeners.
#[derive(Debug)]
pub struct All {
    /// As `[broker]` says.
    pub common: Arc<Access>,
    /// As it is at each listener of the configuration, in its order.
    pub listeners: Vec<Arc<Access>>,
}

impl All {
    /// Reads all files, each once.
    ///
    /// # Errors
    /// A file cannot be read, or lines of it cannot be understood.
    pub fn load(config: &model::Broker) -> Result<Self, BrokerError> {
        let (mut passwords, mut acls) = (Vec::new(), Vec::new());
        let mut access = |users: Option<&PathBuf>, rights: Option<&PathBuf>| {
            Ok(Arc::new(Access {
                passwords: once(&mut passwords, users, Passwords::parse)?,
                acl: once(&mut acls, rights, Acl::parse)?,
            }))
        };
        let (users, rights) = (config.password_file.as_ref(), config.acl_file.as_ref());
        let common = access(users, rights)?;
        let mut listeners = Vec::new();
        for listener in &config.listener {
            listeners.push(match (listener.password_file.as_ref(), listener.acl_file.as_ref()) {
                (None, None) => Arc::clone(&common),
                (own_users, own_rights) => access(own_users.or(users), own_rights.or(rights))?,
            });
        }
        Ok(Self { common, listeners })
    }

    /// Each once.
    #[must_use]
    pub fn each(&self) -> Vec<Arc<Access>> {
        let mut all = vec![Arc::clone(&self.common)];
        for access in &self.listeners {
            if !all.contains(access) {
                all.push(Arc::clone(access));
            }
        }
        all
    }
}

impl Access {
    /// Whether a client that was let in by `old` must go: its user is gone or has another password; or it has no name and is not
    /// `welcome` any more. (A listener that is closed ends its connections itself.)
    #[must_use]
    pub fn revokes(&self, old: &Self, user: Option<&str>, welcome: bool) -> bool {
        let Some(passwords) = &self.passwords else { return false };
        match user {
            None => !welcome,
            Some(user) => !old.passwords.as_ref().is_some_and(|old| passwords.agrees(old, user)),
        }
    }

    /// What is another than in `old`, in words: of the local broker, or of a listener; but not what is said of the other (`but`:
    /// that one's, as it is and as it was).
    #[must_use]
    pub fn changes(&self, old: &Self, of: &str, but: Option<(&Self, &Self)>) -> Vec<String> {
        let users = self.passwords != old.passwords
            && but
                .is_none_or(|(is, was)| (&self.passwords, &old.passwords) != (&is.passwords, &was.passwords));
        let rights =
            self.acl != old.acl && but.is_none_or(|(is, was)| (&self.acl, &old.acl) != (&is.acl, &was.acl));
        let words = [(users, "users"), (rights, "rights")];
        words
            .iter()
            .filter(|(changed, _)| *changed)
            .map(|(_, what)| format!("{what} of {of} changed"))
            .collect()
    }

    /// Whether clients without a name may come in through this listener: as it says, otherwise only on
    /// loopback and only without a password file.
    #[must_use]
    pub fn anonymous(&self, listener: &model::Listener) -> bool {
        listener.allow_anonymous.unwrap_or(listener.bind.ip().is_loopback() && self.passwords.is_none())
    }

    /// Whether a client may publish there. `$SYS` is the broker's own.
    #[must_use]
    pub fn may_write(&self, user: Option<&str>, client_id: &str, topic: &str) -> bool {
        !(topic == "$SYS" || topic.starts_with("$SYS/"))
            && self.acl.as_ref().is_none_or(|acl| acl.allows(user, client_id, topic, Right::Write))
    }

    /// Whether a client may receive what is published there.
    #[must_use]
    pub fn may_read(&self, user: Option<&str>, client_id: &str, topic: &str) -> bool {
        self.acl.as_ref().is_none_or(|acl| acl.allows(user, client_id, topic, Right::Read))
    }

    /// Whether a subscription to `filter` could ever deliver something that a client may receive.
    #[must_use]
    pub fn may_subscribe(&self, user: Option<&str>, client_id: &str, filter: &str) -> bool {
        self.acl.as_ref().is_none_or(|acl| acl.may_subscribe(user, client_id, filter))
    }
}

/// What stands in a file, read once however many name it.
fn once<T>(
    known: &mut Vec<(PathBuf, Arc<T>)>,
    path: Option<&PathBuf>,
    parse: fn(&str) -> Result<T, Vec<LineError>>,
) -> Result<Option<Arc<T>>, BrokerError> {
    let Some(path) = path else { return Ok(None) };
    if let Some((_, content)) = known.iter().find(|(of, _)| of == path) {
        return Ok(Some(Arc::clone(content)));
    }
    let content = parse(&read(path)?).map_err(|lines| BrokerError::File { path: path.clone(), lines })?;
    let content = Arc::new(content);
    known.push((path.clone(), Arc::clone(&content)));
    Ok(Some(content))
}

fn read(path: &Path) -> Result<String, BrokerError> {
    std::fs::read_to_string(path).map_err(|source| BrokerError::Read { path: path.to_owned(), source })
}

impl State {
    /// Whether somebody who was let in a moment ago would not be any more: the files were read again meanwhile.
    pub(super) fn is_too_late(c: &Connecting) -> bool {
        let (about, access) = (&c.about, c.about.door.access.borrow());
        !about.by_certificate && access.revokes(&c.access, c.user.as_deref(), about.welcome())
    }

    pub(super) fn may_read(&self, client: &Client, topic: &str) -> bool {
        let (user, id) = (client.user.as_deref(), &*client.id);
        match (&client.access, &client.presence) {
            (_, Presence::Local) => true,
            (Some(access), _) => access.may_read(user, id, topic),
            (None, _) => self.access.iter().any(|access| access.may_read(user, id, topic)),
        }
    }

    /// Whether it may publish its will there now: that was asked when it came, and rights may have changed since.
    pub(super) fn may_say(&self, client: &Client, will: &Will) -> bool {
        let (user, id, topic) = (client.user.as_deref(), &*client.id, &*will.message.topic);
        match &client.access {
            Some(access) => access.may_write(user, id, topic),
            None => self.access.iter().any(|access| access.may_write(user, id, topic)),
        }
    }

    /// Other users and rights from now on, these at any listener. Who would not be let in any more has to go, as with mosquitto.
    pub(super) fn change_access(&mut self, all: Vec<Arc<Access>>) {
        for client in self.clients.values_mut() {
            let old = client.access.take();
            let Presence::Online { about, control, .. } = &client.presence else { continue };
            let (access, user) = (about.door.access.borrow().clone(), client.user.as_deref());
            // (Who is known by a certificate is in no password file.)
            if !about.by_certificate && old.is_some_and(|old| access.revokes(&old, user, about.welcome())) {
                tracing::info!(client = %client.id, user, "no longer let in: disconnected");
                // As in `kick`.
                let _ = control.try_send(Control::Stop(reason::NOT_AUTHORIZED));
            }
            client.access = Some(access);
        }
        self.access = all;
    }

    /// A client is back, as another user, by another listener, or after a change of rights: what it may not read now it is not sent,
    /// as with mosquitto. `was`: the rights and the user by which it was gathered.
    pub(super) fn judge_again(
        &self,
        key: Key,
        session: &mut Session,
        was: (Option<Arc<Access>>, Option<Arc<str>>),
    ) {
        let Some(client) = self.clients.get(&key) else { return };
        let Some(access) = client.access.as_ref().filter(|access| access.acl.is_some()) else { return };
        if was.0.is_some_and(|was| Arc::ptr_eq(&was, access)) && was.1 == client.user {
            return;
        }
        let may = |a: &Addressed| access.may_read(client.user.as_deref(), &client.id, &a.message.topic);
        let mut over = session.flight.withdraw(|a| !may(a));
        session.portion.retain(|a| {
            over.extend((!may(a)).then_some(a.seq));
            may(a)
        });
        // Out of the queue and into it again: nobody else has an end of it now, so all of it fits.
        let waiting: Vec<Item> = std::iter::from_fn(|| session.queue.try_recv()).collect();
        for item in waiting {
            match item {
                Item::Message(a) if !may(&a) => over.push(a.seq),
                item => {
                    let _always = client.queue.restore(item);
                }
            }
        }
        over.into_iter().for_each(|seq| self.note_over(key, seq));
    }
}
