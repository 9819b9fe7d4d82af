//! Through a proxy to the broker: HTTP CONNECT (RFC 9110, §9.3.6) or SOCKS5 (RFC 1928 and 1929).
//!
//! The proxy gets the broker's name and resolves it. What comes out is the plain connection; TLS runs
//! inside, so the proxy sees where we go and nothing else. Its refusals are told in words.

use std::fmt::Write as _;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_socks::tcp::Socks5Stream;

use super::fault::Fault;
use super::http;
use crate::config::proxy::{Proxy, ProxyKind};
use crate::pipeline::base64;

/// Asks the proxy at the other end of `stream` for a connection to `host:port`.
///
/// # Errors
/// What the proxy says against it.
pub async fn through(
    mut stream: TcpStream,
    proxy: &Proxy,
    password: Option<&[u8]>,
    host: &str,
    port: u16,
) -> Result<TcpStream, Fault> {
    let target = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
    let answer = match proxy.kind {
        ProxyKind::Http => {
            let login = proxy.user.as_deref().map(|user| (user, password.unwrap_or_default()));
            connect(&mut stream, login, &target).await.map(|()| stream)
        }
        ProxyKind::Socks5 => {
            let password = password.map(String::from_utf8_lossy);
            let asked = match (&proxy.user, &password) {
                (Some(user), Some(password)) => {
                    Socks5Stream::connect_with_password_and_socket(stream, (host, port), user, password).await
                }
                _ => Socks5Stream::connect_with_socket(stream, (host, port)).await,
            };
            asked.map(Socks5Stream::into_inner).map_err(|e| socks_words(&e, &target, proxy.user.is_some()))
        }
    };
    answer.map_err(|why| Fault::Proxy { at: proxy.place(), why })
}

/// One CONNECT; nothing of what follows the answer's head is read.
async fn connect<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    login: Option<(&str, &[u8])>,
    target: &str,
) -> Result<(), String> {
    let request = request(login, target);
    let broken = |e: std::io::Error| format!("the connection to it broke ({e})");
    stream.write_all(request.as_bytes()).await.map_err(broken)?;
    stream.flush().await.map_err(broken)?;
    let mut head = Vec::new();
    // Byte by byte: what comes behind the head belongs to the broker. It is read once per connection.
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() >= http::HEAD_MAX {
            return Err(format!("its answer has a head of more than {} bytes", http::HEAD_MAX));
        }
        let mut byte = [0];
        if stream.read(&mut byte).await.map_err(broken)? == 0 {
            return Err("it hung up without an answer; is it an HTTP proxy?".to_owned());
        }
        head.push(byte[0]);
        if head.len() <= 7 && !b"HTTP/1.".starts_with(&head) {
            return Err("it does not answer in HTTP; is it a SOCKS proxy (socks5://)?".to_owned());
        }
    }
    let answer = http::head(&head).ok_or("its answer cannot be understood")?;
    if (200..300).contains(&answer.status) { Ok(()) } else { Err(refusal(&answer, login.is_some(), target)) }
}

fn request(login: Option<(&str, &[u8])>, target: &str) -> String {
    let mut text = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n");
    if let Some((user, password)) = login {
        let basic = base64::encode(&[user.as_bytes(), b":", password].concat());
        let _infallible = write!(text, "Proxy-Authorization: Basic {basic}\r\n");
    }
    text.push_str("\r\n");
    text
}

fn refusal(answer: &http::Head, logged_in: bool, target: &str) -> String {
    match answer.status {
        407 if logged_in => {
            "it refuses our login (407); check the user in `proxy` and proxy_password_file".to_owned()
        }
        407 => "it wants a login (407); write the user into `proxy` and set proxy_password_file".to_owned(),
        403 => format!("it does not let us go to {target} (403)"),
        400 | 405 | 501 => format!("it does not take CONNECT ({}); is it a proxy?", answer.status),
        500 | 502 | 503 | 504 => format!("it cannot reach {target} ({})", answer.status),
        _ if answer.location.is_some() => http::portal_words(answer),
        status => format!("it does not connect us to {target} (HTTP {status})"),
    }
}

fn socks_words(error: &tokio_socks::Error, target: &str, has_user: bool) -> String {
    use tokio_socks::Error as E;
    match error {
        E::NoAcceptableAuthMethods | E::AuthorizationRequired | E::UnknownAuthMethod if !has_user => {
            "it wants a login; write the user into `proxy` and set proxy_password_file".to_owned()
        }
        E::PasswordAuthFailure(_) => {
            "it refuses our login; check the user in `proxy` and proxy_password_file".to_owned()
        }
        E::NoAcceptableAuthMethods => "it takes no login with user and password".to_owned(),
        E::GeneralSocksServerFailure => format!("it failed to reach {target} (general failure)"),
        E::ConnectionNotAllowedByRuleset => format!("it does not let us go to {target}"),
        E::NetworkUnreachable => format!("{target}: it has no network that way"),
        E::HostUnreachable => format!("{target}: it cannot reach that host, or does not know its name"),
        E::ConnectionRefused => {
            format!("{target} refused the proxy's connection: nobody listens on that port")
        }
        E::TtlExpired => format!("{target}: the connection timed out on its way"),
        E::CommandNotSupported => "it does not take the command CONNECT".to_owned(),
        E::AddressTypeNotSupported => "it does not take this kind of address; does it know names?".to_owned(),
        E::InvalidResponseVersion => {
            "it does not answer in SOCKS5; is it an HTTP proxy (http://)?".to_owned()
        }
        E::InvalidAuthValues(_) => "SOCKS5 takes 1 to 255 bytes each of user and password".to_owned(),
        E::Io(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => {
            "it hung up in the middle; is it a SOCKS5 proxy, does it want a login?".to_owned()
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn nothing_behind_the_head_is_taken_and_an_endless_head_ends() {
        let (mut near, mut far) = tokio::io::duplex(64 << 10);
        far.write_all(b"HTTP/1.1 200 Connection established\r\n\r\nHELLO").await.expect("room");
        connect(&mut near, Some(("me", b"secret")), "b:8883").await.expect("connected");
        let mut rest = [0; 5];
        near.read_exact(&mut rest).await.expect("the rest");
        assert_eq!(&rest, b"HELLO");
        let mut asked = vec![0; 200];
        let n = far.read(&mut asked).await.expect("the request");
        assert_eq!(
            String::from_utf8_lossy(&asked[..n]),
            "CONNECT b:8883 HTTP/1.1\r\nHost: b:8883\r\nProxy-Authorization: Basic bWU6c2VjcmV0\r\n\r\n"
        );
        far.write_all(&[b"HTTP/1.1 200 OK\r\nX: ".to_vec(), vec![b'x'; 9000]].concat()).await.expect("room");
        let error = connect(&mut near, None, "b:8883").await.expect_err("endless");
        assert!(error.contains("more than 8192 bytes"), "{error}");
    }
}
