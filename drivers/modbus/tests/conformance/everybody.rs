//! Address 0: what is written to everybody, which nobody answers.

use driver_api::testing::assert_conforms;
use driver_api::{Driver, Value};

use crate::script::{Rig, good, rtu};
use crate::support::{compile, device};
use crate::{MS, problems};

#[tokio::test(start_paused = true)]
async fn everybody_is_written_to_and_the_line_rests_before_the_next_request() {
    let devices = [
        device(
            "all",
            "address = 0",
            "clock: register = 'holding:10', type = 'time:ymdhms', writable = true
            light: register = 'coil:3', writable = true",
        ),
        device("meter", "address = 1", "a: register = 'input:0'"),
    ];
    let script = rtu()
        .expect("00 10 00 0A 00 06 0C 07 EA 00 0B 00 1C 00 0A 00 00 00 00", "")
        .expect("01 04 00 00 00 01", "01 04 02 00 07")
        .expect("00 05 00 03 FF 00", "")
        .expect("00 05 00 03 00 00", "");
    let mut rig = Rig::of(&devices, script).await;
    assert_conforms(&*rig.bus);
    assert_eq!(rig.bus.plan().blocks.len(), 1, "only the meter is polled");
    assert_eq!(rig.bus.plan().block_of(0), None);
    rig.bus.write(0, &Value::Text("2026-11-28T10:00:00".into())).await.expect("sent");
    assert_eq!(rig.read(0).await.expect("a value"), [good(2, Value::Int(7))]);
    let rest = rig.asked(1) - rig.asked(0);
    assert!(rest >= 100 * MS && rest < 140 * MS, "{rest:?}");
    rig.bus.write(1, &Value::Bool(true)).await.expect("sent");
    rig.bus.write(1, &Value::Bool(false)).await.expect("sent");
    let rest = rig.asked(3) - rig.asked(2);
    assert!(rest >= 100 * MS && rest < 140 * MS, "{rest:?}");
    rig.done();
}

#[tokio::test(start_paused = true)]
async fn the_rest_can_be_longer() {
    let devices =
        [device("all", "address = 0\nturnaround = '250ms'", "light: register = 'coil:3', writable = true")];
    let script = rtu().expect("00 05 00 03 FF 00", "").expect("00 05 00 03 00 00", "");
    let mut rig = Rig::of(&devices, script).await;
    rig.bus.write(0, &Value::Bool(true)).await.expect("sent");
    rig.bus.write(0, &Value::Bool(false)).await.expect("sent");
    assert!(rig.asked(1) - rig.asked(0) >= 250 * MS);
    rig.done();
}

#[test]
fn what_makes_no_sense_for_everybody_is_a_problem() {
    let keys = "address = 0\nmax_gap = 3\nsunspec_base = 0\nwrite_function = 'read_write'\nsetup = [{ register = 'coil:1', value = true }]";
    let devices = [device(
        "all",
        keys,
        "a: register = 'holding:1'
         b: register = 'holding:2', bits = [1, 2], writable = true
         c: register = 'holding:3', invalid = 7, writable = true
         d: register = 'input:4'
         e: register = 'model:103:14', writable = true",
    )];
    let found = problems(&driver_modbus::Rtu, "port = '/dev/ttyS0'", &devices);
    for (at, cure) in [
        ("3", "take it out"),
        ("'read_write'", "\"auto\""),
        ("[{ register = 'coil:1', value = true }]", "take it out"),
    ] {
        assert!(found.iter().any(|(text, _, hint)| text == at && hint.contains(cure)), "{at}: {found:#?}");
    }
    // The points are only looked at with a device that is right.
    let devices = [device(
        "all",
        "address = 0",
        "a: register = 'holding:1'
         b: register = 'holding:2', bits = [1, 2], writable = true
         c: register = 'holding:3', invalid = 7, writable = true
         d: register = 'input:4'
         e: register = 'model:103:14', writable = true",
    )];
    let found = problems(&driver_modbus::Rtu, "port = '/dev/ttyS0'", &devices);
    for (at, cure) in [
        ("'holding:1'", "add `writable = true`"),
        ("[1, 2]", "only whole registers"),
        ("7", "only whole registers"),
        ("'input:4'", "add `writable = true`"),
        ("'model:103:14'", "holding:"),
    ] {
        assert!(found.iter().any(|(text, _, hint)| text == at && hint.contains(cure)), "{at}: {found:#?}");
    }
}

#[test]
fn on_a_network_0_is_a_device_like_any_other() {
    let devices = [device("plc", "address = 0", "a: register = 'holding:1'")];
    let bus = compile(&driver_modbus::Tcp as &dyn Driver, "address = 'plc'", &devices).expect("good");
    assert_eq!(bus.plan().blocks.len(), 1);
}
