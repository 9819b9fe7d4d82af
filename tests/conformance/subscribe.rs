//! Sections 3.8 to 3.12: subscribing, unsubscribing, pings.

use crate::client::{Client, check};
use crate::format::ends;
use crate::suite::{Ctx, V, Verdict};
use crate::wire::{packet, publish, subscribe, text, unsubscribe};

pub async fn filters_are_utf8(ctx: Ctx) -> Verdict {
    for (n, filter) in [&b"a\xC3\x28"[..], b"\xED\xA0\x80", b"a\0b"].into_iter().enumerate() {
        ends(&ctx, n, &subscribe(ctx.v, 1, &[], &[(filter, 0)]), &[0x81, 0x8F]).await?;
    }
    Ok(())
}

pub async fn unsubscribe_filters_are_utf8(ctx: Ctx) -> Verdict {
    for (n, filter) in [&b"a\xC3\x28"[..], b"\xED\xA0\x80", b"a\0b"].into_iter().enumerate() {
        ends(&ctx, n, &unsubscribe(ctx.v, 1, &[filter]), &[0x81, 0x8F]).await?;
    }
    Ok(())
}

pub async fn at_least_one(ctx: Ctx) -> Verdict {
    ends(&ctx, 0, &subscribe::<&str>(ctx.v, 1, &[], &[]), &[0x82]).await
}

pub async fn at_least_one_to_leave(ctx: Ctx) -> Verdict {
    ends(&ctx, 0, &unsubscribe::<&str>(ctx.v, 1, &[]), &[0x82]).await
}

pub async fn wildcards_are_there(ctx: Ctx) -> Verdict {
    let mut s = ctx.subscriber("s", &ctx.topic("+/#"), 0).await?;
    ctx.client("p").await?.publish(0, &ctx.topic("a/b"), "x").await?;
    s.take(&ctx.topic("a/b"), "x").await.map(drop)
}

/// Bits of the options that must not be set: of the quality in 3.1.1, reserved ones in 5.
pub async fn reserved_options(ctx: Ctx) -> Verdict {
    let all: &[u8] = if ctx.v == V::Five { &[0x40, 0x80, 0xC1] } else { &[3, 4, 8, 0x10, 0x40, 0x81] };
    for (n, options) in all.iter().enumerate() {
        ends(&ctx, n, &subscribe(ctx.v, 1, &[], &[(ctx.topic("t"), *options)]), &[0x81]).await?;
    }
    Ok(())
}

pub async fn options_that_mean_nothing(ctx: Ctx) -> Verdict {
    for (n, options) in [0x03, 0x30].into_iter().enumerate() {
        ends(&ctx, n, &subscribe(ctx.v, 1, &[], &[(ctx.topic("t"), options)]), &[0x82]).await?;
    }
    Ok(())
}

pub async fn no_local(ctx: Ctx) -> Verdict {
    let topic = ctx.topic("t");
    let mut c = ctx.with(ctx.keeping("c")).await?;
    c.subscribe(&topic, 1 | 4).await?;
    c.publish(1, &topic, "mine").await?;
    c.quiet().await?;
    ctx.client("p").await?.publish(1, &topic, "yours").await?;
    c.finish(&topic, "yours").await?;
    // It is the client id that counts, not the connection.
    c.bye().await?;
    let mut c = ctx.with(ctx.keeping("c")).await?;
    c.publish(1, &topic, "mine").await?;
    c.quiet().await
}

/// No Local and Retain As Published go and come with a new SUBSCRIBE, as the quality does.
pub async fn replaces_options(ctx: Ctx) -> Verdict {
    let topic = ctx.topic("t");
    let mut c = ctx.client("c").await?;
    for (qos, no_local, as_published) in
        [(1, true, false), (0, false, true), (1, true, true), (0, false, false)]
    {
        // Retain Handling 2: this is about live ones.
        let options = 0x20 | qos | u8::from(no_local) << 2 | u8::from(as_published) << 3;
        c.subscribe(&topic, options).await?;
        c.send(&publish(ctx.v, 1, &topic, 0, &[], b"mine")).await;
        if !no_local {
            check(c.take(&topic, "mine").await?.retain() == as_published, "retain flag")?;
        }
        c.quiet().await?;
    }
    Ok(())
}

pub async fn no_local_shared(ctx: Ctx) -> Verdict {
    let filter = format!("$share/g/{}", ctx.topic("t"));
    ends(&ctx, 0, &subscribe(ctx.v, 1, &[], &[(filter, 4)]), &[0x82]).await
}

pub async fn answered(ctx: Ctx) -> Verdict {
    let mut c = ctx.client("c").await?;
    for id in [1, 300, 65_535] {
        c.send(&subscribe(ctx.v, id, &[], &[(ctx.topic("t"), 1)])).await;
        let codes = c.codes(0x90, id).await?;
        check(codes == [1], format!("{codes:02x?}"))?;
    }
    Ok(())
}

/// The same filter again takes the place of the old one, and nothing is lost or doubled meanwhile.
pub async fn replaces(ctx: Ctx) -> Verdict {
    let topic = ctx.topic("t");
    let mut s = ctx.subscriber("s", &topic, 0).await?;
    let mut p = ctx.client("p").await?;
    for (n, qos) in [(0, 2), (1, 1), (2, 0)] {
        p.publish(2, &topic, &format!("before {n}")).await?;
        s.finish(&topic, &format!("before {n}")).await?;
        s.subscribe(&topic, qos).await?;
        p.publish(2, &topic, &n.to_string()).await?;
        check(s.finish(&topic, &n.to_string()).await?.qos() == qos, "quality of the new one")?;
    }
    s.leave(&[&topic]).await?;
    p.publish(1, &topic, "no").await?;
    s.quiet().await
}

/// … in the middle of a stream of messages, too: each arrives, once, in its order.
pub async fn replaces_in_a_stream(ctx: Ctx) -> Verdict {
    let topic = ctx.topic("t");
    let mut s = ctx.subscriber("s", &topic, 1).await?;
    let mut p = ctx.client("p").await?;
    let mut expected = 0u16;
    for round in 0..20u16 {
        let ten: Vec<u8> = (1..=10)
            .flat_map(|n| publish(ctx.v, 2, &topic, n, &[], &(10 * round + n).to_be_bytes()))
            .collect();
        p.send(&ten).await;
        s.send(&subscribe(ctx.v, 100 + round, &[], &[(&topic, 1)])).await;
        let mut answered = false;
        while !answered || expected < 10 * (round + 1) {
            let packet = s.packet().await?;
            if packet[0] == 0x90 {
                answered = true;
                continue;
            }
            let m = crate::wire::Publish::read(ctx.v, &packet).ok_or(format!("{packet:02x?}"))?;
            expected += 1;
            check(m.payload == expected.to_be_bytes(), format!("{m:02x?} instead of number {expected}"))?;
            s.reply(0x40, m.id).await;
        }
        for n in 1..=10 {
            p.answer(0x40, n).await?;
        }
    }
    s.quiet().await
}

/// Several filters in one packet: one answer, a code each, in their order; each is a subscription.
pub async fn several(ctx: Ctx) -> Verdict {
    let mut c = ctx.client("c").await?;
    let (a, b, d) = (ctx.topic("a"), ctx.topic("b/+"), ctx.topic("d"));
    let codes = c.ask(&[], &[(&a, 2), (&b, 0), (&d, 1)]).await?;
    check(codes == [2, 0, 1], format!("{codes:02x?}"))?;
    let mut p = ctx.client("p").await?;
    for (topic, qos) in [(a, 2), (ctx.topic("b/x"), 0), (d, 1)] {
        p.publish(2, &topic, "x").await?;
        check(c.finish(&topic, "x").await?.qos() == qos, "quality")?;
    }
    c.quiet().await
}

/// A filter that is none, among good ones: a code of its own, in its place. (A broker may also end the connection.)
pub async fn refused_in_its_place(ctx: Ctx) -> Verdict {
    let mut c = ctx.client("c").await?;
    let (a, d) = (ctx.topic("a"), ctx.topic("d"));
    c.send(&subscribe(ctx.v, 5, &[], &[(&*a, 1), ("x/#/y", 0), (&d, 2)])).await;
    if !ctx.strict {
        return refused(&mut c, &[1, 0x80, 2]).await;
    }
    let codes = c.codes(0x90, 5).await?;
    let none = if ctx.v == V::Five { 0x8F } else { 0x80 };
    check(codes == [1, none, 2], format!("{codes:02x?}"))
}

async fn refused(c: &mut Client, codes: &[u8]) -> Verdict {
    match c.next().await? {
        None => Ok(()),
        Some(p) if p[0] == 0xE0 => c.closed().await,
        Some(p) => {
            let got = &p[p.len() - codes.len()..];
            let alike = got.iter().zip(codes).all(|(a, b)| (*a >= 0x80) == (*b >= 0x80));
            check(p[0] == 0x90 && alike, format!("{p:02x?}"))
        }
    }
}

/// A filter that is none is refused, or costs the connection.
pub async fn is_no_filter(ctx: &Ctx, filter: &str) -> Verdict {
    let mut c = ctx.client("c").await?;
    c.send(&subscribe(ctx.v, 5, &[], &[(filter, 0)])).await;
    refused(&mut c, &[0x80]).await.map_err(|e| format!("{filter}: {e}"))
}

pub async fn lesser_quality(ctx: Ctx) -> Verdict {
    let topic = ctx.topic("t");
    let mut p = ctx.client("p").await?;
    for wanted in 0..3 {
        let mut s = ctx.subscriber("s", &topic, wanted).await?;
        for published in 0..3 {
            p.publish(published, &topic, "x").await?;
            let got = s.finish(&topic, "x").await?.qos();
            check(got == wanted.min(published), format!("{got} for {published} and {wanted}"))?;
        }
        s.quiet().await?;
        s.bye().await?;
    }
    Ok(())
}

pub async fn leaves_the_exact_filter(ctx: Ctx) -> Verdict {
    let mut s = ctx.subscriber("s", &ctx.topic("a/+"), 1).await?;
    s.leave(&[&ctx.topic("a/b"), &ctx.topic("a/#"), &ctx.topic("A/+"), "+"]).await?;
    let mut p = ctx.client("p").await?;
    p.publish(1, &ctx.topic("a/b"), "1").await?;
    s.finish(&ctx.topic("a/b"), "1").await?;
    s.leave(&[&ctx.topic("a/+")]).await?;
    p.publish(1, &ctx.topic("a/b"), "2").await?;
    s.quiet().await
}

/// What was on its way when the client left is finished, over connections if need be.
pub async fn finishes_what_it_began(ctx: Ctx) -> Verdict {
    let topic = ctx.topic("t");
    let mut s = ctx.with(ctx.keeping("s")).await?;
    s.subscribe(&topic, 2).await?;
    let mut p = ctx.client("p").await?;
    p.publish(1, &topic, "1").await?;
    p.publish(2, &topic, "2").await?;
    let (one, two) = (s.take(&topic, "1").await?, s.take(&topic, "2").await?);
    s.leave(&[&topic]).await?;
    s.reply(0x50, two.id).await;
    s.answer(0x62, two.id).await?;
    s.reply(0x70, two.id).await;
    s.quiet().await?;
    s.vanish().await;
    let mut s = ctx.with(ctx.keeping("s")).await?;
    check(s.finish(&topic, "1").await?.id == one.id, "another id")?;
    s.quiet().await
}

pub async fn leaving_is_answered(ctx: Ctx) -> Verdict {
    let (a, b) = (ctx.topic("a"), ctx.topic("b"));
    let mut c = ctx.client("c").await?;
    c.subscribe(&a, 0).await?;
    for id in [1, 0x1234] {
        c.send(&unsubscribe(ctx.v, id, &[&b])).await;
        if ctx.v == V::Five {
            c.expect(&[0xB0, 4, id.to_be_bytes()[0], id.to_be_bytes()[1], 0, 0x11]).await?;
        } else {
            c.expect(&[0xB0, 2, id.to_be_bytes()[0], id.to_be_bytes()[1]]).await?;
        }
    }
    // Several at once: one answer, with MQTT 5 a code each in their order.
    let codes = c.leave(&[&b, &a, &a]).await?;
    check(codes == if ctx.v == V::Five { &[0x11, 0, 0x11][..] } else { &[] }, format!("{codes:02x?}"))?;
    ctx.client("p").await?.publish(1, &a, "x").await?;
    c.quiet().await
}

pub async fn pings(ctx: Ctx) -> Verdict {
    let mut c = ctx.client("c").await?;
    c.send(&[0xC0, 0, 0xC0, 0, 0xC0, 0]).await;
    for _ in 0..3 {
        c.expect(&[0xD0, 0]).await?;
    }
    c.ping().await
}

/// With every copy go the identifiers of the subscriptions that it answers.
pub async fn identifiers(ctx: Ctx) -> Verdict {
    let topic = ctx.topic("a/b");
    let mut s = ctx.client("s").await?;
    s.subscribe_with(&ctx.topic("a/+"), 1, &[0x0B, 5]).await?;
    s.subscribe_with(&ctx.topic("a/#"), 1, &[0x0B, 0xC8, 1]).await?;
    s.subscribe(&ctx.topic("+/b"), 1).await?;
    ctx.client("p").await?.publish(1, &topic, "x").await?;
    let mut seen: Vec<Vec<u8>> = Vec::new();
    let mut copies = 0;
    s.send(&publish(ctx.v, 0, ctx.topic("a/end"), 0, &[], b"")).await;
    loop {
        let m = s.message().await?;
        if m.topic != topic.as_bytes() {
            break;
        }
        copies += 1;
        s.reply(0x40, m.id).await;
        seen.extend(m.values(0x0B).iter().map(|id| id.to_vec()));
    }
    seen.sort();
    check(seen == [vec![5], vec![0xC8, 1]], format!("{seen:02x?} in {copies} copies"))?;
    check(!ctx.strict || copies == 1, format!("{copies} copies"))
}

/// A subscription that is made again has the identifier it was made with last, or none.
pub async fn identifier_is_replaced(ctx: Ctx) -> Verdict {
    let topic = ctx.topic("t");
    let mut s = ctx.client("s").await?;
    let mut p = ctx.client("p").await?;
    for id in [&[5][..], &[0xFF, 0xFF, 0xFF, 0x7F], &[]] {
        let props = if id.is_empty() { Vec::new() } else { [&[0x0B], id].concat() };
        s.subscribe_with(&topic, 0, &props).await?;
        p.publish(0, &topic, "x").await?;
        let got = s.take(&topic, "x").await?;
        check(got.values(0x0B).concat() == id, format!("{got:02x?}"))?;
    }
    Ok(())
}

pub async fn identifier_0(ctx: Ctx) -> Verdict {
    ends(&ctx, 0, &subscribe(ctx.v, 1, &[0x0B, 0], &[(ctx.topic("t"), 0)]), &[0x82]).await?;
    ends(&ctx, 1, &subscribe(ctx.v, 1, &[0x0B, 1, 0x0B, 2], &[(ctx.topic("t"), 0)]), &[0x82]).await
}

pub async fn not_authorised(ctx: Ctx) -> Verdict {
    let mut c = ctx.with_at(ctx.at.guarded, ctx.hello("c").user("u").password("p")).await?;
    let (free, no) = (format!("free/{}", ctx.topic("t")), ctx.topic("t"));
    let codes = c.ask(&[], &[(&free, 1), (&no, 1)]).await?;
    let refusal = match ctx.v {
        // 3.1 has no word for it.
        V::Old => 0,
        V::Four => 0x80,
        V::Five => 0x87,
    };
    check(codes[0] == 1 && (!ctx.strict || codes[1] == refusal), format!("{codes:02x?}"))?;
    check(ctx.v != V::Old || codes[1] < 3, format!("{codes:02x?}"))?;
    // Whatever was said: nothing comes.
    let publisher = ctx.with_at(ctx.at.guarded, ctx.hello("p").user("u").password("p")).await;
    publisher?.publish(1, &free, "x").await?;
    c.finish(&free, "x").await?;
    c.ping().await
}

pub async fn property_of_another_packet(ctx: Ctx) -> Verdict {
    let t = ctx.topic("t");
    let all = [
        subscribe(ctx.v, 1, &[0x11, 0, 0, 0, 1], &[(&t, 0)]),
        publish(ctx.v, 0, &t, 0, &[0x21, 0, 1], b""),
        publish(ctx.v, 0, &t, 0, &[0x1F, 0, 1, b'x'], b""),
        publish(ctx.v, 0, &t, 0, &[0x7F, 1], b""),
        packet(0xA2, &[&[0, 1, 2, 0x0B, 1][..], &text(&t)].concat()),
        packet(0x40, &[0, 1, 0, 2, 0x0B, 1]),
        packet(0xE0, &[0, 3, 0x21, 0, 1]),
    ];
    for (n, bytes) in all.iter().enumerate() {
        ends(&ctx, n, bytes, &[0x81]).await?;
    }
    Ok(())
}

pub async fn property_twice(ctx: Ctx) -> Verdict {
    let t = ctx.topic("t");
    let all: [&[u8]; 6] = [
        &[1, 0, 1, 0],
        &[2, 0, 0, 0, 9, 2, 0, 0, 0, 9],
        &[0x23, 0, 1, 0x23, 0, 1],
        b"\x08\0\x01r\x08\0\x01r",
        b"\x09\0\x01r\x09\0\x01r",
        b"\x03\0\x01r\x03\0\x01r",
    ];
    for (n, props) in all.iter().enumerate() {
        ends(&ctx, n, &publish(ctx.v, 0, &t, 0, props, b""), &[0x82]).await?;
    }
    Ok(())
}

pub async fn property_cut_short(ctx: Ctx) -> Verdict {
    let t = ctx.topic("t");
    for (n, props) in [&[2, 0, 0][..], &[0x26, 0, 1, b'k'], &[0x23], b"\x03\0\x09x"].iter().enumerate() {
        ends(&ctx, n, &publish(ctx.v, 0, &t, 0, props, b""), &[0x81]).await?;
    }
    // A property length that reaches beyond the packet.
    ends(&ctx, 9, &packet(0x30, &[&text(&t)[..], &[9, 1]].concat()), &[0x81]).await
}
