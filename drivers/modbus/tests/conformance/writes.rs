//! The functions that write, and what a device may answer to them.

use driver_api::{FrameError, ReadError, Value};

use crate::MS;
use crate::script::{Rig, Script, rtu};
use crate::support::{compile, device};

const SET: &str = "set: register = 'holding:1', writable = true
     pair: register = 'holding:10', type = 'u32', writable = true
     gear: register = 'holding:20', bits = [4, 7], writable = true
     pump: register = 'coil:5', writable = true";

async fn rig(keys: &str, script: Script) -> Rig {
    Rig::new(&format!("address = 0x11\n{keys}"), SET, script).await
}

#[tokio::test(start_paused = true)]
async fn function_23_writes_registers_and_reads_them_in_the_same_request() {
    let mut rig = rig(
        "write_function = 'read_write'",
        rtu()
            .expect("11 17 00 01 00 01 00 01 00 01 02 00 03", "11 17 02 00 03")
            .expect("11 17 00 0A 00 02 00 0A 00 02 04 00 01 00 02", "11 17 04 00 01 00 02")
            .expect("11 05 00 05 FF 00", "11 05 00 05 FF 00"),
    )
    .await;
    rig.bus.write(0, &Value::Int(3)).await.expect("one register");
    rig.bus.write(1, &Value::Int(0x1_0002)).await.expect("two registers");
    rig.bus.write(3, &Value::Bool(true)).await.expect("a coil");
    rig.done();
}

#[tokio::test(start_paused = true)]
async fn a_device_with_functions_5_and_6_only_gets_one_register_after_the_other() {
    let mut rig = rig(
        "write_function = 'single'",
        rtu()
            .expect("11 06 00 0A 00 01", "11 06 00 0A 00 01")
            .expect("11 06 00 0B 00 02", "11 06 00 0B 00 02"),
    )
    .await;
    rig.bus.write(1, &Value::Int(0x1_0002)).await.expect("two registers");
    rig.done();
}

#[tokio::test(start_paused = true)]
async fn a_device_without_function_22_has_its_register_read_changed_and_written_until_the_next_opening() {
    let mut rig = rig(
        "",
        rtu()
            .expect("11 16 00 14 FF 0F 00 50", "11 96 01")
            .expect("11 03 00 14 00 01", "11 03 02 AB CD")
            .expect("11 06 00 14 AB 5D", "11 06 00 14 AB 5D")
            // The second time it is not asked for what it does not know.
            .expect("11 03 00 14 00 01", "11 03 02 AB 5D")
            .expect("11 06 00 14 AB 6D", "11 06 00 14 AB 6D")
            // A reconnect is a new chance.
            .expect("11 16 00 14 FF 0F 00 70", "11 16 00 14 FF 0F 00 70"),
    )
    .await;
    rig.bus.write(2, &Value::Int(5)).await.expect("by reading and writing");
    rig.bus.write(2, &Value::Int(6)).await.expect("by reading and writing");
    rig.bus.open().await.expect("a script opens");
    rig.bus.write(2, &Value::Int(7)).await.expect("function 22");
    rig.done();
}

#[tokio::test(start_paused = true)]
async fn a_busy_device_gets_a_write_three_times_with_a_pause_between() {
    let (ask, busy) = ("11 06 00 01 00 03", "11 86 06");
    let mut rig = rig("", rtu().expect(ask, busy).expect(ask, busy).expect(ask, "11 06 00 01 00 03")).await;
    rig.bus.write(0, &Value::Int(3)).await.expect("the third time");
    assert!(rig.asked(1) - rig.asked(0) >= 50 * MS && rig.asked(2) - rig.asked(1) >= 50 * MS);
    rig.done();

    let mut rig = self::rig("", rtu().expect(ask, busy).expect(ask, busy).expect(ask, busy)).await;
    let error = rig.bus.write(0, &Value::Int(3)).await.expect_err("busy for ever");
    assert!(matches!(error, ReadError::Transient(FrameError::Exception(6))), "{error}");
    assert!(error.to_string().contains("exception 06 (device busy)"), "{error}");
    rig.done();
}

#[tokio::test(start_paused = true)]
async fn an_acknowledged_write_is_not_sent_again() {
    let mut rig = rig("", rtu().expect("11 06 00 01 00 03", "11 86 05")).await;
    rig.bus.write(0, &Value::Int(3)).await.expect("the read-back decides");
    rig.done();
}

#[tokio::test(start_paused = true)]
async fn a_write_that_fails_says_with_which_exception() {
    for (code, refused, name) in [
        (1, true, "illegal function"),
        (3, true, "illegal data value"),
        (4, false, "device fault"),
        (7, true, "negative acknowledge"),
        (8, false, "memory parity error"),
        (0x0B, false, "gateway target does not respond"),
        (0x40, false, "unknown exception"),
    ] {
        let script = rtu().expect("11 06 00 01 00 03", &format!("11 86 {code:02X}"));
        let mut rig = rig("", script).await;
        let error = rig.bus.write(0, &Value::Int(3)).await.expect_err(name);
        assert_eq!(matches!(error, ReadError::Refused(_)), refused, "{error}");
        assert!(error.to_string().contains(&format!("exception {code:02x} ({name})")), "{error}");
        rig.done();
    }
}

#[tokio::test(start_paused = true)]
async fn a_busy_device_is_read_again_only_at_its_next_turn() {
    let script = rtu().expect("11 03 00 01 00 01", "11 83 06").expect("11 03 00 01 00 01", "11 03 02 00 07");
    let mut rig = Rig::new("address = 0x11", "set: register = 'holding:1'", script).await;
    assert!(matches!(rig.read(0).await, Err(ReadError::Transient(FrameError::Exception(6)))));
    rig.read(0).await.expect("its next turn");
    rig.done();
}

#[test]
fn a_value_that_no_write_can_hold_is_a_problem() {
    for (function, kind, cure) in [
        ("auto", "string:250", "at most 123"),
        ("read_write", "string:244", "at most 121"),
        ("single", "string:20", "at most 6"),
    ] {
        let keys = format!("address = 1\nwrite_function = '{function}'\nmax_registers = 125");
        let points = format!("name: register = 'holding:0', type = '{kind}', writable = true");
        let devices = [device("d", &keys, &points)];
        let Err(problems) = compile(&driver_modbus::Tcp, "address = 'plc'", &devices) else {
            panic!("{function} writes a {kind}");
        };
        assert!(
            problems.iter().any(|p| p.hint.as_deref().is_some_and(|h| h.contains(cure))),
            "{problems:#?}"
        );
    }
}
