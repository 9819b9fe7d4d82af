//! Sections 4.3, 4.4, 4.6 and 4.9: quality of service, delivering again, order, flow control.

use crate::client::{Client, check};
use crate::suite::{Ctx, V, Verdict};
use crate::wire::{Connect, publish};

pub async fn quality_0(ctx: Ctx) -> Verdict {
    let topic = ctx.topic("t");
    let mut s = ctx.subscriber("s", &topic, 2).await?;
    let mut p = ctx.client("p").await?;
    p.publish(0, &topic, "x").await?;
    s.expect(&publish(ctx.v, 0, &topic, 0, &[], b"x")).await?;
    s.quiet().await
}

/// QoS 1 as the sender: an id, DUP 0, and unacknowledged until PUBACK.
pub async fn quality_1_sent(ctx: Ctx) -> Verdict {
    sent(ctx, 1).await
}

pub async fn quality_2_sent(ctx: Ctx) -> Verdict {
    sent(ctx, 2).await
}

async fn sent(ctx: Ctx, qos: u8) -> Verdict {
    let topic = ctx.topic("t");
    let mut s = ctx.with(ctx.keeping("s")).await?;
    s.subscribe(&topic, 2).await?;
    let mut p = ctx.client("p").await?;
    let mut ids = Vec::new();
    for n in ["1", "2", "3"] {
        p.publish(qos, &topic, n).await?;
        let m = s.take(&topic, n).await?;
        check(m.id != 0 && !ids.contains(&m.id), "id in use")?;
        check(m.qos() == qos && !m.dup(), format!("{m:02x?}"))?;
        ids.push(m.id);
    }
    // The second is acknowledged; the others are not, and come again.
    s.reply(if qos == 1 { 0x40 } else { 0x50 }, ids[1]).await;
    if qos == 2 {
        s.answer(0x62, ids[1]).await?;
        s.reply(0x70, ids[1]).await;
    }
    s.quiet().await?;
    s.vanish().await;
    let mut s = ctx.with(ctx.keeping("s")).await?;
    for (n, id) in [("1", ids[0]), ("3", ids[2])] {
        let m = s.take(&topic, n).await?;
        check(m.id == id && m.dup(), format!("{m:02x?} instead of id {id} again"))?;
    }
    s.quiet().await
}

pub async fn quality_1_received(ctx: Ctx) -> Verdict {
    let topic = ctx.topic("t");
    let mut s = ctx.subscriber("s", &topic, 0).await?;
    let mut p = ctx.client("p").await?;
    // Answered means done: the same id is a new message, DUP or not.
    for (n, flags) in [2, 2, 10].into_iter().enumerate() {
        p.send(&publish(ctx.v, flags, &topic, 7, &[], n.to_string().as_bytes())).await;
        check(p.answer(0x40, 7).await? == 0, "refused")?;
        s.take(&topic, &n.to_string()).await?;
    }
    s.quiet().await
}

/// QoS 2 as the receiver: PUBREC again for a repeat, one delivery; PUBCOMP for PUBREL; then the id is free.
pub async fn quality_2_received(ctx: Ctx) -> Verdict {
    received_2(ctx, &[4, 12, 12]).await
}

/// Without repeats.
pub async fn quality_2_exchange(ctx: Ctx) -> Verdict {
    received_2(ctx, &[4]).await
}

async fn received_2(ctx: Ctx, repeats: &[u8]) -> Verdict {
    let topic = ctx.topic("t");
    let mut s = ctx.subscriber("s", &topic, 0).await?;
    let mut p = ctx.client("p").await?;
    for payload in ["1", "2"] {
        for flags in repeats {
            p.send(&publish(ctx.v, *flags, &topic, 7, &[], payload.as_bytes())).await;
            check(p.answer(0x50, 7).await? < 0x80, "refused")?;
        }
        p.reply(0x62, 7).await;
        check(p.answer(0x70, 7).await? == 0, "not known")?;
        s.take(&topic, payload).await?;
        s.quiet().await?;
    }
    p.quiet().await
}

/// The same over a connection that breaks between PUBREC and PUBREL.
pub async fn quality_2_over_two_connections(ctx: Ctx) -> Verdict {
    let topic = ctx.topic("t");
    let mut s = ctx.subscriber("s", &topic, 0).await?;
    let mut p = ctx.with(ctx.keeping("p")).await?;
    p.send(&publish(ctx.v, 4, &topic, 7, &[], b"x")).await;
    p.answer(0x50, 7).await?;
    p.vanish().await;
    let mut p = ctx.with(ctx.keeping("p")).await?;
    p.present(true)?;
    p.send(&publish(ctx.v, 12, &topic, 7, &[], b"x")).await;
    p.answer(0x50, 7).await?;
    p.reply(0x62, 7).await;
    check(p.answer(0x70, 7).await? == 0, "not known")?;
    p.quiet().await?;
    s.take(&topic, "x").await?;
    s.quiet().await
}

/// After PUBREC only PUBREL is repeated, with the same id, until PUBCOMP.
pub async fn pubrel_again(ctx: Ctx) -> Verdict {
    let topic = ctx.topic("t");
    let mut s = ctx.with(ctx.keeping("s")).await?;
    s.subscribe(&topic, 2).await?;
    ctx.client("p").await?.publish(2, &topic, "x").await?;
    let m = s.take(&topic, "x").await?;
    s.reply(0x50, m.id).await;
    s.answer(0x62, m.id).await?;
    s.vanish().await;
    for end in [false, true] {
        let mut s = ctx.with(ctx.keeping("s")).await?;
        s.answer(0x62, m.id).await?;
        if end {
            s.reply(0x70, m.id).await;
        }
        s.quiet().await?;
        s.vanish().await;
    }
    ctx.with(ctx.keeping("s")).await?.quiet().await
}

/// A session with this Receive Maximum (before MQTT 5 there is none).
fn window(ctx: &Ctx, name: &str, n: u8) -> Connect {
    let connect = ctx.keeping(name);
    if ctx.v == V::Five { connect.prop([0x21, 0, n]) } else { connect }
}

/// A refusal ends the exchange: nothing more of this message comes, and its id is free.
pub async fn refused_by_the_receiver(ctx: Ctx) -> Verdict {
    let topic = ctx.topic("t");
    // With a window of one the second message shows that the first has left it.
    let mut s = ctx.with(window(&ctx, "s", 1)).await?;
    s.subscribe(&topic, 2).await?;
    let mut p = ctx.client("p").await?;
    for (qos, first) in [(1, 0x40), (2, 0x50)] {
        p.publish(qos, &topic, "x").await?;
        let [high, low] = s.take(&topic, "x").await?.id.to_be_bytes();
        s.send(&[first, 3, high, low, 0x80]).await;
    }
    s.quiet().await?;
    s.vanish().await;
    ctx.with(ctx.keeping("s")).await?.quiet().await
}

pub async fn no_expiry_once_sent(ctx: Ctx) -> Verdict {
    let topic = ctx.topic("t");
    let mut s = ctx.with(ctx.keeping("s")).await?;
    s.subscribe(&topic, 2).await?;
    let mut p = ctx.client("p").await?;
    p.publish_with(4, &topic, &[2, 0, 0, 0, 3], "x").await?;
    let m = s.take(&topic, "x").await?;
    s.vanish().await;
    tokio::time::sleep(std::time::Duration::from_millis(4600)).await;
    let mut s = ctx.with(ctx.keeping("s")).await?;
    check(s.finish(&topic, "x").await?.id == m.id, "another id")?;
    s.quiet().await
}

/// The receiver's half goes on although the message expired meanwhile.
pub async fn expiry_and_the_rest_of_quality_2(ctx: Ctx) -> Verdict {
    let mut p = ctx.client("p").await?;
    p.send(&publish(ctx.v, 4, ctx.topic("t"), 3, &[2, 0, 0, 0, 1], b"x")).await;
    p.answer(0x50, 3).await?;
    tokio::time::sleep(std::time::Duration::from_millis(1200)).await;
    p.reply(0x62, 3).await;
    check(p.answer(0x70, 3).await? == 0, "not known")
}

/// Everything unacknowledged comes again in its order, before what is new; within a connection nothing is repeated.
pub async fn again_in_order(ctx: Ctx) -> Verdict {
    let topic = ctx.topic("t");
    let mut s = ctx.with(ctx.keeping("s")).await?;
    s.subscribe(&topic, 2).await?;
    let mut p = ctx.client("p").await?;
    let mut first = Vec::new();
    for n in 0..10 {
        p.publish(1 + n % 2, &topic, &n.to_string()).await?;
        first.push(s.take(&topic, &n.to_string()).await?);
    }
    s.quiet().await?;
    s.vanish().await;
    p.publish(1, &topic, "10").await?;
    let mut s = ctx.with(ctx.keeping("s")).await?;
    for m in &first {
        let got = s.message().await?;
        let same = got.id == m.id && got.payload == m.payload && got.qos() == m.qos() && got.dup();
        check(same, format!("{got:02x?} instead of {m:02x?}"))?;
    }
    let last = s.take(&topic, "10").await?;
    check(!last.dup(), "DUP on a new one")
}

/// One publisher's messages keep their order, within a topic and a quality.
pub async fn order(ctx: Ctx) -> Verdict {
    let topic = ctx.topic("t");
    let mut all: Vec<Client> = Vec::new();
    for qos in 0..3u8 {
        all.push(ctx.subscriber(&qos.to_string(), &topic, qos).await?);
    }
    let mut p = ctx.client("p").await?;
    for n in 1..=15u16 {
        p.send(&publish(ctx.v, 2, &topic, n, &[], n.to_string().as_bytes())).await;
    }
    for n in 1..=15 {
        p.answer(0x40, n).await?;
    }
    for s in &mut all {
        for n in 1..=15 {
            s.finish(&topic, &n.to_string()).await?;
        }
    }
    Ok(())
}

pub async fn receive_maximum_of_the_client(ctx: Ctx) -> Verdict {
    let topic = ctx.topic("t");
    let mut s = ctx.with(window(&ctx, "s", 2)).await?;
    s.subscribe(&topic, 2).await?;
    let mut p = ctx.client("p").await?;
    for n in 0..5 {
        p.publish(1 + n % 2, &topic, &n.to_string()).await?;
    }
    let (zero, one) = (s.take(&topic, "0").await?, s.take(&topic, "1").await?);
    s.quiet().await?;
    // PUBREC frees no place, PUBCOMP and PUBACK do.
    s.reply(0x50, one.id).await;
    s.answer(0x62, one.id).await?;
    s.quiet().await?;
    s.reply(0x70, one.id).await;
    let two = s.take(&topic, "2").await?;
    s.quiet().await?;
    s.reply(0x40, zero.id).await;
    s.take(&topic, "3").await?;
    s.quiet().await?;
    s.reply(0x40, two.id).await;
    s.take(&topic, "4").await.map(drop)
}

/// With nothing left of its window the client still gets every answer.
pub async fn answers_beside_a_full_window(ctx: Ctx) -> Verdict {
    let topic = ctx.topic("t");
    let mut s = ctx.with(window(&ctx, "s", 1)).await?;
    s.subscribe(&topic, 2).await?;
    let mut p = ctx.client("p").await?;
    p.publish(2, &topic, "1").await?;
    p.publish(2, &topic, "2").await?;
    let m = s.take(&topic, "1").await?;
    s.subscribe(&ctx.topic("u"), 1).await?;
    s.leave(&[&ctx.topic("u")]).await?;
    s.publish(2, &ctx.topic("v"), "x").await?;
    s.quiet().await?;
    s.reply(0x50, m.id).await;
    s.answer(0x62, m.id).await.map(drop)
}

/// … PUBREL of an earlier connection too, although a PUBLISH of then fills the window.
pub async fn pubrel_beside_a_full_window(ctx: Ctx) -> Verdict {
    let topic = ctx.topic("t");
    let mut s = ctx.with(ctx.keeping("s")).await?;
    s.subscribe(&topic, 2).await?;
    let mut p = ctx.client("p").await?;
    p.publish(2, &topic, "1").await?;
    p.publish(2, &topic, "2").await?;
    let (one, two) = (s.take(&topic, "1").await?, s.take(&topic, "2").await?);
    s.reply(0x50, two.id).await;
    s.answer(0x62, two.id).await?;
    s.vanish().await;
    let mut s = ctx.with(window(&ctx, "s", 1)).await?;
    // Before or behind the PUBLISH, but without waiting for its end.
    let first = s.packet().await?;
    let behind = first[0] == 0x3C;
    if behind {
        s.answer(0x62, two.id).await?;
    } else {
        check(first[0] == 0x62 && first[2..4] == two.id.to_be_bytes(), format!("{first:02x?}"))?;
    }
    s.reply(0x70, two.id).await;
    if !behind {
        check(s.take(&topic, "1").await?.id == one.id, "another id")?;
    }
    s.reply(0x50, one.id).await;
    s.answer(0x62, one.id).await.map(drop)
}

pub async fn receive_maximum_of_the_server(ctx: Ctx) -> Verdict {
    let mut p = ctx.client("p").await?;
    let max = p.said(0x21).map_or(u16::MAX, |max| u16::from_be_bytes([max[0], max[1]]));
    if max == u16::MAX {
        return Ok(());
    }
    for id in 1..=max {
        p.send(&publish(ctx.v, 4, ctx.topic("t"), id, &[], b"")).await;
        p.answer(0x50, id).await?;
    }
    p.quiet_at_the_limit().await?;
    p.send(&publish(ctx.v, 4, ctx.topic("t"), max + 1, &[], b"")).await;
    p.ended(&[0x93]).await
}

/// The window is not kept over connections: what waits for PUBREL takes no place in the new one's.
pub async fn the_window_begins_anew(ctx: Ctx) -> Verdict {
    let mut p = ctx.with(ctx.keeping("p")).await?;
    let max = p.said(0x21).map_or(20, |max| u16::from_be_bytes([max[0], max[1]])).min(200);
    p.send(&publish(ctx.v, 4, ctx.topic("t"), 1, &[], b"")).await;
    p.answer(0x50, 1).await?;
    p.vanish().await;
    let mut p = ctx.with(ctx.keeping("p")).await?;
    for id in 2..2 + max {
        p.send(&publish(ctx.v, 4, ctx.topic("t"), id, &[], b"")).await;
        p.answer(0x50, id).await?;
    }
    for id in 1..2 + max {
        p.reply(0x62, id).await;
        check(p.answer(0x70, id).await? == 0, "not known")?;
    }
    Ok(())
}

/// What comes again is within the window of the new connection, too.
pub async fn again_within_the_window(ctx: Ctx) -> Verdict {
    let topic = ctx.topic("t");
    let mut s = ctx.with(ctx.keeping("s")).await?;
    s.subscribe(&topic, 1).await?;
    let mut p = ctx.client("p").await?;
    let mut ids = Vec::new();
    for n in ["1", "2", "3"] {
        p.publish(1, &topic, n).await?;
        ids.push(s.take(&topic, n).await?.id);
    }
    s.vanish().await;
    p.publish(1, &topic, "4").await?;
    let mut s = ctx.with(window(&ctx, "s", 1)).await?;
    for (n, id) in ["1", "2", "3"].into_iter().zip(ids) {
        let m = s.take(&topic, n).await?;
        check(m.id == id && m.dup(), format!("{m:02x?}"))?;
        s.quiet().await?;
        s.reply(0x40, id).await;
    }
    check(!s.take(&topic, "4").await?.dup(), "DUP on a new one")
}

/// 3.1.1 knows no Receive Maximum: nobody is disconnected for what waits for its PUBREL.
pub async fn no_receive_maximum(ctx: Ctx) -> Verdict {
    if !ctx.strict {
        return Ok(());
    }
    let mut p = ctx.client("p").await?;
    for id in 1..=300 {
        p.send(&publish(ctx.v, 4, ctx.topic("t"), id, &[], b"")).await;
        p.answer(0x50, id).await?;
    }
    p.quiet().await
}

/// Answers with a reason, a Reason String and User Properties are answers.
pub async fn answers_that_explain(ctx: Ctx) -> Verdict {
    let topic = ctx.topic("t");
    let mut s = ctx.with(window(&ctx, "s", 1)).await?;
    s.subscribe(&topic, 2).await?;
    let mut p = ctx.client("p").await?;
    for n in 0..3 {
        p.publish(1 + n % 2, &topic, &n.to_string()).await?;
    }
    let explained = |first: u8, id: u16| {
        let why = b"\x00\x0E\x1F\0\x04why.\x26\0\x01k\0\x01v";
        crate::wire::packet(first, &[&id.to_be_bytes()[..], why].concat())
    };
    let zero = s.take(&topic, "0").await?;
    s.send(&explained(0x40, zero.id)).await;
    let one = s.take(&topic, "1").await?;
    s.send(&explained(0x50, one.id)).await;
    s.answer(0x62, one.id).await?;
    s.send(&explained(0x70, one.id)).await;
    s.take(&topic, "2").await?;
    // … and so is a PUBREL.
    p.send(&publish(ctx.v, 4, ctx.topic("u"), 9, &[], b"")).await;
    p.answer(0x50, 9).await?;
    p.send(&explained(0x62, 9)).await;
    check(p.answer(0x70, 9).await? == 0, "not known")
}

/// Answers to nothing: they may come late or twice, and end no connection.
pub async fn unknown_answers(ctx: Ctx) -> Verdict {
    let (v, strict) = (ctx.v, ctx.strict);
    let known = |code| v != V::Five || code == 0x92 || (!strict && code == 0);
    let mut c = ctx.client("c").await?;
    c.reply(0x40, 77).await;
    c.ping().await?;
    c.reply(0x70, 77).await;
    c.ping().await?;
    c.reply(0x50, 77).await;
    // MQTT 5: PUBREL, packet identifier not found. Before, the only answer there is.
    let code = c.answer(0x62, 77).await?;
    check(known(code), format!("reason {code:#04x}"))?;
    c.reply(0x62, 77).await;
    let code = c.answer(0x70, 77).await?;
    check(known(code), format!("reason {code:#04x}"))?;
    c.quiet().await
}

pub async fn codes_that_there_are_not(ctx: Ctx) -> Verdict {
    for (n, first) in [0x40u8, 0x50, 0x62, 0x70].into_iter().enumerate() {
        crate::format::ends(&ctx, n, &[first, 3, 0, 1, 0x01], &[0x81, 0x82]).await?;
    }
    Ok(())
}
