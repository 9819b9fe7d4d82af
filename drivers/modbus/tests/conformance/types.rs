//! BCD, times, patterns for "no value", and powers of ten, as the analyser shows them.

use driver_api::{Reason, Value};

use crate::MS;
use crate::script::{Rig, bad, busy, good, rtu};
use crate::support::device;

fn text(text: &str) -> Value {
    Value::Text(text.into())
}

#[tokio::test(start_paused = true)]
async fn counters_in_bcd_and_a_clock_are_read_in_one_block() {
    let mut rig = Rig::new(
        "address = 1",
        "count: register = 'input:0', type = 'bcd32'
         clock: register = 'input:2', type = 'time:iec870'
         boot: register = 'input:6', type = 'time:unix'
         broken: register = 'input:8', type = 'bcd16'
         never: register = 'input:9', type = 'time:bcd'",
        rtu().expect(
            "01 04 00 00 00 0C",
            "01 04 18 12 34 56 78 00 1A 0B 1C 0A 00 00 00 6B 0A A6 20 12 3A 26 13 01 00 00 00",
        ),
    )
    .await;
    assert_eq!(
        rig.read(0).await.expect("a block"),
        [
            good(0, Value::Int(12_345_678)),
            good(1, text("2026-11-28T10:00:00")),
            good(2, text("2026-11-28T10:00:00Z")),
            bad(3, Reason::Parse),
            bad(4, Reason::SensorFault),
        ]
    );
    rig.done();
}

#[tokio::test(start_paused = true)]
async fn bcd_and_a_clock_are_written() {
    let mut rig = Rig::new(
        "address = 1",
        "count: register = 'holding:0', type = 'bcd16', writable = true
         clock: register = 'holding:2', type = 'time:bcd', writable = true",
        rtu()
            .expect("01 06 00 00 12 34", "01 06 00 00 12 34")
            .expect("01 10 00 02 00 03 06 26 11 28 10 00 00", "01 10 00 02 00 03"),
    )
    .await;
    rig.bus.write(0, &Value::Int(1234)).await.expect("four digits");
    assert!(rig.bus.write(0, &Value::Int(12_345)).await.is_err(), "five are too many");
    rig.bus.write(1, &text("2026-11-28T10:00:00")).await.expect("a time");
    rig.done();
}

#[tokio::test(start_paused = true)]
async fn the_makers_no_value_is_a_fault_and_its_neighbours_are_not() {
    let mut rig = Rig::new(
        "address = 1",
        "a: register = 'input:0', type = 'i16', invalid = [0x7FFF, -32768]
         b: register = 'input:1', type = 'i16', invalid = [0x7FFF, -32768]
         c: register = 'input:2', type = 'u32', word_order = 'CDAB', invalid = 0xFFFF0000",
        rtu()
            .expect("01 04 00 00 00 04", "01 04 08 80 00 7F FE 00 00 FF FF")
            .expect("01 04 00 00 00 04", "01 04 08 7F FF 80 01 FF FF 00 00"),
    )
    .await;
    let fault = Reason::SensorFault;
    assert_eq!(
        rig.read(0).await.expect("a block"),
        [bad(0, fault), good(1, Value::Int(0x7FFE)), bad(2, fault)]
    );
    assert_eq!(
        rig.read(0).await.expect("a block"),
        [bad(0, fault), good(1, Value::Int(-32767)), good(2, Value::Int(0xFFFF))]
    );
    rig.done();
}

#[tokio::test(start_paused = true)]
async fn a_power_of_ten_is_read_in_the_block_of_its_points_and_leaves_no_dust() {
    let mut rig = Rig::new(
        "address = 1",
        "u: register = 'input:0', type = 'i16', scale_register = 'input:2'
         i: register = 'input:1', type = 'i16', scale_register = 'input:2'
         w: register = 'input:3', scale_register = 'input:4'",
        rtu()
            .expect("01 04 00 00 00 05", "01 04 0A 08 FD FF F9 FF FF 00 0C 00 03")
            // The device changes its range; the third point loses its power of ten.
            .expect("01 04 00 00 00 05", "01 04 0A 08 FD FF F9 FF FE 00 0C 80 00"),
    )
    .await;
    assert_eq!(
        rig.read(0).await.expect("a block"),
        [good(0, Value::Float(230.1)), good(1, Value::Float(-0.7)), good(2, Value::Float(12_000.0))]
    );
    assert_eq!(
        rig.read(0).await.expect("a block"),
        [good(0, Value::Float(23.01)), good(1, Value::Float(-0.07)), bad(2, Reason::SensorFault)]
    );
    rig.done();
}

#[tokio::test(start_paused = true)]
async fn a_power_of_ten_elsewhere_is_read_first_and_then_every_twenty_seconds() {
    let mut rig = Rig::new(
        "address = 1",
        "u: register = 'input:0', scale_register = 'holding:100'",
        rtu()
            .expect("01 03 00 64 00 01", "01 03 02 FF FF")
            .expect("01 04 00 00 00 01", "01 04 02 08 FD")
            .expect("01 04 00 00 00 01", "01 04 02 08 FE")
            .expect("01 03 00 64 00 01", "01 03 02 FF FE")
            .expect("01 04 00 00 00 01", "01 04 02 59 D8"),
    )
    .await;
    assert_eq!(rig.read(0).await.expect("a value"), [good(0, Value::Float(230.1))]);
    assert_eq!(rig.read(0).await.expect("a value"), [good(0, Value::Float(230.2))]);
    tokio::time::advance(20_000 * MS).await;
    assert_eq!(rig.read(0).await.expect("a value"), [good(0, Value::Float(230.0))]);
    rig.done();
}

#[tokio::test(start_paused = true)]
async fn where_there_is_time_all_powers_of_ten_are_read_before_the_first_poll() {
    let mut rig = Rig::new(
        "address = 1",
        "u: register = 'input:0', scale_register = 'holding:100'
         i: register = 'input:1', scale_register = 'holding:600'",
        rtu()
            .expect("01 03 00 64 00 01", "01 03 02 FF FF")
            .expect("01 03 02 58 00 01", "01 03 02 00 02")
            .expect("01 04 00 00 00 02", "01 04 04 08 FD 00 05"),
    )
    .await;
    let both = [good(0, Value::Float(230.1)), good(1, Value::Float(500.0))];
    assert_eq!(rig.read(0).await.expect("values"), both);
    rig.done();
}

#[tokio::test(start_paused = true)]
async fn where_time_is_short_a_device_polled_rarely_still_comes_to_all_its_powers_of_ten() {
    let values = ("01 04 00 00 00 02", "01 04 04 08 FD 00 05");
    let first = ("01 03 00 64 00 01", "01 03 02 FF FF");
    let second = ("01 03 02 58 00 01", "01 03 02 00 02");
    let meter = device(
        "meter",
        "address = 1",
        "u: register = 'input:0', scale_register = 'holding:100'
         i: register = 'input:1', scale_register = 'holding:600'",
    );
    let script = rtu()
        .expect(first.0, first.1)
        .expect(values.0, values.1)
        // The first one is due again by now; the second one has never been read.
        .expect(second.0, second.1)
        .expect(values.0, values.1)
        .expect(first.0, first.1)
        .expect(values.0, values.1);
    let mut rig = Rig::of(&[meter, busy()], script).await;
    let start = rig.now();
    let both = [good(0, Value::Float(230.1)), good(1, Value::Float(500.0))];
    assert_eq!(rig.read(0).await.expect("a value"), both[..1]);
    for poll in 1..3 {
        tokio::time::advance((start + 20_000 * MS * poll) - rig.now()).await;
        assert_eq!(rig.read(0).await.expect("a value"), both);
    }
    rig.done();
}

#[tokio::test(start_paused = true)]
async fn a_power_of_ten_that_was_not_read_for_a_minute_makes_no_value() {
    let power = ("01 04 00 C8 00 02", "01 04 04 FF FF 00 05");
    let u = ("01 04 00 00 00 01", "01 04 02 08 FD");
    let mut rig = Rig::new(
        "address = 1",
        "u: register = 'input:0', scale_register = 'input:200'
         t: register = 'input:201'",
        // The block that carries it is refused, which says nothing of the power of ten; only time does.
        rtu()
            .expect(power.0, power.1)
            .expect(u.0, u.1)
            .expect(power.0, "01 84 06")
            .expect(u.0, u.1)
            .expect(u.0, u.1)
            .expect(power.0, power.1)
            .expect(u.0, u.1),
    )
    .await;
    assert_eq!(rig.read(1).await.expect("a block"), [good(1, Value::Int(5))]);
    assert_eq!(rig.read(0).await.expect("a value"), [good(0, Value::Float(230.1))]);
    tokio::time::advance(50_000 * MS).await;
    rig.read(1).await.expect_err("busy");
    assert_eq!(rig.read(0).await.expect("a value"), [good(0, Value::Float(230.1))]);
    tokio::time::advance(11_000 * MS).await;
    assert_eq!(rig.read(0).await.expect("a reason"), [bad(0, Reason::Stale)]);
    rig.read(1).await.expect("a block");
    assert_eq!(rig.read(0).await.expect("a value"), [good(0, Value::Float(230.1))]);
    rig.done();
}

#[tokio::test(start_paused = true)]
async fn a_power_of_ten_that_is_refused_or_wild_makes_its_point_bad() {
    let mut rig = Rig::new(
        "address = 1",
        "u: register = 'input:0', scale_register = 'holding:100'",
        rtu()
            .expect("01 03 00 64 00 01", "01 83 02")
            .expect("01 04 00 00 00 01", "01 04 02 08 FD")
            .expect("01 03 00 64 00 01", "01 03 02 00 63")
            .expect("01 04 00 00 00 01", "01 04 02 08 FD"),
    )
    .await;
    assert_eq!(rig.read(0).await.expect("a reason"), [bad(0, Reason::Exception(2))]);
    tokio::time::advance(11_000 * MS).await;
    assert_eq!(rig.read(0).await.expect("a reason"), [bad(0, Reason::SensorFault)], "10^99 is none");
    rig.done();
}

#[tokio::test(start_paused = true)]
async fn a_write_undoes_the_power_of_ten_once_it_is_known() {
    let mut rig = Rig::new(
        "address = 1",
        "limit: register = 'holding:0', type = 'i16', scale_register = 'holding:1', writable = true",
        rtu()
            .expect("01 03 00 00 00 02", "01 03 04 00 64 FF FF")
            .expect("01 06 00 00 08 FD", "01 06 00 00 08 FD"),
    )
    .await;
    let error = rig.bus.write(0, &Value::Float(230.1)).await.expect_err("not known").to_string();
    assert!(error.contains("try again"), "{error}");
    assert_eq!(rig.read(0).await.expect("a block"), [good(0, Value::Float(10.0))]);
    rig.bus.write(0, &Value::Float(230.1)).await.expect("2301");
    let error = rig.bus.write(0, &Value::Float(230.14)).await.expect_err("between two steps").to_string();
    assert!(error.contains("10^-1"), "{error}");
    rig.done();
}
