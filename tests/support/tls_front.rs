//! TLS in front of a broker that has none, with certificates made on the spot: as old, as foreign or as
//! demanding as a test wants.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, SupportedProtocolVersion};
use tokio::net::{TcpListener, TcpStream};

/// A CA of its own, with its files in a directory that goes with it.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    pub dir: tempfile::TempDir,
}

/// What is out of the ordinary about a front.
pub struct Terms {
    /// Names in the certificate.
    pub names: Vec<String>,
    /// First and last year of the certificate.
    pub years: (i32, i32),
    pub versions: Vec<&'static SupportedProtocolVersion>,
    /// Clients must show a certificate of the same CA.
    pub client_certificate: bool,
    pub alpn: Vec<Vec<u8>>,
}

impl Default for Terms {
    fn default() -> Self {
        Self {
            names: vec!["localhost".into()],
            years: (2020, 2120),
            versions: vec![&rustls::version::TLS13, &rustls::version::TLS12],
            client_certificate: false,
            alpn: vec![],
        }
    }
}

impl Authority {
    /// Its certificate is in `ca.pem`.
    pub fn new(name: &str) -> Self {
        Self::with_key(name, KeyPair::generate().expect("a key"))
    }

    fn with_key(name: &str, key: KeyPair) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let certificate = params.self_signed(&key).expect("a certificate");
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::write(dir.path().join("ca.pem"), certificate.pem()).expect("written");
        Self { issuer: Issuer::new(params, key), certificate: certificate.der().clone(), dir }
    }

    /// Writes its key beside its certificate, for another process: the path of the key.
    pub fn keep(&self) -> PathBuf {
        std::fs::write(self.file("ca.key"), self.issuer.key().serialize_pem()).expect("written");
        self.file("ca.key")
    }

    /// The authority whose key was kept there, with the same name.
    pub fn kept(key: &Path) -> Self {
        let key = KeyPair::from_pem(&std::fs::read_to_string(key).expect("kept")).expect("a key");
        Self::with_key("System CA", key)
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The certificate of a client whose key is in this PEM (PKCS#8), into `client.pem`.
    pub fn client(&self, key: &str) {
        let key = KeyPair::from_pem(key).expect("a key");
        let params = CertificateParams::new(vec!["client".to_owned()]).expect("a name");
        let signed = params.signed_by(&key, &self.issuer).expect("a certificate");
        std::fs::write(self.file("client.pem"), signed.pem()).expect("written");
    }

    fn server(&self, terms: &Terms) -> ServerConfig {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(terms.names.clone()).expect("names");
        params.not_before = date_time_ymd(terms.years.0, 1, 1);
        params.not_after = date_time_ymd(terms.years.1, 1, 1);
        let signed = params.signed_by(&key, &self.issuer).expect("a certificate");
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone()).expect("a CA");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&terms.versions)
            .expect("versions");
        let builder = if terms.client_certificate {
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
            builder.with_client_cert_verifier(verifier.expect("a verifier"))
        } else {
            builder.with_no_client_auth()
        };
        let secret = PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
        let mut config = builder.with_single_cert(vec![signed.der().clone()], secret).expect("they fit");
        config.alpn_protocols.clone_from(&terms.alpn);
        config
    }

    /// A front on a free port that hands everything on to `target`; runs as long as the test. Returns the
    /// port.
    pub async fn front(&self, terms: Terms, target: SocketAddr) -> u16 {
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(self.server(&terms)));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("bound").port();
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    let mut near = acceptor.accept(near).await.ok()?;
                    let mut far = TcpStream::connect(target).await.ok()?;
                    tokio::io::copy_bidirectional(&mut near, &mut far).await.ok()
                });
            }
        });
        port
    }
}
