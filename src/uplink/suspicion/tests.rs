//! Who is suspected, who is tried, and who is given up, rule by rule.

#![expect(clippy::single_range_in_vec_init, reason = "what is given up is a list of ranges, often of one")]

use bytes::Bytes;

use super::*;

/// A round trip.
pub(super) const TICK: Duration = Duration::from_millis(10);
pub(super) const RETRY: Duration = Duration::from_millis(100);
const TRIES: u8 = 3;

pub(super) fn suspicion(now: Instant) -> Suspicion {
    let backoff = (RETRY, Duration::from_secs(2));
    Suspicion::new(&Timing { retry: RETRY, tries: TRIES, backoff, ..Timing::default() }, now)
}

pub(super) fn batch(range: Range<u64>, topic: &str, bytes: usize) -> Outgoing {
    Outgoing {
        cargo: Cargo::Readings(range),
        class: Class::Live,
        topic: topic.into(),
        payload: Bytes::from(vec![0; bytes]),
        retain: false,
        forwarded: None,
    }
}

fn one(seq: u64, topic: &str) -> Outgoing {
    batch(seq..seq + 1, topic, 50)
}

/// The next connection, which is owed everything.
fn connect(s: &mut Suspicion, now: Instant) {
    s.connected(|_| true, Some(1), now);
}

/// A connection that the far side closes with these under way. `apart`: a topic is a point's.
fn closed(s: &mut Suspicion, under_way: &[Outgoing], apart: bool, now: Instant) -> Option<Finding> {
    connect(s, now);
    s.ended(Ending::Closed, under_way, (apart, false), now)
}

/// Lets messages of another topic be acknowledged, one each tick.
fn carry(s: &mut Suspicion, count: u64, now: &mut Instant) {
    for n in 0..count {
        *now += TICK;
        let released = s.acked(&one(1000 + n, "other"), Some(1001 + n));
        assert!(released.is_empty(), "{released:?}");
    }
}

/// 5 of topic `t` is a suspect.
fn suspect_of(now: Instant) -> Suspicion {
    let mut s = suspicion(now);
    for _ in 0..2 {
        assert_eq!(closed(&mut s, &[one(5, "t"), one(6, "u")], true, now), None);
    }
    assert!(closed(&mut s, &[one(5, "t")], true, now).is_some_and(|f| f.lost.is_empty()));
    assert!(s.suspects(5));
    s
}

/// One connection: it carries so many, then the suspect is tried, and the far side closes it.
fn try_after(s: &mut Suspicion, count: u64, now: &mut Instant) -> Option<Finding> {
    *now += Duration::from_secs(10);
    connect(s, *now);
    assert!(s.let_pass(one(5, "t"), true, *now).is_none(), "it is left out");
    carry(s, count, now);
    assert!(matches!(s.step(true, false, *now), Step::Go(_)), "it is tried after {count}");
    *now += TICK;
    s.ended(Ending::Closed, &[one(5, "t")], (true, false), *now)
}

#[test]
fn two_closes_with_the_same_oldest_make_the_next_connection_careful_and_the_third_names_it() {
    let now = Instant::now();
    let mut s = suspicion(now);
    assert_eq!(closed(&mut s, &[one(6, "u"), one(5, "t")], true, now), None);
    assert!(!s.is_careful() && !s.was_closed_again());
    assert_eq!(closed(&mut s, &[one(5, "t"), one(9, "u")], true, now), None);
    assert!(s.is_careful() && s.was_closed_again() && s.is_idle());
    let found = closed(&mut s, &[one(5, "t")], true, now).expect("it was alone");
    assert_eq!((&*found.topic, found.bytes, found.lost), ("t", 50, vec![]));
    assert!(s.suspects(5) && !s.suspects(6) && !s.is_idle());
}

#[test]
fn different_messages_another_ending_or_a_stop_in_between_make_nobody_suspect() {
    let now = Instant::now();
    let mut s = suspicion(now);
    for n in 1..20 {
        // The same topic says nothing where it is that of all readings.
        assert_eq!(closed(&mut s, &[one(n, "batch"), one(n + 1, "batch")], false, now), None);
        assert!(!s.is_careful());
    }
    let mut s = suspicion(now);
    for _ in 0..5 {
        assert_eq!(closed(&mut s, &[one(5, "t")], true, now), None);
        connect(&mut s, now);
        assert_eq!(s.ended(Ending::Broken, &[one(5, "t")], (true, false), now), None);
        assert!(!s.is_careful());
    }
    let mut s = suspicion(now);
    closed(&mut s, &[one(5, "t")], true, now);
    assert_eq!(s.ended(Ending::Asked, &[one(5, "t")], (true, false), now), None);
    closed(&mut s, &[one(5, "t")], true, now);
    assert!(s.is_careful(), "what we ended ourselves says neither yes nor no");
}

#[test]
fn care_ends_when_what_was_under_way_has_passed_or_is_owed_no_more() {
    let now = Instant::now();
    let careful = || {
        let mut s = suspicion(now);
        for _ in 0..2 {
            closed(&mut s, &[one(5, "t"), one(8, "u")], true, now);
        }
        connect(&mut s, now);
        assert!(s.is_careful());
        s
    };
    let mut s = careful();
    assert!(s.acked(&one(5, "t"), Some(6)).is_empty() && s.is_careful());
    assert!(s.acked(&one(20, "u"), None).is_empty() && s.is_careful(), "of the other lane");
    assert!(s.acked(&one(8, "u"), Some(9)).is_empty() && !s.is_careful());
    let mut s = careful();
    s.connected(|_| true, Some(9), now);
    assert!(!s.is_careful());
}

#[test]
fn of_live_readings_that_are_new_each_time_the_fourth_of_a_topic_is_suspect() {
    let now = Instant::now();
    let mut s = suspicion(now);
    for n in 1..4 {
        assert_eq!(closed(&mut s, &[one(n * 10, "t"), one(n * 10 + 1, "u")], true, now), None);
        assert!(s.is_idle(), "{n}");
    }
    assert!(closed(&mut s, &[one(40, "t"), one(41, "u")], true, now).is_some());
    assert!(s.suspects(40));
}

#[test]
fn a_batch_is_halved_and_never_suspected_and_grows_again_after_a_while() {
    let mut now = Instant::now();
    let mut s = suspicion(now);
    assert_eq!(s.most_readings(), usize::MAX);
    for _ in 0..2 {
        closed(&mut s, &[batch(1..41, "batch", 900), batch(41..81, "batch", 900)], false, now);
    }
    for (readings, left) in [(40, 20), (20, 10)] {
        let found = closed(&mut s, &[batch(1..1 + readings, "batch", 900)], false, now);
        assert!(found.is_some_and(|f| f.lost.is_empty()) && s.is_idle());
        assert_eq!(s.most_readings(), left);
    }
    s.relax(now + RELAX - TICK);
    assert_eq!(s.most_readings(), 10);
    now += RELAX;
    s.relax(now);
    assert_eq!(s.most_readings(), 20);
    for _ in 0..20 {
        now += RELAX;
        s.relax(now);
    }
    assert_eq!(s.most_readings(), usize::MAX);
}

#[test]
fn a_suspect_and_what_would_overtake_it_on_its_topic_are_left_out_until_it_is_acknowledged() {
    let now = Instant::now();
    let mut s = suspect_of(now);
    connect(&mut s, now);
    for message in [one(5, "t"), one(7, "t"), one(9, "t")] {
        assert_eq!(s.let_pass(message, true, now), None);
    }
    assert_eq!(s.let_pass(one(6, "u"), true, now), Some(one(6, "u")), "others go on");
    assert!(s.acked(&one(6, "u"), Some(7)).is_empty());
    assert_eq!(s.acked(&one(5, "t"), Some(6)), [(Class::Live, 7..8), (Class::Live, 9..10)]);
    assert!(s.is_idle());
    assert_eq!(s.let_pass(one(7, "t"), true, now), Some(one(7, "t")));
}

#[test]
fn what_is_not_owed_any_more_is_no_suspect() {
    let now = Instant::now();
    let mut s = suspect_of(now);
    s.connected(|range| range.start != 5, Some(6), now);
    assert!(s.is_idle() && !s.suspects(5));
}

#[test]
fn a_try_is_made_alone_when_the_connection_has_shown_what_it_can_and_an_answer_ends_the_doubt() {
    let mut now = Instant::now() + Duration::from_secs(10);
    let mut s = suspect_of(now);
    connect(&mut s, now);
    assert!(s.let_pass(one(5, "t"), true, now).is_none());
    now += RETRY / 2;
    assert!(matches!(s.step(true, false, now), Step::None), "nothing has passed yet");
    carry(&mut s, 2, &mut now);
    assert!(matches!(s.step(false, false, now), Step::Wait), "others are under way");
    assert!(matches!(s.step(true, false, now), Step::Go(m) if *m == one(5, "t")));
    assert!(matches!(s.step(true, false, now), Step::Wait), "nothing beside it");
    assert!(s.acked(&one(5, "t"), Some(6)).is_empty());
    assert!(matches!(s.step(true, false, now), Step::None) && s.is_idle());
}

#[test]
fn three_closes_at_a_try_on_connections_that_carried_more_each_time_give_it_up() {
    let mut now = Instant::now();
    let mut s = suspect_of(now);
    for (count, lost) in [(40, vec![]), (80, vec![]), (120, vec![5..6])] {
        let found = try_after(&mut s, count, &mut now).expect("it is known");
        assert_eq!((&*found.topic, found.lost), ("t", lost), "after {count}");
    }
    assert!(!s.suspects(5));
}

#[test]
fn a_close_at_a_try_is_no_proof_if_the_connection_had_not_stood_long() {
    let mut now = Instant::now();
    let mut s = suspect_of(now);
    for (count, lost) in [(10, vec![]), (80, vec![]), (120, vec![]), (160, vec![5..6])] {
        // The first stood ten ticks, and the try took one.
        assert_eq!(try_after(&mut s, count, &mut now).expect("it is known").lost, lost, "after {count}");
    }
}

#[test]
fn a_connection_that_has_not_carried_more_than_the_one_before_is_not_tried_at_nor_proof_where_it_is() {
    let mut now = Instant::now();
    let mut s = suspect_of(now);
    try_after(&mut s, 40, &mut now);
    for _ in 0..10 {
        now += Duration::from_secs(10);
        connect(&mut s, now);
        assert!(s.let_pass(one(5, "t"), true, now).is_none());
        carry(&mut s, 40, &mut now);
        assert!(matches!(s.step(true, false, now), Step::None), "no more than before");
        // Idle long enough it is tried all the same, and that can only free it.
        now += LONGEST * 6;
        assert!(matches!(s.step(true, true, now), Step::Go(_)));
        let found = s.ended(Ending::Closed, &[one(5, "t")], (true, false), now + TICK);
        assert_eq!(found.expect("it is known").lost, []);
    }
}

#[test]
fn a_close_at_a_try_is_no_proof_while_nothing_else_of_its_lane_passes() {
    let mut now = Instant::now();
    let mut s = suspect_of(now);
    for count in [40, 80, 120, 160, 200] {
        now += Duration::from_secs(10);
        connect(&mut s, now);
        assert!(s.let_pass(one(5, "t"), true, now).is_none());
        for n in 0..count {
            now += TICK;
            let other = Outgoing { class: Class::Backlog, ..one(1000 + n, "history") };
            assert!(s.acked(&other, None).is_empty());
        }
        assert!(matches!(s.step(true, false, now), Step::Go(_)));
        now += TICK;
        let found = s.ended(Ending::Closed, &[one(5, "t")], (true, false), now);
        assert_eq!(found.expect("it is known").lost, [], "the lane may be what is refused");
    }
}

#[test]
fn a_try_waits_until_the_connection_has_stood_long_for_one_that_takes_as_long_as_the_last() {
    let mut now = Instant::now();
    let mut s = suspect_of(now);
    connect(&mut s, now);
    assert!(s.let_pass(one(5, "t"), true, now).is_none());
    carry(&mut s, 40, &mut now);
    assert!(matches!(s.step(true, false, now), Step::Go(_)));
    now += TICK * 5;
    drop(s.ended(Ending::Closed, &[one(5, "t")], (true, false), now));
    now += Duration::from_secs(10);
    connect(&mut s, now);
    assert!(s.let_pass(one(5, "t"), true, now).is_none());
    carry(&mut s, 5 * u64::from(CALM), &mut now);
    assert!(matches!(s.step(true, false, now), Step::None), "it may take a little longer");
    carry(&mut s, 3 * u64::from(CALM), &mut now);
    assert!(matches!(s.step(true, false, now), Step::Go(_)));
}

#[test]
fn what_is_no_reading_shows_nothing_of_a_connection() {
    let mut now = Instant::now();
    let mut s = suspect_of(now);
    now += Duration::from_secs(10);
    connect(&mut s, now);
    assert!(s.let_pass(one(5, "t"), true, now).is_none());
    for version in 0..5 {
        now += TICK;
        let retained =
            Outgoing { cargo: Cargo::Retained(version), class: Class::Control, ..one(1, "status") };
        assert!(s.acked(&retained, None).is_empty());
    }
    assert!(matches!(s.step(true, false, now), Step::None));
    carry(&mut s, 1, &mut now);
    assert!(matches!(s.step(true, false, now), Step::Go(_)));
}

#[test]
fn any_other_end_of_a_connection_begins_the_count_anew() {
    for (ending, under_way) in [(Ending::Closed, one(9, "u")), (Ending::Broken, one(5, "t"))] {
        let mut now = Instant::now();
        let mut s = suspect_of(now);
        try_after(&mut s, 40, &mut now);
        try_after(&mut s, 80, &mut now);
        connect(&mut s, now);
        assert_eq!(s.ended(ending, &[under_way], (true, false), now), None);
        for (count, lost) in [(120, vec![]), (160, vec![]), (200, vec![5..6])] {
            let found = try_after(&mut s, count, &mut now).expect("it is known");
            assert_eq!(found.lost, lost, "{ending:?}, after {count}");
        }
    }
}

#[test]
fn a_try_that_breaks_otherwise_begins_the_count_anew() {
    let mut now = Instant::now();
    let mut s = suspect_of(now);
    try_after(&mut s, 40, &mut now);
    try_after(&mut s, 80, &mut now);
    now += Duration::from_secs(10);
    connect(&mut s, now);
    assert!(s.let_pass(one(5, "t"), true, now).is_none());
    carry(&mut s, 120, &mut now);
    assert!(matches!(s.step(true, false, now), Step::Go(_)));
    assert_eq!(s.ended(Ending::Broken, &[one(5, "t")], (true, false), now), None);
    for (count, lost) in [(160, vec![]), (200, vec![]), (240, vec![5..6])] {
        assert_eq!(try_after(&mut s, count, &mut now).expect("it is known").lost, lost, "after {count}");
    }
}

#[test]
fn where_no_other_reading_passes_nothing_is_given_up() {
    let mut now = Instant::now();
    let mut s = suspect_of(now);
    for _ in 0..20 {
        now += Duration::from_secs(10);
        connect(&mut s, now);
        assert!(s.let_pass(one(5, "t"), true, now).is_none());
        now += RETRY * 30;
        assert!(matches!(s.step(true, true, now), Step::Go(_)), "it may be the only one that passes");
        let found = s.ended(Ending::Closed, &[one(5, "t")], (true, false), now + TICK);
        assert_eq!(found.expect("it is known").lost, []);
    }
}

#[test]
fn of_a_topic_at_which_it_closes_again_and_again_one_try_gives_up_all_that_lies_aside() {
    let mut now = Instant::now();
    let mut s = suspect_of(now);
    let mut count = 40;
    for _ in 0..2 {
        assert_eq!(try_after(&mut s, count, &mut now).expect("it is known").lost, []);
        count += 40;
    }
    assert_eq!(try_after(&mut s, count, &mut now).expect("it is known").lost, [5..6]);
    // The next ones of the topic are suspects from the first, and one try is proof.
    for (seq, lost) in [(10, vec![10..11]), (20, vec![20..21, 21..22, 22..23])] {
        count += 40;
        now += Duration::from_secs(10);
        connect(&mut s, now);
        for n in 0..3 {
            assert_eq!(s.let_pass(one(seq + n, "t"), true, now), None);
        }
        now += Duration::from_secs(10);
        carry(&mut s, count, &mut now);
        assert!(matches!(s.step(true, false, now), Step::Go(m) if *m == one(seq, "t")));
        now += TICK;
        let found = s.ended(Ending::Closed, &[one(seq, "t")], (true, false), now);
        assert_eq!(found.expect("it is known").lost, lost);
    }
    // And one that is taken makes it a topic like any other.
    connect(&mut s, now);
    assert!(s.acked(&one(30, "t"), Some(31)).is_empty() && s.is_idle());
}

#[test]
fn with_qos_2_a_message_is_left_out_after_eight_closes_of_it_alone() {
    let now = Instant::now();
    let mut s = suspicion(now);
    let closed = |s: &mut Suspicion| {
        connect(s, now);
        s.ended(Ending::Closed, &[one(5, "t")], (true, true), now)
    };
    for n in 1..PATIENT {
        assert_eq!(closed(&mut s), None, "{n}");
        assert!(!s.is_unfit(&(5..6)));
    }
    assert!(closed(&mut s).is_some() && s.suspects(5) && s.is_unfit(&(5..6)));
}

/// With QoS 0 a link that breaks often made suspects of several readings of a point, and the youngest was tried first.
#[test]
fn a_suspect_is_not_tried_before_what_comes_before_it_on_its_topic() {
    let mut now = Instant::now();
    let mut s = suspicion(now);
    for seq in [9, 5] {
        s.suspects.push(Suspect::new(&one(seq, "t"), seq..seq + 1, true, RETRY, now));
        now += TICK;
    }
    now += Duration::from_secs(10);
    connect(&mut s, now);
    carry(&mut s, 5, &mut now);
    let goes = |step| match step {
        Step::Go(message) => Some(message.cargo),
        Step::None | Step::Wait => None,
    };
    for seq in [5, 7, 9] {
        assert!(s.let_pass(one(seq, "t"), true, now).is_none(), "{seq} is left out");
    }
    assert!(s.let_pass(one(3, "t"), true, now).is_some(), "what comes before both overtakes neither");
    assert_eq!(
        goes(s.step(true, false, now)),
        Some(Cargo::Readings(5..6)),
        "though the other is due for longer"
    );
    let released = s.acked(&one(5, "t"), Some(6));
    assert_eq!(released, [(Class::Live, 7..8), (Class::Live, 9..10)], "in their turn again");
    assert_eq!(goes(s.step(true, false, now)), None);
    assert!(s.let_pass(one(7, "t"), true, now).is_some());
    assert!(s.let_pass(one(9, "t"), true, now).is_none());
    assert_eq!(goes(s.step(true, false, now)), Some(Cargo::Readings(9..10)));
}
