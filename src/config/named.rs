//! The other files that a configuration names: users, rights, certificates, passwords; each with the place of its key.
//!
//! Whether they are there is checked with the rest. What stands in them is understood by those who use them, on higher floors.

use std::path::PathBuf;

use driver_api::Place;

use super::raw::Everything;
use super::sections::{Sections, last_place};

/// A file that a key names.
#[derive(Debug, Clone)]
pub struct File {
    /// The key.
    pub key: &'static str,
    /// The file, from `/` or from the working directory.
    pub path: PathBuf,
    /// Where the key's value stands.
    pub place: Place,
}

/// Certificate, key and CA that are used together. Any of them may be missing.
#[derive(Debug, Clone, Default)]
pub struct Identity {
    /// The certificate chain.
    pub cert: Option<File>,
    /// Its private key.
    pub key: Option<File>,
    /// The certificates that the other side is checked with.
    pub ca: Option<File>,
}

/// All of them.
#[derive(Debug, Clone, Default)]
pub struct Named {
    /// The users of the local broker: those of `[broker]`, if it names any, and then those of its listeners.
    pub passwords: Vec<File>,
    /// Their rights, likewise.
    pub acls: Vec<File>,
    /// Certificates of listeners and uplinks.
    pub identities: Vec<Identity>,
    /// Files with a password on their first line.
    pub secrets: Vec<File>,
}

impl Named {
    pub(super) fn of(sections: &Sections<'_, '_>, all: &Everything<'_>) -> Self {
        let broker = &sections.broker;
        let of_broker = |key, path: &Option<PathBuf>| {
            Some(File { key, path: path.clone()?, place: last_place(&all.broker, key) })
        };
        let mut named = Self {
            passwords: of_broker("password_file", &broker.password_file).into_iter().collect(),
            acls: of_broker("acl_file", &broker.acl_file).into_iter().collect(),
            ..Self::default()
        };
        for (index, listener) in broker.listener.iter().enumerate() {
            let own = |key, path: &Option<PathBuf>| {
                Some(File { key, path: path.clone()?, place: sections.listener(index, key) })
            };
            named.passwords.extend(own("password_file", &listener.password_file));
            named.acls.extend(own("acl_file", &listener.acl_file));
            let Some(tls) = &listener.tls else { continue };
            let file = |key: &'static str, path: &PathBuf| File {
                key,
                path: path.clone(),
                place: sections.listener(index, &format!("tls.{key}")),
            };
            named.identities.push(Identity {
                cert: Some(file("cert", &tls.cert)),
                key: Some(file("key", &tls.key)),
                ca: tls.client_ca.as_ref().map(|path| file("client_ca", path)),
            });
        }
        for (uplink, raw) in &sections.uplinks {
            let file = |key: &'static str, path: &Option<PathBuf>| {
                Some(File { key, path: path.clone()?, place: raw.at(key) })
            };
            named.identities.push(Identity {
                cert: file("cert_file", &uplink.cert_file),
                key: file("key_file", &uplink.key_file),
                ca: file("ca_file", &uplink.ca_file),
            });
            named.secrets.extend(file("password_file", &uplink.password_file));
            named.secrets.extend(file("proxy_password_file", &uplink.proxy_password_file));
        }
        named
    }
}
