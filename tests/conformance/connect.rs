//! Sections 3.1 and 3.2: how a connection begins, and what CONNACK says.

use crate::client::check;
use crate::suite::{Ctx, V, Verdict};
use crate::wire::{Connect, packet, publish, subscribe, text};

pub async fn comes_first(ctx: Ctx) -> Verdict {
    let v = ctx.v;
    let mut all = vec![
        vec![0xC0, 0],
        vec![0xE0, 0],
        publish(v, 0, ctx.topic("t"), 0, &[], b""),
        subscribe(v, 1, &[], &[("t", 0)]),
        vec![0x62, 2, 0, 1],
    ];
    if v == V::Five {
        all.push(vec![0xF0, 0]);
    }
    for bytes in all {
        // No CONNACK and no DISCONNECT either: nobody has said which MQTT this is.
        let mut c = ctx.open().await?;
        c.send(&bytes).await;
        c.closed().await?;
    }
    Ok(())
}

pub async fn comes_once(ctx: Ctx) -> Verdict {
    let mut c = ctx.client("c").await?;
    c.send(&ctx.hello("c").bytes()).await;
    c.ended(&[0x82]).await
}

pub async fn name_is_mqtt(ctx: Ctx) -> Verdict {
    for name in ["MQTX", "", "mqtt", "MQTTT"] {
        let mut connect = ctx.hello("c");
        connect.name = name.into();
        let mut c = ctx.open().await?;
        c.send(&connect.bytes()).await;
        match c.next().await? {
            None => {}
            Some(p) if p[0] == 0x20 && matches!(p[3], 1 | 0x84) => c.closed().await?,
            Some(p) => return Err(format!("{p:02x?}")),
        }
    }
    Ok(())
}

pub async fn level_is_known(ctx: Ctx) -> Verdict {
    for level in [0, 1, 3, 6, 7, 127] {
        let mut connect = ctx.hello("c");
        connect.level = level;
        let mut c = ctx.open().await?;
        c.send(&connect.bytes()).await;
        if ctx.v == V::Four {
            c.expect(&[0x20, 2, 0, 1]).await.map_err(|e| format!("level {level}: {e}"))?;
        } else if let Some(p) = c.next().await? {
            check(p[0] == 0x20 && matches!(p[3], 1 | 0x84), format!("level {level}: {p:02x?}"))?;
        } else {
            continue;
        }
        c.closed().await?;
    }
    Ok(())
}

pub async fn reserved_flag(ctx: Ctx) -> Verdict {
    ctx.refused(&ctx.hello("c").flagged(1).bytes(), None, &[0x81]).await
}

pub async fn user_without_flag(ctx: Ctx) -> Verdict {
    ctx.refused(&ctx.hello("c").bytes_and(&text("user")), None, &[0x81]).await
}

pub async fn flag_without_user(ctx: Ctx) -> Verdict {
    ctx.refused(&ctx.hello("c").flagged(0x80).bytes(), None, &[0x81]).await
}

pub async fn password_without_flag(ctx: Ctx) -> Verdict {
    ctx.refused(&ctx.hello("c").user("u").bytes_and(&text("p")), None, &[0x81]).await
}

pub async fn flag_without_password(ctx: Ctx) -> Verdict {
    ctx.refused(&ctx.hello("c").user("u").flagged(0x40).bytes(), None, &[0x81]).await
}

pub async fn password_without_user(ctx: Ctx) -> Verdict {
    ctx.refused(&ctx.hello("c").password("p").bytes(), None, &[]).await
}

pub async fn password_alone_is_fine(ctx: Ctx) -> Verdict {
    ctx.with(ctx.hello("c").password("p")).await?.quiet().await
}

pub async fn login(ctx: Ctx) -> Verdict {
    let good = ctx.hello("c").user("u").password("p");
    ctx.with_at(ctx.at.guarded, good).await?.ping().await
}

pub async fn silence_ends(ctx: Ctx) -> Verdict {
    // Who has eight times as long is not quicker.
    let mut patient = ctx.with(ctx.hello("patient").keep_alive(8)).await?;
    let start = tokio::time::Instant::now();
    let mut c = ctx.with(ctx.hello("c").keep_alive(1)).await?;
    c.ended(&[0x8D]).await?;
    check(start.elapsed().as_millis() >= 1400, "ended too early")?;
    patient.ping().await
}

pub async fn pings_keep_alive(ctx: Ctx) -> Verdict {
    let mut c = ctx.with(ctx.hello("c").keep_alive(2)).await?;
    let start = tokio::time::Instant::now();
    while start.elapsed().as_millis() < 4000 {
        tokio::time::sleep(std::time::Duration::from_millis(400)).await;
        c.ping().await?;
    }
    Ok(())
}

pub async fn no_keep_alive(ctx: Ctx) -> Verdict {
    let mut c = ctx.client("c").await?;
    // Another broker may impose one of its own.
    check(!ctx.strict || c.said(0x13).is_none(), "a server keep alive")?;
    tokio::time::sleep(std::time::Duration::from_millis(2500)).await;
    c.ping().await
}

pub async fn order_of_the_payload(ctx: Ctx) -> Verdict {
    let topic = format!("free/{}", ctx.topic("w"));
    let watcher = ctx.hello("watcher").user("u").password("p");
    let mut watcher = ctx.with_at(ctx.at.guarded, watcher).await?;
    watcher.subscribe(&topic, 0).await?;
    let all = ctx.hello("c").will(0, false, &topic, "gone").user("u").password("p");
    ctx.with_at(ctx.at.guarded, all).await?.vanish().await;
    watcher.take(&topic, "gone").await.map(drop)
}

pub async fn id_names_the_session(ctx: Ctx) -> Verdict {
    for name in ["a", "b"] {
        let mut c = ctx.with(ctx.keeping(name)).await?;
        c.present(false)?;
        c.subscribe(&ctx.topic(name), 1).await?;
        c.bye().await?;
    }
    let mut p = ctx.client("p").await?;
    p.publish(1, &ctx.topic("b"), "x").await?;
    for (name, one) in [("a", false), ("b", true)] {
        let mut c = ctx.with(ctx.keeping(name)).await?;
        c.present(true)?;
        if one {
            c.finish(&ctx.topic("b"), "x").await?;
        }
        c.quiet().await?;
    }
    // Letters count.
    ctx.with(ctx.keeping("B")).await?.present(false)
}

pub async fn no_id_at_all(ctx: Ctx) -> Verdict {
    let mut whole = ctx.hello("c").bytes();
    let empty = if ctx.v == V::Five { 11 } else { 10 };
    whole.truncate(2 + empty);
    whole[1] = u8::try_from(empty).unwrap_or(0);
    ctx.refused(&whole, None, &[0x81]).await
}

pub async fn id_is_utf8(ctx: Ctx) -> Verdict {
    ctx.refused(&Connect::new(ctx.v, b"\xC3\x28").bytes(), None, &[0x81, 0x85]).await
}

pub async fn ids_that_must_be_allowed(ctx: Ctx) -> Verdict {
    let letters = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
    // One of one byte for each version, so that cases do not take over each other.
    let one = ctx.v.name()[..1].to_owned();
    let of_23 = (0..3).map(|n| {
        let whole: String = letters.chars().cycle().skip(n * 21).take(22).collect();
        format!("{whole}{one}")
    });
    for id in of_23.chain([one.clone()]) {
        ctx.with(Connect::new(ctx.v, id)).await?.ping().await?;
    }
    Ok(())
}

pub async fn empty_ids(ctx: Ctx) -> Verdict {
    let mut both = [ctx.with(Connect::new(ctx.v, "")).await?, ctx.with(Connect::new(ctx.v, "")).await?];
    // They are not each other: both live, both have subscriptions of their own.
    for (n, c) in both.iter_mut().enumerate() {
        c.subscribe(&ctx.topic(&n.to_string()), 0).await?;
    }
    let mut p = ctx.client("p").await?;
    for (n, c) in both.iter_mut().enumerate() {
        let topic = ctx.topic(&n.to_string());
        p.publish(0, &topic, "x").await?;
        c.take(&topic, "x").await?;
        c.quiet().await?;
    }
    if ctx.v == V::Five {
        let ids = both.map(|c| c.said(0x12));
        check(ids.iter().all(Option::is_some) && ids[0] != ids[1], format!("assigned {ids:02x?}"))?;
    }
    Ok(())
}

pub async fn assigned_id_is_the_id(ctx: Ctx) -> Verdict {
    let mut first = ctx.with(Connect::new(ctx.v, "").resuming().prop([0x11, 0, 0, 2, 0])).await?;
    let id = first.said(0x12).ok_or("no Assigned Client Identifier")?;
    let topic = ctx.topic("t");
    first.subscribe(&topic, 1).await?;
    let second = ctx.with(Connect::new(ctx.v, &id[2..]).resuming().prop([0x11, 0, 0, 0, 0])).await?;
    first.ended(&[0x8E]).await?;
    second.present(true)?;
    check(second.said(0x12).is_none(), "assigned although the client brought one")
}

pub async fn empty_id_and_no_clean_session(ctx: Ctx) -> Verdict {
    ctx.refused(&Connect::new(ctx.v, "").resuming().bytes(), Some(2), &[]).await
}

pub async fn will_topic_is_utf8(ctx: Ctx) -> Verdict {
    for topic in [&b"\xC3\x28"[..], b"a\0", b"\xED\xA0\x80"] {
        ctx.refused(&ctx.hello("c").will(0, false, topic, "x").bytes(), None, &[0x81, 0x90]).await?;
    }
    Ok(())
}

pub async fn user_is_utf8(ctx: Ctx) -> Verdict {
    for user in [&b"\xC3\x28"[..], b"a\0", b"\xED\xA0\x80"] {
        ctx.refused(&ctx.hello("c").user(user).bytes(), None, &[0x81]).await?;
    }
    Ok(())
}

pub async fn connect_is_checked(ctx: Ctx) -> Verdict {
    let hello = || ctx.hello("c");
    let all = [
        hello().flagged(0x08).bytes(),
        hello().flagged(0x10).bytes(),
        hello().flagged(0x20).bytes(),
        hello().flagged(0x18).will(0, false, "t", "x").bytes(),
        hello().flagged(4).bytes(),
        hello().bytes_and(&[0]),
        packet(0x10, &[text("MQTT"), vec![hello().level]].concat()),
    ];
    for bytes in all {
        ctx.refused(&bytes, None, &[0x81]).await.map_err(|e| format!("{bytes:02x?}: {e}"))?;
    }
    Ok(())
}

pub async fn wrong_password(ctx: Ctx) -> Verdict {
    let wrong = ctx.hello("c").user("u").password("q").bytes();
    let old = ctx.at.guarded;
    if ctx.v == V::Five {
        return ctx.refused_at(old, &wrong, None, &[0x86]).await;
    }
    // Which of the two codes is not said.
    let mut c = ctx.open_at(old).await?;
    c.send(&wrong).await;
    let got = c.packet().await?;
    check(got[..3] == [0x20, 2, 0] && matches!(got[3], 4 | 5), format!("{got:02x?}"))?;
    c.closed().await
}

pub async fn takes_over(ctx: Ctx) -> Verdict {
    let mut old = ctx.client("c").await?;
    let mut new = ctx.client("c").await?;
    old.ended(&[0x8E]).await?;
    new.quiet().await
}

pub async fn accepted(ctx: Ctx) -> Verdict {
    ctx.client("a").await?.quiet().await?;
    ctx.with(ctx.keeping("b")).await?.quiet().await
}

pub async fn refused_is_not_heard(ctx: Ctx) -> Verdict {
    let topic = ctx.topic("t");
    let mut watcher = ctx.subscriber("watcher", &topic, 0).await?;
    let mut wrong = ctx.hello("c");
    wrong.level = 6;
    let behind = [
        publish(ctx.v, 0, &topic, 0, &[], b"no"),
        publish(ctx.v, 1, &topic, 0, &[], b"no"),
        subscribe(ctx.v, 1, &[], &[("#", 0)]),
    ];
    let mut c = ctx.open().await?;
    c.send(&[wrong.bytes(), behind.concat()].concat()).await;
    if c.next().await?.is_some() {
        c.closed().await?;
    }
    watcher.quiet().await
}

pub async fn connack_is_first(ctx: Ctx) -> Verdict {
    let topic = ctx.topic("t");
    ctx.with(ctx.keeping("c")).await?.subscribe(&topic, 1).await?;
    let mut p = ctx.client("p").await?;
    p.publish(1, &topic, "waits").await?;
    // Messages wait for it, and it asks for more in the same breath.
    let mut c = ctx.open().await?;
    let more = [subscribe(ctx.v, 9, &[], &[(&ctx.topic("u"), 0)]), vec![0xC0, 0]].concat();
    c.send(&[ctx.keeping("c").bytes(), more].concat()).await;
    c.accepted().await?;
    let kinds = [c.packet().await?[0] & 0xF0, c.packet().await?[0] & 0xF0, c.packet().await?[0] & 0xF0];
    check([0x30, 0x90, 0xD0].iter().all(|kind| kinds.contains(kind)), format!("{kinds:02x?}"))
}

pub async fn connack_once(ctx: Ctx) -> Verdict {
    let mut c = ctx.client("c").await?;
    c.subscribe(&ctx.topic("t"), 0).await?;
    c.quiet().await
}

/// A stream has no borders: packets come in pieces, and many at once.
pub async fn pieces(ctx: Ctx) -> Verdict {
    let topic = ctx.topic("t");
    let mut c = ctx.open().await?;
    let all = [ctx.hello("c").bytes(), subscribe(ctx.v, 1, &[], &[(&topic, 0)])].concat();
    for byte in &all {
        c.send(&[*byte]).await;
    }
    c.accepted().await?;
    c.codes(0x90, 1).await?;
    let many: Vec<u8> = (0..50).flat_map(|n: u8| publish(ctx.v, 0, &topic, 0, &[], &[n])).collect();
    c.send(&[many, vec![0xC0]].concat()).await;
    for n in 0..50 {
        check(c.message().await?.payload == [n], "order")?;
    }
    c.send(&[0]).await;
    c.expect(&[0xD0, 0]).await
}

pub async fn no_session(ctx: Ctx) -> Verdict {
    ctx.with(ctx.keeping("c")).await?.present(false)?;
    ctx.client("d").await?.present(false)
}

pub async fn clean_says_no_session(ctx: Ctx) -> Verdict {
    let kept = ctx.with(ctx.keeping("c")).await?;
    kept.bye().await?;
    let clean = ctx.client("c").await?;
    clean.present(false)?;
    check(clean.connack[2] == 0, "flags in CONNACK")
}

pub async fn a_session_is_said(ctx: Ctx) -> Verdict {
    ctx.with(ctx.keeping("c")).await?.bye().await?;
    ctx.with(ctx.keeping("c")).await?.present(true)
}

pub async fn refusals_say_no_session(ctx: Ctx) -> Verdict {
    let good = ctx.keeping("c").user("u").password("p");
    ctx.with_at(ctx.at.guarded, good).await?.bye().await?;
    // There is a session, but not for a client with a wrong password.
    let mut c = ctx.open_at(ctx.at.guarded).await?;
    c.send(&ctx.keeping("c").user("u").password("q").bytes()).await;
    let got = c.packet().await?;
    check(got[0] == 0x20 && got[2] == 0 && got[3] != 0, format!("{got:02x?}"))?;
    c.closed().await
}

pub async fn all_qualities(ctx: Ctx) -> Verdict {
    let mut c = ctx.client("c").await?;
    check(c.said(0x24).is_none_or(|q| q == [1]), "Maximum QoS 0")?;
    for qos in 0..3 {
        let codes = c.ask(&[], &[(&ctx.topic("t"), qos)]).await?;
        check(codes.len() == 1 && codes[0] <= qos, format!("{codes:02x?}"))?;
    }
    Ok(())
}

/// With a Maximum Packet Size for which even CONNACK may be too large: nothing larger comes.
pub async fn answers_fit(ctx: Ctx) -> Verdict {
    for max in 1..64u8 {
        let hello = ctx.hello(&format!("c{max}")).prop([0x27, 0, 0, 0, max]);
        let filters: Vec<_> = (0..40).map(|n| (ctx.topic(&n.to_string()), 0)).collect();
        let mut c = ctx.open().await?;
        c.send(&[hello.bytes(), publish(ctx.v, 2, ctx.topic("t"), 1, &[], b"")].concat()).await;
        c.send(&[subscribe(ctx.v, 2, &[], &filters), vec![0xE0, 1, 4]].concat()).await;
        while let Some(got) = c.next().await? {
            check(got.len() <= usize::from(max), format!("{got:02x?} for {max} bytes"))?;
        }
    }
    Ok(())
}

/// With little room there is no Reason String and no User Property where they do not fit.
pub async fn reasons_fit(ctx: Ctx) -> Verdict {
    for max in 20..40u8 {
        let mut c = ctx.open().await?;
        c.send(&ctx.hello(&format!("c{max}")).prop([0x27, 0, 0, 0, max]).bytes()).await;
        c.send(&[0x30, 0]).await;
        while let Some(got) = c.next().await? {
            let at = if got[0] == 0x20 { 4 } else { 3 };
            let found = got.get(at + 1..).and_then(crate::wire::props).unwrap_or_default();
            let explains = found.iter().any(|(id, _)| matches!(id, 0x1F | 0x26));
            check(!explains || got.len() <= usize::from(max), format!("{got:02x?} for {max} bytes"))?;
        }
    }
    Ok(())
}

/// What is given back stays without Reason String and User Property, so it fits wherever its bare form does.
pub async fn answers_are_bare(ctx: Ctx) -> Verdict {
    let mut c = ctx.with(ctx.hello("c").prop([0x17, 0]).prop([0x27, 0, 0, 0, 60])).await?;
    check(c.connack.len() <= 60, "CONNACK is too large")?;
    let topic = ctx.topic("t");
    c.publish(1, &topic, "").await?;
    c.publish(2, &topic, "").await?;
    c.ask(&[], &[(&topic, 2), ("a/#/b", 0)])
        .await
        .or_else(|e| if ctx.strict { Err(e) } else { Ok(vec![]) })?;
    if !ctx.strict {
        return Ok(());
    }
    c.leave(&[&topic, "none"]).await?;
    c.reply(0x62, 99).await;
    c.expect(&[0x70, 3, 0, 99, 0x92]).await
}

pub async fn no_response_information(ctx: Ctx) -> Verdict {
    for ask in [&[][..], &[0x19, 0]] {
        let c = ctx.with(ctx.hello("c").prop(ask)).await?;
        check(c.said(0x1A).is_none(), "Response Information unasked")?;
    }
    Ok(())
}
