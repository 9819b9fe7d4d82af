//! SunSpec: the device says where its models are, and points are read inside them.

use driver_api::{ReadError, Reason, Value};

use crate::problems;
use crate::script::{Rig, Script, bad, busy, good, rtu};
use crate::support::device;

/// `SunS` at 40000, model 1 with 66 registers, model 103 with 50 at 40070, the end.
fn chain(script: Script) -> Script {
    script
        .expect("01 03 9C 40 00 02", "01 03 04 53 75 6E 53")
        .expect("01 03 9C 42 00 02", "01 03 04 00 01 00 42")
        .expect("01 03 9C 86 00 02", "01 03 04 00 67 00 32")
        .expect("01 03 9C BA 00 02", "01 03 04 FF FF 00 00")
}

const INVERTER: &str =
    "amps: register = 'model:103:2', type = 'u16', scale_register = 'model:103:6', invalid = 0xFFFF
     watts: register = 'model:103:14', type = 'i16', scale_register = 'model:103:15', invalid = 0x8000
     state: register = 'model:103:38', type = 'u16'";

#[tokio::test(start_paused = true)]
async fn an_inverter_says_where_its_models_are_and_is_read_there() {
    // Registers 2 to 15 of the model, and 38 in a block of its own, or in the same one: the plan decides.
    let watts = "amps: register = 'model:103:2', scale_register = 'model:103:6'
         watts: register = 'model:103:14', type = 'i16', scale_register = 'model:103:15', invalid = 0x8000";
    let block = "00 7D 00 29 00 2A 00 2A FF FF 08 FD 08 FD 08 FD 09 00 09 00 09 00 FF FF FF 9C 00 01";
    let gone = "00 7D 00 29 00 2A 00 2A FF FF 08 FD 08 FD 08 FD 09 00 09 00 09 00 FF FF 80 00 80 00";
    let script = chain(rtu())
        // From 40070 + 2, 14 registers, and with them the head of the model.
        .expect("01 03 9C 86 00 10", &format!("01 03 20 00 67 00 32 {block}"))
        .expect("01 03 9C 86 00 10", &format!("01 03 20 00 67 00 32 {gone}"));
    let mut rig = Rig::new("address = 1", watts, script).await;
    assert_eq!(rig.bus.plan().blocks[0].what, "model 103 0..15 (function 3, 16 registers)", "with its head");
    assert_eq!(rig.bus.plan().chores, [], "which is then not looked at by itself");
    assert_eq!(rig.bus.plan().points[0].source, "model:103:2 × 10^model:103:6");
    assert_eq!(
        rig.read(0).await.expect("a block"),
        [good(0, Value::Float(12.5)), good(1, Value::Float(-1000.0))]
    );
    assert_eq!(
        rig.read(0).await.expect("a block"),
        [good(0, Value::Float(12.5)), bad(1, Reason::SensorFault)]
    );
    rig.done();
}

#[tokio::test(start_paused = true)]
async fn on_a_busy_line_the_models_are_looked_for_one_read_before_each_poll() {
    let inverter = device("inverter", "address = 1", "a: register = 'model:103:14'");
    let script = chain(rtu()).expect("01 03 9C 94 00 01", "01 03 02 00 07");
    let mut rig = Rig::of(&[inverter, busy()], script).await;
    for _ in 0..3 {
        assert_eq!(rig.read(0).await.expect("a step"), [], "no value while nothing is known");
    }
    assert_eq!(rig.read(0).await.expect("a block"), [good(0, Value::Int(7))]);
    rig.done();
}

#[tokio::test(start_paused = true)]
async fn a_model_that_is_not_there_is_bad_and_costs_no_exchange() {
    let mut rig = Rig::new(
        "address = 1",
        "mppt: register = 'model:160:10'
         watts: register = 'model:103:14'",
        chain(rtu()).expect("01 03 9C 94 00 01", "01 03 02 00 07"),
    )
    .await;
    // In order of the models: 103 first.
    assert_eq!(rig.read(0).await.expect("a block"), [good(1, Value::Int(7))]);
    assert_eq!(rig.read(1).await.expect("known"), [bad(0, Reason::Exception(2))]);
    rig.done();
}

#[tokio::test(start_paused = true)]
async fn the_second_model_of_the_same_number_is_read_where_it_is() {
    // Models 1, 160 with 8 registers, 160 with 4.
    let script = rtu()
        .expect("01 03 9C 40 00 02", "01 03 04 53 75 6E 53")
        .expect("01 03 9C 42 00 02", "01 03 04 00 01 00 42")
        .expect("01 03 9C 86 00 02", "01 03 04 00 A0 00 08")
        .expect("01 03 9C 90 00 02", "01 03 04 00 A0 00 04")
        .expect("01 03 9C 96 00 02", "01 03 04 FF FF 00 00")
        .expect("01 03 9C 86 00 05", "01 03 0A 00 A0 00 08 00 00 00 00 00 07")
        .expect("01 03 9C 90 00 05", "01 03 0A 00 A0 00 04 00 00 00 00 00 08");
    let mut rig = Rig::new(
        "address = 1",
        "one: register = 'model:160:4'
         two: register = 'model:160#2:4'
         none: register = 'model:160#3:4'",
        script,
    )
    .await;
    let whats: Vec<&str> = rig.bus.plan().blocks.iter().map(|b| b.what.as_str()).collect();
    assert_eq!(whats[1], "model 160#2 0..4 (function 3, 5 registers)");
    assert_eq!(rig.bus.plan().points[1].source, "model:160#2:4");
    assert_eq!(rig.read(0).await.expect("a block"), [good(0, Value::Int(7))]);
    assert_eq!(rig.read(1).await.expect("a block"), [good(1, Value::Int(8))]);
    assert_eq!(rig.read(2).await.expect("known"), [bad(2, Reason::Exception(2))], "there are two");
    rig.done();
}

#[tokio::test(start_paused = true)]
async fn what_lies_behind_the_end_of_a_model_is_another_model_and_is_not_read() {
    let mut rig = Rig::new(
        "address = 1",
        "in: register = 'model:103:51'
         out: register = 'model:103:52'",
        chain(rtu()).expect("01 03 9C B9 00 01", "01 03 02 00 07"),
    )
    .await;
    assert_eq!(rig.read(0).await.expect("a block"), [good(0, Value::Int(7)), bad(1, Reason::Exception(2))]);
    rig.done();
}

#[tokio::test(start_paused = true)]
async fn the_mark_is_looked_for_at_three_places_or_at_the_one_that_is_named() {
    let script = rtu()
        .expect("01 03 9C 40 00 02", "01 83 02")
        .expect("01 03 C3 50 00 02", "01 03 04 00 00 00 00")
        .expect("01 03 00 00 00 02", "01 83 02");
    let mut rig = Rig::new("address = 1", "a: register = 'model:1:4'", script).await;
    assert_eq!(rig.read(0).await.expect("a block"), [bad(0, Reason::Exception(2))]);
    assert_eq!(rig.read(0).await.expect("known"), [bad(0, Reason::Exception(2))], "and not asked again");
    rig.done();

    let script = rtu()
        .expect("01 03 03 E8 00 02", "01 03 04 53 75 6E 53")
        .expect("01 03 03 EA 00 02", "01 03 04 00 01 00 42")
        .expect("01 03 04 2E 00 02", "01 03 04 FF FF 00 00")
        .expect("01 03 03 EA 00 05", "01 03 0A 00 01 00 42 00 00 00 00 00 07");
    let keys = "address = 1\nsunspec_base = 1000";
    let mut rig = Rig::new(keys, "a: register = 'model:1:4'", script).await;
    assert_eq!(rig.read(0).await.expect("a block"), [good(0, Value::Int(7))]);
    rig.done();
}

#[tokio::test(start_paused = true)]
async fn a_device_that_was_away_is_asked_for_its_models_again() {
    let script = chain(rtu())
        .expect("01 03 9C 94 00 01", "01 03 02 00 07")
        .expect("01 03 9C 94 00 01", "")
        .expect("01 04 9C 94 00 01", "")
        // Back, with another first model of the same kind. (A fence goes before what looks like a lost answer.)
        .expect("01 03 9C 40 00 02", "01 03 04 53 75 6E 53")
        .expect("01 03 9C 42 00 02", "01 03 04 00 01 00 41")
        .expect("01 03 9C 85 00 02", "01 03 04 00 67 00 32")
        .expect("01 03 9C B9 00 02", "01 03 04 FF FF 00 00")
        .expect("01 03 9C 93 00 01", "01 03 02 00 08");
    let mut rig = Rig::new("address = 1", "a: register = 'model:103:14'", script).await;
    assert_eq!(rig.read(0).await.expect("a block"), [good(0, Value::Int(7))]);
    for _ in 0..2 {
        assert!(matches!(rig.read(0).await, Err(ReadError::Transient(_))));
    }
    assert_eq!(rig.read(0).await.expect("a block"), [good(0, Value::Int(8))]);
    rig.done();
}

/// The chain once model 1 has lost a register: everything behind it has moved.
fn moved(script: Script) -> Script {
    script
        .expect("01 03 9C 40 00 02", "01 03 04 53 75 6E 53")
        .expect("01 03 9C 42 00 02", "01 03 04 00 01 00 41")
        .expect("01 03 9C 85 00 02", "01 03 04 00 67 00 32")
        .expect("01 03 9C B9 00 02", "01 03 04 FF FF 00 00")
}

#[tokio::test(start_paused = true)]
async fn a_model_that_moved_is_seen_in_the_read_that_begins_near_its_head() {
    let script = chain(rtu())
        .expect("01 03 9C 86 00 03", "01 03 06 00 67 00 32 00 07")
        .expect("01 03 9C 86 00 03", "01 03 06 00 32 00 08 00 09");
    let script = moved(script).expect("01 03 9C 85 00 03", "01 03 06 00 67 00 32 00 08");
    let mut rig = Rig::new("address = 1", "a: register = 'model:103:2'", script).await;
    assert_eq!(rig.read(0).await.expect("a block"), [good(0, Value::Int(7))]);
    assert_eq!(rig.read(0).await.expect("another model"), [], "no value of another register");
    assert_eq!(rig.read(0).await.expect("a block"), [good(0, Value::Int(8))]);
    rig.done();
}

#[tokio::test(start_paused = true)]
async fn a_model_that_is_read_far_from_its_head_is_looked_at_once_a_minute() {
    let poll = ("01 03 9C 94 00 01", "01 03 02 00 07");
    let script = chain(rtu())
        .expect(poll.0, poll.1)
        .expect(poll.0, poll.1)
        // It is there.
        .expect("01 03 9C 86 00 02", "01 03 04 00 67 00 32")
        .expect(poll.0, poll.1)
        // It is not.
        .expect("01 03 9C 86 00 02", "01 03 04 00 32 00 08");
    let script = moved(script).expect("01 03 9C 93 00 01", "01 03 02 00 08");
    let mut rig = Rig::new("address = 1", "a: register = 'model:103:14'", script).await;
    assert_eq!(rig.read(0).await.expect("a block"), [good(0, Value::Int(7))]);
    assert_eq!(rig.read(0).await.expect("a block"), [good(0, Value::Int(7))]);
    tokio::time::advance(std::time::Duration::from_secs(61)).await;
    assert_eq!(rig.read(0).await.expect("a block"), [good(0, Value::Int(7))]);
    tokio::time::advance(std::time::Duration::from_secs(61)).await;
    assert_eq!(rig.read(0).await.expect("another model"), []);
    assert_eq!(rig.read(0).await.expect("a block"), [good(0, Value::Int(8))]);
    rig.done();
}

#[tokio::test(start_paused = true)]
async fn a_device_that_does_not_give_the_head_along_is_asked_for_it_apart() {
    let script = chain(rtu())
        .expect("01 03 9C 86 00 03", "01 83 02")
        .expect("01 03 9C 88 00 01", "01 03 02 00 07")
        .expect("01 03 9C 86 00 02", "01 03 04 00 67 00 32")
        .expect("01 03 9C 88 00 01", "01 03 02 00 07")
        .expect("01 03 9C 88 00 01", "01 03 02 00 07");
    let mut rig = Rig::new("address = 1", "a: register = 'model:103:2'", script).await;
    assert_eq!(rig.read(0).await.expect("a block"), [good(0, Value::Int(7))]);
    for _ in 0..2 {
        assert_eq!(rig.read(0).await.expect("a block"), [good(0, Value::Int(7))]);
    }
    rig.done();
}

#[tokio::test(start_paused = true)]
async fn a_chain_that_was_cut_is_followed_again_after_ten_minutes() {
    let a = ("01 03 9C 50 00 01", "01 03 02 00 07");
    let script = rtu()
        .expect("01 03 9C 40 00 02", "01 03 04 53 75 6E 53")
        .expect("01 03 9C 42 00 02", "01 03 04 00 01 00 42")
        // The device is starting.
        .expect("01 03 9C 86 00 02", "01 03 04 00 00 00 00")
        .expect(a.0, a.1)
        // Ten minutes later: the next model, and a look at the first one. Nothing waits for the end of the chain.
        .expect("01 03 9C 86 00 02", "01 03 04 00 67 00 32")
        .expect("01 03 9C 42 00 02", "01 03 04 00 01 00 42")
        .expect(a.0, a.1)
        .expect("01 03 9C BA 00 02", "01 03 04 FF FF 00 00")
        .expect("01 03 9C 94 00 01", "01 03 02 00 08");
    let points = "a: register = 'model:1:14'\n     b: register = 'model:103:14'";
    let mut rig = Rig::new("address = 1", points, script).await;
    assert_eq!(rig.read(0).await.expect("a block"), [good(0, Value::Int(7))]);
    assert_eq!(rig.read(1).await.expect("known"), [bad(1, Reason::Exception(2))]);
    tokio::time::advance(std::time::Duration::from_secs(601)).await;
    assert_eq!(rig.read(0).await.expect("a block"), [good(0, Value::Int(7))]);
    assert_eq!(rig.read(1).await.expect("a block"), [good(1, Value::Int(8))]);
    rig.done();
}

#[tokio::test(start_paused = true)]
async fn points_in_models_are_written_and_set_up() {
    let keys = "address = 1\nsetup = [{ register = 'model:103:30', value = 5 }]";
    let script = chain(rtu())
        .expect("01 06 9C 94 00 09", "01 06 9C 94 00 09")
        .expect("01 03 9C A4 00 01", "01 03 02 00 05")
        .expect("01 03 9C 94 00 01", "01 03 02 00 09")
        .expect("01 03 9C 94 00 01", "01 03 02 00 09");
    let points = "limit: register = 'model:103:14', writable = true";
    let mut rig = Rig::new(keys, points, script).await;
    rig.bus.write(0, &Value::Int(9)).await.expect("the model is looked for, and then function 6");
    for _ in 0..2 {
        assert_eq!(rig.read(0).await.expect("a block"), [good(0, Value::Int(9))]);
    }
    rig.done();
}

#[tokio::test(start_paused = true)]
async fn where_time_is_short_a_write_waits_for_the_models_and_a_setup_looks_for_them_too() {
    let keys = "address = 1\nsetup = [{ register = 'model:103:30', value = 5 }]";
    let inverter = device("inverter", keys, "limit: register = 'model:103:14', writable = true");
    let script = chain(rtu())
        // The chain is known: now the poll goes before the setup has begun.
        .expect("01 03 9C 94 00 01", "01 03 02 00 07")
        .expect("01 03 9C A4 00 01", "01 03 02 00 05")
        .expect("01 03 9C 94 00 01", "01 03 02 00 07");
    let mut rig = Rig::of(&[inverter, busy()], script).await;
    assert!(rig.bus.write(0, &Value::Int(9)).await.is_err(), "where it is, is not known yet");
    while rig.read(0).await.expect("a step").is_empty() {}
    assert_eq!(rig.read(0).await.expect("a block"), [good(0, Value::Int(7))]);
    rig.done();
}

#[test]
fn each_model_is_an_address_space_of_its_own() {
    let points =
        format!("{INVERTER}\n     other: register = 'model:1:2'\n     plain: register = 'holding:2'");
    let devices = [device("d", "address = 1", &points)];
    let bus = crate::support::compile(&driver_modbus::Tcp, "address = 'inverter'", &devices).expect("good");
    driver_api::testing::assert_conforms(&*bus);
    let whats: Vec<&str> = bus.plan().blocks.iter().map(|b| b.what.as_str()).collect();
    assert_eq!(
        whats,
        [
            "holding 2..2 (function 3, 1 registers)",
            "model 1 0..2 (function 3, 3 registers)",
            "model 103 0..38 (function 3, 39 registers)"
        ]
    );
    assert_eq!(bus.plan().points[0].kind, "f64", "a power of ten makes it a number with a point");
}

#[test]
fn a_base_without_models_and_models_that_cannot_be_are_problems() {
    for (keys, point, cure) in [
        ("sunspec_base = 40000", "a: register = 'holding:0'", "model:103:14"),
        ("sunspec_base = 65535", "a: register = 'model:1:4'", "0 to 65531"),
        ("", "a: register = 'model:103'", "model:103:14"),
        ("", "a: register = 'model:103:2', scale_register = 'model:103'", "model:103:14"),
    ] {
        let devices = [device("d", &format!("address = 1\n{keys}"), point)];
        let found = problems(&driver_modbus::Tcp, "address = 'inverter'", &devices);
        assert!(found.iter().any(|(.., hint)| hint.contains(cure)), "{point}: {found:#?}");
    }
}
