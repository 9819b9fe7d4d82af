//! Every limit of the broker at its edge: what fits is served, what does not is refused, counted by its reason, and costs
//! nobody else anything.

use std::net::SocketAddr;
use std::time::Duration;

use crate::raw::*;
use fieldgate::broker::{Broker, Limits, Options, Refusal};
use fieldgate::config::model::{self, Transport};
use fieldgate::message::Message;
use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::{self, client::IntoClientRequest};

async fn limited(limits: Limits) -> (Broker, SocketAddr) {
    broker_with(Options { limits, ..Options::default() }).await
}

fn refused(broker: &Broker, why: Refusal) -> u64 {
    broker.stats().refused_for(why)
}

#[tokio::test]
async fn one_address_has_so_many_places_and_gets_them_back() {
    let (broker, at) = limited(Limits { per_address: 3, connect_rate: 0, ..Limits::default() }).await;
    let mut inside = Vec::new();
    for n in 0..3 {
        inside.push(Raw::connected(at, V::Four, &format!("c{n}")).await);
    }
    for _ in 0..5 {
        assert_eq!(Raw::open(at, V::Four).await.next().await, None);
    }
    assert_eq!(refused(&broker, Refusal::Address), 5);
    inside.pop().unwrap().bye().await;
    until("a place is free", || broker.stats().connections == 2).await;
    Raw::connected(at, V::Five, "again").await.ping().await;
}

#[tokio::test]
async fn connections_come_in_a_burst_and_then_at_the_rate() {
    let limits = Limits { per_address: 20, connect_rate: 1, ..Limits::default() };
    let (broker, at) = limited(limits).await;
    for n in 0..20 {
        Raw::connected(at, V::Four, &format!("c{n}")).await.bye().await;
    }
    let mut let_in = 0;
    for _ in 0..50 {
        let mut c = Raw::open(at, V::Four).await.into_io();
        let hello = connect(V::Four, "late", true);
        let _ = c.write_all(&hello).await;
        let mut answer = [0; 4];
        let_in += usize::from(tokio::io::AsyncReadExt::read_exact(&mut c, &mut answer).await.is_ok());
    }
    let refusals = refused(&broker, Refusal::Rate);
    assert!(refusals > 20 && refusals + let_in as u64 == 50, "{refusals} refused, {let_in} let in");
    // A rest of a second is worth one more.
    until("the next one", || broker.stats().connections == 0).await;
    loop {
        let mut c = Raw::open(at, V::Four).await;
        let _ = c.try_send(&connect(V::Four, "patient", true)).await;
        if c.next().await.is_some() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn who_publishes_too_fast_waits_and_loses_nothing_and_others_do_not_notice() {
    let (broker, at) = limited(Limits { publish_rate: 100, ..Limits::default() }).await;
    for v in BOTH {
        let mut s = Raw::connected(at, v, "s").await;
        s.subscribed("fast/#", 0).await;
        let mut fast = Raw::connected(at, v, "fast").await;
        let began = Instant::now();
        for n in 0..250u32 {
            fast.send(&publish(v, 0, "fast/1", 0, &[], &n.to_be_bytes())).await;
        }
        // A second's worth came at once; the others of this address were not slowed down by it.
        Raw::connected(at, v, "other").await.bye().await;
        for n in 0..250u32 {
            assert!(s.recv().await.ends_with(&n.to_be_bytes()), "message {n}");
        }
        assert!(began.elapsed() > Duration::from_millis(1400), "{:?}", began.elapsed());
        s.bye().await;
        fast.bye().await;
    }
    let stats = broker.stats();
    assert!(stats.throttled > 0 && stats.dropped == 0, "{stats:?}");
    // As of now without a limit: a reload says so.
    let config = model::Broker {
        listener: vec![listener(model::Transport::Tcp)],
        max_publish_rate: 0,
        ..model::Broker::default()
    };
    broker.reconfigure(&config).await.unwrap();
    let before = broker.stats().throttled;
    let mut c = Raw::connected(broker.addresses()[0].1, V::Four, "c").await;
    for _ in 0..500 {
        c.send(&publish(V::Four, 0, "x", 0, &[], b"x")).await;
    }
    c.ping().await;
    assert_eq!(broker.stats().throttled, before);
}

#[tokio::test]
async fn a_large_packet_arrives_whole_a_larger_one_ends_the_connection_at_its_length() {
    let (broker, at) = limited(Limits { packet: 100_000, ..Limits::default() }).await;
    for v in BOTH {
        let mut c = Raw::connected(at, v, "c").await;
        let fits = publish(v, 2, "big", 1, &[], &vec![7; 99_900]);
        for piece in fits.chunks(10_007) {
            c.send(piece).await;
            tokio::task::yield_now().await;
        }
        assert_eq!(c.recv().await[0], 0x40);
        c.send(&[0x30, 0xA1, 0x8D, 0x06]).await;
        c.expect_end(0x95).await;
    }
    assert_eq!(refused(&broker, Refusal::Packet), 2);
}

#[tokio::test]
async fn a_large_packet_that_does_not_come_to_its_end_gives_way() {
    let limits = Limits { packet_deadline: Duration::from_millis(300), ..Limits::default() };
    let (broker, at) = limited(limits).await;
    let mut c = Raw::connected(at, V::Five, "c").await;
    let whole = publish(V::Five, 0, "big", 0, &[], &[7; 50_000]);
    c.send(&whole[..20_000]).await;
    c.expect_end(0x97).await;
    // A small one may take its time.
    let mut c = Raw::connected(at, V::Five, "c").await;
    c.send(&[0xC0]).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    c.send(&[0]).await;
    c.expect(&[0xD0, 0]).await;
    assert_eq!(refused(&broker, Refusal::Slow), 1);
}

#[tokio::test]
async fn those_who_stall_inside_large_packets_cost_those_who_do_not_nothing() {
    let limits = Limits { partial_bytes: 200_000, ..Limits::default() };
    let (broker, at) = limited(limits).await;
    let whole = publish(V::Four, 2, "big", 1, &[], &[7; 60_000]);
    let mut stalling = Vec::new();
    for n in 0..20 {
        let mut c = Raw::connected(at, V::Four, &format!("stall{n}")).await;
        c.send(&whole[..50_000]).await;
        stalling.push(c);
        let mut good = Raw::connected(at, V::Four, &format!("good{n}")).await;
        good.send(&whole).await;
        good.expect(&[0x40, 2, 0, 1]).await;
        good.bye().await;
    }
    until("the oldest have gone", || refused(&broker, Refusal::Slow) >= 16).await;
    assert_eq!(stalling[0].next().await, None);
    let newest = stalling.last_mut().unwrap();
    newest.send(&whole[50_000..]).await;
    newest.expect(&[0x40, 2, 0, 1]).await;
}

#[tokio::test]
async fn who_reads_nothing_is_disconnected_and_costs_others_no_message() {
    let limits = Limits {
        queue_bytes: 400_000,
        queue_bytes_total: 1_000_000,
        write_deadline: Duration::from_millis(700),
        ..Limits::default()
    };
    let (broker, at) = limited(limits).await;
    let mut deaf = Vec::new();
    // With QoS 0 the socket takes no more; with QoS 1 it is the acknowledgements that do not come.
    for n in 0..6 {
        let mut c = Raw::connected(at, V::Four, &format!("deaf{n}")).await;
        c.subscribed("flood/#", n % 2).await;
        deaf.push(c);
    }
    let mut reader = Raw::connected(at, V::Four, "reader").await;
    reader.subscribed("flood/small", 1).await;
    let mut p = Raw::connected(at, V::Four, "p").await;
    for n in 0..2000u32 {
        let id = u16::try_from(n % 60_000 + 1).unwrap();
        p.send(&publish(V::Four, 2, "flood/large", id, &[], &[7; 20_000])).await;
        p.recv().await;
        if n % 10 == 0 {
            p.send(&publish(V::Four, 2, "flood/small", id, &[], &n.to_be_bytes())).await;
            p.recv().await;
            let got = reader.recv().await;
            assert!(got.ends_with(&n.to_be_bytes()), "message {n} of a client that reads");
            let topic = 2 + usize::from(u16::from_be_bytes([got[2], got[3]]));
            reader.send(&[0x40, 2, got[2 + topic], got[3 + topic]]).await;
        }
    }
    assert!(broker.stats().dropped > 1000, "{:?}", broker.stats());
    until("the deaf have gone", || refused(&broker, Refusal::Slow) == 3).await;
}

#[tokio::test]
async fn subscriptions_are_bounded_by_what_they_take_for_one_and_for_all() {
    let limits = Limits { filter_bytes: 200_000, filter_bytes_total: 300_000, ..Limits::default() };
    let (broker, at) = limited(limits).await;
    let deep = |n: usize| format!("{n}{}", "/a".repeat(60));
    for (name, fits) in [("a", 11), ("b", 5)] {
        let mut c = Raw::connected(at, V::Five, name).await;
        for n in 0..20usize {
            let id = u16::try_from(n + 1).unwrap().to_be_bytes();
            c.send(&subscribe(V::Five, u16::from_be_bytes(id), &deep(n), 0)).await;
            let code = if n < fits { 0 } else { 0x97 };
            c.expect(&[0x90, 4, id[0], id[1], 0, code]).await;
        }
        // The same again takes nothing; one given back makes room.
        c.send(&subscribe(V::Five, 99, &deep(0), 1)).await;
        c.expect(&[0x90, 4, 0, 99, 0, 1]).await;
        let filter = text(deep(0));
        c.send(&packet(0xA2, &[&[0, 98, 0], &filter[..]].concat())).await;
        c.expect(&[0xB0, 4, 0, 98, 0, 0]).await;
        c.send(&subscribe(V::Five, 97, &deep(19), 1)).await;
        c.expect(&[0x90, 4, 0, 97, 0, 1]).await;
        if name == "a" {
            std::mem::forget(c);
        }
    }
    assert_eq!(refused(&broker, Refusal::Limit), 9 + 15);
}

#[tokio::test]
async fn a_topic_that_matches_hundreds_of_filters_of_a_client_costs_its_publisher_time_and_nobody_a_message()
{
    let (broker, at) = broker().await;
    let mut many = Raw::connected(at, V::Four, "many").await;
    // Every way to put a wildcard for some of eight levels.
    let filters: Vec<u8> = (0..256u16)
        .flat_map(|n| {
            let level = |bit: u16| if n >> bit & 1 == 1 { "+" } else { "x" };
            let filter = (0..8).map(level).collect::<Vec<_>>().join("/");
            [text(&filter), vec![0]].concat()
        })
        .collect();
    many.send(&packet(0x82, &[&[0, 1][..], &filters].concat())).await;
    assert_eq!(many.recv().await[0], 0x90);
    let mut p = Raw::connected(at, V::Four, "p").await;
    let mut modest = Raw::connected(at, V::Four, "modest").await;
    let began = Instant::now();
    while broker.stats().throttled == 0 {
        assert!(began.elapsed() < LONG, "nobody was slowed down");
        for n in 0..100u8 {
            p.send(&publish(V::Four, 0, "x/x/x/x/x/x/x/x", 0, &[], &[n])).await;
            // What costs nothing in between is no excuse.
            p.send(&publish(V::Four, 0, "other", 0, &[], &[n])).await;
            modest.send(&publish(V::Four, 0, "x", 0, &[], &[n])).await;
        }
        for n in 0..100u8 {
            assert_eq!(many.recv().await.last(), Some(&n), "one copy, in order");
        }
        p.ping().await;
        modest.ping().await;
    }
    many.ping().await;
}

#[tokio::test]
async fn aliases_and_unreleased_messages_and_wills_are_bounded() {
    let limits = Limits { alias_bytes: 3000, unreleased: 50, will_bytes: 50_000, ..Limits::default() };
    let (broker, at) = limited(limits).await;
    let mut c = Raw::connected(at, V::Five, "aliases").await;
    for n in 1..=3u8 {
        c.send(&publish(V::Five, 0, &"t".repeat(1000), 0, &[0x23, 0, n], b"")).await;
    }
    // The same alias for another topic gives the old one's room back.
    c.send(&publish(V::Five, 0, &"u".repeat(1000), 0, &[0x23, 0, 1], b"")).await;
    c.ping().await;
    c.send(&publish(V::Five, 0, &"t".repeat(1000), 0, &[0x23, 0, 9], b"")).await;
    c.expect_end(0x97).await;

    let mut c = Raw::connected(at, V::Four, "unreleased").await;
    for id in 1..=50 {
        c.send(&publish(V::Four, 4, "x", id, &[], b"")).await;
        assert_eq!(c.recv().await[0], 0x50);
    }
    c.send(&publish(V::Four, 4, "x", 51, &[], b"")).await;
    assert_eq!(c.next().await, None);

    let will = [text("w"), text("x".repeat(20_000))].concat();
    let mut inside = Vec::new();
    for n in 0..2 {
        let mut c = Raw::open(at, V::Five).await;
        c.send(&connect_with(V::Five, &format!("w{n}"), 6, 0, &[], &[&[0], &will[..]].concat())).await;
        c.connack(false).await;
        inside.push(c);
    }
    let mut c = Raw::open(at, V::Four).await;
    c.send(&connect_with(V::Four, "w3", 6, 0, &[], &will)).await;
    c.expect(&[0x20, 2, 0, 3]).await;
    let mut c = Raw::open(at, V::Four).await;
    c.send(&connect_with(V::Four, "small", 6, 0, &[], &[text("w"), text("bye")].concat())).await;
    c.connack(false).await;
    assert_eq!(refused(&broker, Refusal::Limit), 3);
}

#[tokio::test]
async fn levels_are_bounded_and_counted() {
    let (broker, at) = limited(Limits::default()).await;
    let mut c = Raw::connected(at, V::Five, "deep").await;
    c.send(&publish(V::Five, 2, &"a/".repeat(64), 1, &[], b"")).await;
    c.expect(&[0x40, 3, 0, 1, 0x90]).await;
    c.send(&subscribe(V::Five, 2, &"+/".repeat(64), 0)).await;
    c.expect(&[0x90, 4, 0, 2, 0, 0x8F]).await;
    c.send(&subscribe(V::Five, 3, "a#", 0)).await;
    c.expect(&[0x90, 4, 0, 3, 0, 0x8F]).await;
    assert_eq!((refused(&broker, Refusal::Limit), refused(&broker, Refusal::Protocol)), (2, 1));
}

#[tokio::test]
async fn large_retained_messages_wait_while_those_who_do_not_read_hold_all_there_is() {
    let (broker, at) = limited(Limits { queue_bytes_total: 1_000_000, ..Limits::default() }).await;
    broker.publish(vec![Message::new("big", "x".repeat(300_000), true)]);
    let mut deaf = Vec::new();
    for n in 0..8 {
        let (mut io, theirs) = tokio::io::duplex(1024);
        let serving = broker.clone();
        tokio::spawn(async move { serving.serve(theirs).await });
        io.write_all(&connect(V::Four, &format!("deaf{n}"), true)).await.unwrap();
        io.write_all(&subscribe(V::Four, 1, "big", 0)).await.unwrap();
        // To the beginning of the message, if it comes at all.
        io.read_exact(&mut [0; 9]).await.unwrap();
        let _ = tokio::time::timeout(Duration::from_millis(300), io.read_u8()).await;
        deaf.push(io);
    }
    let told: u64 = broker.clients().await.iter().map(|row| row.messages_out).sum();
    assert_eq!(told, 3, "so many fit");
    let mut reader = Raw::connected(at, V::Four, "reader").await;
    reader.subscribed("big", 0).await;
    reader.ping().await;
    drop(deaf);
    assert!(reader.recv().await.len() > 300_000);
}

#[tokio::test]
async fn websockets_that_stall_inside_a_frame_give_way_like_others() {
    let config = model::Broker { listener: vec![listener(Transport::Websocket)], ..model::Broker::default() };
    let limits = Limits { partial_bytes: 200_000, ..Limits::default() };
    let broker = Broker::start_with(&config, Options { limits, ..Options::default() }).await.unwrap();
    let at = broker.addresses()[0].1;
    let mut stalling = Vec::new();
    for n in 0..10 {
        let mut request = format!("ws://{at}/").into_client_request().unwrap();
        request.headers_mut().insert("Sec-WebSocket-Protocol", "mqtt".parse().unwrap());
        let io = TcpStream::connect(at).await.unwrap();
        let (mut ws, _) = tokio_tungstenite::client_async(request, io).await.unwrap();
        let hello = connect(V::Four, &format!("stall{n}"), true);
        ws.send(tungstenite::Message::Binary(hello.into())).await.unwrap();
        ws.next().await.unwrap().unwrap();
        // A frame of 100,000 bytes, masked with nothing.
        let begun = [&[0x82, 0xFF, 0, 0, 0, 0, 0, 1, 0x86, 0xA0, 0, 0, 0, 0][..], &[7; 60_000]].concat();
        let mut io = ws.into_inner();
        io.write_all(&begun).await.unwrap();
        stalling.push(io);
    }
    until("the oldest have gone", || refused(&broker, Refusal::Slow) >= 7).await;
    assert_eq!(broker.stats().clients, 3);
}

#[tokio::test]
async fn long_client_ids_are_bounded_like_large_wills() {
    let (broker, at) = limited(Limits { will_bytes: 200_000, ..Limits::default() }).await;
    let id = |n: usize| format!("{n}{}", "x".repeat(60_000));
    for n in 0..5 {
        let mut c = Raw::open(at, V::Four).await;
        c.send(&connect(V::Four, &id(n), false)).await;
        c.expect(&[0x20, 2, 0, if n < 3 { 0 } else { 3 }]).await;
        drop(c);
        until("it is gone", || broker.stats().connections == 0).await;
    }
    assert_eq!(refused(&broker, Refusal::Connections), 2);
    // Who is known comes back, and who has a short one comes.
    let mut c = Raw::open(at, V::Four).await;
    c.send(&connect(V::Four, &id(2), false)).await;
    c.connack(true).await;
    Raw::connected(at, V::Four, "short").await.ping().await;
}
