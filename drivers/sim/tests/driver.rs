//! The driver `sim` as the bus task sees it: conformance, mistakes, and behaviour over (paused) time.

use std::time::Duration;

use driver_api::testing::{assert_conforms, table};
use driver_api::{
    Bus, BusSpec, DeviceSpec, Driver, PointSpec, Problem, ReadError, Reason, Sample, Value, Wire,
};
use driver_sim::Sim;
use tokio::time::Instant;

const SECOND: Duration = Duration::from_secs(1);

fn device<'i>(name: &str, keys: &'i str, points: &[(&str, &'i str)]) -> DeviceSpec<'i> {
    let points = points
        .iter()
        .map(|(point, keys)| PointSpec {
            name: (*point).to_owned(),
            interval: if point.starts_with("slow") { 10 * SECOND } else { SECOND },
            writable: point.ends_with("setpoint"),
            table: table(keys),
        })
        .collect();
    DeviceSpec {
        name: name.to_owned(),
        interval: SECOND,
        timeout: Duration::from_millis(500),
        table: table(keys),
        points,
    }
}

fn compile(keys: &str, devices: Vec<DeviceSpec<'_>>) -> Result<Box<dyn Bus>, Vec<Problem>> {
    let mut problems = Vec::new();
    let spec = BusSpec { name: "lab".to_owned(), table: table(keys), devices, wire: Wire::default() };
    let bus = Sim.compile(spec, &mut problems);
    assert_eq!(bus.is_none(), !problems.is_empty(), "no bus exactly when there is a problem");
    bus.ok_or(problems)
}

fn plant() -> Box<dyn Bus> {
    let meter = device(
        "meter",
        "",
        &[
            ("voltage", "signal = 'sine'\nlow = 220.0\nhigh = 240"),
            ("slow_energy", "signal = 'counter'\nperiod = '1s'"),
            ("on", "signal = 'square'\ntype = 'bool'"),
            ("setpoint", "signal = 'constant'\nvalue = 21.5"),
            ("slow_name", "signal = 'text'\nvalue = 'lot {n}'"),
        ],
    );
    let dead = device("ghost", "dead = true\naddress = 9", &[("x", "signal = 'random'")]);
    compile("seed = 7\nlatency = '20ms'", vec![meter, dead]).expect("no problems")
}

async fn read(bus: &mut dyn Bus, block: usize) -> Result<Vec<Sample>, ReadError> {
    let mut samples = Vec::new();
    bus.read(block, &mut samples).await.map(|()| samples)
}

#[test]
fn a_compiled_bus_conforms() {
    let bus = plant();
    assert_conforms(&*bus);
    let plan = bus.plan();
    let blocks: Vec<_> = plan.blocks.iter().map(|b| (b.device, b.points.clone(), b.every)).collect();
    assert_eq!(blocks, [(0, vec![0, 2, 3], SECOND), (0, vec![1, 4], 10 * SECOND), (1, vec![5], SECOND)]);
    let kinds: Vec<&str> = plan.points.iter().map(|p| p.kind.as_str()).collect();
    assert_eq!(kinds, ["f64", "i64", "bool", "f64", "string", "f64"]);
    assert_eq!((plan.devices[0].address.as_str(), plan.devices[1].address.as_str()), ("1", "9"));
    assert!((plan.predicted_load() - (0.02 + 0.002 + 0.02)).abs() < 1e-9);
}

#[test]
fn every_mistake_of_a_bus_is_reported_in_one_run() {
    let devices = vec![
        device(
            "a",
            "ded = true",
            &[
                ("p1", "signal = 'sinus'"),
                ("p2", "signal = 'sine'\nvalue = 3"),
                ("p3", "signal = 'constant'"),
                ("p4", "signal = 'ramp'\nlow = 5.0\nhigh = 1.0"),
                ("p5", "signal = 'text'\ntype = 'f64'"),
                ("p6", "signal = 'counter'\nperiod = '0s'"),
                ("p7", "signal = 'sine'\namplitude = 2.0\nlow = 1.0"),
                ("p8", "signal = 'constant'\nvalue = 'x'\ntype = 'i64'"),
                ("p9", "signal = 'ramp'\nhigh = inf"),
            ],
        ),
        device("b", "", &[("p1", "type = 'f64'")]),
    ];
    let problems = compile("sed = 1\ndrop = 1.5", devices).err().expect("problems");
    let messages: Vec<&str> = problems.iter().map(|p| p.message.as_str()).collect();
    assert_eq!(
        messages,
        [
            "unknown key `sed`",
            "unknown key `ded`",
            "`signal` cannot be `sinus`",
            "`value` means nothing to `sine`",
            "`value` is missing",
            "`high` is below `low` (5)",
            "a text cannot be of type `f64`",
            "`period` cannot be zero",
            "`amplitude` stands beside `low` or `high`",
            "`value` is not of type `i64`",
            "`high` is no finite number",
            "`signal` is missing",
        ]
    );
    assert!(problems.iter().all(|p| p.hint.is_some()), "{problems:#?}");
    let problems = compile("drop = 1.5", vec![]).err().expect("a problem");
    assert_eq!(problems[0].message, "`drop` cannot be `1.5`");
}

#[test]
fn every_key_is_explained_in_the_schema() {
    let schemas = Sim.schemas();
    for schema in [schemas.bus, schemas.device, schemas.point] {
        let value = schema.to_value();
        let keys = value["properties"].as_object().expect("an object with keys");
        assert!(!keys.is_empty());
        for (key, what) in keys {
            assert!(what["description"].is_string(), "`{key}` is not explained: {what}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_exchange_takes_the_latency_and_gives_a_sample_for_every_point() {
    let mut bus = plant();
    bus.open().await.expect("opens");
    let start = Instant::now();
    let samples = read(&mut *bus, 0).await.expect("answers");
    assert_eq!(Instant::now() - start, Duration::from_millis(20));
    assert_eq!(samples.iter().map(|s| s.point).collect::<Vec<_>>(), [0, 2, 3]);
    assert!(samples.iter().all(|s| s.at == Instant::now()));
    let Ok(Value::Float(voltage)) = samples[0].value else { panic!("{samples:?}") };
    assert!((220.0..=240.0).contains(&voltage));
    assert_eq!(samples[2].value, Ok(Value::Float(21.5)));
}

#[tokio::test(start_paused = true)]
async fn signals_go_on_from_the_first_opening_and_are_the_same_in_every_run() {
    let mut runs = Vec::new();
    for _ in 0..2 {
        let mut bus = plant();
        bus.open().await.expect("opens");
        tokio::time::sleep(25 * SECOND).await;
        // A reconnect does not turn the clock back.
        bus.open().await.expect("opens");
        let values: Vec<_> =
            read(&mut *bus, 1).await.expect("answers").into_iter().map(|s| s.value).collect();
        assert_eq!(values, [Ok(Value::Int(25)), Ok(Value::Text("lot 2".into()))]);
        runs.push(
            read(&mut *bus, 0).await.expect("answers").into_iter().map(|s| s.value).collect::<Vec<_>>(),
        );
    }
    assert_eq!(runs[0], runs[1]);
}

#[tokio::test(start_paused = true)]
async fn a_dead_device_costs_its_timeout_and_gives_nothing() {
    let mut bus = plant();
    bus.open().await.expect("opens");
    let start = Instant::now();
    let error = read(&mut *bus, 2).await.expect_err("dead");
    assert_eq!(Instant::now() - start, Duration::from_millis(500));
    assert_eq!(error.reason(), Reason::Timeout);
    assert!(matches!(error, ReadError::Transient(_)));
    assert!(read(&mut *bus, 0).await.is_ok(), "the other device still answers");
}

#[tokio::test(start_paused = true)]
async fn a_latency_beyond_the_timeout_is_a_timeout_at_the_timeout() {
    let slow = device("slow", "", &[("x", "signal = 'ramp'")]);
    let mut bus = compile("latency = '2s'", vec![slow]).expect("no problems");
    bus.open().await.expect("opens");
    let start = Instant::now();
    assert_eq!(read(&mut *bus, 0).await.expect_err("late").reason(), Reason::Timeout);
    assert_eq!(Instant::now() - start, Duration::from_millis(500));
}

#[tokio::test(start_paused = true)]
async fn the_share_of_dropped_exchanges_is_kept() {
    let lossy = device("lossy", "", &[("x", "signal = 'ramp'")]);
    let mut bus = compile("drop = 0.25", vec![lossy]).expect("no problems");
    bus.open().await.expect("opens");
    let mut lost = 0;
    for _ in 0..1000 {
        lost += u32::from(read(&mut *bus, 0).await.is_err());
    }
    assert!((200..300).contains(&lost), "{lost} of 1000 at 0.25");
}

#[tokio::test(start_paused = true)]
async fn a_writable_point_holds_what_was_written_and_the_rest_refuse() {
    let mut bus = plant();
    bus.open().await.expect("opens");
    bus.write(3, &Value::Int(18)).await.expect("writable");
    let samples = read(&mut *bus, 0).await.expect("answers");
    assert_eq!(samples[2].value, Ok(Value::Float(18.0)));
    assert!(matches!(bus.write(3, &Value::Text("x".into())).await, Err(ReadError::Refused(3))));
    assert!(matches!(bus.write(0, &Value::Float(1.0)).await, Err(ReadError::Refused(2))));
    assert!(matches!(bus.write(99, &Value::Float(1.0)).await, Err(ReadError::Refused(2))));
    let samples = read(&mut *bus, 0).await.expect("answers");
    assert_eq!(samples[2].value, Ok(Value::Float(18.0)));
}

#[tokio::test]
async fn a_bus_that_was_not_opened_is_down() {
    let mut bus = plant();
    assert_eq!(read(&mut *bus, 0).await.expect_err("closed").reason(), Reason::BusDown);
}
