//! Proxies of our own making, written from RFC 9110 and RFC 1928, that answer as a test wants; and two
//! real ones, Debian's tinyproxy and microsocks.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};

/// What was asked of a proxy, as it came.
pub type Asked = Arc<Mutex<Vec<String>>>;

/// An HTTP proxy: answers with `refusal` (a whole response) if there is one, and connects otherwise.
pub async fn http(refusal: Option<&'static str>) -> (SocketAddr, Asked) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let asked = Asked::default();
    let log = asked.clone();
    tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            let log = log.clone();
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(near.read_u8().await.ok()?);
                }
                let head = String::from_utf8(head).expect("text");
                let target = head.split(' ').nth(1).expect("a target").to_owned();
                log.lock().expect("not poisoned").push(head);
                if let Some(refusal) = refusal {
                    return near.write_all(refusal.as_bytes()).await.ok();
                }
                let mut far = TcpStream::connect(&target).await.ok()?;
                near.write_all(b"HTTP/1.1 200 Connection established\r\nVia: test\r\n\r\n").await.ok()?;
                tokio::io::copy_bidirectional(&mut near, &mut far).await.ok().map(drop)
            });
        }
    });
    (address, asked)
}

/// A SOCKS5 proxy: wants `login` if there is one, answers a request with `reply`, and connects if that is 0.
pub async fn socks5(login: Option<(&'static str, &'static str)>, reply: u8) -> (SocketAddr, Asked) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let asked = Asked::default();
    let log = asked.clone();
    tokio::spawn(async move {
        while let Ok((near, _)) = listener.accept().await {
            tokio::spawn(one_socks5(near, login, reply, log.clone()));
        }
    });
    (address, asked)
}

async fn one_socks5(mut near: TcpStream, login: Option<(&str, &str)>, reply: u8, asked: Asked) -> Option<()> {
    let field = async |near: &mut TcpStream| {
        let len = near.read_u8().await.ok()?;
        let mut bytes = vec![0; usize::from(len)];
        near.read_exact(&mut bytes).await.ok()?;
        Some(bytes)
    };
    assert_eq!(near.read_u8().await.ok()?, 5);
    let methods = field(&mut near).await?;
    if let Some((user, password)) = login {
        if !methods.contains(&2) {
            return near.write_all(&[5, 0xff]).await.ok();
        }
        near.write_all(&[5, 2]).await.ok()?;
        assert_eq!(near.read_u8().await.ok()?, 1);
        let told = (field(&mut near).await?, field(&mut near).await?);
        let right = told == (user.as_bytes().to_vec(), password.as_bytes().to_vec());
        near.write_all(&[1, u8::from(!right)]).await.ok()?;
        if !right {
            return None;
        }
    } else {
        near.write_all(&[5, 0]).await.ok()?;
    }
    let mut head = [0; 4];
    near.read_exact(&mut head).await.ok()?;
    let host = match head {
        [5, 1, 0, 1] => {
            let mut ip = [0; 4];
            near.read_exact(&mut ip).await.ok()?;
            format!("ip {}", std::net::Ipv4Addr::from(ip))
        }
        [5, 1, 0, 3] => format!("name {}", String::from_utf8(field(&mut near).await?).expect("text")),
        other => panic!("{other:?}"),
    };
    let port = near.read_u16().await.ok()?;
    asked.lock().expect("not poisoned").push(format!("{host} {port}"));
    near.write_all(&[5, reply, 0, 1, 0, 0, 0, 0, 0, 0]).await.ok()?;
    if reply != 0 {
        return None;
    }
    let host = host.split_once(' ').expect("two words").1;
    let mut far = TcpStream::connect((host, port)).await.ok()?;
    tokio::io::copy_bidirectional(&mut near, &mut far).await.ok().map(drop)
}

/// A running proxy that somebody else wrote; ends with the value.
pub struct RealProxy {
    pub port: u16,
    _dir: tempfile::TempDir,
    _child: Child,
}

impl RealProxy {
    /// Debian's tinyproxy with a user; `None`, and it says so, if it is not installed.
    pub async fn tinyproxy(user: &str, password: &str) -> Option<Self> {
        let (port, dir) = (free_port().await, tempfile::tempdir().expect("a directory"));
        let config = dir.path().join("tinyproxy.conf");
        let text = format!(
            "Port {port}\nListen 127.0.0.1\nTimeout 60\nMaxClients 20\nAllow 127.0.0.1\nBasicAuth {user} {password}\n"
        );
        std::fs::write(&config, text).expect("written");
        let config = config.display().to_string();
        Self::start("/usr/bin/tinyproxy", &["-d", "-c", &config], port, dir).await
    }

    /// Debian's microsocks with a user; `None`, and it says so, if it is not installed.
    pub async fn microsocks(user: &str, password: &str) -> Option<Self> {
        let port = free_port().await;
        let args = ["-i", "127.0.0.1", "-p", &port.to_string(), "-u", user, "-P", password];
        Self::start("/usr/bin/microsocks", &args, port, tempfile::tempdir().expect("a directory")).await
    }

    async fn start(program: &str, args: &[&str], port: u16, dir: tempfile::TempDir) -> Option<Self> {
        if !Path::new(program).exists() {
            eprintln!("skipped: {program} is not installed");
            return None;
        }
        let child = Command::new(program)
            .args(args)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("it starts");
        for _ in 0..1000 {
            if TcpStream::connect(("127.0.0.1", port)).await.is_ok() {
                return Some(Self { port, _dir: dir, _child: child });
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{program} does not listen on {port}");
    }
}

async fn free_port() -> u16 {
    let free = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    free.local_addr().expect("bound").port()
}
