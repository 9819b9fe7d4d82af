//! The drivers against the contract: compiled examples, and exchanges as a line analyser shows them.
//!
//! The transcripts run under paused time through a scripted port; the checksums of the frames are
//! filled in, so that a reader sees what matters.

#[path = "conformance/carry.rs"]
mod carry;
#[path = "conformance/late.rs"]
mod late;
#[path = "conformance/script.rs"]
mod script;
#[path = "conformance/storm.rs"]
mod storm;
mod support;

use std::io::ErrorKind;
use std::time::Duration;

use driver_api::testing::assert_conforms;
use driver_api::{Driver, ReadError, Reason, Value};
use script::{Rig, bad, good, rtu};
use support::{DeviceText, compile, device};

/// What a problem says: the text it points at, the message, the hint.
type Told = (String, String, String);

const MS: Duration = Duration::from_millis(1);

const EXAMPLE: &str = "
    voltage: register = 'input:0', type = 'f32'
    power: register = 'input:12', type = 'f32', word_order = 'CDAB'
    energy: register = 'input:0x48', type = 'u64'
    serial: register = 'holding:100', type = 'string:8'
    mode: register = 'holding:200', writable = true
    fault: register = 'holding:201', bit = 3
    stage: register = 'holding:201', bits = [4, 7]
    pump: register = 'coil:5', writable = true
    door: register = 'discrete:0x10'
";

#[test]
fn compiled_examples_of_all_three_conform() {
    for (driver, bus) in [
        (
            &driver_modbus::Rtu as &dyn Driver,
            "port = '/dev/ttyUSB0'\nbaud = 9600\nparity = 'none'\nstop_bits = 2",
        ),
        (&driver_modbus::Tcp, "address = '10.0.0.7'"),
        (&driver_modbus::RtuOverTcp, "address = '10.0.0.8:4001'"),
    ] {
        let devices = [device("meter", "address = 1", EXAMPLE), device("other", "address = 0x20", EXAMPLE)];
        let bus = compile(driver, bus, &devices).expect("a good configuration");
        assert_conforms(&*bus);
        let plan = bus.plan();
        assert_eq!((plan.devices.len(), plan.points.len()), (2, 18));
        assert_eq!(plan.devices[1].address, "32");
        assert_eq!(plan.points[5].source, "holding:201 bit 3");
        assert_eq!(plan.points[3].kind, "string:8");
        assert!(plan.points[4].writable && !plan.points[3].writable);
        assert!(plan.predicted_load() > 0.0);
        let whats: Vec<&str> = plan.blocks.iter().map(|b| b.what.as_str()).collect();
        assert!(whats.contains(&"coil 5..5 (function 1, 1 bits)"), "{whats:#?}");
        let schemas = driver.schemas();
        for key in ["max_registers", "write_multiple"] {
            let value = schemas.device.get("properties").and_then(|p| p[key].get("description"));
            assert!(value.is_some_and(|d| d.is_string()), "{key} is documented");
        }
    }
}

/// The mistakes: the text they point at, the message, the hint.
fn problems(driver: &dyn Driver, bus: &str, devices: &[DeviceText]) -> Vec<Told> {
    let mut all = Vec::new();
    // Each table is a text of its own here, so they are compiled apart: the places tell which.
    let mut texts = vec![bus];
    for d in devices {
        texts.push(&d.keys);
        texts.extend(d.points.iter().map(|(_, _, keys)| keys.as_str()));
    }
    let Err(found) = compile(driver, bus, devices) else { return all };
    for problem in found {
        for text in &texts {
            if let Some(at) = text.get(problem.place.range.clone()) {
                all.push((at.to_owned(), problem.message.clone(), problem.hint.clone().unwrap_or_default()));
            }
        }
    }
    all
}

#[test]
fn every_mistake_is_found_at_its_place_with_a_cure() {
    let devices = [
        device("a", "address = 300\nmax_registers = 200", "x: register = 'input:0'"),
        device(
            "b",
            "address = 1\nadress = 2",
            "one: register = '40001'
             two: register = 'holding:65535', type = 'f32'
             three: register = 'input:0', type = 'flaot'
             four: register = 'input:0', type = 'f32', bit = 3
             five: register = 'input:0', bit = 16
             six: register = 'input:0', bits = [7, 4]
             seven: register = 'coil:0', type = 'u16'
             eight: register = 'input:0', writable = true
             nine: register = 'input:0', word_order = 'ABDC'
             ten: register = 'input:0', type = 'string:0'
             ten: regster = 'input:0'
             twelve: register = 'input:0', bit = 1, bits = [1, 2]",
        ),
    ];
    let found = problems(&driver_modbus::Rtu, "port = '/dev/ttyUSB0'\nbaud = 96\nparity = 'evn'", &devices);
    for (at, cure) in [
        ("'evn'", "`even`"),
        ("300", "1 to 247"),
        ("200", "1 to 125"),
        ("adress", "`address`"),
        ("'40001'", "`holding:0`"),
        ("'holding:65535'", "takes 2 registers"),
        ("'flaot'", "f32"),
        ("'f32'", "take the type out"),
        ("16", "0 to 15"),
        ("[7, 4]", "[4, 7]"),
        ("'u16'", "bool"),
        ("'input:0'", "only coil: and holding:"),
        ("'ABDC'", "`ABCD`"),
        ("'string:0'", "1 to 250"),
        ("regster", "`register`"),
        ("[1, 2]", "take one of them out"),
    ] {
        assert!(
            found.iter().any(|(text, _, hint)| text == at && hint.contains(cure)),
            "no problem at {at} with {cure} in {found:#?}"
        );
    }
    assert!(found.iter().any(|(_, message, _)| message.contains("second point `ten`")), "{found:#?}");
    let found = problems(&driver_modbus::Rtu, "port = ''\nbaud = 96\nstop_bits = 3", &[]);
    let at: Vec<&str> = found.iter().map(|(at, ..)| at.as_str()).collect();
    assert_eq!(at, ["96", "3", "''"]);
    let found = problems(&driver_modbus::RtuOverTcp, "address = 'converter'\nbaud = 96", &[]);
    assert_eq!(found.len(), 2, "{found:#?}");
}

#[test]
fn an_answer_that_cannot_come_in_time_is_a_problem() {
    let device = device("slow", "address = 1", "x: register = 'input:0', type = 'string:250'");
    let found = problems(&driver_modbus::Rtu, "port = '/dev/ttyS0'\nbaud = 1200", &[device]);
    assert!(found.iter().any(|(_, message, _)| message.contains("than the timeout of 500ms")), "{found:#?}");
}

#[test]
fn only_a_network_has_units_0_and_255() {
    for (driver, bus, fine) in [
        (&driver_modbus::Rtu as &dyn Driver, "port = '/dev/ttyS0'", false),
        (&driver_modbus::Tcp, "address = 'plc'", true),
    ] {
        for unit in [0, 255] {
            let devices = [device("d", &format!("address = {unit}"), "x: register = 'coil:0'")];
            let found = problems(driver, bus, &devices);
            assert_eq!(found.is_empty(), fine, "{found:#?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn each_function_reads_its_table() {
    let mut rig = Rig::new(
        "address = 0x11",
        "coil: register = 'coil:0x13'
         far: register = 'coil:0x1A'
         door: register = 'discrete:0xC4'
         set: register = 'holding:0x6B', type = 'i16'
         level: register = 'input:8'",
        rtu()
            .expect("11 01 00 13 00 08", "11 01 01 81")
            .expect("11 02 00 C4 00 01", "11 02 01 01")
            .expect("11 04 00 08 00 01", "11 04 02 00 0A")
            .expect("11 03 00 6B 00 01", "11 03 02 FF FE"),
    )
    .await;
    assert_eq!(rig.read(0).await.expect("coils"), [good(0, Value::Bool(true)), good(1, Value::Bool(true))]);
    assert_eq!(rig.read(1).await.expect("inputs"), [good(2, Value::Bool(true))]);
    assert_eq!(rig.read(2).await.expect("input registers"), [good(4, Value::Int(10))]);
    assert_eq!(rig.read(3).await.expect("holding registers"), [good(3, Value::Int(-2))]);
    rig.done();
}

#[tokio::test(start_paused = true)]
async fn a_gap_is_read_through_and_its_registers_are_nobodys() {
    let mut rig = Rig::new(
        "address = 1",
        "a: register = 'input:0', type = 'f32'
         b: register = 'input:4', bit = 15
         c: register = 'input:4', bits = [0, 3]",
        rtu().expect("01 04 00 00 00 05", "01 04 0A 43 66 19 9A DE AD BE EF 80 07"),
    )
    .await;
    assert_eq!(
        rig.read(0).await.expect("a block"),
        [good(0, Value::Float(230.1)), good(1, Value::Bool(true)), good(2, Value::Int(7))]
    );
    rig.done();
}

#[tokio::test(start_paused = true)]
async fn what_is_no_number_is_a_fault_of_the_sensor_and_of_nothing_else() {
    let mut rig = Rig::new(
        "address = 1",
        "a: register = 'input:0', type = 'f32'
         b: register = 'input:2'",
        rtu().expect("01 04 00 00 00 03", "01 04 06 7F C0 00 00 00 07"),
    )
    .await;
    assert_eq!(rig.read(0).await.expect("a block"), [bad(0, Reason::SensorFault), good(1, Value::Int(7))]);
}

#[tokio::test(start_paused = true)]
async fn the_time_of_a_sample_is_the_arrival_of_the_first_byte() {
    let script = rtu().pieces("01 04 00 00 00 01", "01 04 02 00 07", &[(40 * MS, 2), (70 * MS, 5)]);
    let mut rig = Rig::new("address = 1", "a: register = 'input:0'", script).await;
    let samples = rig.read_raw(0).await.expect("an answer in pieces");
    assert_eq!(samples[0].value, Ok(Value::Int(7)));
    assert_eq!(samples[0].at - rig.asked(0), 40 * MS);
}

#[tokio::test(start_paused = true)]
async fn a_wrong_checksum_a_short_answer_and_a_foreign_unit_are_no_values() {
    for (answer, reason) in [
        ("01 04 02 00 07 00 00", Reason::Crc),
        ("01 04 02", Reason::Protocol),
        // Sealed, but of another unit, another function, another length.
        ("02 04 02 00 07 BC F2", Reason::Protocol),
        ("01 03 02 00 07 F9 86", Reason::Protocol),
        ("01 04 04 00 07 00 08 4B 83", Reason::Protocol),
    ] {
        let script = rtu().raw("01 04 00 00 00 01", &[(Duration::ZERO, answer)]);
        let mut rig = Rig::new("address = 1", "a: register = 'input:0'", script).await;
        let error = rig.read(0).await.expect_err(answer);
        assert_eq!(error.reason(), reason, "{answer}: {error}");
        assert!(matches!(error, ReadError::Transient(_)));
    }
}

#[tokio::test(start_paused = true)]
async fn the_line_is_silent_before_each_request() {
    let script =
        rtu().expect("01 04 00 00 00 01", "01 04 02 00 07").expect("01 04 00 00 00 01", "01 04 02 00 07");
    let mut rig = Rig::new("address = 1", "a: register = 'input:0'", script).await;
    rig.read(0).await.expect("a value");
    let answered = rig.now();
    rig.read(0).await.expect("a value");
    let pause = rig.asked(1) - answered;
    // 3.5 characters at 19200 baud are 2.005 ms.
    assert!(pause >= Duration::from_micros(2005) && pause <= 4 * MS, "{pause:?}");
}

#[tokio::test(start_paused = true)]
async fn a_refused_block_is_split_at_its_gaps_then_by_point_and_the_split_is_remembered() {
    let mut rig = Rig::new(
        "address = 1",
        "a: register = 'holding:0'
         b: register = 'holding:1'
         c: register = 'holding:5'",
        rtu()
            .expect("01 03 00 00 00 06", "01 83 02")
            .expect("01 03 00 00 00 02", "01 83 02")
            .expect("01 03 00 00 00 01", "01 03 02 00 0A")
            .expect("01 03 00 01 00 01", "01 83 02")
            .expect("01 03 00 05 00 01", "01 03 02 00 0C")
            // The second time nothing is tried in vain.
            .expect("01 03 00 00 00 01", "01 03 02 00 0A")
            .expect("01 03 00 05 00 01", "01 03 02 00 0C")
            // A reconnect is a new chance.
            .expect("01 03 00 00 00 06", "01 03 0C 00 0A 00 0B 00 00 00 00 00 00 00 0C"),
    )
    .await;
    let split = [good(0, Value::Int(10)), bad(1, Reason::Exception(2)), good(2, Value::Int(12))];
    assert_eq!(rig.read(0).await.expect("the parts"), split);
    assert_eq!(rig.read(0).await.expect("the parts"), split);
    rig.bus.open().await.expect("a script opens");
    assert_eq!(
        rig.read(0).await.expect("the whole"),
        [good(0, Value::Int(10)), good(1, Value::Int(11)), good(2, Value::Int(12))]
    );
    rig.done();
}

#[tokio::test(start_paused = true)]
async fn what_a_starting_device_refused_is_asked_again_after_ten_minutes() {
    let mut rig = Rig::new(
        "address = 1",
        "a: register = 'holding:0'
         b: register = 'holding:1'",
        rtu()
            .expect("01 03 00 00 00 02", "01 83 02")
            .expect("01 03 00 00 00 01", "01 83 01")
            .expect("01 03 00 01 00 01", "01 83 02")
            // Nine minutes later nothing is asked; then the whole block, which the device still refuses.
            .expect("01 03 00 00 00 02", "01 83 02")
            .expect("01 03 00 00 00 01", "01 03 02 00 0A")
            .expect("01 03 00 01 00 01", "01 83 03")
            // Ten minutes later again it gives everything, also the next time.
            .expect("01 03 00 00 00 02", "01 03 04 00 0A 00 0B")
            .expect("01 03 00 00 00 02", "01 03 04 00 0A 00 0C"),
    )
    .await;
    let none = [bad(0, Reason::Exception(1)), bad(1, Reason::Exception(2))];
    assert_eq!(rig.read(0).await.expect("the parts"), none);
    tokio::time::advance(540_000 * MS).await;
    assert_eq!(rig.read(0).await.expect("the parts"), none);
    tokio::time::advance(61_000 * MS).await;
    let half = [good(0, Value::Int(10)), bad(1, Reason::Exception(3))];
    assert_eq!(rig.read(0).await.expect("the parts"), half);
    tokio::time::advance(601_000 * MS).await;
    assert_eq!(rig.read(0).await.expect("all"), [good(0, Value::Int(10)), good(1, Value::Int(11))]);
    assert_eq!(rig.read(0).await.expect("all"), [good(0, Value::Int(10)), good(1, Value::Int(12))]);
    rig.done();
}

#[tokio::test(start_paused = true)]
async fn refusals_are_sorted_by_what_to_do_next() {
    for (code, refused) in [(1, true), (2, true), (3, true), (4, false), (6, false), (11, false)] {
        let script = rtu().expect("01 04 00 00 00 01", &format!("01 84 {code:02X}"));
        let mut rig = Rig::new("address = 1", "a: register = 'input:0'", script).await;
        let error = rig.read(0).await.expect_err("an exception");
        assert_eq!(error.reason(), Reason::Exception(code));
        assert_eq!(matches!(error, ReadError::Refused(_)), refused, "{code}");
    }
}

const WRITABLE: &str = "pump: register = 'coil:0xAC', writable = true
     set: register = 'holding:1', writable = true
     ramp: register = 'holding:10', type = 'f32', word_order = 'CDAB', writable = true
     gear: register = 'holding:20', bits = [4, 7], writable = true
     seen: register = 'input:1'";

#[tokio::test(start_paused = true)]
async fn each_kind_of_point_is_written_with_its_function() {
    let script = rtu()
        .expect("11 05 00 AC FF 00", "11 05 00 AC FF 00")
        .expect("11 06 00 01 00 03", "11 06 00 01 00 03")
        .expect("11 10 00 0A 00 02 04 19 9A 43 66", "11 10 00 0A 00 02")
        .expect("11 16 00 14 FF 0F 00 50", "11 16 00 14 FF 0F 00 50")
        .expect("11 06 00 01 00 09", "11 86 03")
        .expect("11 06 00 01 00 0A", "11 86 06");
    let mut rig = Rig::new("address = 0x11", WRITABLE, script).await;
    rig.bus.write(0, &Value::Bool(true)).await.expect("function 5");
    rig.bus.write(1, &Value::Float(3.0)).await.expect("function 6");
    rig.bus.write(2, &Value::Float(230.1)).await.expect("function 16");
    rig.bus.write(3, &Value::Int(5)).await.expect("function 22");
    assert!(matches!(rig.bus.write(1, &Value::Int(9)).await, Err(ReadError::Refused(3))));
    assert!(matches!(rig.bus.write(1, &Value::Int(10)).await, Err(ReadError::Transient(_))));
    rig.done();
    // What cannot be written never reaches the line.
    assert!(rig.bus.write(1, &Value::Int(65_536)).await.is_err());
    assert!(rig.bus.write(3, &Value::Int(16)).await.is_err());
    assert!(rig.bus.write(4, &Value::Int(1)).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_device_without_functions_5_and_6_is_written_with_15_and_16() {
    let script = rtu()
        .expect("11 0F 00 AC 00 01 01 01", "11 0F 00 AC 00 01")
        .expect("11 10 00 01 00 01 02 00 03", "11 10 00 01 00 01");
    let mut rig = Rig::new("address = 0x11\nwrite_multiple = true", WRITABLE, script).await;
    rig.bus.write(0, &Value::Bool(true)).await.expect("function 15");
    rig.bus.write(1, &Value::Int(3)).await.expect("function 16");
    rig.done();
}

#[tokio::test(start_paused = true)]
async fn a_port_that_is_gone_is_a_failure_of_the_bus() {
    let script = rtu().failure("01 04 00 00 00 01", ErrorKind::BrokenPipe);
    let mut rig = Rig::new("address = 1", "a: register = 'input:0'", script).await;
    let error = rig.read(0).await.expect_err("the adapter is out");
    assert!(matches!(error, ReadError::Bus(_)), "{error}");
    assert_eq!(error.reason(), Reason::BusDown);
}
