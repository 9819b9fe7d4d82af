//! Wills: section 3.1.2.5 and what follows from it.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::client::{Client, check};
use crate::suite::{Ctx, V, Verdict};
use crate::wire::{packet, publish};

const WORD: &str = "gone";

/// Its topic, and somebody who waits for it.
async fn watched(ctx: &Ctx) -> Result<(String, Client), String> {
    let topic = ctx.topic("will");
    let watcher = ctx.subscriber("watcher", &topic, 2).await?;
    Ok((topic, watcher))
}

pub async fn fires_when_the_client_vanishes(ctx: Ctx) -> Verdict {
    let (topic, mut watcher) = watched(&ctx).await?;
    ctx.with(ctx.hello("c").will(0, false, &topic, WORD)).await?.vanish().await;
    watcher.take(&topic, WORD).await?;
    // Once: it was removed when it was published.
    watcher.quiet().await
}

pub async fn fires_when_a_rule_is_broken(ctx: Ctx) -> Verdict {
    let (topic, mut watcher) = watched(&ctx).await?;
    let mut c = ctx.with(ctx.hello("c").will(1, false, &topic, WORD)).await?;
    c.send(&[0x30, 0]).await;
    c.ended(&[0x81]).await?;
    check(watcher.finish(&topic, WORD).await?.qos() == 1, "not QoS 1")
}

pub async fn fires_when_keep_alive_ends(ctx: Ctx) -> Verdict {
    let (topic, mut watcher) = watched(&ctx).await?;
    let mut c = ctx.with(ctx.hello("c").keep_alive(1).will(0, false, &topic, WORD)).await?;
    c.ended(&[0x8D]).await?;
    watcher.take(&topic, WORD).await.map(drop)
}

pub async fn needs_topic_and_payload(ctx: Ctx) -> Verdict {
    ctx.refused(&ctx.hello("c").flagged(4).bytes(), None, &[0x81]).await?;
    let topic_only = crate::wire::text(ctx.topic("w"));
    let props: &[u8] = if ctx.v == V::Five { &[0] } else { &[] };
    ctx.refused(&ctx.hello("c").flagged(4).bytes_and(&[props, &topic_only].concat()), None, &[0x81]).await
}

/// DISCONNECT takes it back; neither that connection nor a later one of the session brings it.
pub async fn goodbye_takes_it_back(ctx: Ctx) -> Verdict {
    let (topic, mut watcher) = watched(&ctx).await?;
    ctx.with(ctx.keeping("c").will(0, false, &topic, WORD)).await?.bye().await?;
    ctx.with(ctx.keeping("c")).await?.vanish().await;
    watcher.quiet().await
}

pub async fn flag_0_wants_no_fields(ctx: Ctx) -> Verdict {
    for flags in [0x08, 0x10, 0x20, 0x38] {
        ctx.refused(&ctx.hello("c").flagged(flags).bytes(), None, &[0x81]).await?;
    }
    let fields = [crate::wire::text("t"), crate::wire::text("x")].concat();
    ctx.refused(&ctx.hello("c").bytes_and(&fields), None, &[0x81]).await
}

pub async fn flag_0_has_none(ctx: Ctx) -> Verdict {
    let (_, mut watcher) = watched(&ctx).await?;
    ctx.client("c").await?.vanish().await;
    watcher.quiet().await
}

pub async fn flag_0_wants_qos_0(ctx: Ctx) -> Verdict {
    for qos in [8, 16, 24] {
        ctx.refused(&ctx.hello("c").flagged(qos).bytes(), None, &[0x81]).await?;
    }
    Ok(())
}

pub async fn flag_0_wants_retain_0(ctx: Ctx) -> Verdict {
    ctx.refused(&ctx.hello("c").flagged(0x20).bytes(), None, &[0x81]).await
}

pub async fn qualities(ctx: Ctx) -> Verdict {
    let (topic, mut watcher) = watched(&ctx).await?;
    for qos in 0..3 {
        ctx.with(ctx.hello("c").will(qos, false, &topic, WORD)).await?.vanish().await;
        check(watcher.finish(&topic, WORD).await?.qos() == qos, format!("not QoS {qos}"))?;
    }
    let three = ctx.hello("c").will(3, false, &topic, WORD);
    ctx.refused(&three.bytes(), None, &[0x81]).await
}

async fn kept(ctx: &Ctx, retain: bool) -> Result<Client, String> {
    let (topic, mut watcher) = watched(ctx).await?;
    ctx.with(ctx.hello("c").will(1, retain, &topic, WORD)).await?.vanish().await;
    check(!watcher.finish(&topic, WORD).await?.retain(), "the retain flag went to who was there before")?;
    ctx.subscriber("late", &topic, 1).await
}

pub async fn not_retained(ctx: Ctx) -> Verdict {
    kept(&ctx, false).await?.quiet().await
}

pub async fn retained(ctx: Ctx) -> Verdict {
    let mut late = kept(&ctx, true).await?;
    let got = late.finish(&ctx.topic("will"), WORD).await?;
    check(got.retain() && got.qos() == 1, "not as it was published")
}

pub async fn fires_on_take_over(ctx: Ctx) -> Verdict {
    let (topic, mut watcher) = watched(&ctx).await?;
    let mut old = ctx.with(ctx.hello("c").will(0, false, &topic, "old")).await?;
    let mut new = ctx.with(ctx.hello("c").will(0, false, &topic, "new")).await?;
    old.ended(&[0x8E]).await?;
    watcher.take(&topic, "old").await?;
    new.quiet().await?;
    new.bye().await?;
    watcher.quiet().await
}

/// A session and a will that waits `delay` seconds.
fn late(ctx: &Ctx, delay: u8, topic: &str) -> crate::wire::Connect {
    ctx.keeping("c").will_with(0, false, &[0x18, 0, 0, 0, delay], topic, WORD)
}

pub async fn waits_for_its_delay(ctx: Ctx) -> Verdict {
    let (topic, mut watcher) = watched(&ctx).await?;
    let c = ctx.with(late(&ctx, 1, &topic)).await?;
    let start = Instant::now();
    c.vanish().await;
    watcher.take(&topic, WORD).await?;
    check(start.elapsed() >= Duration::from_millis(900), "too early")
}

pub async fn ends_with_the_session(ctx: Ctx) -> Verdict {
    let (topic, mut watcher) = watched(&ctx).await?;
    let will = |c: crate::wire::Connect| c.will_with(0, false, &[0x18, 0, 0, 1, 0], &topic, WORD);
    // The session ends by time, by a clean start, and with its connection.
    ctx.with(will(ctx.hello("a").prop([0x11, 0, 0, 0, 1]))).await?.vanish().await;
    watcher.take(&topic, WORD).await?;
    ctx.with(will(ctx.keeping("b"))).await?.vanish().await;
    ctx.client("b").await?;
    watcher.take(&topic, WORD).await?;
    ctx.with(will(ctx.hello("d"))).await?.vanish().await;
    watcher.take(&topic, WORD).await.map(drop)
}

pub async fn forgotten_if_the_client_comes_back(ctx: Ctx) -> Verdict {
    let (topic, mut watcher) = watched(&ctx).await?;
    ctx.with(late(&ctx, 4, &topic)).await?.vanish().await;
    let mut back = ctx.with(ctx.keeping("c")).await?;
    back.present(true)?;
    sleep(Duration::from_millis(4600)).await;
    back.ping().await?;
    watcher.quiet().await
}

/// DISCONNECT with reason 0x04, and any other than 0x00, wants it.
pub async fn goodbye_can_ask_for_it(ctx: Ctx) -> Verdict {
    let (topic, mut watcher) = watched(&ctx).await?;
    for reason in [0x04, 0x80] {
        let mut c = ctx.with(ctx.hello("c").will(0, false, &topic, WORD)).await?;
        c.send(&packet(0xE0, &[reason])).await;
        c.closed().await?;
        watcher.take(&topic, WORD).await?;
    }
    let mut c = ctx.with(ctx.hello("c").will(0, false, &topic, WORD)).await?;
    c.send(&packet(0xE0, &[0])).await;
    c.closed().await?;
    watcher.quiet().await
}

const ALL: &[u8] =
    b"\x01\x01\x03\0\x01t\x08\0\x01r\x09\0\x02cd\x26\0\x01k\0\x01b\x26\0\x01k\0\x01a\x26\0\x01a\0\x01z";

pub async fn properties_travel(ctx: Ctx) -> Verdict {
    let (topic, mut watcher) = watched(&ctx).await?;
    ctx.with(ctx.hello("c").will_with(0, false, ALL, &topic, WORD)).await?.vanish().await;
    let got = watcher.take(&topic, WORD).await?;
    let pairs: [&[u8]; 3] = [b"\0\x01k\0\x01b", b"\0\x01k\0\x01a", b"\0\x01a\0\x01z"];
    check(got.values(0x26) == pairs, format!("user properties {:02x?}", got.values(0x26)))?;
    let rest = [0x01, 0x03, 0x08, 0x09].map(|id| got.values(id).concat());
    check(rest == [&[1][..], b"\0\x01t", b"\0\x01r", b"\0\x02cd"], format!("{rest:02x?}"))
}

/// Its expiry counts from when it is published, not from CONNECT.
pub async fn expires_from_its_publication(ctx: Ctx) -> Verdict {
    let (topic, mut watcher) = watched(&ctx).await?;
    let c = ctx.with(ctx.hello("c").will_with(0, false, &[2, 0, 0, 0, 3], &topic, WORD)).await?;
    sleep(Duration::from_millis(3300)).await;
    c.vanish().await;
    let got = watcher.take(&topic, WORD).await?;
    let left = got.values(2);
    check(left.len() == 1 && left[0][..3] == [0, 0, 0] && left[0][3] <= 3, format!("expiry {left:02x?}"))
}

pub async fn topic_is_a_name(ctx: Ctx) -> Verdict {
    for topic in ["", "a/+", "#"] {
        // 3.1.1 has no return code for it, and closes (MQTT-3.2.2-6).
        ctx.refused(&ctx.hello("c").will(0, false, topic, WORD).bytes(), None, &[0x81, 0x90]).await?;
    }
    Ok(())
}

pub async fn payload_is_what_it_says(ctx: Ctx) -> Verdict {
    let wrong = ctx.hello("c").will_with(0, false, &[1, 1], ctx.topic("w"), b"\xC3\x28");
    if !ctx.strict {
        return Ok(());
    }
    ctx.refused(&wrong.bytes(), None, &[0x99]).await
}

/// What a client published itself comes before its will.
pub async fn comes_last(ctx: Ctx) -> Verdict {
    let (topic, mut watcher) = watched(&ctx).await?;
    let mut c = ctx.with(ctx.hello("c").will(0, false, &topic, WORD)).await?;
    c.send(&publish(ctx.v, 0, &topic, 0, &[], b"here")).await;
    c.vanish().await;
    watcher.take(&topic, "here").await?;
    watcher.take(&topic, WORD).await.map(drop)
}
