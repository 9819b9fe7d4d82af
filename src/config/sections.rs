//! The gateway's own sections: understood file by file, merged, and their paths made whole.
//!
//! The rule of merging: files are read in order (the main file, then `conf.d` by name). A key of
//! `[gateway]`, `[broker]` or `[store]` in a later file goes over the same key of an earlier one, key
//! by key. Lists of tables (`[[broker.listener]]`, `[[uplink]]`, `[[bus]]`, `[[device]]`) are appended.

use std::path::{Path, PathBuf};

use driver_api::{Place, Problem};
use serde::de::DeserializeOwned;

use super::model::{Broker, Gateway, Listener, Store, Uplink};
use super::raw::{Everything, Raw};
use super::source::Sources;

/// The gateway's own sections, merged, with what is needed to point at any of their keys.
pub(super) struct Sections<'r, 'i> {
    pub gateway: Gateway,
    pub broker: Broker,
    pub store: Store,
    pub uplinks: Vec<(Uplink, &'r Raw<'i>)>,
    /// For each listener of `broker`: its table. Empty for the built-in ones.
    pub listeners: Vec<Raw<'i>>,
}

/// Reads all of them. What cannot be understood is noted, and the rest is there to be checked.
pub(super) fn read<'r, 'i>(
    all: &'r Everything<'i>,
    sources: &Sources,
    problems: &mut Vec<Problem>,
) -> Sections<'r, 'i> {
    let mut gateway = Gateway::default();
    for (part, raw) in understood::<Gateway>(&all.gateway, problems) {
        let Gateway { id, clock } = part;
        let has = |key| raw.table.contains_key(key);
        put(&mut gateway.id, id, has("id"));
        put(&mut gateway.clock, clock, has("clock"));
    }

    let mut broker = Broker::default();
    let (mut listeners, mut named) = (Vec::new(), false);
    for raw in &all.broker {
        let mut rest = raw.clone();
        // One by one: a mistake in one must not hide those of the others.
        let own = rest.take_list("listener", "broker.listener", problems);
        let part: Broker = rest.table().parse_rest(problems).unwrap_or_default();
        let Broker {
            mut password_file,
            mut acl_file,
            engine,
            sys_interval,
            persistence,
            max_connections,
            max_connections_per_address,
            max_connect_rate,
            max_publish_rate,
            max_packet_size,
            listener: _,
        } = part;
        let base = sources.directory(raw.source);
        let has = |key| raw.table.contains_key(key);
        make_whole(base, [&mut password_file, &mut acl_file]);
        put(&mut broker.password_file, password_file, has("password_file"));
        put(&mut broker.acl_file, acl_file, has("acl_file"));
        put(&mut broker.engine, engine, has("engine"));
        put(&mut broker.sys_interval, sys_interval, has("sys_interval"));
        put(&mut broker.persistence, persistence, has("persistence"));
        put(&mut broker.max_connections, max_connections, has("max_connections"));
        let per_address = "max_connections_per_address";
        put(&mut broker.max_connections_per_address, max_connections_per_address, has(per_address));
        put(&mut broker.max_connect_rate, max_connect_rate, has("max_connect_rate"));
        put(&mut broker.max_publish_rate, max_publish_rate, has("max_publish_rate"));
        put(&mut broker.max_packet_size, max_packet_size, has("max_packet_size"));
        if has("listener") {
            if !std::mem::replace(&mut named, true) {
                broker.listener.clear();
            }
            for raw in own {
                let Some(mut listener) = raw.table().parse_rest(problems) else { continue };
                make_listener_whole(base, &mut listener);
                broker.listener.push(listener);
                listeners.push(raw);
            }
        }
    }

    let mut store = Store::default();
    for (part, raw) in understood::<Store>(&all.store, problems) {
        let Store { mut path, max_size, max_age, min_free, history, commit_interval, thin } = part;
        join(sources.directory(raw.source), &mut path);
        let has = |key| raw.table.contains_key(key);
        put(&mut store.path, path, has("path"));
        put(&mut store.max_size, max_size, has("max_size"));
        put(&mut store.max_age, max_age, has("max_age"));
        put(&mut store.min_free, min_free, has("min_free"));
        put(&mut store.history, history, has("history"));
        put(&mut store.commit_interval, commit_interval, has("commit_interval"));
        put(&mut store.thin, thin, has("thin"));
    }

    let mut uplinks = Vec::new();
    for (mut uplink, raw) in understood::<Uplink>(&all.uplinks, problems) {
        let base = sources.directory(raw.source);
        let Uplink { password_file, ca_file, cert_file, key_file, proxy_password_file, .. } = &mut uplink;
        make_whole(base, [password_file, ca_file, cert_file, key_file, proxy_password_file]);
        uplinks.push((uplink, raw));
    }

    Sections { gateway, broker, store, uplinks, listeners }
}

impl Sections<'_, '_> {
    /// The place of a key of the listener with this index in `broker.listener`.
    pub fn listener(&self, index: usize, key: &str) -> Place {
        match self.listeners.get(index) {
            Some(raw) => raw.at(key),
            None => Place { source: 0, range: 0..0 },
        }
    }
}

/// The place of a key in the last file that has it.
pub(super) fn last_place(raws: &[Raw<'_>], key: &str) -> Place {
    let raw = raws.iter().rev().find(|r| r.table.contains_key(key)).or(raws.last());
    raw.map_or(Place { source: 0, range: 0..0 }, |r| r.at(key))
}

fn understood<'r, 'i, T: DeserializeOwned>(
    raws: &'r [Raw<'i>],
    problems: &mut Vec<Problem>,
) -> Vec<(T, &'r Raw<'i>)> {
    raws.iter().filter_map(|raw| Some((raw.table().parse_rest(problems)?, raw))).collect()
}

fn put<T>(into: &mut T, value: T, is_there: bool) {
    if is_there {
        *into = value;
    }
}

fn make_listener_whole(base: &Path, listener: &mut Listener) {
    make_whole(base, [&mut listener.password_file, &mut listener.acl_file]);
    if let Some(tls) = &mut listener.tls {
        join(base, &mut tls.cert);
        join(base, &mut tls.key);
        make_whole(base, [&mut tls.client_ca]);
    }
}

fn make_whole<const N: usize>(base: &Path, paths: [&mut Option<PathBuf>; N]) {
    for path in paths.into_iter().flatten() {
        join(base, path);
    }
}

/// A relative path starts from the directory of the file that holds it.
fn join(base: &Path, path: &mut PathBuf) {
    if path.is_relative() {
        *path = base.join(&*path);
    }
}
