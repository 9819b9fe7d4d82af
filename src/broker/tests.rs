//! The broker as a whole, in one process: engines, local subscribers, hand-over queue.

use std::time::Duration;

use tokio::sync::mpsc;

use super::engine::{Dead, Engine, Returned, Running, Ticket};
use super::*;

fn config() -> model::Broker {
    let any = model::Listener {
        bind: "127.0.0.1:0".parse().unwrap(),
        transport: Transport::Tcp,
        tls: None,
        allow_anonymous: None,
        password_file: None,
        acl_file: None,
    };
    model::Broker { listener: vec![any], ..model::Broker::default() }
}

async fn broker(options: Options) -> Broker {
    Broker::start_with(&config(), options).await.unwrap()
}

fn burst(n: usize, retain: bool) -> Vec<Message> {
    (0..n).map(|i| Message::new(format!("t/{i}"), i.to_string(), retain)).collect()
}

async fn expect_burst(subscription: &mut Subscription, n: usize) {
    for i in 0..n {
        let got = tokio::time::timeout(Duration::from_secs(20), subscription.recv()).await;
        let got = got.expect("in time").expect("running");
        assert_eq!((&*got.topic, &*got.payload), (&*format!("t/{i}"), i.to_string().as_bytes()));
    }
}

/// An engine that gives back what `pass` lets through.
struct Sieve {
    out: mpsc::Sender<Returned>,
    pass: fn(Ticket) -> Result<bool, Dead>,
}

impl Engine for Sieve {
    fn name(&self) -> &'static str {
        "sieve"
    }
    fn push(&mut self, ticket: Ticket) -> Result<(), Dead> {
        if (self.pass)(ticket)? {
            self.out.try_send(Returned { ticket, gap: 0 }).map_err(|_| Dead)?;
        }
        Ok(())
    }
}

fn sieve(pass: fn(Ticket) -> Result<bool, Dead>) -> EngineChoice {
    let (out, returned) = mpsc::channel(4096);
    EngineChoice::Given(Running { engine: Box::new(Sieve { out, pass }), returned })
}

/// Publishes a burst in such a way that each message gets a ticket of its own while there is room for it.
async fn one_by_one(broker: &Broker, count: usize) {
    for message in burst(count, false) {
        assert_eq!(broker.publish(vec![message]), 0);
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_burst_costs_the_engine_one_ticket() {
    let broker =
        broker(Options { engine: sieve(|t| if t < 3 { Ok(true) } else { Err(Dead) }), ..Options::default() })
            .await;
    let mut all = broker.subscribe("test", &["#"]).await;
    for _ in 0..3 {
        assert_eq!(broker.publish(burst(1000, false)), 0);
        expect_burst(&mut all, 1000).await;
    }
    assert_eq!(broker.stats().engine_switches, 0);
}

#[tokio::test]
async fn both_engines_keep_the_order_of_a_burst() {
    for engine in [EngineChoice::Rumqttd, EngineChoice::Native] {
        let broker = broker(Options { engine, ..Options::default() }).await;
        let mut all = broker.subscribe("test", &["#"]).await;
        for _ in 0..3 {
            assert_eq!(broker.publish(burst(3000, false)), 0);
            expect_burst(&mut all, 3000).await;
        }
        let stats = broker.stats();
        assert_eq!((stats.messages_in, stats.dropped, stats.engine_gaps), (9000, 0, 0));
        broker.close().await;
        assert_eq!(all.recv().await, None);
    }
}

#[tokio::test]
async fn an_engine_that_stalls_is_replaced_and_nothing_is_lost() {
    let limits = Limits { engine_stall: Duration::from_millis(200), ..Limits::default() };
    let broker = broker(Options { engine: sieve(|t| Ok(t < 100)), limits, ..Options::default() }).await;
    let mut all = broker.subscribe("test", &["#"]).await;
    one_by_one(&broker, 900).await;
    expect_burst(&mut all, 900).await;
    let stats = broker.stats();
    assert_eq!((stats.engine, stats.engine_switches), ("native", 1));
}

#[tokio::test]
async fn an_engine_that_dies_is_replaced_and_nothing_is_lost() {
    let engine = sieve(|t| if t < 50 { Ok(t < 40) } else { Err(Dead) });
    let broker = broker(Options { engine, ..Options::default() }).await;
    let mut all = broker.subscribe("test", &["#"]).await;
    one_by_one(&broker, 900).await;
    expect_burst(&mut all, 900).await;
    assert_eq!(broker.stats().engine, "native");
}

#[tokio::test]
async fn what_an_engine_loses_is_delivered_from_the_window_in_order_and_counted() {
    let engine = sieve(|t| Ok(!(10..13).contains(&t)));
    let broker = broker(Options { engine, ..Options::default() }).await;
    let mut all = broker.subscribe("test", &["#"]).await;
    one_by_one(&broker, 400).await;
    expect_burst(&mut all, 400).await;
    let stats = broker.stats();
    assert_eq!((stats.engine_gaps, stats.engine_switches), (3, 0));
}

#[tokio::test]
async fn a_subscriber_gets_all_retained_messages_first() {
    let broker = broker(Options::default()).await;
    assert_eq!(broker.publish(burst(12_000, true)), 0);
    let mut all = broker.subscribe("test", &["t/#"]).await;
    assert_eq!(broker.publish(vec![Message::new("t/live", "x", false)]), 0);
    for n in 0..12_000 {
        let got = all.recv().await.unwrap();
        assert!(got.retain && &*got.topic != "t/live", "{n}: {got:?}");
    }
    assert_eq!(&*all.recv().await.unwrap().topic, "t/live");
    assert_eq!(broker.retained("t/+").await.len(), 12_000);
    assert_eq!(broker.retained("t/7").await, [Message::new("t/7", "7", true)]);
    assert_eq!(broker.stats().retained, 12_000);
}

#[tokio::test]
async fn a_full_hand_over_queue_says_how_many_it_skipped() {
    let broker = broker(Options::default()).await;
    // No await in between: the hub cannot take any of it on this single-threaded runtime.
    let skipped = broker.publish(burst(10_000, false)) + broker.publish(burst(10_000, false));
    assert_eq!(skipped, 20_000 - bounds::BROKER_LOCAL);
    assert_eq!(broker.publish(vec![Message::new("not/a/#", "x", false)]), 1);
    assert_eq!(broker.stats().skipped, skipped as u64 + 1);
}

#[tokio::test]
async fn a_mirror_is_right_again_after_it_could_not_keep_up() {
    let limits = Limits { queue: 16, ..Limits::default() };
    let broker = broker(Options { limits, ..Options::default() }).await;
    let mut mirror = broker.subscribe("mirror", &["status/#"]).await;
    for round in 0..50 {
        let list = (0..10).map(|i| Message::new(format!("status/{i}"), format!("{round}"), true)).collect();
        assert_eq!(broker.publish(list), 0);
    }
    while broker.stats().messages_in < 500 {
        tokio::task::yield_now().await;
    }
    assert!(broker.stats().dropped > 0);
    let mut seen = std::collections::HashMap::new();
    while seen.values().filter(|v| *v == "49").count() < 10 {
        let m = mirror.recv().await.unwrap();
        seen.insert(m.topic, String::from_utf8(m.payload.to_vec()).unwrap());
    }
    assert_eq!(mirror.lags(), 1);
}

#[tokio::test]
async fn a_retained_command_is_seen_with_its_flag_and_not_kept() {
    let options = Options { never_retain: vec!["gw/+/command/#".into()], ..Options::default() };
    let broker = broker(options).await;
    let mut commands = broker.subscribe("commander", &["gw/x/command/#"]).await;
    broker.publish(vec![Message::new("gw/x/command/d/p", "1", true)]);
    assert!(commands.recv().await.unwrap().retain);
    assert!(broker.retained("#").await.is_empty());
}

#[tokio::test]
async fn a_dropped_subscription_ends() {
    let broker = broker(Options::default()).await;
    let gone = broker.subscribe("gone", &["#"]).await;
    assert_eq!(broker.stats().subscriptions, 1);
    drop(gone);
    broker.publish(burst(1, false));
    while broker.stats().subscriptions > 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_taken_port_is_named_with_the_cure_and_mistakes_in_files_with_their_lines() {
    let first = broker(Options::default()).await;
    let (_, address) = first.addresses()[0];
    let mut config = config();
    config.listener[0].bind = address;
    let error = Broker::start(&config, &[]).await.unwrap_err().to_string();
    assert!(error.contains(&address.to_string()) && error.contains("[[broker.listener]]"), "{error}");

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("acl");
    std::fs::write(&path, "topic read a\ntropic b\n").unwrap();
    config.listener[0].bind.set_port(0);
    config.acl_file = Some(path.clone());
    let error = Broker::start(&config, &[]).await.unwrap_err().to_string();
    assert!(error.starts_with(&format!("{}:2:1: `tropic`", path.display())), "{error}");
    config.acl_file = Some(dir.path().join("none"));
    assert!(Broker::start(&config, &[]).await.unwrap_err().to_string().contains("none"));
}

/// A door that is open to all.
fn door() -> Arc<listener::Door> {
    let ((_, tls), (_, access)) = (watch::channel(None), watch::channel(Arc::default()));
    let stop = CancellationToken::new();
    Arc::new(listener::Door { config: config().listener.remove(0), access, tls, stop })
}

/// What a connection's task would be: hears the hub, holds a session.
struct Fake {
    control: pipe::Receiver<state::Control>,
    attached: tokio::sync::oneshot::Receiver<state::Attached>,
}

fn fake(state: &mut State, id: &str, conn: u64, will: bool) -> Fake {
    let (control, hears) = pipe::channel(bounds::BROKER_CONTROL);
    let (reply, attached) = oneshot::channel();
    let message = message::Publish::plain("will", id.to_owned(), 0, true);
    let about = traffic::About {
        door: door(),
        by_certificate: false,
        peer: ([127, 0, 0, 1], 4711).into(),
        version: wire::Version::V5,
        keep_alive: 0,
        since: tokio::time::Instant::now(),
        traffic: traffic::Traffic::default(),
        costly_us: Default::default(),
    };
    state.apply(Event::Connect(Box::new(state::Connecting {
        access: Arc::default(),
        about: Arc::new(about),
        client_id: id.into(),
        user: None,
        clean: false,
        expiry: u32::MAX,
        will: will.then_some(state::Will { message, expiry: None, delay: 0 }),
        conn,
        control,
        reply,
    })));
    Fake { control: hears, attached }
}

fn state(limits: Limits) -> State {
    let tap = Arc::new(super::tap::Tap::new(Arc::default()));
    State::new(limits, Arc::default(), vec![Arc::default()], tap, Vec::new())
}

#[test]
fn a_fault_of_ours_costs_one_connection_and_those_who_wait_for_its_id_go_on() {
    let mut state = state(Limits::default());
    let mut first = fake(&mut state, "c", 1, true);
    let session = first.attached.try_recv().unwrap().session;
    let mut second = fake(&mut state, "c", 2, false);
    assert_eq!(first.control.try_recv(), Ok(state::Control::Stop(0x8E)));
    assert!(second.attached.try_recv().is_err(), "it waits for the session");
    drop((first, session));
    state.apply(Event::Panicked(1));
    assert!(!second.attached.try_recv().unwrap().present, "the session is lost, the client is served");
    assert_eq!(state.snapshot("will").len(), 1);
    let stats = state.counters.snapshot();
    assert_eq!((stats.panics, stats.clients), (1, 1));
    state.apply(Event::Panicked(77));
    assert_eq!(state.counters.snapshot().clients, 1);
}

/// Clients of these users come, leave their sessions, and come again: whose session is still there.
fn left(limit: usize, users: &[Option<&str>]) -> Vec<bool> {
    let mut state = state(Limits { sessions_away: limit, ..Limits::default() });
    for (conn, user) in (1..).zip(users) {
        let mut c = fake(&mut state, &format!("c{conn}"), conn, false);
        let session = c.attached.try_recv().unwrap().session;
        state.clients.get_mut(&session.key).unwrap().user = user.map(Into::into);
        state.apply(Event::Detach(Box::new(state::Detached {
            conn,
            session,
            end: state::Ended::Goodbye,
            expiry: None,
            unheard: c.control,
        })));
    }
    assert_eq!(state.counters.snapshot().sessions_away, limit as u64);
    let ids = (1..=users.len()).map(|n| format!("c{n}"));
    ids.zip(100..)
        .map(|(id, conn)| fake(&mut state, &id, conn, false).attached.try_recv().unwrap().present)
        .collect()
}

#[test]
fn of_too_many_sessions_away_the_oldest_of_who_has_most_is_forgotten() {
    assert_eq!(left(2, &[None; 3]), [false, true, true]);
    let (meter, flood) = (Some("meter"), Some("flood"));
    assert_eq!(left(3, &[meter, flood, flood, flood, flood]), [true, false, false, true, true]);
    assert_eq!(left(2, &[meter, None, flood]), [false, true, true], "of as many the oldest");
}

#[tokio::test]
async fn it_says_when_it_has_ended() {
    let broker = broker(Options::default()).await;
    let watcher = broker.clone();
    let ended = tokio::spawn(async move { watcher.ended().await });
    broker.close().await;
    ended.await.unwrap();
    assert_eq!(broker.publish(burst(3, false)), 3);
    assert_eq!(broker.subscribe("late", &["#"]).await.recv().await, None);
    assert!(broker.retained("#").await.is_empty());
}

#[tokio::test]
async fn a_process_that_stood_still_does_not_blame_its_engine() {
    // This thread, and the hub with it, sleeps for longer than a stall is; the engine answers soon after.
    struct Late(mpsc::Sender<Returned>);
    impl Engine for Late {
        fn name(&self) -> &'static str {
            "late"
        }
        fn push(&mut self, ticket: Ticket) -> Result<(), Dead> {
            let out = self.0.clone();
            tokio::spawn(async move {
                tokio::task::yield_now().await;
                std::thread::sleep(Duration::from_millis(900));
                tokio::time::sleep(Duration::from_millis(50)).await;
                out.send(Returned { ticket, gap: 0 }).await
            });
            Ok(())
        }
    }
    let (out, returned) = mpsc::channel(4096);
    let engine = EngineChoice::Given(Running { engine: Box::new(Late(out)), returned });
    let limits = Limits { engine_stall: Duration::from_millis(200), ..Limits::default() };
    let broker = broker(Options { engine, limits, ..Options::default() }).await;
    let mut all = broker.subscribe("test", &["#"]).await;
    broker.publish(burst(1, false));
    expect_burst(&mut all, 1).await;
    assert_eq!(broker.stats().engine_switches, 0);
}

/// The heap that a connection takes before a byte came: its task, and what the task has boxed.
#[tokio::test]
async fn a_silent_connection_is_a_small_task() {
    let broker = broker(Options::default()).await;
    let here: SocketAddr = ([127, 0, 0, 1], 0).into();
    let listener = tokio::net::TcpListener::bind(here).await.unwrap();
    let tcp = tokio::net::TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let serving = greet::serve(broker.inner.shared.clone(), door(), tcp, here, 1);
    let size = size_of_val(&serving);
    println!("{size} bytes");
    assert!(size < 2048, "{size} bytes");
}

#[test]
fn what_a_quiet_client_holds_stays_small() {
    fn future<A, F: Future>(_: impl Fn(A) -> F) -> usize {
        size_of::<F>()
    }
    type Run = (Box<connection::Connection>, &'static CancellationToken);
    // Beside them it is a socket, a session and a place in some tables. Its channels hold nothing while nothing is in them.
    let parts = [future(|(connection, stop): Run| connection.run(stop)), size_of::<connection::Connection>()];
    println!("{parts:?}");
    assert!(parts.iter().sum::<usize>() <= 2 << 10, "{parts:?}");
}
