//! Authentication that we do not have (4.12), errors (4.13), WebSocket (6), and what MQTT 3.1 has of its own.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Duration, timeout};

use crate::client::check;
use crate::format::ends;
use crate::suite::{Ctx, V, Verdict};
use crate::wire::{Connect, packet, publish, subscribe, unsubscribe};

pub async fn unknown_method(ctx: Ctx) -> Verdict {
    let hello = || ctx.hello("c").prop(b"\x15\0\x04NONE");
    ctx.refused(&hello().bytes(), None, &[0x8C]).await?;
    ctx.refused(&hello().prop(b"\x16\0\x01x").bytes(), None, &[0x8C]).await
}

pub async fn no_method(ctx: Ctx) -> Verdict {
    let mut c = ctx.client("c").await?;
    check(c.said(0x15).is_none() && c.said(0x16).is_none(), "a method in CONNACK")?;
    c.quiet().await
}

pub async fn auth_unasked(ctx: Ctx) -> Verdict {
    ends(&ctx, 0, &[0xF0, 0], &[0x82]).await?;
    ends(&ctx, 1, &packet(0xF0, b"\x18\x07\x15\0\x04NONE"), &[0x82]).await
}

pub async fn data_without_method(ctx: Ctx) -> Verdict {
    ctx.refused(&ctx.hello("c").prop(b"\x16\0\x01x").bytes(), None, &[0x82]).await
}

pub async fn properties_of_connect(ctx: Ctx) -> Verdict {
    let zero_or_twice: [&[u8]; 9] = [
        &[0x21, 0, 0],
        &[0x27, 0, 0, 0, 0],
        &[0x21, 0, 1, 0x21, 0, 1],
        &[0x27, 0, 0, 1, 0, 0x27, 0, 0, 1, 0],
        &[0x11, 0, 0, 0, 1, 0x11, 0, 0, 0, 1],
        &[0x22, 0, 1, 0x22, 0, 1],
        &[0x17, 2],
        &[0x19, 2],
        &[0x17, 0, 0x17, 0],
    ];
    for props in zero_or_twice {
        ctx.refused(&ctx.hello("c").prop(props).bytes(), None, &[0x82])
            .await
            .map_err(|e| format!("{props:02x?}: {e}"))?;
    }
    for props in [&[0x01, 0][..], &[0x23, 0, 1], &[0x0B, 1], &[0x18, 0, 0, 0, 1], &[0x7F, 1]] {
        ctx.refused(&ctx.hello("c").prop(props).bytes(), None, &[0x81])
            .await
            .map_err(|e| format!("{props:02x?}: {e}"))?;
    }
    for props in [&[0x11, 0, 0, 0, 1][..], &[0x23, 0, 1], &[0x7F, 1]] {
        let will = ctx.hello("c").will_with(0, false, props, ctx.topic("w"), "");
        ctx.refused(&will.bytes(), None, &[0x81]).await?;
    }
    Ok(())
}

/// User Properties are allowed in every packet that has properties, any number of them.
pub async fn user_properties_everywhere(ctx: Ctx) -> Verdict {
    let topic = ctx.topic("t");
    let many = b"\x26\0\x01k\0\x01v".repeat(40);
    let will = ctx.hello("c").prop(&many).will_with(0, false, &many, &topic, "gone");
    let mut c = ctx.with(will).await?;
    c.subscribe_with(&topic, 0, &many).await?;
    c.send(&publish(ctx.v, 0, &topic, 0, &many, b"x")).await;
    check(c.take(&topic, "x").await?.values(0x26).len() == 40, "user properties of PUBLISH")?;
    let section = crate::wire::section(ctx.v, &many);
    c.send(&packet(0xA2, &[&[0, 77][..], &section, &crate::wire::text(&topic)].concat())).await;
    check(c.codes(0xB0, 77).await? == [0], "UNSUBACK")?;
    let mut watcher = ctx.subscriber("watcher", &topic, 0).await?;
    c.send(&packet(0xE0, &[&[4][..], &section].concat())).await;
    c.closed().await?;
    check(watcher.take(&topic, "gone").await?.values(0x26).len() == 40, "user properties of the will")
}

/// An alias maximum of 0 is a number like any other.
pub async fn no_aliases_wanted(ctx: Ctx) -> Verdict {
    ctx.with(ctx.hello("c").prop([0x22, 0, 0])).await?.quiet().await
}

/// Each of these ends the connection.
pub async fn errors_end(ctx: Ctx) -> Verdict {
    let v = ctx.v;
    let t = ctx.topic("t");
    let all = [
        vec![0x30, 0],
        publish(v, 6, &t, 1, &[], b""),
        publish(v, 2, &t, 0, &[], b""),
        vec![0x20, 2, 0, 0],
        subscribe::<&str>(v, 1, &[], &[]),
        unsubscribe::<&str>(v, 1, &[]),
        ctx.hello("x").bytes(),
        vec![0xC0, 1, 0],
        vec![0x40, 1, 0],
    ];
    for (n, bytes) in all.iter().enumerate() {
        ends(&ctx, n, bytes, &[0x81, 0x82]).await?;
    }
    Ok(())
}

/// The reason reaches a client that is still sending.
pub async fn reasons_arrive(ctx: Ctx) -> Verdict {
    let more = publish(ctx.v, 0, ctx.topic("t"), 0, &[], &[0; 1000]).repeat(200);
    let mut c = ctx.client("c").await?;
    c.send(&[vec![0x30, 0], more.clone()].concat()).await;
    c.ended(&[0x81]).await?;
    ctx.refused(&[ctx.hello("d").flagged(1).bytes(), more].concat(), None, &[0x81]).await
}

/// Only the connection that broke a rule ends, and its session stays.
pub async fn errors_end_nobody_else(ctx: Ctx) -> Verdict {
    let mut other = ctx.client("other").await?;
    let mut c = ctx.with(ctx.keeping("c")).await?;
    c.send(&[0x30, 0]).await;
    c.ended(&[0x81]).await?;
    other.quiet().await?;
    ctx.with(ctx.keeping("c")).await?.present(true)
}

const LONG: Duration = Duration::from_secs(20);

/// Pages that know MQTT 3.1 only offer another name.
fn subprotocol(ctx: &Ctx) -> &'static str {
    if ctx.v == V::Old { "mqttv3.1" } else { "mqtt" }
}

/// A WebSocket, its handshake done; what the server said to it.
async fn websocket(ctx: &Ctx) -> Result<(TcpStream, String), String> {
    let mut io = TcpStream::connect(ctx.at.websocket).await.map_err(|e| e.to_string())?;
    let request = format!(
        "GET /mqtt HTTP/1.1\r\nHost: {}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Protocol: {}\r\n\r\n",
        ctx.at.websocket,
        subprotocol(ctx)
    );
    io.write_all(request.as_bytes()).await.map_err(|e| e.to_string())?;
    let mut head = Vec::new();
    let read = async {
        while !head.ends_with(b"\r\n\r\n") {
            head.push(io.read_u8().await.map_err(|e| e.to_string())?);
        }
        Ok::<_, String>(())
    };
    timeout(LONG, read).await.map_err(|_| "no handshake".to_owned())??;
    Ok((io, String::from_utf8_lossy(&head).into_owned()))
}

/// A frame of a client: its mask is zero, which is a mask, too.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let length = u8::try_from(payload.len()).unwrap_or(0);
    [&[first, 0x80 | length, 0, 0, 0, 0], payload].concat()
}

/// The MQTT bytes that come until there are `n`, or (fewer) until the connection ends.
async fn bytes(io: &mut TcpStream, n: usize) -> Result<Vec<u8>, String> {
    let mut got = Vec::new();
    let read = async {
        while got.len() < n {
            let Ok(first) = io.read_u8().await else { return };
            let Ok(length) = io.read_u8().await else { return };
            let mut payload = vec![0; usize::from(length & 0x7F)];
            if io.read_exact(&mut payload).await.is_err() || first & 0x0F == 8 {
                return;
            }
            if first == 0x82 {
                got.extend(payload);
            }
        }
    };
    timeout(LONG, read).await.map_err(|_| "nothing comes".to_owned())?;
    Ok(got)
}

pub async fn websocket_binary_only(ctx: Ctx) -> Verdict {
    let (mut io, _) = websocket(&ctx).await?;
    let _ = io.write_all(&frame(0x82, &ctx.hello("c").bytes())).await;
    let connack = bytes(&mut io, 4).await?;
    check(connack.first() == Some(&0x20) && connack.get(3) == Some(&0), format!("{connack:02x?}"))?;
    // A ping of MQTT as text: not answered, but the end.
    let _ = io.write_all(&frame(0x81, &[0x40, 2, 0, 1])).await;
    let rest = bytes(&mut io, usize::MAX).await?;
    check(rest.is_empty() || rest[0] == 0xE0, format!("{rest:02x?}"))
}

pub async fn websocket_frames_are_no_packets(ctx: Ctx) -> Verdict {
    let (mut io, _) = websocket(&ctx).await?;
    // CONNECT in pieces, its last one together with two pings.
    let hello = [ctx.hello("c").bytes(), vec![0xC0, 0, 0xC0]].concat();
    for piece in hello.chunks(7).chain([&[0u8][..]]) {
        let _ = io.write_all(&frame(0x82, piece)).await;
        let _ = io.flush().await;
    }
    let whole = if ctx.v == V::Five { 7 } else { 8 };
    let got = bytes(&mut io, whole).await?;
    check(got.first() == Some(&0x20), format!("{got:02x?}"))?;
    let _ = io.write_all(&frame(0x82, &[0xE0, 0])).await;
    let all = [got, bytes(&mut io, usize::MAX).await?].concat();
    check(all.ends_with(&[0xD0, 0, 0xD0, 0]), format!("{all:02x?}"))
}

pub async fn websocket_protocol(ctx: Ctx) -> Verdict {
    let (_, head) = websocket(&ctx).await?;
    let head = head.to_ascii_lowercase();
    let chosen = format!("sec-websocket-protocol: {}\r\n", subprotocol(&ctx));
    check(head.starts_with("http/1.1 101") && head.contains(&chosen), head)
}

pub async fn old_connects(ctx: Ctx) -> Verdict {
    let mut c = ctx.open().await?;
    c.send(&ctx.hello("c").bytes()).await;
    c.expect(&[0x20, 2, 0, 0]).await?;
    c.quiet().await
}

/// 3.1 has no "session present": the byte stays 0. The session is there all the same.
pub async fn old_session(ctx: Ctx) -> Verdict {
    let topic = ctx.topic("t");
    ctx.with(ctx.keeping("c")).await?.subscribe(&topic, 1).await?;
    ctx.client("p").await?.publish(1, &topic, "x").await?;
    let mut c = ctx.with(ctx.keeping("c")).await?;
    c.present(false)?;
    c.finish(&topic, "x").await.map(drop)
}

pub async fn old_ids(ctx: Ctx) -> Verdict {
    for clean in [true, false] {
        let hello = Connect::new(V::Old, "");
        ctx.refused(&if clean { hello } else { hello.resuming() }.bytes(), Some(2), &[]).await?;
    }
    ctx.with(Connect::new(V::Old, format!("{:x<60}", ctx.id("longer than 23 bytes")))).await?.quiet().await
}

/// The remaining length counts for more than the flags: a user name or password may be missing.
pub async fn old_flags_without_fields(ctx: Ctx) -> Verdict {
    ctx.with(ctx.hello("a").flagged(0x80)).await?.quiet().await?;
    ctx.with(ctx.hello("b").user("u").flagged(0x40)).await?.quiet().await
}

/// DUP on SUBSCRIBE, UNSUBSCRIBE and PUBREL is allowed there.
pub async fn old_repeats(ctx: Ctx) -> Verdict {
    let topic = ctx.topic("t");
    let mut c = ctx.client("c").await?;
    c.send(&packet(0x8A, &subscribe(V::Old, 1, &[], &[(&topic, 1)])[2..])).await;
    check(c.codes(0x90, 1).await? == [1], "SUBACK")?;
    c.send(&packet(0xAA, &unsubscribe(V::Old, 2, &[&topic])[2..])).await;
    c.codes(0xB0, 2).await?;
    c.send(&publish(V::Old, 4, &topic, 3, &[], b"x")).await;
    c.answer(0x50, 3).await?;
    c.reply(0x6A, 3).await;
    c.answer(0x70, 3).await.map(drop)
}

/// Levels belong to names: 3 is MQIsdp's, 4 and 5 are MQTT's.
pub async fn old_name_and_level(ctx: Ctx) -> Verdict {
    for (name, level) in [("MQIsdp", 4), ("MQIsdp", 5), ("MQIsdp", 2), ("MQTT", 3)] {
        let mut hello = ctx.hello("c");
        hello.name = name.into();
        hello.level = level;
        let mut c = ctx.open().await?;
        c.send(&hello.bytes()).await;
        match c.next().await? {
            None => {}
            Some(p) if p == [0x20, 2, 0, 1] => c.closed().await?,
            Some(p) => return Err(format!("{name} {level}: {p:02x?}")),
        }
    }
    Ok(())
}

/// Both sides of every version: what one publishes the others get.
pub async fn old_beside_new(ctx: Ctx) -> Verdict {
    let topic = ctx.topic("t");
    let mut all = Vec::new();
    for v in [V::Old, V::Four, V::Five] {
        let mut s = ctx.with(Connect::new(v, ctx.id(&format!("s{}", v.name())))).await?;
        s.subscribe(&topic, 2).await?;
        all.push(s);
    }
    let user: &[u8] = b"\x26\0\x01k\0\x01v";
    for v in [V::Old, V::Four, V::Five] {
        let mut p = ctx.with(Connect::new(v, ctx.id(&format!("p{}", v.name())))).await?;
        p.publish_with(4, &topic, user, "x").await?;
        for s in &mut all {
            let m = s.finish(&topic, "x").await?;
            check((m.props.len() == 1) == (v == V::Five && s.v == V::Five), format!("{m:02x?}"))?;
        }
    }
    Ok(())
}
