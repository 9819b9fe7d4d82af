//! Who is there and what they move, how one is told to go, and the figures on `$SYS`.

use crate::raw::*;
use fieldgate::broker::{Kicked, Options};
use tokio::time::Duration;

#[tokio::test]
async fn every_session_has_a_row_and_a_client_that_is_told_to_go_hears_why() {
    let (broker, at) = broker().await;
    let _inside = broker.subscribe("page", &["a/#"]).await;
    for v in BOTH {
        let forever: &[u8] = if v == V::Five { &[0x11, 0xFF, 0xFF, 0xFF, 0xFF] } else { &[] };
        let mut panel = Raw::open(at, v).await;
        panel.send(&connect_with(v, "panel", 0, 30, forever, &[])).await;
        panel.connack(false).await;
        panel.subscribed("a/#", 1).await;
        let mut plc = Raw::connected(at, v, "plc").await;
        plc.send(&publish(v, 2, "a/1", 1, &[], b"12345")).await;
        plc.recv().await;
        let message = panel.recv().await;
        panel.send(&[0x40, 2, message[7], message[8]]).await;
        panel.send(&[0xC0, 0]).await;
        panel.expect(&[0xD0, 0]).await;
        let rows = broker.clients().await;
        let names: Vec<_> = rows.iter().map(|r| (&*r.client, r.state)).collect();
        assert_eq!(names, [("page", "inside"), ("panel", "connected"), ("plc", "connected")]);
        let [_, panel_row, plc_row] = &rows[..] else { panic!("three rows") };
        assert_eq!((panel_row.messages_in, panel_row.messages_out, panel_row.subscriptions), (0, 1, 1));
        assert_eq!((plc_row.messages_in, plc_row.messages_out, plc_row.keep_alive_s), (1, 0, Some(0)));
        assert_eq!(panel_row.protocol, Some(if v == V::Five { "5" } else { "3.1.1" }));
        assert_eq!((panel_row.session_expiry_s, panel_row.keep_alive_s), (None, Some(30)));
        assert!(panel_row.address.as_deref().is_some_and(|a| a.starts_with("127.0.0.1:")));
        let sent = publish(v, 2, "a/1", 1, &[], b"12345").len() as u64;
        assert_eq!(plc_row.bytes_in, sent, "what came after CONNECT");

        assert_eq!(broker.kick("nobody").await, Kicked::Unknown);
        assert_eq!(broker.kick("page").await, Kicked::Unknown, "this process is not to be kicked");
        assert_eq!(broker.kick("panel").await, Kicked::Disconnected);
        match v {
            V::Five => panel.expect_end(0x98).await,
            V::Four => assert_eq!(panel.next().await, None),
        }
        until("away", || broker.stats().sessions_away == 1).await;
        plc.send(&publish(v, 2, "a/2", 2, &[], b"later")).await;
        plc.recv().await;
        let rows = broker.clients().await;
        assert_eq!((&*rows[1].client, rows[1].state, rows[1].queued), ("panel", "away", 1));
        assert_eq!(broker.kick("panel").await, Kicked::Forgotten);
        assert_eq!(broker.clients().await.len(), 2);
        let mut back = Raw::open(at, v).await;
        back.send(&connect_with(v, "panel", 0, 30, forever, &[])).await;
        back.connack(false).await;
        back.bye().await;
        assert!(matches!(broker.kick("panel").await, Kicked::Forgotten | Kicked::Disconnected));
        plc.bye().await;
        until("all gone", || broker.stats().clients == 0).await;
    }
}

#[tokio::test]
async fn the_figures_are_where_tools_look_for_them_and_follow_the_configuration() {
    let every = |ms: u64| {
        let sys_interval = driver_api::Span(Duration::from_millis(ms));
        fieldgate::config::model::Broker {
            listener: vec![listener(fieldgate::config::model::Transport::Tcp)],
            sys_interval,
            ..Default::default()
        }
    };
    let options = Options { sys: true, ..Options::default() };
    let broker = fieldgate::broker::Broker::start_with(&every(20), options).await.unwrap();
    let at = broker.addresses()[0].1;
    let figure = |topic: &'static str| {
        let broker = broker.clone();
        async move {
            let found = broker.retained(&format!("$SYS/broker/{topic}")).await;
            found.first().map(|m| String::from_utf8(m.payload.to_vec()).unwrap())
        }
    };
    let reaches = |topic: &'static str, wanted: &'static str| async move {
        for _ in 0..1000 {
            if figure(topic).await.as_deref() == Some(wanted) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("{topic} is {:?} and not {wanted}", figure(topic).await);
    };
    let mut c = Raw::connected(at, V::Five, "c").await;
    c.subscribed("$share/g/t", 0).await;
    reaches("clients/connected", "1").await;
    reaches("shared_subscriptions/count", "1").await;
    c.send(&publish(V::Five, 0, "t", 0, &[], b"123")).await;
    c.recv().await;
    c.send(&[0xC0, 0]).await;
    c.expect(&[0xD0, 0]).await;
    reaches("publish/messages/received", "1").await;
    reaches("publish/bytes/sent", "3").await;
    // SUBSCRIBE, PUBLISH, PINGREQ; SUBACK, PUBLISH, PINGRESP.
    reaches("messages/received", "3").await;
    reaches("messages/sent", "3").await;
    assert!(figure("version").await.is_some_and(|v| v.starts_with("fieldgate version ")));
    assert!(figure("load/bytes/received/1min").await.is_some_and(|v| v.parse::<f64>().is_ok()));
    // A wildcard at the front does not reach them (MQTT-4.7.2-1), and nobody else may publish there.
    assert!(broker.retained("#").await.is_empty() && broker.retained("+/broker/uptime").await.is_empty());
    c.send(&publish(V::Five, 2, "$SYS/broker/uptime", 7, &[], b"x")).await;
    assert_eq!(c.recv().await[4], 0x87);
    broker.reconfigure(&every(0)).await.unwrap();
    for _ in 0..1000 {
        if broker.retained("$SYS/#").await.is_empty() {
            return broker.close().await;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("the figures stay after they are switched off");
}
