//! Sections 3.1.2.4, 3.14 and 4.1: sessions, and how they end.

use std::time::Duration;

use tokio::time::sleep;

use crate::client::check;
use crate::format::ends;
use crate::suite::{Ctx, V, Verdict};
use crate::wire::{Connect, packet};

/// Goes on where it was: subscriptions and what was not acknowledged.
pub async fn resumed(ctx: Ctx) -> Verdict {
    let topic = ctx.topic("t");
    let mut c = ctx.with(ctx.keeping("c")).await?;
    c.present(false)?;
    c.subscribe(&topic, 1).await?;
    let mut p = ctx.client("p").await?;
    p.publish(1, &topic, "1").await?;
    let m = c.take(&topic, "1").await?;
    c.vanish().await;
    let mut c = ctx.with(ctx.keeping("c")).await?;
    c.present(true)?;
    check(c.finish(&topic, "1").await?.id == m.id, "another id")?;
    p.publish(1, &topic, "2").await?;
    c.finish(&topic, "2").await?;
    c.quiet().await
}

pub async fn collects_while_away(ctx: Ctx) -> Verdict {
    let topic = ctx.topic("t");
    let mut c = ctx.with(ctx.keeping("c")).await?;
    c.subscribe(&topic, 2).await?;
    c.bye().await?;
    let mut p = ctx.client("p").await?;
    p.publish(1, &topic, "1").await?;
    p.publish(2, &topic, "2").await?;
    let mut c = ctx.with(ctx.keeping("c")).await?;
    for (payload, qos) in [("1", 1), ("2", 2)] {
        let m = c.finish(&topic, payload).await?;
        check(m.qos() == qos && !m.dup(), format!("{m:02x?}"))?;
    }
    c.quiet().await
}

/// A clean start forgets subscriptions and messages, and its own session ends with it.
pub async fn clean_forgets(ctx: Ctx) -> Verdict {
    let topic = ctx.topic("t");
    let mut p = ctx.client("p").await?;
    let mut c = ctx.with(ctx.keeping("c")).await?;
    c.subscribe(&topic, 1).await?;
    c.bye().await?;
    p.publish(1, &topic, "waits").await?;
    let mut c = ctx.client("c").await?;
    c.present(false)?;
    p.publish(1, &topic, "2").await?;
    c.quiet().await?;
    c.subscribe(&topic, 1).await?;
    c.vanish().await;
    p.publish(1, &topic, "3").await?;
    let mut c = ctx.with(ctx.keeping("c")).await?;
    c.present(false)?;
    c.quiet().await
}

pub async fn new_if_there_is_none(ctx: Ctx) -> Verdict {
    let mut c = ctx.with(ctx.keeping("c")).await?;
    c.present(false)?;
    c.quiet().await
}

/// Its end is the connection's where nothing else was said, and the interval's otherwise.
pub async fn expires(ctx: Ctx) -> Verdict {
    let topic = ctx.topic("t");
    // Without an interval.
    let mut c = ctx.with(ctx.hello("a").resuming()).await?;
    c.subscribe(&topic, 1).await?;
    c.vanish().await;
    ctx.with(ctx.keeping("a")).await?.present(false)?;
    // Within it, and after it.
    ctx.with(ctx.keeping("b")).await?.vanish().await;
    let short = ctx.with(ctx.hello("b").resuming().prop([0x11, 0, 0, 0, 1])).await?;
    short.present(true)?;
    short.vanish().await;
    sleep(Duration::from_millis(2600)).await;
    ctx.with(ctx.keeping("b")).await?.present(false)?;
    // 0xFFFFFFFF is for ever.
    let ever = || ctx.hello("d").resuming().prop([0x11, 0xFF, 0xFF, 0xFF, 0xFF]);
    ctx.with(ever()).await?.vanish().await;
    ctx.with(ever()).await?.present(true)
}

pub async fn lasts_as_long_as_the_connection(ctx: Ctx) -> Verdict {
    let topic = ctx.topic("t");
    let hello = ctx.hello("c");
    let mut c = ctx.with(if ctx.v == V::Five { hello.prop([0x11, 0, 0, 0, 1]) } else { hello }).await?;
    c.subscribe(&topic, 1).await?;
    sleep(Duration::from_millis(1800)).await;
    ctx.client("p").await?.publish(1, &topic, "x").await?;
    c.finish(&topic, "x").await.map(drop)
}

pub async fn goodbye_changes_the_interval(ctx: Ctx) -> Verdict {
    // To 0: the session is gone.
    let mut c = ctx.with(ctx.keeping("a")).await?;
    c.send(&packet(0xE0, &[0, 5, 0x11, 0, 0, 0, 0])).await;
    c.closed().await?;
    ctx.with(ctx.keeping("a")).await?.present(false)?;
    // To more.
    let mut c = ctx.with(ctx.hello("b").prop([0x11, 0, 0, 0, 1])).await?;
    c.send(&packet(0xE0, &[0, 5, 0x11, 0, 0, 2, 0])).await;
    c.closed().await?;
    sleep(Duration::from_millis(2200)).await;
    ctx.with(ctx.keeping("b")).await?.present(true)?;
    // From 0 to anything else it is too late.
    let bytes = packet(0xE0, &[0, 5, 0x11, 0, 0, 0, 9]);
    ends(&ctx, 0, &bytes, &[0x82]).await?;
    // 0 to 0 is no change.
    let mut c = ctx.client("d").await?;
    c.send(&packet(0xE0, &[0, 5, 0x11, 0, 0, 0, 0])).await;
    c.closed().await
}

pub async fn goodbye_with_a_code_that_there_is_not(ctx: Ctx) -> Verdict {
    for (n, code) in [0x01, 0x10, 0x7F, 0xA3, 0xFF].into_iter().enumerate() {
        ends(&ctx, n, &packet(0xE0, &[code]), &[0x81, 0x82]).await?;
    }
    Ok(())
}

/// Our own good-bye: a reason that there is, no Session Expiry Interval, nothing behind it.
pub async fn goodbye_of_the_server(ctx: Ctx) -> Verdict {
    let mut c = ctx.client("c").await?;
    c.send(&[0xC0, 0, 0x30, 0, 0xC0, 0, 0xC0, 0]).await;
    c.expect(&[0xD0, 0]).await?;
    match c.next().await? {
        None => check(!ctx.strict, "no DISCONNECT"),
        Some(p) => {
            let known = [0x80, 0x81, 0x82, 0x83].contains(p.get(2).unwrap_or(&0));
            check(p[0] == 0xE0 && known && !p[3..].contains(&0x11), format!("{p:02x?}"))?;
            c.closed().await
        }
    }
}

pub async fn nothing_before_connack(ctx: Ctx) -> Verdict {
    // A CONNECT with a mistake, and a first packet that is none.
    ctx.refused(&ctx.hello("c").flagged(1).bytes(), None, &[0x81]).await?;
    let mut c = ctx.open().await?;
    c.send(&packet(0xC0, &[1])).await;
    c.closed().await
}

/// A session goes over to the new connection while the old one still stands.
pub async fn taken_over_as_it_is(ctx: Ctx) -> Verdict {
    let topic = ctx.topic("t");
    let mut old = ctx.with(ctx.keeping("c")).await?;
    old.subscribe(&topic, 1).await?;
    ctx.client("p").await?.publish(1, &topic, "x").await?;
    let m = old.take(&topic, "x").await?;
    let mut new = ctx.with(ctx.keeping("c")).await?;
    // 3.1 does not say it.
    new.present(ctx.v != V::Old)?;
    old.ended(&[0x8E]).await?;
    let again = new.finish(&topic, "x").await?;
    check(again.id == m.id && again.dup(), format!("{again:02x?}"))?;
    new.quiet().await
}

/// A client that leaves with one version comes back with the other.
pub async fn over_versions(ctx: Ctx) -> Verdict {
    let topic = ctx.topic("t");
    let mut c = ctx.with(ctx.keeping("c")).await?;
    c.subscribe(&topic, 1).await?;
    c.bye().await?;
    ctx.client("p").await?.publish(1, &topic, "x").await?;
    let other = if ctx.v == V::Five { V::Four } else { V::Five };
    let mut c = ctx.with(Connect::new(other, ctx.id("c")).resuming()).await?;
    c.present(true)?;
    c.finish(&topic, "x").await.map(drop)
}
