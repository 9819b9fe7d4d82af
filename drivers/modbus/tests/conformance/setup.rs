//! What a device shall hold: looked at when it appears, written where it differs, one exchange before each poll.

use driver_api::{Reason, Value};

use crate::problems;
use crate::script::{Rig, Script, bad, good, rtu};
use crate::support::device;

const POINT: &str = "a: register = 'input:0'";
const POLL: (&str, &str) = ("01 04 00 00 00 01", "01 04 02 00 07");

async fn rig(setup: &str, script: Script) -> Rig {
    Rig::new(&format!("address = 1\nsetup = [{setup}]"), POINT, script).await
}

async fn polls(rig: &mut Rig, times: usize) {
    for _ in 0..times {
        assert_eq!(rig.read(0).await.expect("a poll"), [good(0, Value::Int(7))]);
    }
}

#[tokio::test(start_paused = true)]
async fn what_differs_is_written_and_read_back_one_exchange_before_each_poll() {
    let mut rig = rig(
        "{ register = 'holding:10', value = 1 }, { register = 'holding:20', type = 'f32', value = 230.1, word_order = 'CDAB' }",
        rtu()
            .expect("01 03 00 0A 00 01", "01 03 02 00 00")
            .expect(POLL.0, POLL.1)
            .expect("01 06 00 0A 00 01", "01 06 00 0A 00 01")
            .expect(POLL.0, POLL.1)
            .expect("01 03 00 0A 00 01", "01 03 02 00 01")
            .expect(POLL.0, POLL.1)
            // The second one is there already, and is not written.
            .expect("01 03 00 14 00 02", "01 03 04 19 9A 43 66")
            .expect(POLL.0, POLL.1)
            .expect(POLL.0, POLL.1),
    )
    .await;
    polls(&mut rig, 5).await;
    rig.done();
}

#[tokio::test(start_paused = true)]
async fn a_device_that_was_away_is_set_up_again_and_one_glitch_is_not_away() {
    let look = ("01 03 00 0A 00 01", "01 03 02 00 01");
    let mut rig = rig(
        "{ register = 'holding:10', value = 1 }",
        rtu()
            .expect(look.0, look.1)
            .expect(POLL.0, POLL.1)
            // One silence; a lost answer puts a fence before the next question.
            .expect(POLL.0, "")
            .expect("01 03 00 00 00 01", "01 83 02")
            .expect(POLL.0, POLL.1)
            // Two silences.
            .expect(POLL.0, "")
            .expect("01 03 00 00 00 01", "")
            .expect("01 04 00 00 00 02", "01 04 04 00 07 00 00")
            .expect(POLL.0, POLL.1)
            .expect(look.0, "01 03 02 00 00")
            .expect(POLL.0, POLL.1)
            .expect("01 06 00 0A 00 01", "01 06 00 0A 00 01")
            .expect(POLL.0, POLL.1),
    )
    .await;
    polls(&mut rig, 1).await;
    assert_eq!(rig.read(0).await.expect_err("a glitch").reason(), Reason::Timeout);
    polls(&mut rig, 1).await;
    for _ in 0..2 {
        assert_eq!(rig.read(0).await.expect_err("away").reason(), Reason::Timeout);
    }
    // It is asked for its points first: nobody is set up that does not answer.
    polls(&mut rig, 3).await;
    rig.done();
}

#[tokio::test(start_paused = true)]
async fn a_write_without_an_answer_is_looked_at_before_it_is_sent_again() {
    let mut rig = rig(
        "{ register = 'holding:10', value = 1 }",
        rtu()
            .expect("01 03 00 0A 00 01", "01 03 02 00 00")
            .expect(POLL.0, POLL.1)
            // The answer is lost; a fence goes before the poll, and the next poll is before the next step.
            .expect("01 06 00 0A 00 01", "")
            .expect(POLL.0, POLL.1)
            .expect("01 03 00 0A 00 01", "01 03 02 00 01")
            .expect(POLL.0, POLL.1)
            .expect(POLL.0, POLL.1),
    )
    .await;
    polls(&mut rig, 4).await;
    rig.done();
}

#[tokio::test(start_paused = true)]
async fn a_value_that_is_not_kept_is_not_written_again_when_the_port_is_opened_anew() {
    let other = ("01 03 00 0A 00 01", "01 03 02 00 02");
    let mut script = rtu()
        .expect(other.0, other.1)
        .expect(POLL.0, POLL.1)
        .expect("01 06 00 0A 00 01", "01 06 00 0A 00 01")
        .expect(POLL.0, POLL.1);
    for _ in 0..4 {
        script = script.expect(other.0, other.1).expect(POLL.0, POLL.1);
    }
    let mut rig = rig("{ register = 'holding:10', value = 1 }", script.expect(POLL.0, POLL.1)).await;
    polls(&mut rig, 5).await;
    rig.bus.open().await.expect("a script opens");
    polls(&mut rig, 2).await;
    rig.done();
}

#[tokio::test(start_paused = true)]
async fn a_dead_device_costs_its_line_nothing_more_for_its_setup() {
    let mut rig = rig(
        "{ register = 'holding:10', value = 1 }",
        rtu().expect("01 03 00 0A 00 01", "").expect(POLL.0, "").expect("01 04 00 00 00 02", ""),
    )
    .await;
    assert_eq!(rig.read(0).await.expect_err("dead").reason(), Reason::Timeout);
    assert_eq!(rig.read(0).await.expect_err("dead").reason(), Reason::Timeout);
    rig.done();
}

#[tokio::test(start_paused = true)]
async fn a_refused_entry_is_left_and_the_next_one_is_done() {
    let mut rig = rig(
        "{ register = 'holding:10', value = 1 }, { register = 'coil:3', value = true }",
        rtu()
            .expect("01 03 00 0A 00 01", "01 83 02")
            .expect(POLL.0, POLL.1)
            .expect("01 01 00 03 00 01", "01 01 01 00")
            .expect(POLL.0, POLL.1)
            .expect("01 05 00 03 FF 00", "01 05 00 03 FF 00")
            .expect(POLL.0, POLL.1)
            .expect("01 01 00 03 00 01", "01 01 01 01")
            .expect(POLL.0, POLL.1)
            .expect(POLL.0, POLL.1),
    )
    .await;
    polls(&mut rig, 5).await;
    rig.done();
}

#[tokio::test(start_paused = true)]
async fn an_entry_of_another_device_is_none_of_a_devices_business() {
    let devices = [
        device("set", "address = 1\nsetup = [{ register = 'holding:10', value = 1 }]", POINT),
        device("plain", "address = 2", "b: register = 'input:0', invalid = 9"),
    ];
    let script = rtu()
        .expect("02 04 00 00 00 01", "02 04 02 00 09")
        .expect("01 03 00 0A 00 01", "01 03 02 00 01")
        .expect(POLL.0, POLL.1);
    let mut rig = Rig::of(&devices, script).await;
    assert_eq!(rig.read(1).await.expect("a poll"), [bad(1, Reason::SensorFault)]);
    polls(&mut rig, 1).await;
    rig.done();
}

#[test]
fn entries_that_cannot_be_are_problems() {
    for (entry, at, cure) in [
        ("{ register = 'input:1', value = 1 }", "'input:1'", "coil: and holding:"),
        ("{ register = '40001', value = 1 }", "'40001'", "`holding:0`"),
        ("{ register = 'holding:1', value = 70000 }", "70000", "raw value"),
        ("{ register = 'holding:1', value = 'x' }", "{ register = 'holding:1', value = 'x' }", "string:16"),
        ("{ register = 'holding:1', type = 'flaot', value = 1 }", "'flaot'", "f32"),
        ("{ register = 'coil:1', type = 'u16', value = 1 }", "'u16'", "take `type` out"),
        ("{ register = 'holding:65535', type = 'u32', value = 1 }", "'holding:65535'", "65535"),
        ("{ register = 'holding:1' }", "{ register = 'holding:1' }", "value"),
        ("{ regster = 'holding:1', value = 1 }", "regster", "`register`"),
    ] {
        // Behind a good one: it is the entry that is pointed at, not the list.
        let keys = format!("address = 1\nsetup = [{{ register = 'holding:9', value = 5 }}, {entry}]");
        let found = problems(&driver_modbus::Rtu, "port = '/dev/ttyS0'", &[device("d", &keys, POINT)]);
        assert!(found.iter().any(|(told, _, hint)| told == at && hint.contains(cure)), "{entry}: {found:#?}");
    }
    let many = "{ register = 'holding:9', value = 5 },".repeat(100);
    let keys = format!("address = 1\nsetup = [{many} {{ register = 'holding:8', value = 5 }}]");
    let found = problems(&driver_modbus::Rtu, "port = '/dev/ttyS0'", &[device("d", &keys, POINT)]);
    assert!(found.iter().any(|(told, ..)| told.contains("holding:8")), "the first too many: {found:#?}");
}
