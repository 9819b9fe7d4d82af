//! A listener's TLS: rustls with ring, certificates from PEM files.

use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};

use super::BrokerError;
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
            for certificate in certificates(path)? {
                roots.add(certificate).map_err(|e| wrong(path, &e))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                .build()
                .map_err(|e| wrong(path, &e))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let key = PrivateKeyDer::from_pem_file(&tls.key).map_err(|e| wrong(&tls.key, &e))?;
    let config = builder.with_single_cert(certificates(&tls.cert)?, key).map_err(|e| wrong(&tls.cert, &e))?;
    Ok(Arc::new(config))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, BrokerError> {
    let list: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path).map_err(|e| wrong(path, &e))?.collect();
    match list {
        Ok(list) if list.is_empty() => Err(wrong(path, &"there is no certificate in it")),
        Ok(list) => Ok(list),
        Err(e) => Err(wrong(path, &e)),
    }
}

fn wrong(path: &Path, what: &dyn std::fmt::Display) -> BrokerError {
    BrokerError::Tls { path: path.to_owned(), what: what.to_string() }
}
