//! What a broker does with messages that it cannot hand on, or may not take.

use crate::client::check;
use crate::suite::{Ctx, Verdict};
use crate::wire::publish;

/// A message larger than its subscriber takes is gone for it, and takes no place in its window.
pub async fn too_large_counts_as_sent(ctx: Ctx) -> Verdict {
    let topic = ctx.topic("t");
    let mut s = ctx.with(ctx.keeping("s").prop([0x27, 0, 0, 0, 60]).prop([0x21, 0, 1])).await?;
    s.subscribe(&topic, 2).await?;
    let mut p = ctx.client("p").await?;
    let fits = 60 - publish(ctx.v, 2, &topic, 1, &[], b"").len();
    for qos in 0..3 {
        p.publish(qos, &topic, &"x".repeat(fits + 1 + usize::from(qos == 0) * 2)).await?;
    }
    // As large as may be.
    p.publish(1, &topic, &"y".repeat(fits)).await?;
    s.finish(&topic, &"y".repeat(fits)).await?;
    s.quiet().await?;
    s.vanish().await;
    ctx.with(ctx.keeping("s")).await?.quiet().await
}

/// A QoS 2 message that was refused leaves nothing behind: the same id is a new message.
pub async fn refused_ids_are_free(ctx: Ctx) -> Verdict {
    let login = |name| ctx.hello(name).user("u").password("p");
    let free = format!("free/{}", ctx.topic("t"));
    let mut s = ctx.with_at(ctx.at.guarded, login("s")).await?;
    s.subscribe(&free, 0).await?;
    let mut p = ctx.with_at(ctx.at.guarded, login("p")).await?;
    for _ in 0..3 {
        p.send(&publish(ctx.v, 4, ctx.topic("no"), 9, &[], b"")).await;
        let code = p.answer(0x50, 9).await?;
        check(code == 0x87, format!("reason {code:#04x}"))?;
    }
    p.send(&publish(ctx.v, 4, &free, 9, &[], b"x")).await;
    p.answer(0x50, 9).await?;
    p.reply(0x62, 9).await;
    check(p.answer(0x70, 9).await? == 0, "not known")?;
    s.take(&free, "x").await?;
    s.ping().await
}
