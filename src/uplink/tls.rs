//! TLS towards the broker: rustls with ring, CAs from a file or from the system, client certificates.
//!
//! Files are read anew for every attempt, so renewed certificates need no restart. A failure is told in
//! words: who issued it, what name it is for, and whether the clock may be to blame.

use std::io;
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::{AlertDescription, CertificateError, ClientConfig, RootCertStore};

use super::fault::Fault;
use crate::certificate;
use crate::config::model::Uplink;
use crate::message::WallMs;

/// The client's side of TLS for this uplink. Reads files: call it where blocking is allowed.
///
/// # Errors
/// Which file cannot be used, and why.
pub fn client_config(uplink: &Uplink) -> Result<Arc<ClientConfig>, Fault> {
    let mut roots = RootCertStore::empty();
    if let Some(path) = &uplink.ca_file {
        for certificate in certificates("ca_file", path)? {
            roots.add(certificate).map_err(|e| {
                Fault::File(format!("ca_file `{}`: not a CA certificate ({e})", path.display()))
            })?;
        }
    } else {
        // Some systems carry a few certificates that do not parse; the rest is what counts.
        let (_added, _ignored) =
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if roots.is_empty() {
            return Err(Fault::File(
                "the system has no CA certificates; install ca-certificates or set ca_file".to_owned(),
            ));
        }
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|e| Fault::Tls(e.to_string()))?
        .with_root_certificates(roots);
    let mut config = match (&uplink.cert_file, &uplink.key_file) {
        (Some(cert), Some(key)) => {
            let chain = certificates("cert_file", cert)?;
            let secret = certificate::private_key(key)
                .map_err(|e| Fault::File(format!("key_file `{}` cannot be used: {e}", key.display())))?;
            builder.with_client_auth_cert(chain, secret).map_err(|e| {
                Fault::File(format!(
                    "cert_file `{}` and key_file `{}` do not fit together: {}",
                    cert.display(),
                    key.display(),
                    certificate::unfit(&e)
                ))
            })?
        }
        (None, None) | (Some(_), None) | (None, Some(_)) => builder.with_no_client_auth(),
    };
    config.alpn_protocols = uplink.alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    Ok(Arc::new(config))
}

fn certificates(key: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, Fault> {
    certificate::certificates(path)
        .map_err(|e| Fault::File(format!("{key} `{}` cannot be used: {e}", path.display())))
}

/// What went wrong in TLS, in words; `None` if the error is not one of TLS. `synced`: our clock is believed.
#[must_use]
pub fn words(error: &io::Error, synced: bool) -> Option<String> {
    let error = error.get_ref()?.downcast_ref::<rustls::Error>()?;
    Some(match error {
        rustls::Error::InvalidCertificate(certificate) => certificate_words(certificate, synced),
        rustls::Error::AlertReceived(
            AlertDescription::CertificateRequired | AlertDescription::NoCertificate,
        ) => "the broker wants a client certificate; set cert_file and key_file".to_owned(),
        rustls::Error::AlertReceived(
            alert @ (AlertDescription::BadCertificate
            | AlertDescription::UnknownCA
            | AlertDescription::CertificateUnknown
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateRevoked
            | AlertDescription::AccessDenied),
        ) => format!("the broker does not accept our certificate ({alert:?})"),
        rustls::Error::AlertReceived(AlertDescription::HandshakeFailure) => {
            "the broker ended the handshake (HandshakeFailure); does it want a client certificate (cert_file and key_file), or nothing that we offer?"
                .to_owned()
        }
        rustls::Error::AlertReceived(AlertDescription::ProtocolVersion) => {
            "the broker speaks neither TLS 1.2 nor 1.3".to_owned()
        }
        rustls::Error::AlertReceived(AlertDescription::NoApplicationProtocol)
        | rustls::Error::NoApplicationProtocol => "the broker knows none of the names in `alpn`".to_owned(),
        rustls::Error::AlertReceived(alert) => format!("the broker ended the handshake ({alert:?})"),
        rustls::Error::InvalidMessage(_) | rustls::Error::InappropriateMessage { .. } => {
            "the answer is no TLS; is this the port for plain mqtt://, or a captive portal?".to_owned()
        }
        other => other.to_string(),
    })
}

fn certificate_words(error: &CertificateError, synced: bool) -> String {
    let clock = if synced {
        "if that is not so, the clock of this machine is wrong"
    } else {
        "the clock of this machine is not set, so that may not be so: it needs NTP, or a battery"
    };
    match error {
        CertificateError::UnknownIssuer => {
            "the broker's certificate comes from an unknown CA; set ca_file to the CA that issued it"
                .to_owned()
        }
        CertificateError::BadSignature => {
            "the broker's certificate is not signed by the CA we know under that name; is ca_file up to date?"
                .to_owned()
        }
        CertificateError::NotValidForName => "the broker's certificate is for another name".to_owned(),
        CertificateError::NotValidForNameContext { expected, presented } => format!(
            "the broker's certificate is not for the name `{}` but for {}",
            expected.to_str(),
            if presented.is_empty() { "none".to_owned() } else { names(presented) }
        ),
        CertificateError::Expired => format!("the broker's certificate has expired; {clock}"),
        CertificateError::ExpiredContext { time, not_after } => format!(
            "the broker's certificate expired on {}, and it is now {}; {clock}",
            shown(*not_after),
            shown(*time)
        ),
        CertificateError::NotValidYet => format!("the broker's certificate is not valid yet; {clock}"),
        CertificateError::NotValidYetContext { time, not_before } => format!(
            "the broker's certificate is valid from {}, and it is now {}; {clock}",
            shown(*not_before),
            shown(*time)
        ),
        CertificateError::Revoked => "the broker's certificate was revoked".to_owned(),
        other => format!("the broker's certificate is not accepted: {other}"),
    }
}

/// rustls hands the names over as `DnsName("localhost")`.
fn names(presented: &[String]) -> String {
    let inner = |name: &String| name.split('"').nth(1).unwrap_or(name).to_owned();
    presented.iter().map(|name| format!("`{}`", inner(name))).collect::<Vec<_>>().join(", ")
}

fn shown(time: UnixTime) -> WallMs {
    WallMs(i64::try_from(time.as_secs().saturating_mul(1000)).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(error: rustls::Error) -> String {
        words(&io::Error::new(io::ErrorKind::InvalidData, error), true).expect("an error of TLS")
    }

    #[test]
    fn an_expired_certificate_points_at_the_clock() {
        let at = |s| UnixTime::since_unix_epoch(std::time::Duration::from_secs(s));
        let text = said(rustls::Error::InvalidCertificate(CertificateError::ExpiredContext {
            time: at(1_795_357_800),
            not_after: at(1_700_000_000),
        }));
        assert!(
            text.contains("expired on 2023-11-14") && text.contains("2026-11-22") && text.contains("clock"),
            "{text}"
        );
    }

    #[test]
    fn an_unknown_ca_and_a_plain_port_are_told_apart() {
        assert!(
            said(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer)).contains("unknown CA")
        );
        let plain = rustls::Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType);
        assert!(said(plain).contains("no TLS"));
        assert_eq!(words(&io::Error::from(io::ErrorKind::ConnectionReset), true), None);
    }
}
