//! How clients of a share get along with each other, and guests with what the polls know.

use super::*;

const WRITE: [u8; 5] = [6, 0, 0, 0, 1];

async fn door(bench: &Bench) -> std::net::SocketAddr {
    loop {
        if let Door::Open(at) = bench.stats.share.door() {
            return at;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn carried(bench: &Bench) -> Vec<Vec<u8>> {
    bench.line.lock().expect("test").carried.iter().map(|(_, _, pdu)| pdu.clone()).collect()
}

#[tokio::test(start_paused = true)]
async fn a_polite_client_among_fifteen_greedy_ones_is_answered_every_time() {
    let mut bench = bench_of(&[(0, 1000)]);
    bench.reads_in(Duration::from_secs(1)).await;
    bench.line.lock().expect("test").carries.insert(1, EXCHANGE * 3);
    let (server, stop) = (Arc::new(server(&bench, share())), CancellationToken::new());
    let greedy = greedy(&server, 15, &stop);
    for turn in 0..20 {
        tokio::time::sleep(Duration::from_millis(700)).await;
        let asked = Instant::now();
        assert_eq!(server.answer(1, &READ).await, [3, 2, 0, 1], "turn {turn}");
        assert!(asked.elapsed() <= EXCHANGE * 3 * 17, "behind one of each: {:?}", asked.elapsed());
    }
    stop.cancel();
    let mut answers = Vec::new();
    for one in greedy {
        answers.push(one.await.expect("no panic"));
    }
    let (least, most) = (answers.iter().min().copied(), answers.iter().max().copied());
    assert!(least.zip(most).is_some_and(|(least, most)| most - least <= 2), "all alike: {answers:?}");
}

#[tokio::test(start_paused = true)]
async fn when_all_places_are_taken_the_client_that_was_quiet_for_longest_makes_room() {
    let bench = bench_of(&[(0, 3_600_000)]);
    bench.line.lock().expect("test").carries.insert(1, EXCHANGE);
    let stop = CancellationToken::new();
    let running = tokio::spawn(server(&bench, share()).run(stop.clone()));
    let bind = door(&bench).await;
    let mut crowd = Vec::new();
    for _ in 0..crate::bounds::SHARE_CLIENTS {
        crowd.push(TcpStream::connect(bind).await.expect("it listens"));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    tokio::time::sleep(Duration::from_secs(10)).await;
    let ask = async |client: &mut TcpStream| {
        client.write_all(&[0, 7, 0, 0, 0, 6, 1, 3, 0, 0, 0, 1]).await.expect("sent");
        client.read_exact(&mut [0; 11]).await.map(|_| ())
    };
    // The first has been there for longest, and is at work.
    ask(&mut crowd[0]).await.expect("answered");
    let mut newcomer = TcpStream::connect(bind).await.expect("it listens");
    ask(&mut newcomer).await.expect("answered");
    assert_eq!(crowd[1].read(&mut [0; 9]).await.unwrap_or(0), 0, "closed");
    ask(&mut crowd[0]).await.expect("still there");
    ask(&mut crowd[2]).await.expect("still there");
    stop.cancel();
    running.await.expect("no panic");
}

#[tokio::test(start_paused = true)]
async fn a_waiting_write_of_a_client_that_hangs_up_is_not_sent() {
    let mut bench = bench_of(&[(0, 3_600_000)]);
    bench.reads_in(Duration::from_secs(1)).await;
    bench.line.lock().expect("test").carries.insert(1, TIMEOUT);
    let stop = CancellationToken::new();
    let running = tokio::spawn(server(&bench, share()).run(stop.clone()));
    let bind = door(&bench).await;
    for hangs_up in [true, false] {
        bench.line.lock().expect("test").carried.clear();
        let mut reader = TcpStream::connect(bind).await.expect("it listens");
        reader.write_all(&[0, 7, 0, 0, 0, 6, 1, 3, 0, 0, 0, 1]).await.expect("sent");
        while carried(&bench).is_empty() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let mut writer = TcpStream::connect(bind).await.expect("it listens");
        writer.write_all(&[0, 8, 0, 0, 0, 6, 1, 6, 0, 0, 0, 1]).await.expect("sent");
        tokio::time::sleep(Duration::from_millis(20)).await;
        let writer = (!hangs_up).then_some(writer);
        tokio::time::sleep(TIMEOUT * 3).await;
        assert_eq!(carried(&bench).contains(&WRITE.to_vec()), !hangs_up, "{hangs_up}");
        drop(writer);
    }
    stop.cancel();
    running.await.expect("no panic");
}

#[tokio::test(start_paused = true)]
async fn a_write_that_has_waited_for_a_second_is_not_sent_and_a_read_is() {
    let mut bench = bench_of(&[(0, 3_600_000)]);
    bench.reads_in(Duration::from_secs(1)).await;
    bench.line.lock().expect("test").carries.insert(1, TIMEOUT);
    let (server, stop) = (Arc::new(server(&bench, share())), CancellationToken::new());
    let _greedy = greedy(&server, 5, &stop);
    tokio::time::sleep(EXCHANGE).await;
    let (write, read) = tokio::join!(server.answer(1, &WRITE), server.answer(1, &READ));
    assert_eq!((&write[..], &read[..]), (&[0x86, 6][..], &[3, 2, 0, 1][..]));
    assert!(!carried(&bench).contains(&WRITE.to_vec()));
    stop.cancel();
}

#[tokio::test(start_paused = true)]
async fn a_unit_that_answers_a_poll_is_there_for_clients_at_once() {
    // Device 1 is unit 1: it answers its polls, and for a while nothing that clients ask.
    let mut bench = bench_of(&[(0, 100), (1, 10_000)]);
    let server = server(&bench, share());
    bench.reads_in(Duration::from_secs(3)).await;
    while !bench.reads_in(Duration::from_millis(100)).await.contains_key(&1) {}
    for at in 1..=5 {
        // Three ranges in vain are the unit, which is asked again after 1 s, after 2 s, and then not for long.
        let wait = if at > 3 { 1100 * (at - 3) } else { 0 };
        tokio::time::sleep(Duration::from_millis(wait)).await;
        let request = [3, 0, u8::try_from(at).expect("small"), 0, 1];
        assert_eq!(server.answer(1, &request).await, [0x83, 0x0B]);
    }
    assert_eq!(carried(&bench).len(), 5);
    bench.line.lock().expect("test").carries.insert(1, EXCHANGE);
    assert_eq!(server.answer(1, &READ).await, [0x83, 0x0B], "it is believed to be silent");
    while !bench.reads_in(Duration::from_millis(100)).await.contains_key(&1) {}
    assert_eq!(server.answer(1, &READ).await, [3, 2, 0, 1]);
}

#[tokio::test(start_paused = true)]
async fn a_unit_that_the_polls_miss_is_asked_for_clients_within_the_budget_only() {
    let mut bench = bench_of(&[(0, 100), (1, 1000)]);
    bench.line.lock().expect("test").carries.insert(0, EXCHANGE);
    bench.reads_in(Duration::from_secs(3)).await;
    let server = server(&bench, share());
    bench.line.lock().expect("test").silence(1);
    // It goes offline, which takes all that silence may cost for now.
    bench.reads_in(Duration::from_secs(5)).await;
    let before = carried(&bench).len();
    let asked = Instant::now();
    for at in 0..10 {
        assert_eq!(server.answer(1, &[3, 0, at, 0, 1]).await, [0x83, 0x0B]);
    }
    assert_eq!(carried(&bench).len(), before, "nothing was sent");
    assert!(asked.elapsed() < TIMEOUT, "{:?}", asked.elapsed());
}
