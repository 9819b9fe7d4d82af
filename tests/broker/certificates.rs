//! Clients that show a certificate: its name is theirs, for the rights, and no password is asked.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use fieldgate::broker::{Broker, Options, hash_password};
use fieldgate::config::model::{self, ListenerTls, Transport};
use rcgen::{BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::raw::*;

/// A CA of the plant.
struct Plant {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
}

impl Plant {
    fn new(dir: &Path) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let made = params.self_signed(&key).unwrap();
        std::fs::write(dir.join("ca.crt"), made.pem()).unwrap();
        Self { certificate: made.der().clone(), issuer: Issuer::new(params, key) }
    }

    /// A certificate for this name and its key; without a name, of nobody.
    fn of(&self, name: Option<&str>) -> (rcgen::Certificate, KeyPair) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.distinguished_name = DistinguishedName::new();
        name.iter().for_each(|name| params.distinguished_name.push(DnType::CommonName, *name));
        (params.signed_by(&key, &self.issuer).unwrap(), key)
    }

    fn listener(&self, dir: &Path) -> model::Listener {
        let (cert, key) = self.of(Some("gateway"));
        std::fs::write(dir.join("server.crt"), cert.pem()).unwrap();
        std::fs::write(dir.join("server.key"), key.serialize_pem()).unwrap();
        let file = |name: &str| dir.join(name);
        let (cert, key, client_ca) = (file("server.crt"), file("server.key"), Some(file("ca.crt")));
        model::Listener { tls: Some(ListenerTls { cert, key, client_ca }), ..listener(Transport::Tcp) }
    }

    async fn come(&self, at: SocketAddr, name: Option<&str>, hello: &[u8]) -> TlsStream<TcpStream> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.certificate.clone()).unwrap();
        let (cert, key) = self.of(name);
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_client_auth_cert(vec![cert.der().clone()], key)
            .unwrap();
        let tcp = TcpStream::connect(at).await.unwrap();
        let host = ServerName::try_from("localhost").unwrap();
        let mut io = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(host, tcp).await.unwrap();
        io.write_all(hello).await.unwrap();
        io
    }
}

async fn answer<const N: usize>(io: &mut TlsStream<TcpStream>) -> [u8; N] {
    let mut got = [0; N];
    io.read_exact(&mut got).await.unwrap();
    got
}

#[tokio::test]
async fn the_name_of_a_certificate_is_the_users_and_a_password_outdoes_it() {
    let dir = tempfile::tempdir().unwrap();
    let plant = Plant::new(dir.path());
    let write = |name: &str, text: &str| {
        std::fs::write(dir.path().join(name), text).unwrap();
        dir.path().join(name)
    };
    let mut config = model::Broker {
        listener: vec![plant.listener(dir.path())],
        acl_file: Some(write("acl", "user pump-7\ntopic read p/#\nuser anna\ntopic read a/#\n")),
        ..model::Broker::default()
    };
    let anna = format!("anna:{}\n", hash_password(b"secret").unwrap());
    for passwords in [false, true] {
        config.password_file = passwords.then(|| write("passwd", &anna));
        let broker = Broker::start_with(&config, Options::default()).await.unwrap();
        let at = broker.addresses()[0].1;
        let mut c = plant.come(at, Some("pump-7"), &connect(V::Four, "c", true)).await;
        assert_eq!(answer(&mut c).await, [0x20, 2, 0, 0]);
        let roster = broker.clients().await;
        assert_eq!(roster[0].user.as_deref(), Some("pump-7"));
        for (filter, code) in [("p/#", 0), ("a/#", 0x80)] {
            c.write_all(&subscribe(V::Four, 1, filter, 0)).await.unwrap();
            assert_eq!(answer(&mut c).await, [0x90, 3, 0, 1, code], "{filter}");
        }
        // Other users are no reason to send it away.
        if passwords {
            write("passwd", &anna.replace("anna", "otto"));
            broker.reconfigure(&config).await.unwrap();
            c.write_all(&[0xC0, 0]).await.unwrap();
            assert_eq!(answer(&mut c).await, [0xD0, 0]);
            write("passwd", &anna);
            broker.reconfigure(&config).await.unwrap();
        }
        // Who says a name has to prove that one, where there are passwords.
        let hello =
            |password| connect_with(V::Four, "d", 0xC2, 0, &[], &[text("anna"), text(password)].concat());
        let (right, filter) = if passwords { (0, "a/#") } else { (0, "p/#") };
        let mut d = plant.come(at, Some("pump-7"), &hello("secret")).await;
        assert_eq!(answer(&mut d).await, [0x20, 2, 0, right]);
        d.write_all(&subscribe(V::Four, 1, filter, 0)).await.unwrap();
        assert_eq!(answer(&mut d).await, [0x90, 3, 0, 1, 0]);
        let wrong = if passwords { 4 } else { 0 };
        let mut d = plant.come(at, Some("pump-7"), &hello("wrong")).await;
        assert_eq!(answer(&mut d).await, [0x20, 2, 0, wrong]);
        // A certificate without a name is nobody: let in on loopback, if there are no users.
        let mut e = plant.come(at, None, &connect(V::Four, "e", true)).await;
        assert_eq!(answer(&mut e).await, [0x20, 2, 0, if passwords { 5 } else { 0 }]);
        broker.close().await;
    }
}
