//! A listener's TLS: rustls with ring, certificates from PEM files.

use std::path::Path;
use std::sync::Arc;

use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};

use super::BrokerError;
use crate::certificate::{certificates, private_key, unfit};
use crate::config::model::ListenerTls;

/// Reads the files and makes an acceptor.
///
/// # Errors
/// A file cannot be read or does not hold what it should; the error names it.
pub fn acceptor(tls: &ListenerTls) -> Result<Arc<ServerConfig>, BrokerError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|e| wrong(&tls.cert, &e))?;
    let builder = match &tls.client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let mut roots = RootCertStore::empty();
            for certificate in certificates(path).map_err(|e| wrong(path, &e))? {
                roots.add(certificate).map_err(|e| wrong(path, &e))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                .build()
                .map_err(|e| wrong(path, &e))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let key = private_key(&tls.key).map_err(|e| wrong(&tls.key, &e))?;
    let chain = certificates(&tls.cert).map_err(|e| wrong(&tls.cert, &e))?;
    let config = builder.with_single_cert(chain, key).map_err(|e| wrong(&tls.cert, &unfit(&e)))?;
    Ok(Arc::new(config))
}

/// Another value when what stands in the files is other than before; empty without files.
pub fn stamp(tls: Option<&ListenerTls>) -> Vec<u8> {
    let Some(tls) = tls else { return Vec::new() };
    let mut digest = ring::digest::Context::new(&ring::digest::SHA256);
    for path in [Some(&tls.cert), Some(&tls.key), tls.client_ca.as_ref()].into_iter().flatten() {
        digest.update(&std::fs::read(path).unwrap_or_default());
        digest.update(&[0]);
    }
    digest.finish().as_ref().to_vec()
}

fn wrong(path: &Path, what: &dyn std::fmt::Display) -> BrokerError {
    BrokerError::Tls { path: path.to_owned(), what: what.to_string() }
}
