//! Listeners with users and rights of their own, in the place of those of the broker: who comes in where, what it may do there,
//! and what of a session that comes by another door.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use fieldgate::broker::{Broker, Options, Persistence, Taps, hash_password};
use fieldgate::config::model::{self, Listener, Transport};
use fieldgate::message::{BootMs, Message};
use fieldgate::store::Sessions;

use crate::kept::Boot;
use crate::raw::*;

fn write(dir: &Path, name: &str, text: &str) -> Option<PathBuf> {
    std::fs::write(dir.join(name), text).unwrap();
    Some(dir.join(name))
}

/// A line of a password file; everybody's password is `secret`.
fn user(name: &str) -> String {
    format!("{name}:{}\n", hash_password(b"secret").unwrap())
}

/// Three doors: of the broker's users, of others with other rights, and of the broker's with other rights.
fn house(dir: &Path) -> model::Broker {
    let plant_acl = "user otto\ntopic readwrite plant/#\nuser anna\ntopic readwrite plant/#\n";
    let password_file = write(dir, "passwd", &user("anna"));
    let acl_file = write(dir, "acl", "user anna\ntopic readwrite #\nuser otto\ntopic readwrite #\n");
    let otto = write(dir, "plant.passwd", &user("otto"));
    let plant = write(dir, "plant.acl", plant_acl);
    let common = listener(Transport::Tcp);
    let others = Listener { password_file: otto, acl_file: plant.clone(), ..common.clone() };
    let narrow = Listener { acl_file: plant, ..common.clone() };
    let listener = vec![common, others, narrow];
    model::Broker { password_file, acl_file, listener, ..model::Broker::default() }
}

/// The doors of a house.
fn doors(broker: &Broker) -> [SocketAddr; 3] {
    let all: Vec<_> = broker.addresses().iter().map(|(_, at)| *at).collect();
    all.try_into().unwrap()
}

async fn knock(at: SocketAddr, v: V, id: &str, name: &str) -> Raw {
    let mut c = Raw::open(at, v).await;
    let props: &[u8] = if v == V::Five { &[0x11, 0, 0, 0, 60] } else { &[] };
    c.send(&connect_with(v, id, 0xC0, 0, props, &[text(name), text("secret")].concat())).await;
    c
}

/// Comes in with a session that stays.
async fn enter(at: SocketAddr, v: V, id: &str, name: &str, present: bool) -> Raw {
    let mut c = knock(at, v, id, name).await;
    c.connack(present).await;
    c
}

async fn refused(at: SocketAddr, v: V, name: &str) {
    let mut c = knock(at, v, "x", name).await;
    c.expect(if v == V::Five { &[0x20, 3, 0, 0x86, 0] } else { &[0x20, 2, 0, 4] }).await;
}

/// The next packet is a PUBLISH on this topic; acknowledges it, if it has QoS 1.
async fn message(c: &mut Raw, topic: &str) -> u8 {
    let got = c.recv().await;
    let end = 4 + topic.len();
    assert_eq!((got[0] >> 4, &got[4..end]), (3, topic.as_bytes()), "{got:02x?}");
    if got[0] & 6 == 2 {
        c.send(&[0x40, 2, got[end], got[end + 1]]).await;
    }
    got[0]
}

fn say(broker: &Broker, topics: &[&str]) {
    let message = |topic: &&str| Message::new(*topic, "m", false);
    assert_eq!(broker.publish(topics.iter().map(message).collect()), 0);
}

#[tokio::test]
async fn each_door_has_its_users_and_its_rights() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::start(&house(dir.path()), &[]).await.unwrap();
    let [common, others, narrow] = doors(&broker);
    for v in BOTH {
        refused(common, v, "otto").await;
        refused(others, v, "anna").await;
        refused(narrow, v, "otto").await;
        for (n, (at, name, free)) in
            (0..).zip([(common, "anna", true), (others, "otto", false), (narrow, "anna", false)])
        {
            let mut c = enter(at, v, &format!("{v:?}{n}"), name, false).await;
            let code = |allowed: bool, no: u8| if allowed { 0 } else { no };
            c.send(&subscribe(v, 1, "office/#", 0)).await;
            c.expect(
                match v {
                    V::Five => vec![0x90, 4, 0, 1, 0, code(free, 0x87)],
                    V::Four => vec![0x90, 3, 0, 1, code(free, 0x80)],
                }
                .as_slice(),
            )
            .await;
            c.subscribed("+/1", 0).await;
            say(&broker, &["office/1", "plant/1"]);
            if free {
                message(&mut c, "office/1").await;
            }
            message(&mut c, "plant/1").await;
            // To nobody, or without the right; 3.1.1 has no word for either.
            c.send(&publish(v, 2, "hall/2", 2, &[], b"")).await;
            let five = [0x40, 3, 0, 2, if free { 0x10 } else { 0x87 }];
            c.expect(if v == V::Five { &five } else { &[0x40, 2, 0, 2] }).await;
            c.bye().await;
        }
    }
    // A will is judged there, too.
    let will = [text("office/w"), text("w"), text("otto"), text("secret")].concat();
    let mut c = Raw::open(others, V::Four).await;
    c.send(&connect_with(V::Four, "w", 0xC6, 0, &[], &will)).await;
    c.expect(&[0x20, 2, 0, 5]).await;
}

#[tokio::test]
async fn a_session_that_comes_by_another_door_obeys_the_rights_there() {
    let dir = tempfile::tempdir().unwrap();
    let config = house(dir.path());
    let broker = Broker::start(&config, &[]).await.unwrap();
    let [common, others, narrow] = doors(&broker);
    for v in BOTH {
        let mut anna = enter(common, v, "panel", "anna", false).await;
        anna.subscribed("#", 2).await;
        let mut p = enter(common, v, "p", "anna", false).await;
        let mut publish_all = async |flags: u8, topics: &[&str]| {
            for topic in topics {
                p.send(&publish(v, flags, topic, 7, &[], b"m")).await;
                assert_eq!(p.recv().await[0], if flags == 2 { 0x40 } else { 0x50 });
                if flags == 4 {
                    p.send(&[0x62, 2, 0, 7]).await;
                    assert_eq!(p.recv().await[0], 0x70);
                }
            }
        };
        // In flight with either QoS, not acknowledged; then taken over, where it may read only a part.
        publish_all(2, &["office/1", "plant/1"]).await;
        publish_all(4, &["office/2", "plant/2"]).await;
        let mut first = Vec::new();
        for _ in 0..4 {
            first.push(anna.recv().await);
        }
        let mut moved = enter(narrow, v, "panel", "anna", true).await;
        anna.expect_end(0x8E).await;
        // Of the QoS 2 message that she may not have now only the release goes out.
        let release = [0x62, 2, first[2][12], first[2][13]];
        let mut got = [moved.recv().await, moved.recv().await, moved.recv().await].to_vec();
        got.remove(got.iter().position(|packet| *packet == release).expect("PUBREL"));
        for (again, before) in got.iter().zip([&first[1], &first[3]]) {
            assert_eq!((again[0], &again[1..]), (before[0] | 8, &before[1..]));
        }
        moved.send(&[0x70, 2, release[2], release[3]]).await;
        moved.send(&[0x40, 2, got[0][11], got[0][12]]).await;
        moved.send(&[0x50, 2, got[1][11], got[1][12]]).await;
        assert_eq!(moved.recv().await[0], 0x62);
        moved.send(&[0x70, 2, got[1][11], got[1][12]]).await;
        moved.ping().await;
        // What is published now, while she is here; and while she is away from here.
        publish_all(2, &["office/3", "plant/3"]).await;
        message(&mut moved, "plant/3").await;
        let rows = broker.clients().await;
        assert_eq!(
            (&*rows[1].client, rows[1].user.as_deref(), rows[1].state),
            ("panel", Some("anna"), "connected")
        );
        drop(moved);
        until("away", || broker.stats().sessions_away == 1).await;
        publish_all(2, &["office/4", "plant/4"]).await;
        let mut back = enter(common, v, "panel", "anna", true).await;
        message(&mut back, "plant/4").await;
        publish_all(2, &["office/5"]).await;
        message(&mut back, "office/5").await;
        // Queued where she may have all of it; another user comes for it.
        drop(back);
        until("away", || broker.stats().sessions_away == 1).await;
        publish_all(2, &["office/6", "plant/6"]).await;
        let mut otto = enter(others, v, "panel", "otto", true).await;
        message(&mut otto, "plant/6").await;
        otto.ping().await;
        assert_eq!(broker.clients().await[1].queued, 0);
        assert_eq!(broker.clients().await[1].user.as_deref(), Some("otto"));
        for id in ["panel", "p"] {
            broker.kick(id).await;
            until("gone or away", || broker.stats().clients < 2).await;
        }
        until("both away", || broker.stats().clients == 0).await;
        broker.kick("panel").await;
        broker.kick("p").await;
    }
}

#[tokio::test]
async fn after_a_restart_nothing_that_any_door_allows_is_lost_and_each_gives_what_it_allows() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = house(dir.path());
    // The broker's own rights are the narrow ones here, and a door's the wide ones.
    std::mem::swap(&mut config.acl_file, &mut config.listener[2].acl_file);
    let begin = || async {
        let shelf = Box::new(Sessions::at(dir.path(), 0));
        let within = Duration::from_millis(50);
        let persistence = Some(Persistence { shelf, clock: Boot::new(1, 1_000_000), within, logged: None });
        let options = Options { persistence, ..Options::default() };
        let broker = Broker::start_with(&config, options).await.unwrap();
        let at = doors(&broker);
        (broker, at)
    };
    let (broker, [narrow, _, wide]) = begin().await;
    for id in ["one", "two"] {
        let mut c = enter(wide, V::Five, id, "anna", false).await;
        c.subscribed("#", 1).await;
        drop(c);
    }
    until("away", || broker.stats().sessions_away == 2).await;
    drop(broker);
    let (broker, [narrow_now, _, wide_now]) = begin().await;
    assert!(narrow_now != narrow, "another start");
    let mut p = enter(wide_now, V::Five, "p", "anna", false).await;
    for topic in ["office/1", "plant/1"] {
        p.send(&publish(V::Five, 2, topic, 7, &[], b"m")).await;
        p.expect(&[0x40, 2, 0, 7]).await;
    }
    let mut one = enter(narrow_now, V::Five, "one", "anna", true).await;
    message(&mut one, "plant/1").await;
    one.ping().await;
    let mut two = enter(wide_now, V::Five, "two", "anna", true).await;
    message(&mut two, "office/1").await;
    message(&mut two, "plant/1").await;
    two.ping().await;
    // What was not given is gone for good.
    broker.close().await;
    let (_broker, [_, _, wide]) = begin().await;
    enter(wide, V::Five, "one", "anna", true).await.ping().await;
}

#[tokio::test]
async fn a_reload_reads_the_files_of_each_door_and_sends_away_whom_they_do_not_let_in() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = house(dir.path());
    let broker = Broker::start(&config, &[]).await.unwrap();
    let at = doors(&broker);
    let [common, others, narrow] = at;
    let mut anna = enter(common, V::Five, "anna", "anna", false).await;
    let mut otto = enter(others, V::Five, "otto", "otto", false).await;
    assert_eq!(broker.reconfigure(&config).await.unwrap(), [""; 0], "nothing changed");
    // A mistake in a door's file changes nothing.
    write(dir.path(), "plant.acl", "topik\n");
    assert!(broker.reconfigure(&config).await.unwrap_err().to_string().contains("plant.acl:1:"));
    // Rights of two doors, by one file.
    write(dir.path(), "plant.acl", "user otto\ntopic readwrite yard/#\n");
    let told = broker.reconfigure(&config).await.unwrap();
    assert_eq!(told, [1, 2].map(|_| "rights of listener 127.0.0.1:0 changed"));
    otto.send(&publish(V::Five, 2, "plant/1", 1, &[], b"")).await;
    otto.expect(&[0x40, 3, 0, 1, 0x87]).await;
    otto.send(&publish(V::Five, 2, "yard/1", 1, &[], b"")).await;
    otto.expect(&[0x40, 3, 0, 1, 0x10]).await;
    anna.send(&publish(V::Five, 2, "plant/1", 1, &[], b"")).await;
    anna.expect(&[0x40, 3, 0, 1, 0x10]).await;
    // Users of one door.
    write(dir.path(), "plant.passwd", &user("emil"));
    assert_eq!(broker.reconfigure(&config).await.unwrap(), ["users of listener 127.0.0.1:0 changed"]);
    otto.expect_end(0x87).await;
    anna.ping().await;
    refused(others, V::Five, "otto").await;
    let mut emil = enter(others, V::Five, "emil", "emil", false).await;
    // Those of the broker: each door that has none of its own.
    let mut guest = enter(narrow, V::Five, "guest", "anna", false).await;
    write(dir.path(), "passwd", &user("otto"));
    assert_eq!(broker.reconfigure(&config).await.unwrap(), ["users of the local broker changed"]);
    anna.expect_end(0x87).await;
    guest.expect_end(0x87).await;
    emil.ping().await;
    // A door that gets users of its own, or has none any more, stays open: who is one of them stays.
    let mut otto = enter(common, V::Five, "otto", "otto", true).await;
    config.listener[0].password_file =
        write(dir.path(), "other.passwd", &std::fs::read_to_string(dir.path().join("passwd")).unwrap());
    config.listener[1].password_file = None;
    assert_eq!(broker.reconfigure(&config).await.unwrap(), ["users of listener 127.0.0.1:0 changed"]);
    assert_eq!(doors(&broker), at);
    otto.ping().await;
    emil.expect_end(0x87).await;
    // Without users for all, the door that has its own keeps them, and loopback lets anybody in elsewhere.
    config.password_file = None;
    broker.reconfigure(&config).await.unwrap();
    otto.ping().await;
    refused(common, V::Five, "anna").await;
    Raw::connected(narrow, V::Five, "nameless").await.bye().await;
    let mut nameless = Raw::open(common, V::Five).await;
    nameless.send(&connect(V::Five, "n", true)).await;
    nameless.expect(&[0x20, 3, 0, 0x87, 0]).await;
}

#[tokio::test]
async fn a_message_that_is_refused_when_it_is_said_again_leaves_its_packet_id_to_another() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = house(dir.path());
    config.listener.truncate(1);
    let broker = Broker::start(&config, &[]).await.unwrap();
    let at = broker.addresses()[0].1;
    let mut keeper = broker.keeper().unwrap();
    broker.tap(Taps { filters: vec!["z/#".to_owned()], except: String::new() });
    let mut all = broker.subscribe("test", &["z/#"]).await;
    let mut p = enter(at, V::Five, "p", "anna", false).await;
    p.send(&publish(V::Five, 4, "z/a", 1, &[], b"1")).await;
    let first = keeper.recv().await.unwrap();
    drop(p);
    until("away", || broker.stats().sessions_away == 1).await;
    write(dir.path(), "acl", "user anna\ntopic read #\n");
    broker.reconfigure(&config).await.unwrap();
    let mut p = enter(at, V::Five, "p", "anna", true).await;
    p.send(&publish(V::Five, 8 | 4, "z/a", 1, &[], b"1")).await;
    p.expect(&[0x50, 3, 0, 1, 0x87]).await;
    write(dir.path(), "acl", "user anna\ntopic readwrite #\n");
    broker.reconfigure(&config).await.unwrap();
    p.send(&publish(V::Five, 4, "z/a", 1, &[], b"2")).await;
    let second = keeper.recv().await.unwrap();
    for payload in [b"1", b"2"] {
        assert_eq!(&*all.recv().await.unwrap().payload, payload);
    }
    broker.stored([first, second].map(|tapped| tapped.into_parts(BootMs(1)).1).into()).await;
    p.expect(&[0x50, 2, 0, 1]).await;
}

#[tokio::test]
async fn a_message_for_a_group_goes_to_a_member_that_may_read_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = house(dir.path());
    config.acl_file =
        write(dir.path(), "groups", "user anna\ntopic read plant/#\nuser otto\ntopic read plant/other\n");
    let passwords = [user("anna"), user("otto")].concat();
    config.password_file = write(dir.path(), "both", &passwords);
    config.listener.truncate(1);
    let broker = Broker::start(&config, &[]).await.unwrap();
    let at = broker.addresses()[0].1;
    let mut members = Vec::new();
    for name in ["otto", "anna"] {
        let mut c = Raw::open(at, V::Four).await;
        c.send(&connect_with(V::Four, name, 0xC0, 0, &[], &[text(name), text("secret")].concat())).await;
        c.connack(false).await;
        c.subscribed("$share/g/plant/#", 1).await;
        members.push(c);
    }
    drop(members.pop());
    until("anna is away", || broker.stats().sessions_away == 1).await;
    let message = |topic: &str| Message { qos: 1, ..Message::new(topic, "", false) };
    broker.publish(vec![message("plant/1"), message("plant/2"), message("plant/other")]);
    assert!(members[0].recv().await.ends_with(b"plant/other\0\x01"), "all before it have found theirs");
    let rows = broker.clients().await;
    assert_eq!(rows.iter().find(|row| row.client == "anna").unwrap().queued, 2);
}
