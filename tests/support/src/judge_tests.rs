//! The judge must find every kind of fault: one that lets everybody go proves nothing.

use serde_json::json;

use super::*;

fn reading(seq: u64) -> Reading {
    Reading {
        at: 0.0,
        lane: Lane::Live,
        name: "m/v".into(),
        epoch: "e1".into(),
        seq,
        ts_ms: 1000 * i64::try_from(seq).expect("small"),
        value: json!(seq),
        quality: "good".into(),
        reason: String::new(),
    }
}

fn loss(from: u64, to: u64) -> Loss {
    Loss {
        uplink: "cloud".into(),
        reason: "unclean_start".into(),
        epoch: "e1".into(),
        seq: (from, to),
        count: to + 1 - from,
        bound: false,
        points: None,
    }
}

fn faults(readings: &[Reading], losses: &[Loss], strict: bool) -> Vec<String> {
    judge(readings, losses, strict).faults
}

#[test]
fn a_whole_row_with_honest_repeats_and_declared_losses_is_let_go() {
    let mut row: Vec<Reading> = [1, 2, 2, 3, 5, 6].map(reading).into();
    row.push(Reading { lane: Lane::History, ..reading(5) });
    let verdict = judge(&row, &[loss(4, 4)], false);
    assert_eq!(verdict.faults, [""; 0]);
    assert_eq!((verdict.heard, verdict.distinct, verdict.repeats, verdict.declared), (7, 5, 2, 1));
    assert_eq!(verdict.epochs, [("e1".to_owned(), 1, 6)]);
    let backlog = Reading { lane: Lane::History, ..reading(1) };
    assert_eq!(faults(&[reading(2), backlog, reading(3)], &[], false), [""; 0], "lanes are independent");
}

#[test]
fn a_hole_a_false_declaration_disorder_and_a_different_repeat_are_found() {
    assert!(faults(&[reading(1), reading(3)], &[], false)[0].contains("hole"));
    let next_life = Reading { epoch: "e2".into(), ..reading(3) };
    assert!(faults(&[reading(1), next_life], &[], false)[0].contains("hole"));
    assert!(faults(&[reading(1), reading(2)], &[loss(2, 2)], false)[0].contains("not true"));
    let row: Vec<Reading> = (1..=30).map(reading).collect();
    let expired = |to| Loss { reason: "expired".into(), ..loss(1, to) };
    assert_eq!(judge(&row, &[expired(20)], false).declared_but_heard, 20, "they were on their way");
    assert!(faults(&row, &[expired(21)], false)[0].contains("not true"), "so many were not");
    let lent = |bound| Loss { reason: "unclean_start".into(), bound, ..loss(1, 30) };
    assert_eq!(judge(&row, &[lent(true)], false).declared_but_heard, 30, "at most these");
    assert!(faults(&row, &[lent(false)], false)[0].contains("not true"));
    let short = Loss { count: 1, ..loss(2, 3) };
    assert!(faults(&[reading(1), reading(4)], &[short], false)[0].contains("not true"));
    assert!(faults(&[reading(2), reading(1)], &[], false)[0].contains("out of order"));
    let back = Reading { ts_ms: 500, ..reading(2) };
    assert!(faults(&[reading(1), back], &[], false)[0].contains("out of order"));
    let other = Reading { value: json!(99), ..reading(1) };
    assert!(faults(&[reading(1), other], &[], false)[0].contains("differ"));
    // Strict: order holds across points, and there is no history.
    let neighbour = Reading { name: "m/w".into(), ..reading(1) };
    assert_eq!(faults(&[reading(2), neighbour.clone()], &[], false), [""; 0]);
    assert!(faults(&[reading(2), neighbour], &[], true)[0].contains("out of order"));
    assert!(faults(&[Reading { lane: Lane::History, ..reading(1) }], &[], true)[0].contains("strict"));
}

#[test]
fn scattered_losses_are_held_against_what_is_missing_among_their_numbers() {
    let of = |from, to, count| Loss { reason: "rejected".into(), count, ..loss(from, to) };
    let row = [1, 3, 5, 8].map(reading);
    assert_eq!(faults(&row, &[of(2, 6, 3), loss(7, 7)], false), [""; 0]);
    assert_eq!(faults(&row, &[of(2, 6, 2), of(4, 7, 2)], false), [""; 0], "two of them, one among the other");
    assert_eq!(
        faults(&row, &[of(2, 6, 2), of(4, 4, 1), of(7, 7, 1)], false),
        [""; 0],
        "one is in another record"
    );
    for wrong in [vec![of(2, 7, 3)], vec![of(2, 7, 5)], vec![of(2, 6, 3), of(4, 7, 2)]] {
        assert!(faults(&row, &wrong, false)[0].contains("not true"), "{wrong:?}");
    }
    assert!(faults(&row, &[of(2, 6, 3)], false)[0].contains("hole"));
    let named =
        |points: &[&str]| Loss { points: Some(points.iter().map(|p| (*p).into()).collect()), ..of(1, 3, 1) };
    let local = [1, 2, 3].map(reading);
    assert_eq!(unaccounted(&[reading(1), reading(3)], &[named(&["m/v"])], &local), [""; 0]);
    assert_eq!(
        unaccounted(&[reading(1), reading(3)], &[named(&["m/w"])], &local).len(),
        1,
        "of another point"
    );
}

#[test]
fn two_readings_with_one_triple_contradict_each_other_unless_one_is_stale() {
    let other = Reading { value: json!(7), ..reading(1) };
    assert_eq!(contradictions(&[reading(1)], std::slice::from_ref(&other)).len(), 1);
    assert_eq!(contradictions(&[], &[reading(1), other.clone()]).len(), 1);
    let stale = Reading { quality: "uncertain".into(), reason: "stale".into(), ..reading(1) };
    assert_eq!(contradictions(&[reading(1)], &[reading(1), stale]), [""; 0]);
}

#[test]
fn what_was_seen_locally_must_arrive_or_be_declared() {
    let local = [1, 2, 3].map(reading);
    assert_eq!(unaccounted(&[reading(1), reading(3)], &[loss(2, 2)], &local), [""; 0]);
    assert_eq!(unaccounted(&[reading(1), reading(3)], &[], &local).len(), 1);
    let other_life = Loss { epoch: "e2".into(), ..loss(2, 2) };
    assert_eq!(unaccounted(&[reading(1), reading(3)], &[other_life], &local).len(), 1);
}

#[test]
fn values_are_held_against_what_was_served() {
    let serve = |n: u64| Serve { at: n as f64, value: n };
    let served: BTreeMap<_, _> = [("m/v".to_owned(), vec![serve(1), serve(2), serve(3)])].into();
    let against = |readings: &[Reading], excuses: &[Excuse]| held_against(&served, readings, excuses, 0.5);
    let all = [1, 2, 3].map(reading);
    assert_eq!(against(&all, &[]), (0, vec![]));
    assert_eq!(against(&all[..2], &[(2.5, 3.5)]), (1, vec![]));
    assert!(against(&all[..2], &[(0.0, 2.5)]).1[0].contains("never delivered"));
    let with = |odd: Reading| against(&[all.to_vec(), vec![odd]].concat(), &[]).1;
    assert!(with(Reading { value: json!(4), ..reading(4) })[0].contains("never served"));
    assert!(with(Reading { value: json!(3), ts_ms: 3100, ..reading(4) })[0].contains("one and the same"));
    let sent_late = Reading { ts_ms: 4000, ..reading(3) };
    assert!(against(&[reading(1), reading(2), sent_late], &[]).1[0].contains("not when"));
    let doubt = Reading { quality: "bad".into(), reason: "timeout".into(), value: json!(null), ..reading(3) };
    assert_eq!(against(&[reading(1), reading(2), doubt], &[]), (1, vec![]), "a late answer is no value");
}
