//! The whole driver over scripted buses, transaction by transaction: what the bus task sees.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use driver_api::testing::{assert_conforms, table};
use driver_api::{
    Bus, BusSpec, DeviceSpec, Driver, FrameError, PointSpec, Problem, ReadError, Reason, Sample, Table,
    Value, Wire,
};
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::testing::ScriptedI2c;
use crate::{I2c, I2cBus, I2cPort, compile_over};

const BME: &str = "address = 0x76\nchip = 'bme280'";
const TMP: &str = "address = 0x48\nchip = 'tmp102'";

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn device<'i>(name: &str, text: &'i str) -> DeviceSpec<'i> {
    DeviceSpec {
        name: name.into(),
        interval: ms(1000),
        timeout: ms(400),
        table: Table::from_text(0, text).expect("TOML"),
        points: Vec::new(),
    }
}

fn point<'i>(name: &str, text: &'i str, interval: u64, writable: bool) -> PointSpec<'i> {
    PointSpec { name: name.into(), interval: ms(interval), writable, table: table(text) }
}

fn spec<'i>(devices: Vec<DeviceSpec<'i>>) -> BusSpec<'i> {
    BusSpec { name: "header".into(), table: table("path = '/dev/i2c-1'"), devices, wire: Wire::default() }
}

/// A bus that is opened with these ports, one after the other.
fn bus_over(devices: Vec<DeviceSpec<'_>>, ports: Vec<ScriptedI2c>) -> I2cBus {
    let ports = Mutex::new(ports.into_iter());
    let mut problems = Vec::new();
    let bus = compile_over(&spec(devices), &mut problems, |path| {
        assert_eq!(path, "/dev/i2c-1");
        Arc::new(move || {
            let port = ports.try_lock().expect("one opening at a time").next();
            port.map(|p| Box::new(p) as Box<dyn I2cPort>).ok_or_else(|| io::ErrorKind::NotFound.into())
        })
    });
    assert_eq!(problems, []);
    let bus = bus.expect("no problems, so a bus");
    assert_conforms(&bus);
    bus
}

fn problems(devices: Vec<DeviceSpec<'_>>) -> Vec<(String, String)> {
    let mut problems: Vec<Problem> = Vec::new();
    assert!(I2c.compile(spec(devices), &mut problems).is_none());
    problems.into_iter().map(|p| (p.message, p.hint.unwrap_or_default())).collect()
}

fn values(samples: &mut Vec<Sample>) -> Vec<(usize, Result<Value, Reason>)> {
    std::mem::take(samples).into_iter().map(|s| (s.point, s.value)).collect()
}

/// A TMP102 that is set up and then shows `raw`.
fn tmp102(script: ScriptedI2c, raw: &str) -> ScriptedI2c {
    script
        .write_read(0x48, "01", "60 A0")
        .write(0x48, "01 60 E0")
        .write_read(0x48, "01", "60 E0")
        .write_read(0x48, "00", raw)
}

/// A TMP102 that was set up before and shows `raw`.
fn tmp102_again(script: ScriptedI2c, raw: &str) -> ScriptedI2c {
    script.write_read(0x48, "01", "60 E0").write_read(0x48, "00", raw)
}

#[tokio::test]
async fn a_missing_chip_leaves_the_other_alone_and_is_set_up_when_it_comes() {
    let port = ScriptedI2c::new().write_read(0x76, "D0", "00").fails(libc::EREMOTEIO);
    let port = tmp102(port, "19 00").write_read(0x76, "D0", "61");
    let port = tmp102_again(port, "E7 00").write_read(0x48, "01", "60 E0").fails(libc::ENXIO);
    let left = port.left();
    let port = tmp102(port, "00 40");
    let mut bus = bus_over(vec![device("air", BME), device("room", TMP)], vec![port]);
    bus.open().await.expect("the scripted port");
    let mut out = Vec::new();

    let error = bus.read(0, &mut out).await.expect_err("nobody there");
    assert_eq!(error.to_string(), "no valid answer: no acknowledge from 0x76");
    assert!(matches!(error, ReadError::Transient(FrameError::Protocol(_))));
    bus.read(1, &mut out).await.expect("the other answers");
    assert_eq!(values(&mut out), [(3, Ok(Value::Float(25.0)))]);
    let error = bus.read(0, &mut out).await.expect_err("the wrong part");
    assert!(error.to_string().contains("a BME680"), "{error}");
    bus.read(1, &mut out).await.expect("no setting up this time");
    assert_eq!(values(&mut out), [(3, Ok(Value::Float(-25.0)))]);
    // After an error the part is set up again.
    assert!(bus.read(1, &mut out).await.is_err());
    bus.read(1, &mut out).await.expect("back again");
    assert_eq!(values(&mut out), [(3, Ok(Value::Float(0.25)))]);
    assert_eq!(left.get(), 0);
}

#[tokio::test]
async fn a_part_that_lost_its_settings_is_set_up_within_the_same_read() {
    let port = tmp102(ScriptedI2c::new(), "19 00");
    // The power was cut: 4 Hz again, and the register would read 0 °C.
    let port = tmp102(port.write_read(0x48, "01", "60 A0"), "1A 00");
    // And one that never keeps them is not believed.
    let port = port
        .write_read(0x48, "01", "60 A0")
        .write_read(0x48, "01", "60 A0")
        .write(0x48, "01 60 E0")
        .write_read(0x48, "01", "60 A0");
    let left = port.left();
    let mut bus = bus_over(vec![device("room", TMP)], vec![port]);
    bus.open().await.expect("the scripted port");
    let mut out = Vec::new();
    let before = Instant::now();
    bus.read(0, &mut out).await.expect("an answer");
    bus.read(0, &mut out).await.expect("an answer");
    assert!(out[1].at > out[0].at && out[0].at > before);
    assert_eq!(values(&mut out), [(0, Ok(Value::Float(25.0))), (0, Ok(Value::Float(26.0)))]);
    let error = bus.read(0, &mut out).await.expect_err("not believed");
    assert!(error.to_string().contains("does not keep its settings"), "{error}");
    assert_eq!((left.get(), out.len()), (0, 0));
}

#[tokio::test]
async fn any_address_can_be_looked_at_and_nothing_is_written_but_a_registers_address() {
    let port = ScriptedI2c::new()
        .write_read(0x20, "", "5A")
        .write_read(0x76, "D0", "60 00")
        .write_read(0x21, "", "00")
        .fails(libc::ENXIO);
    let left = port.left();
    let mut bus = bus_over(vec![], vec![port]);
    bus.open().await.expect("the scripted port");
    assert_eq!(bus.carry(0x20, &[1], ms(400)).await.expect("a byte"), [0x5A]);
    assert_eq!(bus.carry(0x76, &[2, 0xD0], ms(400)).await.expect("two bytes"), [0x60, 0]);
    let nobody = bus.carry(0x21, &[1], ms(400)).await.expect_err("nobody");
    assert!(nobody.to_string().contains("no acknowledge from 0x21"), "{nobody}");
    for (unit, request) in [(0x20, &[][..]), (0x20, &[0]), (0x20, &[33]), (0x02, &[1]), (0x78, &[1])] {
        assert!(bus.carry(unit, request, ms(400)).await.is_err(), "{unit:#04x} {request:?}");
    }
    assert_eq!(left.get(), 0);
}

#[tokio::test]
async fn a_bus_that_is_gone_is_closed_and_opened_again() {
    let gone = ScriptedI2c::new().write_read(0x48, "01", "00 00").fails(libc::ENODEV);
    let mut bus = bus_over(vec![device("room", TMP)], vec![gone, tmp102(ScriptedI2c::new(), "19 00")]);
    let mut out = Vec::new();
    assert!(matches!(bus.read(0, &mut out).await, Err(ReadError::Bus(_))), "not open yet");
    bus.open().await.expect("the first port");
    assert!(matches!(bus.read(0, &mut out).await, Err(ReadError::Bus(_))), "gone");
    assert!(matches!(bus.read(0, &mut out).await, Err(ReadError::Bus(_))), "closed");
    bus.open().await.expect("the second port");
    bus.read(0, &mut out).await.expect("an answer");
    assert_eq!(values(&mut out), [(0, Ok(Value::Float(25.0)))]);
    assert_eq!(bus.open().await.expect_err("no third port").kind(), io::ErrorKind::NotFound);
}

#[tokio::test]
async fn a_stuck_exchange_costs_its_timeout_and_its_late_value_is_nobodys() {
    let port = tmp102(ScriptedI2c::new(), "19 00");
    // 99 °C, 600 ms late of a timeout of 400.
    let port = tmp102_again(port, "63 00").stalls(ms(1000));
    let left = port.left();
    let port = tmp102_again(port, "1B 00");
    let mut bus = bus_over(vec![device("room", TMP)], vec![port]);
    bus.open().await.expect("the scripted port");
    let mut out = Vec::new();
    bus.read(0, &mut out).await.expect("an answer");
    out.clear();

    let began = Instant::now();
    for _ in 0..2 {
        let error = bus.read(0, &mut out).await.expect_err("stuck");
        assert!(matches!(error, ReadError::Transient(FrameError::Timeout(t)) if t == ms(400)), "{error}");
    }
    let waited = began.elapsed();
    assert!((ms(800)..ms(1000)).contains(&waited), "{waited:?}");
    // Within the third the thread comes back, and only then the next exchange is sent.
    bus.read(0, &mut out).await.expect("an answer");
    assert_eq!(values(&mut out), [(0, Ok(Value::Float(27.0)))]);
    assert_eq!(left.get(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_read_is_not_timed_out_by_a_paused_clock() {
    let port = tmp102(ScriptedI2c::new(), "19 00");
    let mut bus = bus_over(vec![device("room", TMP)], vec![port]);
    bus.open().await.expect("the scripted port");
    let mut out = Vec::new();
    bus.read(0, &mut out).await.expect("35 ms of real time are not 400 of the clock's");
    assert_eq!(values(&mut out), [(0, Ok(Value::Float(25.0)))]);
}

#[tokio::test]
async fn a_panic_in_a_chip_is_a_broken_bus_not_a_broken_gateway() {
    // The script is empty, so the first exchange panics.
    let mut room = device("room", TMP);
    // The panic prints where it came from, and that takes a while on a busy machine.
    room.timeout = ms(60_000);
    let mut bus = bus_over(vec![room], vec![ScriptedI2c::new()]);
    bus.open().await.expect("the scripted port");
    let error = bus.read(0, &mut Vec::new()).await.expect_err("panicked");
    assert!(matches!(&error, ReadError::Bus(e) if e.to_string().contains("unexpected exchange")), "{error}");
}

#[test]
fn points_are_the_chips_channels_and_entries_only_add_to_them() {
    let mut air = device("air", BME);
    air.points = vec![point("pressure", "", 60_000, false), point("humidity", "", 500, false)];
    let bus = bus_over(vec![device("room", TMP), air], vec![]);
    let plan = bus.plan();
    let described: Vec<_> =
        plan.points.iter().map(|p| (p.device, p.name.as_str(), p.unit.as_deref(), p.spec)).collect();
    assert_eq!(
        described,
        [
            (0, "temperature", Some("°C"), None),
            (1, "temperature", Some("°C"), None),
            (1, "humidity", Some("%"), Some(1)),
            (1, "pressure", Some("hPa"), Some(0)),
        ]
    );
    assert_eq!(plan.devices[1].address, "0x76");
    assert_eq!((plan.blocks[0].every, plan.blocks[1].every), (ms(1000), ms(500)));
    assert_eq!(plan.blocks[1].what, "bme280 at 0x76");
}

#[test]
fn every_mistake_is_reported_with_its_cure() {
    let one = |text: &'static str| problems(vec![device("air", text)]).remove(0);
    assert_eq!(
        one("address = 0x76\nchip = 'bme820'"),
        ("no chip is called `bme820`".into(), "did you mean `bme280`?".into())
    );
    assert_eq!(one("address = 0x76\nchip = 'sht31'").1, "this build has bme280, lm75, tmp102, tmp105");
    assert_eq!(one("address = 0xEC\nchip = 'bme280'").0, "no chip has the address 0xec");
    assert_eq!(one("chip = 'bme280'").0, "`address` is missing");
    assert_eq!(one("address = 0x76\nchip = 'bme280'\nadress = 1").0, "unknown key `adress`");

    let found = problems(vec![device("air", BME), device("more air", BME)]);
    assert_eq!(found[0].0, "0x76 is the address of `air` already");

    let mut air = device("air", BME);
    air.points = vec![
        point("temprature", "", 1000, false),
        point("altitude", "", 1000, false),
        point("humidity", "register = 'input:0'", 1000, true),
    ];
    let found = problems(vec![air]);
    for (message, hint) in [
        ("a bme280 has no channel `temprature`", "did you mean `temperature`?"),
        ("a bme280 has no channel `altitude`", "it has temperature, humidity, pressure"),
        ("`humidity` cannot be written", "a chip's channels are read only; remove `writable = true`"),
    ] {
        assert!(found.contains(&(message.into(), hint.into())), "{message} in {found:#?}");
    }
    assert!(found.iter().any(|(m, _)| m == "unknown key `register`"), "{found:#?}");
}

#[test]
fn the_schema_names_the_chips_and_documents_every_key() {
    let schemas = I2c.schemas();
    for (schema, keys) in
        [(&schemas.bus, &["path"][..]), (&schemas.device, &["address", "chip"]), (&schemas.point, &[])]
    {
        let properties = schema.get("properties").and_then(|p| p.as_object());
        let found: Vec<_> = properties.into_iter().flatten().collect();
        assert_eq!(found.iter().map(|(k, _)| k.as_str()).collect::<Vec<_>>(), keys);
        assert!(found.iter().all(|(_, v)| v.get("description").is_some()));
        assert_eq!(schema.get("additionalProperties").and_then(|a| a.as_bool()), Some(false));
    }
    let chips = schemas.device.get("properties").map(|p| p["chip"]["enum"].to_string());
    assert_eq!(chips.as_deref(), Some(r#"["bme280","lm75","tmp102","tmp105"]"#));
}

#[tokio::test]
async fn a_registered_driver_takes_its_ports_from_where_it_is_told() {
    fn ports(path: &str) -> io::Result<Box<dyn I2cPort>> {
        assert_eq!(path, "/dev/i2c-1");
        let set_up = ScriptedI2c::new().write_read(0x48, "01", "60 E0");
        Ok(Box::new(tmp102_again(set_up.for_ever(), "19 00")))
    }
    static SCRIPTED: I2c = I2c::with_ports(ports);
    let driver: &'static dyn Driver = &SCRIPTED;
    let mut bus = driver.compile(spec(vec![device("room", TMP)]), &mut Vec::new()).expect("valid");
    bus.open().await.expect("the scripted port");
    let mut out = Vec::new();
    for _ in 0..5 {
        bus.read(0, &mut out).await.expect("an answer");
    }
    assert_eq!(values(&mut out), vec![(0, Ok(Value::Float(25.0))); 5]);
}
