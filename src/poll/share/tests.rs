//! A shared bus under paused time: what greedy clients leave to the polls, and what they are told.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use driver_api::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::super::tests::{Bench, EXCHANGE, TIMEOUT, bench_of};
use super::super::{Ask, Carry, Guest, NotCarried};
use super::{Door, Server};
use crate::config::share::{Framing, Share, Writable};

mod manners;

const READ: [u8; 5] = [3, 0, 0, 0, 1];

fn share() -> Share {
    Share {
        bind: ([127, 0, 0, 1], 0).into(),
        framing: Framing::Auto,
        writes: vec![Writable::parse("1/holding:0..9").expect("a range")],
        cache: None,
    }
}

fn server(bench: &Bench, share: Share) -> Server {
    let timeouts = (BTreeMap::new(), TIMEOUT);
    Server::new(share, bench.handle.clone(), bench.stats.clone(), timeouts, true)
}

/// So many clients that ask again as soon as they are answered. Their answers, in the end.
fn greedy(server: &Arc<Server>, clients: usize, stop: &CancellationToken) -> Vec<JoinHandle<usize>> {
    let one = |_| {
        let (server, stop) = (server.clone(), stop.clone());
        tokio::spawn(async move {
            let mut answers = 0;
            while !stop.is_cancelled() {
                let answer = server.answer(1, &READ).await;
                answers += usize::from(answer == [3, 2, 0, 1]);
                tokio::task::yield_now().await;
            }
            answers
        })
    };
    (0..clients).map(one).collect()
}

/// When each device was polled in an undisturbed second: the grid of its polls.
fn grid(bench: &Bench) -> BTreeMap<usize, Instant> {
    bench.line.lock().expect("test").reads.iter().map(|(at, device)| (*device, *at)).collect()
}

/// How late each poll began, against the grid.
fn lateness(bench: &Bench, grid: &BTreeMap<usize, Instant>, period: Duration) -> Vec<Duration> {
    let late = |(at, device): &(Instant, usize)| {
        let since = (*at - grid[device]).as_nanos() % period.as_nanos();
        Duration::from_nanos(u64::try_from(since).expect("less than a period"))
    };
    bench.line.lock().expect("test").reads.iter().map(late).collect()
}

#[tokio::test(start_paused = true)]
async fn at_80_percent_load_greedy_clients_get_what_the_polls_leave_and_no_poll_is_skipped() {
    // Eight devices every 100 ms, 10 ms each.
    let period = Duration::from_millis(100);
    let mut bench = bench_of(&(0..8).map(|device| (device, 100)).collect::<Vec<_>>());
    bench.line.lock().expect("test").carries.insert(1, EXCHANGE);
    bench.reads_in(Duration::from_secs(2)).await;
    let grid = grid(&bench);
    bench.reads_in(Duration::from_secs(60)).await;
    let alone = lateness(&bench, &grid, period).into_iter().max().expect("polls");
    let (server, stop) = (Arc::new(server(&bench, share())), CancellationToken::new());
    let clients = greedy(&server, 6, &stop);
    bench.reads_in(Duration::from_secs(5)).await;
    let (overruns, carried) =
        (bench.stats.overruns.load(Relaxed), bench.line.lock().expect("test").carried.len());
    let counts = bench.reads_in(Duration::from_secs(60)).await;
    let shared = lateness(&bench, &grid, period);
    let skipped = bench.stats.overruns.load(Relaxed) - overruns;
    let answered = bench.line.lock().expect("test").carried.len() - carried;
    stop.cancel();
    let (worst, mean) = (
        shared.iter().max().copied().expect("polls"),
        shared.iter().sum::<Duration>() / u32::try_from(shared.len()).expect("few"),
    );
    println!(
        "80 % load, 60 s, six greedy clients: {} polls, {skipped} skipped, late by {mean:?} on average and {worst:?} \
         at worst (alone {alone:?}); {answered} answers for the clients",
        shared.len()
    );
    assert_eq!(skipped, 0);
    for (device, count) in &counts {
        assert!((598..=601).contains(count), "device {device}: {count} polls of 600");
    }
    assert!(worst <= EXCHANGE * 2, "one exchange of a client, and one of another device: {worst:?}");
    assert!(answered >= 1100, "the fifth that the polls leave: {answered} exchanges of 1200");
    let all: usize = {
        let mut sum = 0;
        for client in clients {
            sum += client.await.expect("no panic");
        }
        sum
    };
    assert!(all >= answered, "each got its own");
}

#[tokio::test(start_paused = true)]
async fn on_an_overloaded_bus_clients_still_get_their_tenth() {
    let mut bench = bench_of(&(0..15).map(|device| (device, 100)).collect::<Vec<_>>());
    bench.line.lock().expect("test").carries.insert(1, EXCHANGE);
    let (server, stop) = (Arc::new(server(&bench, share())), CancellationToken::new());
    greedy(&server, 6, &stop);
    bench.reads_in(Duration::from_secs(5)).await;
    let before = bench.line.lock().expect("test").carried.len();
    bench.reads_in(Duration::from_secs(60)).await;
    let answered = bench.line.lock().expect("test").carried.len() - before;
    stop.cancel();
    assert!((480..=660).contains(&answered), "{answered} exchanges of 10 ms in 60 s");
}

#[tokio::test(start_paused = true)]
async fn a_silent_unit_costs_the_bus_a_twentieth_whatever_its_clients_do() {
    let mut bench = bench_of(&[(0, 1000)]);
    let (server, stop) = (Arc::new(server(&bench, share())), CancellationToken::new());
    for unit in [50, 51, 52] {
        let (server, stop) = (server.clone(), stop.clone());
        tokio::spawn(async move {
            while !stop.is_cancelled() {
                assert_eq!(server.answer(unit, &READ).await, [0x83, 0x0B]);
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
    }
    bench.reads_in(Duration::from_secs(10)).await;
    let before = bench.line.lock().expect("test").carried.len();
    let counts = bench.reads_in(Duration::from_secs(600)).await;
    let asked = bench.line.lock().expect("test").carried.len() - before;
    stop.cancel();
    let part = asked as f64 * TIMEOUT.as_secs_f64() / 600.0;
    println!(
        "three silent units, three clients: {asked} timeouts in 600 s, {:.1} % of the bus",
        part * 100.0
    );
    assert!(part > 0.01 && part <= 0.05, "{part}");
    assert_eq!(counts[&0], 600, "and no poll was missed");
}

#[tokio::test(start_paused = true)]
async fn commands_of_fieldgate_go_before_clients() {
    let mut bench = bench_of(&[(0, 3_600_000)]);
    bench.reads_in(Duration::from_secs(1)).await;
    bench.line.lock().expect("test").carries.insert(1, EXCHANGE * 20);
    let carry = || Carry {
        unit: 1,
        request: READ.to_vec(),
        timeout: TIMEOUT,
        guest: Guest::Client,
        not_after: Instant::now() + TIMEOUT * 20,
    };
    let clients: Vec<_> = (0..6)
        .map(|_| {
            let (handle, carry) = (bench.handle.clone(), carry());
            tokio::spawn(async move { handle.carry(carry).await })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(1)).await;
    let asked = Instant::now();
    let ask = Ask::Write { point: 0, value: Value::Int(1), not_after: asked + TIMEOUT };
    bench.handle.ask(ask).await.expect("written");
    assert!(asked.elapsed() <= EXCHANGE * 23, "behind the one on the wire only: {:?}", asked.elapsed());
    for client in clients {
        assert_eq!(client.await.expect("no panic").map(|carried| carried.answer), Ok(vec![3, 2, 0, 1]));
    }
}

#[tokio::test(start_paused = true)]
async fn every_failure_has_its_exception_and_refusals_never_reach_the_bus() {
    let mut bench = bench_of(&[(0, 100)]);
    bench.reads_in(Duration::from_secs(1)).await;
    bench.line.lock().expect("test").carries.insert(1, EXCHANGE);
    let server = server(&bench, share());
    assert_eq!(server.answer(1, &READ).await, [3, 2, 0, 1]);
    assert_eq!(server.answer(1, &[6, 0, 9, 0, 1]).await, [6, 2, 0, 1], "may be written");
    let carried = bench.line.lock().expect("test").carried.len();
    for (unit, pdu, code) in [
        (1, [6, 0, 10, 0, 1], 1),
        (2, [6, 0, 9, 0, 1], 1),
        (1, [8, 0, 0, 1, 2], 1),
        (0, READ, 0x0A),
        (248, READ, 0x0A),
    ] {
        assert_eq!(server.answer(unit, &pdu).await, [pdu[0] | 0x80, code], "{unit}: {pdu:?}");
    }
    assert_eq!(bench.line.lock().expect("test").carried.len(), carried);
    assert_eq!(server.answer(9, &READ).await, [0x83, 0x0B]);
    let asked = Instant::now();
    assert_eq!(server.answer(9, &READ).await, [0x83, 0x0B]);
    assert!(asked.elapsed() < EXCHANGE * 3, "known to be silent: {:?}", asked.elapsed());
    // More than can be served before they have given up: the rest is told then.
    bench.line.lock().expect("test").carries.insert(1, TIMEOUT);
    let server = Arc::new(server);
    let many = (0..20).map(|_| {
        let server = server.clone();
        tokio::spawn(async move { server.answer(1, &READ).await })
    });
    let mut answers = Vec::new();
    for one in many.collect::<Vec<_>>() {
        answers.push(one.await.expect("no panic"));
    }
    let busy = answers.iter().filter(|answer| **answer == [0x83, 6]).count();
    assert!(
        (10..=12).contains(&busy) && answers.iter().all(|a| *a == [3, 2, 0, 1] || *a == [0x83, 6]),
        "{answers:?}"
    );
    bench.line.lock().expect("test").gone = true;
    bench.reads_in(Duration::from_secs(1)).await;
    assert_eq!(server.answer(1, &READ).await, [0x83, 0x0A]);
    let refused = bench.stats.share.refused.load(Relaxed);
    assert!(refused > 5 + 2 + 10, "{refused}");
}

#[tokio::test(start_paused = true)]
async fn a_cached_answer_is_given_again_and_a_write_ends_it() {
    let mut bench = bench_of(&[(0, 100)]);
    bench.reads_in(Duration::from_secs(1)).await;
    bench.line.lock().expect("test").carries.insert(1, EXCHANGE);
    let cached = Share { cache: Some(driver_api::Span::ms(500)), ..share() };
    let server = server(&bench, cached);
    for _ in 0..10 {
        assert_eq!(server.answer(1, &READ).await, [3, 2, 0, 1]);
    }
    let reads = |bench: &Bench| {
        bench.line.lock().expect("test").carried.iter().filter(|(_, _, pdu)| *pdu == READ).count()
    };
    assert_eq!(reads(&bench), 1);
    server.answer(1, &[6, 0, 0, 0, 1]).await;
    server.answer(1, &READ).await;
    assert_eq!(reads(&bench), 2, "asked again after a write");
    tokio::time::sleep(Duration::from_millis(501)).await;
    server.answer(1, &READ).await;
    assert_eq!(reads(&bench), 3);
    let ask = Ask::Write { point: 0, value: Value::Int(1), not_after: Instant::now() + TIMEOUT };
    bench.handle.ask(ask).await.expect("written");
    server.answer(1, &READ).await;
    assert_eq!(reads(&bench), 4, "a command of fieldgate is a write too");
}

#[tokio::test(start_paused = true)]
async fn a_request_nobody_waits_for_any_more_is_not_sent() {
    let mut bench = bench_of(&[(0, 3_600_000)]);
    bench.reads_in(Duration::from_secs(1)).await;
    bench.line.lock().expect("test").carries.insert(1, EXCHANGE);
    let carry = |not_after| Carry {
        unit: 1,
        request: READ.to_vec(),
        timeout: TIMEOUT,
        guest: Guest::Client,
        not_after,
    };
    let late = bench.handle.carry(carry(Instant::now() - EXCHANGE)).await;
    assert_eq!(late, Err(NotCarried::Busy));
    assert!(bench.line.lock().expect("test").carried.is_empty());
}

/// Real sockets and real time: few milliseconds each.
#[tokio::test]
async fn over_tcp_both_framings_are_spoken_noise_is_cut_off_and_a_taken_port_is_told_and_tried_again() {
    let bench = bench_of(&[(0, 100)]);
    bench.line.lock().expect("test").carries.insert(1, Duration::from_millis(1));
    let taken = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    let bind = taken.local_addr().expect("bound");
    let stop = CancellationToken::new();
    let running = tokio::spawn(server(&bench, Share { bind, ..share() }).run(stop.clone()));
    let door = || bench.stats.share.door();
    while door() == Door::None {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(door(), Door::Shut(format!("{bind} is taken by another program")));
    drop(taken);
    while door() != Door::Open(bind) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let ask = async |request: &[u8], answer: &[u8]| {
        let mut client = TcpStream::connect(bind).await.expect("it listens");
        // In two pieces.
        client.write_all(&request[..3]).await.expect("sent");
        tokio::time::sleep(Duration::from_millis(5)).await;
        client.write_all(&request[3..]).await.expect("sent");
        let mut heard = vec![0; answer.len()];
        client.read_exact(&mut heard).await.expect("answered");
        assert_eq!(heard, answer);
        client
    };
    let tcp = ask(&[0, 7, 0, 0, 0, 6, 1, 3, 0, 0, 0, 1], &[0, 7, 0, 0, 0, 5, 1, 3, 2, 0, 1]).await;
    let rtu = ask(&[1, 3, 0, 0, 0, 1, 0x84, 0x0A], &[1, 3, 2, 0, 1, 0x79, 0x84]).await;
    assert_eq!(bench.stats.share.clients.load(Relaxed), 2);
    let mut noise = TcpStream::connect(bind).await.expect("it listens");
    noise.write_all(b"GET / HTTP/1.1\r\n\r\n").await.expect("sent");
    assert_eq!(noise.read(&mut [0; 9]).await.unwrap_or(0), 0, "closed");
    drop((tcp, rtu));
    while bench.stats.share.clients.load(Relaxed) > 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // One more than may be in.
    let mut crowd = Vec::new();
    for _ in 0..=crate::bounds::SHARE_CLIENTS {
        crowd.push(TcpStream::connect(bind).await.expect("it listens"));
    }
    let mut last = crowd.pop().expect("one");
    assert_eq!(last.read(&mut [0; 9]).await.unwrap_or(0), 0, "not let in");
    stop.cancel();
    running.await.expect("no panic");
    assert_eq!(door(), Door::None);
    std::net::TcpListener::bind(bind).expect("its port is free at once");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_has_gone_without_a_word_or_stops_in_a_frame_does_not_keep_its_place() {
    let bench = bench_of(&[(0, 1000)]);
    let stop = CancellationToken::new();
    let running = tokio::spawn(server(&bench, share()).run(stop.clone()));
    let bind = loop {
        if let Door::Open(at) = bench.stats.share.door() {
            break at;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    for (said, within) in [(&[0, 7, 0][..], 200), (&[], 200)] {
        let mut client = TcpStream::connect(bind).await.expect("it listens");
        client.write_all(said).await.expect("sent");
        let began = Instant::now();
        assert_eq!(client.read(&mut [0; 9]).await.unwrap_or(0), 0, "closed");
        let after = began.elapsed().as_secs();
        assert!((4..within).contains(&after), "{said:?}: after {after} s");
    }
    stop.cancel();
    running.await.expect("no panic");
}
