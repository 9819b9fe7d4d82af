//! Chapters 1 and 2: strings, lengths, flags, packet ids.

use crate::client::check;
use crate::suite::{Ctx, V, Verdict};
use crate::wire::{self, Connect, packet, publish, subscribe, text, unsubscribe};

/// Strings that are none: a broken sequence, and an encoded surrogate.
const BROKEN: [&[u8]; 3] = [b"a\xC3\x28", b"\xED\xA0\x80", b"\xED\xBF\xBFx"];

/// A client that sends this is disconnected.
pub async fn ends(ctx: &Ctx, n: usize, bytes: &[u8], reasons: &[u8]) -> Verdict {
    let mut client = ctx.client(&format!("bad{n}")).await?;
    client.send(bytes).await;
    client.ended(reasons).await.map_err(|what| format!("after {bytes:02x?}: {what}"))
}

/// Where a client can put a string after CONNECT.
fn everywhere(v: V, string: &[u8]) -> Vec<Vec<u8>> {
    let long = [b"x/", string].concat();
    vec![
        publish(v, 0, &long, 0, &[], b""),
        publish(v, 2, &long, 1, &[], b""),
        subscribe(v, 1, &[], &[(&long, 0)]),
        unsubscribe(v, 1, &[&long]),
    ]
}

pub async fn not_utf8(ctx: Ctx) -> Verdict {
    for (n, string) in BROKEN.iter().enumerate() {
        for (m, bytes) in everywhere(ctx.v, string).iter().enumerate() {
            ends(&ctx, 10 * n + m, bytes, &[0x81, 0x90, 0x8F]).await?;
        }
        ctx.refused(&Connect::new(ctx.v, string).bytes(), None, &[0x81, 0x85]).await?;
    }
    Ok(())
}

pub async fn null(ctx: Ctx) -> Verdict {
    for (m, bytes) in everywhere(ctx.v, b"a\0b").iter().enumerate() {
        ends(&ctx, m, bytes, &[0x81, 0x90, 0x8F]).await?;
    }
    ctx.refused(&Connect::new(ctx.v, b"a\0b").bytes(), None, &[0x81, 0x85]).await
}

pub async fn byte_order_mark(ctx: Ctx) -> Verdict {
    let (with, without) = (ctx.topic("\u{FEFF}a"), ctx.topic("a"));
    let mut all = ctx.subscriber("all", &ctx.topic("#"), 0).await?;
    let mut plain = ctx.subscriber("plain", &without, 0).await?;
    let mut p = ctx.client("p").await?;
    p.publish(0, &with, "1").await?;
    let got = all.message().await?;
    check(got.topic == with.as_bytes(), format!("topic {:02x?}", got.topic))?;
    plain.quiet().await?;
    // In front it is a character, too.
    let front = format!("\u{FEFF}{without}");
    let mut s = ctx.subscriber("front", &front, 0).await?;
    p.publish(0, &front, "2").await?;
    s.take(&front, "2").await?;
    plain.quiet().await
}

pub async fn shortest_lengths(ctx: Ctx) -> Verdict {
    let topic = ctx.topic("l");
    let mut s = ctx.subscriber("s", &topic, 0).await?;
    let mut p = ctx.client("p").await?;
    for length in [0, 127, 128, 16_383, 16_384] {
        let overhead = 2 + topic.len() + 1;
        let payload = "x".repeat(usize::saturating_sub(length, overhead));
        p.publish(0, &topic, &payload).await?;
        // Exact bytes, so the length in its shortest form.
        s.expect(&publish(ctx.v, 0, &topic, 0, &[], payload.as_bytes())).await?;
    }
    Ok(())
}

pub async fn string_pairs(ctx: Ctx) -> Verdict {
    for (n, string) in BROKEN.iter().enumerate() {
        for (m, pair) in [(*string, &b"v"[..]), (b"k", *string), (b"k\0", b"v")].into_iter().enumerate() {
            let property = [&[0x26][..], &text(pair.0), &text(pair.1)].concat();
            ends(&ctx, 10 * n + m, &publish(ctx.v, 0, ctx.topic("p"), 0, &property, b""), &[0x81]).await?;
        }
    }
    Ok(())
}

pub async fn reserved_flags(ctx: Ctx) -> Verdict {
    let v = ctx.v;
    let filter = ctx.topic("f");
    let with = |first: u8, mut bytes: Vec<u8>| {
        bytes[0] = first;
        bytes
    };
    let all = [
        vec![0x41, 2, 0, 1],
        vec![0x52, 2, 0, 1],
        vec![0x60, 2, 0, 1],
        vec![0x63, 2, 0, 1],
        vec![0x74, 2, 0, 1],
        with(0x80, subscribe(v, 1, &[], &[(&filter, 0)])),
        with(0x8A, subscribe(v, 1, &[], &[(&filter, 0)])),
        with(0xA0, unsubscribe(v, 1, &[&filter])),
        with(0xA6, unsubscribe(v, 1, &[&filter])),
        vec![0xC8, 0],
        vec![0xE1, 0],
    ];
    for (n, bytes) in all.iter().enumerate() {
        ends(&ctx, n, bytes, &[0x81]).await?;
    }
    let mut connect = ctx.hello("c").bytes();
    connect[0] = 0x11;
    ctx.open().await?.told(&connect).await
}

/// Only the flags of one kind of packet.
pub async fn flags_of(ctx: Ctx, kind: u8) -> Verdict {
    let body: Vec<u8> = match kind {
        0x60 => vec![0, 1],
        0x80 => subscribe(ctx.v, 1, &[], &[("f", 0)])[2..].to_vec(),
        0xA0 => unsubscribe(ctx.v, 1, &["f"])[2..].to_vec(),
        _ => Vec::new(),
    };
    let right = if matches!(kind, 0x60 | 0x80 | 0xA0) { 2 } else { 0 };
    for flags in (0..16).filter(|flags| *flags != right) {
        ends(&ctx, usize::from(flags), &packet(kind | flags, &body), &[0x81]).await?;
    }
    Ok(())
}

pub async fn pubrel_flags(ctx: Ctx) -> Verdict {
    flags_of(ctx, 0x60).await
}

pub async fn subscribe_flags(ctx: Ctx) -> Verdict {
    flags_of(ctx, 0x80).await
}

pub async fn unsubscribe_flags(ctx: Ctx) -> Verdict {
    flags_of(ctx, 0xA0).await
}

pub async fn disconnect_flags(ctx: Ctx) -> Verdict {
    flags_of(ctx, 0xE0).await
}

pub async fn auth_flags(ctx: Ctx) -> Verdict {
    flags_of(ctx, 0xF0).await
}

pub async fn packet_id_0(ctx: Ctx) -> Verdict {
    let v = ctx.v;
    let topic = ctx.topic("t");
    let all = [
        publish(v, 2, &topic, 0, &[], b""),
        publish(v, 4, &topic, 0, &[], b""),
        subscribe(v, 0, &[], &[(&topic, 0)]),
        unsubscribe(v, 0, &[&topic]),
    ];
    for (n, bytes) in all.iter().enumerate() {
        ends(&ctx, n, bytes, &[0x81, 0x82]).await?;
    }
    Ok(())
}

pub async fn answers_to_packet_id_0(ctx: Ctx) -> Verdict {
    for (n, first) in [0x40, 0x50, 0x62, 0x70].into_iter().enumerate() {
        ends(&ctx, n, &[first, 2, 0, 0], &[0x81, 0x82]).await?;
    }
    Ok(())
}

pub async fn ids_of_the_server(ctx: Ctx) -> Verdict {
    let topic = ctx.topic("t");
    let mut s = ctx.subscriber("s", &topic, 2).await?;
    let mut p = ctx.client("p").await?;
    let mut seen = Vec::new();
    for n in 0..10 {
        p.publish(1 + n % 2, &topic, &n.to_string()).await?;
        let m = s.take(&topic, &n.to_string()).await?;
        check(m.id != 0 && !seen.contains(&m.id), format!("id {} after {seen:?}", m.id))?;
        seen.push(m.id);
    }
    Ok(())
}

pub async fn no_id_at_qos_0(ctx: Ctx) -> Verdict {
    let topic = ctx.topic("t");
    let mut zero = ctx.subscriber("zero", &topic, 0).await?;
    let mut p = ctx.client("p").await?;
    p.publish(2, &topic, "x").await?;
    zero.expect(&publish(ctx.v, 0, &topic, 0, &[], b"x")).await
}

pub async fn answers_carry_the_id(ctx: Ctx) -> Verdict {
    let topic = ctx.topic("t");
    let mut c = ctx.client("c").await?;
    for id in [1, 0x1234, 0xFFFF] {
        c.send(&publish(ctx.v, 2, &topic, id, &[], b"")).await;
        c.answer(0x40, id).await?;
        c.send(&publish(ctx.v, 4, &topic, id, &[], b"")).await;
        c.answer(0x50, id).await?;
        c.reply(0x62, id).await;
        c.answer(0x70, id).await?;
    }
    let mut s = ctx.subscriber("s", &topic, 2).await?;
    c.publish(2, &topic, "x").await?;
    // PUBREL has the id of the PUBLISH.
    s.finish(&topic, "x").await?;
    s.quiet().await
}

pub async fn subscribing_carries_the_id(ctx: Ctx) -> Verdict {
    let topic = ctx.topic("t");
    let mut c = ctx.client("c").await?;
    for id in [1, 0x1234, 0xFFFF] {
        c.send(&subscribe(ctx.v, id, &[], &[(&topic, 0)])).await;
        c.codes(0x90, id).await?;
        c.send(&unsubscribe(ctx.v, id, &[&topic])).await;
        c.codes(0xB0, id).await?;
    }
    Ok(())
}

pub async fn empty_properties(ctx: Ctx) -> Verdict {
    let topic = ctx.topic("t");
    let mut s = ctx.client("s").await?;
    s.send(&subscribe(ctx.v, 7, &[], &[(&topic, 0)])).await;
    s.expect(&[0x90, 4, 0, 7, 0, 0]).await?;
    let mut p = ctx.client("p").await?;
    p.publish(0, &topic, "x").await?;
    s.expect(&packet(0x30, &[text(&topic), vec![0], b"x".to_vec()].concat())).await?;
    s.send(&unsubscribe(ctx.v, 8, &[&topic])).await;
    s.expect(&[0xB0, 4, 0, 8, 0, 0]).await
}

pub async fn longer_lengths_of_version_4(ctx: Ctx) -> Verdict {
    // 3.1.1 does not ask for the shortest form, and some small clients always send two bytes.
    let mut c = ctx.client("c").await?;
    c.send(&[0xC0, 0x80, 0]).await;
    c.expect(&[0xD0, 0]).await
}

pub async fn longer_lengths(ctx: Ctx) -> Verdict {
    ends(&ctx, 0, &[0xC0, 0x80, 0], &[0x81]).await?;
    let mut long = publish(ctx.v, 0, "t", 0, &[], b"");
    long.splice(4..5, [0x80, 0]);
    long[1] += 1;
    ends(&ctx, 1, &long, &[0x81]).await
}

pub async fn five_byte_lengths(ctx: Ctx) -> Verdict {
    ends(&ctx, 0, &[0x30, 0xFF, 0xFF, 0xFF, 0xFF, 0x01], &[0x81]).await?;
    ends(&ctx, 1, &[0xC0, 0x80, 0x80, 0x80, 0x80, 0x00], &[0x81]).await
}

pub async fn lengths_that_lie(ctx: Ctx) -> Verdict {
    let v = ctx.v;
    let topic = ctx.topic("t");
    let short = |mut bytes: Vec<u8>| {
        bytes.truncate(bytes.len() - 1);
        bytes[1] -= 1;
        bytes
    };
    let long = |bytes: Vec<u8>| packet(bytes[0], &[&bytes[2..], &[0][..]].concat());
    let all = [
        packet(0x30, &[]),
        packet(0x30, &[0]),
        packet(0x32, &text(&topic)),
        packet(0x40, &[0]),
        packet(0x62, &[]),
        short(subscribe(v, 1, &[], &[(&topic, 0)])),
        short(unsubscribe(v, 1, &[&topic])),
        long(unsubscribe(v, 1, &[&topic])),
        vec![0xC0, 1, 0],
        wire::packet(0x82, &[0]),
    ];
    for (n, bytes) in all.iter().enumerate() {
        ends(&ctx, n, bytes, &[0x81]).await?;
    }
    Ok(())
}

pub async fn packets_of_servers(ctx: Ctx) -> Verdict {
    let all: [&[u8]; 6] =
        [&[0x20, 2, 0, 0], &[0x90, 3, 0, 1, 0], &[0xB0, 2, 0, 1], &[0xD0, 0], &[0x00, 0], &[0xF0, 0]];
    for (n, bytes) in all.iter().enumerate() {
        ends(&ctx, n, bytes, &[0x81, 0x82]).await?;
    }
    Ok(())
}
