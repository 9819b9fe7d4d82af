//! What comes too late, from elsewhere, broken or not at all, and what that costs.

use driver_api::{FrameError, ReadError, Reason, Value};

use crate::MS;
use crate::script::{Rig, good, rtu};
use crate::support::device;

#[tokio::test(start_paused = true)]
async fn silence_ends_at_the_timeout_and_not_later() {
    let mut rig =
        Rig::new("address = 1", "a: register = 'input:0'", rtu().expect("01 04 00 00 00 01", "")).await;
    let error = rig.read(0).await.expect_err("nobody answers");
    assert!(matches!(error, ReadError::Transient(FrameError::Timeout(t)) if t == 500 * MS), "{error}");
    // The request's own 8 characters take 4.6 ms; timers have a grain of 1 ms.
    let took = rig.now() - rig.asked(0);
    assert!(took >= 500 * MS && took <= 507 * MS, "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_broken_answer_costs_a_moment_of_silence_and_not_the_timeout() {
    let script = rtu().raw("01 04 00 00 00 01", &[(10 * MS, "01 04 02 00 07 12 34")]);
    let mut rig = Rig::new("address = 1", "a: register = 'input:0'", script).await;
    assert!(matches!(rig.read(0).await, Err(ReadError::Transient(FrameError::Crc { .. }))));
    assert!(rig.now() - rig.asked(0) < 40 * MS);
}

#[tokio::test(start_paused = true)]
async fn a_foreign_frame_is_thrown_away_while_the_timer_runs() {
    let mut rig = Rig::new(
        "address = 1",
        "a: register = 'input:0'",
        rtu().expect_late("01 04 00 00 00 01", &[(5 * MS, "02 04 02 00 63"), (30 * MS, "01 04 02 00 07")]),
    )
    .await;
    let samples = rig.read_raw(0).await.expect("the second frame");
    assert_eq!(samples[0].value, Ok(Value::Int(7)));
    assert_eq!(samples[0].at - rig.asked(0), 30 * MS);
}

#[tokio::test(start_paused = true)]
async fn a_late_answer_never_becomes_the_value_of_the_next_request() {
    // Two blocks of equal shape. The first times out; its answer (999) arrives while the next
    // request waits, and would fit the second block in every byte.
    let mut rig = Rig::new(
        "address = 1\nmax_gap = 0",
        "a: register = 'holding:0', type = 'u32'
         b: register = 'holding:500', type = 'u32'",
        rtu()
            .expect_late("01 03 00 00 00 02", &[(700 * MS, "01 03 04 00 00 03 E7")])
            .expect_late("01 03 01 F4 00 01", &[(300 * MS, "01 03 02 00 00")])
            .expect("01 03 01 F4 00 02", "01 03 04 00 00 00 05"),
    )
    .await;
    assert_eq!(rig.read(0).await.expect_err("too late").reason(), Reason::Timeout);
    assert_eq!(rig.read(1).await.expect("its own answer"), [good(1, Value::Int(5))]);
    rig.done();
}

#[tokio::test(start_paused = true)]
async fn a_slave_that_always_answers_late_never_gives_a_value() {
    // Each answer comes 200 ms after the timeout of 500 ms, while the next question waits.
    let late = 700 * MS;
    let mut rig = Rig::new(
        "address = 1",
        "a: register = 'holding:0', type = 'u32'",
        rtu()
            .expect_late("01 03 00 00 00 02", &[(late, "01 03 04 00 00 03 E7")])
            .expect_late("01 03 00 00 00 01", &[(late, "01 03 02 00 00")])
            .expect_late("01 04 00 00 00 01", &[(late, "01 84 01")])
            .expect_late("01 03 00 00 00 03", &[(late, "01 03 06 00 00 00 00 00 00")])
            .expect_late("01 03 00 00 00 04", &[(late, "01 03 08 00 00 00 00 00 00 00 00")]),
    )
    .await;
    for _ in 0..5 {
        let error = rig.read(0).await.expect_err("never in time");
        assert!(matches!(error, ReadError::Transient(_)), "{error}");
    }
    rig.done();
}

#[tokio::test(start_paused = true)]
async fn a_late_refusal_teaches_nothing() {
    let mut rig = Rig::new(
        "address = 1\nmax_gap = 0",
        "a: register = 'holding:0', type = 'u32'
         b: register = 'holding:500'",
        rtu()
            .expect_late("01 03 00 00 00 02", &[(700 * MS, "01 83 02")])
            .expect("01 03 01 F4 00 01", "")
            .expect("01 04 01 F4 00 01", "01 84 01")
            .expect("01 03 01 F4 00 01", "01 03 02 00 05"),
    )
    .await;
    assert_eq!(rig.read(0).await.expect_err("too late").reason(), Reason::Timeout);
    // The refusal may be the first request's: this block is not given up for it.
    let error = rig.read(1).await.expect_err("a refusal");
    assert!(matches!(error, ReadError::Transient(FrameError::Exception(2))), "{error}");
    assert_eq!(rig.read(1).await.expect("a value"), [good(1, Value::Int(5))]);
    rig.done();
}

#[tokio::test(start_paused = true)]
async fn after_a_lost_answer_the_same_question_is_asked_behind_a_fence_and_then_plainly() {
    let mut rig = Rig::new(
        "address = 1",
        "a: register = 'input:0'",
        rtu()
            .expect("01 04 00 00 00 01", "")
            // One register cannot be read in part: the sister table's refusal is as good.
            .expect("01 03 00 00 00 01", "01 83 02")
            .expect("01 04 00 00 00 01", "01 04 02 00 07")
            .expect("01 04 00 00 00 01", "01 04 02 00 08"),
    )
    .await;
    assert_eq!(rig.read(0).await.expect_err("lost").reason(), Reason::Timeout);
    assert_eq!(rig.read(0).await.expect("back"), [good(0, Value::Int(7))]);
    assert_eq!(rig.read(0).await.expect("as before"), [good(0, Value::Int(8))]);
    rig.done();
}

#[tokio::test(start_paused = true)]
async fn one_silent_device_takes_nothing_from_another() {
    let devices = [
        device("dead", "address = 1", "a: register = 'input:0'"),
        device("alive", "address = 2", "b: register = 'input:0'"),
    ];
    let script = rtu()
        .expect("01 04 00 00 00 01", "")
        .expect("02 04 00 00 00 01", "02 04 02 00 07")
        .expect("01 03 00 00 00 01", "")
        .expect("02 04 00 00 00 01", "02 04 02 00 08");
    let mut rig = Rig::of(&devices, script).await;
    for value in [7, 8] {
        assert_eq!(rig.read(0).await.expect_err("dead").reason(), Reason::Timeout);
        let before = rig.now();
        assert_eq!(rig.read(1).await.expect("alive"), [good(1, Value::Int(value))]);
        assert!(rig.now() - before < 30 * MS, "only until the line is quiet");
    }
    rig.done();
}

#[tokio::test(start_paused = true)]
async fn a_write_is_not_confirmed_by_the_late_echo_of_another() {
    let mut rig = Rig::new(
        "address = 1",
        "set: register = 'holding:1', type = 'u32', writable = true",
        rtu()
            .expect_late("01 10 00 01 00 02 04 00 00 00 03", &[(600 * MS, "01 10 00 01 00 02")])
            .expect_late("01 03 00 01 00 01", &[(200 * MS, "01 03 02 00 00")])
            .expect("01 10 00 01 00 02 04 00 00 00 04", ""),
    )
    .await;
    assert!(rig.bus.write(0, &Value::Int(3)).await.is_err(), "the echo is late");
    assert!(rig.bus.write(0, &Value::Int(4)).await.is_err(), "this one was never confirmed");
    rig.done();
}

#[tokio::test(start_paused = true)]
async fn a_babbling_line_is_not_spoken_into() {
    let mut rig = Rig::new("address = 1", "a: register = 'input:0'", rtu()).await;
    rig.babble(60, 10 * MS);
    let before = rig.now();
    let error = rig.read(0).await.expect_err("never quiet");
    assert!(error.to_string().contains("never quiet"), "{error}");
    assert!(rig.now() - before <= 511 * MS);
}

#[tokio::test(start_paused = true)]
async fn what_somebody_before_us_asked_for_is_not_our_answer() {
    // The daemon was started anew; the device still answers what it was asked before, in the very shape.
    let script = rtu().expect("01 03 00 00 00 02", "01 03 04 00 00 00 05");
    let mut rig = Rig::new("address = 1", "a: register = 'holding:0', type = 'u32'", script).await;
    rig.says(300 * MS, "01 03 04 00 00 03 E7");
    let opened = rig.now();
    assert_eq!(rig.read(0).await.expect("its own answer"), [good(0, Value::Int(5))]);
    assert!(
        rig.asked(0) - opened >= 800 * MS,
        "as long as an answer may take, and once more after the last byte"
    );
    rig.done();
}

#[tokio::test(start_paused = true)]
async fn a_device_that_gives_no_part_of_a_block_is_read_again_after_one_silence() {
    let mut rig = Rig::new(
        "address = 1",
        "a: register = 'holding:0', type = 'u32'",
        rtu()
            .expect("01 03 00 00 00 02", "")
            .expect("01 03 00 00 00 01", "01 83 02")
            .expect("01 04 00 00 00 01", "01 84 01")
            .expect("01 03 00 00 00 02", "01 03 04 00 00 00 05"),
    )
    .await;
    assert_eq!(rig.read(0).await.expect_err("lost").reason(), Reason::Timeout);
    assert_eq!(rig.read(0).await.expect("back"), [good(0, Value::Int(5))]);
    rig.done();
}

#[tokio::test(start_paused = true)]
async fn a_whole_answer_with_a_wrong_checksum_owes_nothing() {
    let script = rtu()
        .raw("01 04 00 00 00 01", &[(10 * MS, "01 04 02 00 07 12 34")])
        .expect("01 04 00 00 00 01", "01 04 02 00 08");
    let mut rig = Rig::new("address = 1", "a: register = 'input:0'", script).await;
    assert_eq!(rig.read(0).await.expect_err("broken").reason(), Reason::Crc);
    assert_eq!(rig.read(0).await.expect("without a fence"), [good(0, Value::Int(8))]);
    rig.done();
}

#[tokio::test(start_paused = true)]
async fn on_a_line_that_gives_back_our_words_a_dead_device_confirms_no_write() {
    let devices = [
        device("alive", "address = 1", "a: register = 'holding:5', writable = true"),
        device("dead", "address = 9", "b: register = 'holding:5', writable = true"),
    ];
    let script = rtu()
        .expect_late("01 03 00 05 00 01", &[(MS, "01 03 00 05 00 01"), (9 * MS, "01 03 02 00 07")])
        .expect_late("09 06 00 05 00 07", &[(MS, "09 06 00 05 00 07")])
        .expect_late("01 06 00 05 00 08", &[(MS, "01 06 00 05 00 08"), (9 * MS, "01 06 00 05 00 08")]);
    let mut rig = Rig::of(&devices, script).await;
    assert_eq!(rig.read(0).await.expect("behind the echo"), [good(0, Value::Int(7))]);
    let unconfirmed = rig.bus.write(1, &Value::Int(7)).await;
    assert!(matches!(unconfirmed, Err(ReadError::Transient(FrameError::Timeout(_)))), "{unconfirmed:?}");
    rig.bus.write(0, &Value::Int(8)).await.expect("confirmed by the device itself");
    rig.done();
}
