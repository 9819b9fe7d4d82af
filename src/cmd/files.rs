//! What stands in the files that a configuration names, checked with the code that the daemon uses.
//!
//! Mistakes in ACL and password files have their own line and column; a password file's lines are never shown. What is wrong
//! with a certificate or key is said where the configuration names it.

use std::io::ErrorKind;
use std::path::Path;

use driver_api::{Place, Problem};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;

use crate::broker::{LineError, acl::Acl, passwords::Passwords};
use crate::certificate;
use crate::clock::{Clock, SystemClock};
use crate::config::named::{File, Identity};
use crate::config::{self, Loaded, Report};
use crate::message::WallMs;
use crate::registry::DRIVERS;

/// Who looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    /// The daemon: what it cannot read it cannot use.
    Daemon,
    /// A person, who may not be allowed to read what the daemon reads.
    Person,
}

/// Largest ACL or password file: a hundred thousand lines of either.
const MAX_BYTES: u64 = 16 << 20;

/// Loads a configuration, and looks into every file that it names.
///
/// # Errors
/// Every mistake of all of them.
pub fn load(main: &Path, who: Who) -> Result<Loaded, Report> {
    match config::load(main, DRIVERS) {
        Ok(mut loaded) => {
            look(&mut loaded.warnings, who);
            if loaded.warnings.problems.is_empty() { Ok(loaded) } else { Err(loaded.warnings) }
        }
        Err(mut report) => {
            look(&mut report, who);
            Err(report)
        }
    }
}

/// Looks into every file that the configuration of this report names, and adds what is wrong.
pub fn look(report: &mut Report, who: Who) {
    let named = report.named.clone();
    for file in once(&named.passwords) {
        lines(report, file, who, true, |text| Passwords::parse(text).map(drop));
    }
    for file in once(&named.acls) {
        lines(report, file, who, false, |text| Acl::parse(text).map(drop));
    }
    for identity in &named.identities {
        certificates(report, identity, who);
    }
    for file in &named.secrets {
        let Some(bytes) = read(report, file, who) else { continue };
        if bytes.split(|b| *b == b'\n').next().is_none_or(<[u8]>::is_empty) {
            let message = format!("`{}`: the first line of `{}` is empty", file.key, file.path.display());
            let problem = Problem::new(file.place.clone(), message);
            report.warnings.push(problem.hint("put the password on the first line of that file"));
        }
    }
    report.tidy();
}

/// Each file once, however many listeners name it.
fn once(files: &[File]) -> impl Iterator<Item = &File> {
    (0..)
        .zip(files)
        .filter(|(n, file)| files[..*n].iter().all(|other| other.path != file.path))
        .map(|(_, file)| file)
}

fn lines(
    report: &mut Report,
    file: &File,
    who: Who,
    secret: bool,
    parse: impl Fn(&str) -> Result<(), Vec<LineError>>,
) {
    let Some(bytes) = read(report, file, who) else { return };
    let (text, wrong) = match String::from_utf8(bytes) {
        Ok(text) => (text, None),
        Err(e) => {
            let at = e.utf8_error().valid_up_to();
            (String::from_utf8_lossy(e.as_bytes()).into_owned(), Some(at))
        }
    };
    let errors = parse(&text).err().unwrap_or_default();
    if errors.is_empty() && wrong.is_none() {
        return;
    }
    let Some(source) = report.sources.add_other(file.path.clone(), text, secret) else { return };
    if let Some(at) = wrong {
        let problem = Problem::new(Place { source, range: at..at }, "this is not UTF-8 text");
        report.problems.push(problem.hint("save the file as UTF-8"));
    }
    report.problems.extend(errors.into_iter().map(|error| Problem {
        place: Place { source, range: error.range },
        message: error.message,
        hint: error.hint,
    }));
}

/// The bytes of a file. `None`: what is wrong has been said, by us or by the rules of the configuration.
fn read(report: &mut Report, file: &File, who: Who) -> Option<Vec<u8>> {
    if !worth_reading(file, who) {
        return None;
    }
    let bounded = || {
        use std::io::Read;
        let mut bytes = Vec::new();
        std::fs::File::open(&file.path)?.take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > MAX_BYTES {
            return Err(std::io::Error::other(format!("it is larger than {} MiB", MAX_BYTES >> 20)));
        }
        Ok(bytes)
    };
    bounded().map_err(|e| unreadable(report, file, who, &e)).ok()
}

/// Whether the rules of the configuration had nothing to say of this file.
fn worth_reading(file: &File, who: Who) -> bool {
    match std::fs::metadata(&file.path) {
        Ok(meta) => !meta.is_dir(),
        // systemd puts credentials there when the service starts, and only then.
        Err(_) if file.path.starts_with("/run/credentials") => who == Who::Daemon,
        Err(e) => e.kind() == ErrorKind::PermissionDenied,
    }
}

fn unreadable(report: &mut Report, file: &File, who: Who, error: &std::io::Error) {
    let shown = file.path.display();
    if error.kind() == ErrorKind::PermissionDenied
        && who == Who::Person
        && !rustix::process::geteuid().is_root()
    {
        let message = format!("`{}`: you may not read `{shown}`, so it is not checked", file.key);
        report.warnings.push(Problem::new(file.place.clone(), message).hint("run it with sudo"));
        return;
    }
    let message = format!("`{}`: cannot read `{shown}`: {error}", file.key);
    let problem = Problem::new(file.place.clone(), message);
    report.problems.push(match error.kind() {
        ErrorKind::PermissionDenied => {
            problem.hint(format!("let the service read it: `chgrp fieldgate {shown}`, `chmod g+r {shown}`"))
        }
        _ => problem,
    });
}

fn certificates(report: &mut Report, identity: &Identity, who: Who) {
    let now = SystemClock::new(false).wall();
    let chain_of = |report: &mut Report, file: &File| -> Option<Vec<CertificateDer<'static>>> {
        read(report, file, who)?;
        match certificate::certificates(&file.path) {
            Ok(chain) => {
                for one in &chain {
                    terms(report, file, one, now);
                }
                Some(chain)
            }
            Err(why) => {
                unusable(report, file, &why, "it takes a PEM file: `-----BEGIN CERTIFICATE-----`");
                None
            }
        }
    };
    if let Some(file) = &identity.ca {
        let mut roots = RootCertStore::empty();
        for one in chain_of(report, file).unwrap_or_default() {
            if let Err(why) = roots.add(one) {
                unusable(
                    report,
                    file,
                    &format!("not a CA certificate ({why})"),
                    "name the certificate of the CA",
                );
            }
        }
    }
    let chain = identity.cert.as_ref().and_then(|file| chain_of(report, file));
    let Some(file) = &identity.key else { return };
    let Some(_) = read(report, file, who) else { return };
    let key = match certificate::private_key(&file.path) {
        Ok(key) => key,
        Err(why) => {
            return unusable(
                report,
                file,
                &why,
                "it takes a PEM file: `-----BEGIN PRIVATE KEY-----`, without a password",
            );
        }
    };
    let Some(chain) = chain else { return };
    // As listeners and uplinks do it: rustls looks whether the two belong together.
    let builder =
        rustls::ServerConfig::builder_with_provider(rustls::crypto::ring::default_provider().into());
    let fits = builder
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key));
    if let Err(why) = fits {
        let hint = "a certificate and its key are made together; take the key of this certificate";
        unusable(report, file, &certificate::unfit(&why), hint);
    }
}

fn unusable(report: &mut Report, file: &File, why: &str, hint: &str) {
    let message = format!("`{}`: `{}` cannot be used: {why}", file.key, file.path.display());
    report.problems.push(Problem::new(file.place.clone(), message).hint(hint));
}

fn terms(report: &mut Report, file: &File, certificate: &[u8], now: WallMs) {
    let Some((from, to)) = certificate::term(certificate) else { return };
    let (shown, key) = (file.path.display(), file.key);
    let message = if to.0 < now.0 {
        format!("`{key}`: a certificate of `{shown}` expired on {to}")
    } else if from.0 > now.0 {
        format!("`{key}`: a certificate of `{shown}` is not valid before {from}")
    } else {
        return;
    };
    let problem = Problem::new(file.place.clone(), message);
    report.warnings.push(problem.hint("renew it, or set the clock if that is wrong"));
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// A certificate with its key; valid until the end of this year.
    fn identity(until: i32) -> (String, String) {
        let mut params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.not_after = rcgen::date_time_ymd(until, 12, 31);
        let key = rcgen::KeyPair::generate().unwrap();
        (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
    }

    #[test]
    fn mistakes_in_all_named_files_come_in_one_run_and_no_secret_is_shown() {
        let dir = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
        let ((fresh, its_key), (_, other_key), (old, old_key)) =
            (identity(2090), identity(2090), identity(2001));
        put("acl", "user anna\ntopic dney secret/#\ntopic read a/#/b\n");
        put("passwd", "# users\nanna:my-secret\nbert:$my$secret\n");
        put("plant.acl", "topic raed a\n");
        put("plant.passwd", "otto:plain\n");
        put("ok.crt", &fresh);
        put("ok.key", &its_key);
        put("other.key", &other_key);
        put("old.crt", &old);
        put("old.key", &old_key);
        put("none.pem", "my-secret");
        put("cloud.password", "\n");
        put(
            "f.toml",
            "[broker]\nacl_file = 'acl'\npassword_file = 'passwd'\nsys_intervall = '1s'\n\
             [[broker.listener]]\nbind = '127.0.0.1:0'\ntls = { cert = 'ok.crt', key = 'other.key', client_ca = 'none.pem' }\n\
             [[broker.listener]]\nbind = '127.0.0.1:0'\ntls = { cert = 'ok.crt', key = 'ok.key' }\n\
             password_file = 'plant.passwd'\nacl_file = 'plant.acl'\n\
             [[broker.listener]]\nbind = '127.0.0.1:0'\nacl_file = 'plant.acl'\n\
             [[uplink]]\nname = 'u'\nurl = 'mqtts://h'\nusername = 'u'\npassword_file = 'cloud.password'\n\
             cert_file = 'old.crt'\nkey_file = 'old.key'\nca_file = 'ok.key'\n",
        );
        let report = load(&dir.path().join("f.toml"), Who::Daemon).unwrap_err();
        let told = |list: &[Problem]| -> Vec<String> {
            let one = |p: &Problem| {
                let at = report.spot(&p.place);
                let file = Path::new(&at.file).file_name().unwrap().to_string_lossy().into_owned();
                format!(
                    "{file}:{}:{}: {}",
                    at.line,
                    at.column,
                    p.message.replace(&format!("{}/", dir.path().display()), "")
                )
            };
            list.iter().map(one).collect()
        };
        assert_eq!(
            told(&report.problems),
            [
                "f.toml:4:1: unknown key `sys_intervall`",
                "f.toml:7:32: `key`: `other.key` cannot be used: the key does not belong to the certificate",
                "f.toml:7:57: `client_ca`: `none.pem` cannot be used: it holds no certificate",
                "f.toml:23:11: `ca_file`: `ok.key` cannot be used: it holds no certificate",
                "passwd:2:6: the password is not hashed",
                "passwd:3:6: the password is not hashed",
                "plant.passwd:1:6: the password is not hashed",
                "acl:2:7: `dney` is no kind of access",
                "acl:3:12: `a/#/b` is not a topic filter",
                "plant.acl:1:7: `raed` is no kind of access",
            ]
        );
        let warned = told(&report.warnings);
        assert_eq!(warned.len(), 2, "{warned:#?}");
        assert_eq!(warned[0], "f.toml:20:17: `password_file`: the first line of `cloud.password` is empty");
        assert!(
            warned[1]
                .starts_with("f.toml:21:13: `cert_file`: a certificate of `old.crt` expired on 2001-12-31"),
            "{warned:#?}"
        );
        let shown = report.render(false);
        assert!(
            !shown.contains("secret\n") && !shown.contains("my-secret") && !shown.contains("$my"),
            "{shown}"
        );
        assert!(shown.contains("topic dney secret/#") && shown.contains("did you mean `deny`?"), "{shown}");
    }

    #[test]
    fn files_without_mistakes_are_no_news() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("acl"), "topic read a/#\n").unwrap();
        fs::write(dir.path().join("f.toml"), "[broker]\nacl_file = 'acl'\n").unwrap();
        let loaded =
            load(&dir.path().join("f.toml"), Who::Person).unwrap_or_else(|report| panic!("{report}"));
        assert!(loaded.warnings.warnings.is_empty());
    }
}
