//! The keys of `driver = "sim"`, and how they become a bus. Nothing is read and then ignored: a key
//! that means nothing for the chosen signal is a mistake, with its place.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use driver_api::{
    Block, BusSpec, DeviceInfo, DeviceSpec, Plan, PointInfo, PointSpec, Problem, Schemas, Span,
};
use driver_api::{Table, Value};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema, schema_for};
use serde::Deserialize;
use serde::de::{Deserializer, Visitor};

use crate::bus::{SimBus, SimDevice, SimPoint};
use crate::generate::{Generator, Kind};
use crate::signals::{Signal, Wave, key};

/// Keys of a `[[bus]]` with `driver = "sim"`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct BusKeys {
    /// Gives every point its own phase and its own random numbers; the same seed, the same values.
    #[serde(default = "one")]
    seed: u32,
    /// Time that one exchange takes. Longer than a device's `timeout`, it never answers.
    #[serde(default = "one_ms")]
    latency: Span,
    /// Share of exchanges that get no answer, from 0.0 (none) to 1.0 (all).
    #[serde(default)]
    drop: f64,
}

/// Keys of a `[[device]]` on a simulated bus.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct DeviceKeys {
    /// A number to show; nothing depends on it. Default: its place on the bus, from 1.
    #[serde(default)]
    address: Option<u32>,
    /// The device never answers.
    #[serde(default)]
    dead: bool,
}

/// Keys of a `[[device.point]]` on a simulated bus.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct PointKeys {
    /// The shape of the values over time.
    signal: Shape,
    /// Type of the values. Default: `i64` for a counter, `string` for a text, that of `value` for a
    /// constant, otherwise `f64`.
    #[serde(default, rename = "type")]
    kind: Option<Kind>,
    /// Time of one repetition, or between two steps of `random`, `counter` and `text`. Default `"10s"`.
    #[serde(default)]
    period: Option<Span>,
    /// Short for `low = -amplitude` and `high = amplitude`.
    #[serde(default)]
    amplitude: Option<f64>,
    /// Lowest value, or a counter's first. Default 0.
    #[serde(default)]
    low: Option<f64>,
    /// Highest value. Default 100.
    #[serde(default)]
    high: Option<f64>,
    /// The value of a constant, or the words of a text, in which `{n}` counts the periods.
    #[serde(default)]
    value: Option<Literal>,
}

/// The shapes that a configuration can name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Shape {
    /// A sine from `low` to `high`.
    Sine,
    /// Rises from `low` to `high`, falls back at once.
    Ramp,
    /// Half a period `low`, half a period `high`.
    Square,
    /// A new number between `low` and `high` at every period.
    Random,
    /// Counts up from `low` by one at every period.
    Counter,
    /// Always `value`.
    Constant,
    /// The words in `value`.
    Text,
}

impl Shape {
    /// The optional keys that mean something to this shape.
    fn keys(self) -> &'static [&'static str] {
        match self {
            Self::Sine | Self::Ramp | Self::Square | Self::Random => &["period", "amplitude", "low", "high"],
            Self::Counter => &["period", "low"],
            Self::Constant => &["value"],
            Self::Text => &["period", "value"],
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Sine => "sine",
            Self::Ramp => "ramp",
            Self::Square => "square",
            Self::Random => "random",
            Self::Counter => "counter",
            Self::Constant => "constant",
            Self::Text => "text",
        }
    }
}

/// A number, a truth value or a text, as TOML writes it.
#[derive(Debug, Clone, PartialEq)]
struct Literal(Value);

impl<'de> Deserialize<'de> for Literal {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl Visitor<'_> for Any {
            type Value = Literal;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number, true, false or a text")
            }
            fn visit_bool<E>(self, v: bool) -> Result<Literal, E> {
                Ok(Literal(Value::Bool(v)))
            }
            fn visit_i64<E>(self, v: i64) -> Result<Literal, E> {
                Ok(Literal(Value::Int(v)))
            }
            fn visit_f64<E: serde::de::Error>(self, v: f64) -> Result<Literal, E> {
                if v.is_finite() { Ok(Literal(Value::Float(v))) } else { Err(E::custom("it is not finite")) }
            }
            fn visit_str<E>(self, v: &str) -> Result<Literal, E> {
                Ok(Literal(Value::Text(v.into())))
            }
        }
        deserializer.deserialize_any(Any)
    }
}

impl JsonSchema for Literal {
    fn schema_name() -> Cow<'static, str> {
        "Literal".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": ["number", "boolean", "string"] })
    }
}

fn one() -> u32 {
    1
}

fn one_ms() -> Span {
    Span::ms(1)
}

const DEFAULT_PERIOD: Duration = Duration::from_secs(10);
const DEFAULT_HIGH: f64 = 100.0;

pub(crate) fn schemas() -> Schemas {
    Schemas { bus: schema_for!(BusKeys), device: schema_for!(DeviceKeys), point: schema_for!(PointKeys) }
}

/// Compiles a bus; every mistake of all its tables goes to `problems`.
pub(crate) fn compile(spec: &BusSpec<'_>, problems: &mut Vec<Problem>) -> Option<SimBus> {
    let before = problems.len();
    let keys = spec.table.parse::<BusKeys>(problems);
    if let Some(keys) = &keys
        && !(0.0..=1.0).contains(&keys.drop)
    {
        problems.push(
            Problem::new(spec.table.place_of("drop"), format!("`drop` cannot be `{}`", keys.drop))
                .hint("it is a share, from 0.0 to 1.0"),
        );
    }
    let seed = keys.as_ref().map_or(1, |k| u64::from(k.seed));
    let latency = keys.as_ref().map_or(Duration::ZERO, |k| k.latency.0);
    let mut bus = SimBus {
        plan: Plan::default(),
        points: Vec::new(),
        devices: Vec::new(),
        seed,
        latency,
        drop: keys.map_or(0.0, |k| k.drop),
        exchanges: 0,
        origin: None,
    };
    for (index, device) in spec.devices.iter().enumerate() {
        add_device(&mut bus, index, device, problems);
    }
    (problems.len() == before).then_some(bus)
}

/// Adds a device with its points, and one block for each of their intervals.
fn add_device(bus: &mut SimBus, index: usize, spec: &DeviceSpec<'_>, problems: &mut Vec<Problem>) {
    let keys = spec.table.parse::<DeviceKeys>(problems);
    let address =
        keys.as_ref().and_then(|k| k.address).map_or_else(|| (index + 1).to_string(), |a| a.to_string());
    bus.plan.devices.push(DeviceInfo { name: spec.name.clone(), address, models_at: None });
    bus.devices.push(SimDevice { dead: keys.is_some_and(|k| k.dead), timeout: spec.timeout });
    let first_block = bus.plan.blocks.len();
    for (nth, point) in spec.points.iter().enumerate() {
        let Some((generator, kind, source)) = point_of(point, problems) else { continue };
        let number = bus.plan.points.len();
        bus.points.push(SimPoint {
            key: key(bus.seed, &format!("{}/{}", spec.name, point.name)),
            kind,
            generator,
            held: None,
        });
        bus.plan.points.push(PointInfo {
            device: index,
            name: point.name.clone(),
            spec: Some(nth),
            unit: None,
            kind: kind.word().to_owned(),
            source,
            registers: None,
            writable: point.writable,
            every: point.interval,
        });
        let mut blocks = bus.plan.blocks[first_block..].iter_mut();
        match blocks.find(|block| block.every == point.interval) {
            Some(block) => block.points.push(number),
            None => bus.plan.blocks.push(Block {
                device: index,
                points: vec![number],
                every: point.interval,
                cost: bus.latency,
                what: String::new(),
            }),
        }
    }
    for block in &mut bus.plan.blocks[first_block..] {
        let points = block.points.len();
        block.what = format!("{points} simulated point{}", if points == 1 { "" } else { "s" });
    }
}

/// What a point gives, its type, and where it comes from in words.
fn point_of(spec: &PointSpec<'_>, problems: &mut Vec<Problem>) -> Option<(Generator, Kind, String)> {
    let table = &spec.table;
    let before = problems.len();
    let keys = table.parse::<PointKeys>(problems)?;
    let shape = keys.signal;
    let mut wrong = |key: &str, message: String, hint: &str| {
        problems.push(Problem::new(table.place_of(key), message).hint(hint));
    };
    if spec.interval.is_zero() {
        wrong(
            "interval",
            "`interval` cannot be zero".into(),
            "a point is polled every so often, such as \"1s\"",
        );
    }
    for key in ["period", "amplitude", "low", "high", "value"] {
        if table.contains(key) && !shape.keys().contains(&key) {
            let takes = format!("this signal takes {}", shape.keys().join(", "));
            wrong(key, format!("`{key}` means nothing to `{}`", shape.word()), &takes);
        }
    }
    if keys.period.is_some_and(|p| p.0.is_zero()) {
        wrong("period", "`period` cannot be zero".into(), "give a time such as \"10s\"");
    }
    if keys.amplitude.is_some() && (keys.low.is_some() || keys.high.is_some()) {
        wrong("amplitude", "`amplitude` stands beside `low` or `high`".into(), "give the one or the others");
    }
    for (key, number) in [("amplitude", keys.amplitude), ("low", keys.low), ("high", keys.high)] {
        if number.is_some_and(|x| !x.is_finite()) {
            wrong(key, format!("`{key}` is no finite number"), "give an ordinary number");
        }
    }
    if keys.amplitude.is_some_and(|a| a < 0.0) {
        wrong("amplitude", "`amplitude` is negative".into(), "give a number from 0");
    }
    let low = keys.low.unwrap_or_else(|| keys.amplitude.map_or(0.0, |a| -a));
    let high = keys.high.or(keys.amplitude).unwrap_or(DEFAULT_HIGH.max(low));
    if low > high && keys.high.is_some() {
        wrong("high", format!("`high` is below `low` ({low})"), "exchange the two");
    }
    let period = keys.period.map_or(DEFAULT_PERIOD, |p| p.0);
    let wave = Wave { low, high, period };
    let kind = keys.kind.unwrap_or_else(|| default_kind(shape, keys.value.as_ref()));
    let generator = match shape {
        Shape::Sine => Some(Generator::Number(Signal::Sine(wave), kind)),
        Shape::Ramp => Some(Generator::Number(Signal::Ramp(wave), kind)),
        Shape::Square => Some(Generator::Number(Signal::Square(wave), kind)),
        Shape::Random => Some(Generator::Number(Signal::Random(wave), kind)),
        Shape::Counter => Some(Generator::Number(Signal::Counter { start: low, period }, kind)),
        Shape::Constant => constant(keys.value, kind, table, problems),
        Shape::Text => text(keys.value, kind, period, table, problems),
    };
    let generator = generator.filter(|_| problems.len() == before)?;
    Some((generator, kind, format!("sim:{}", shape.word())))
}

fn default_kind(shape: Shape, value: Option<&Literal>) -> Kind {
    match (shape, value.map(|v| &v.0)) {
        (Shape::Counter, _) | (Shape::Constant, Some(Value::Int(_) | Value::UInt(_))) => Kind::I64,
        (Shape::Text, _) | (Shape::Constant, Some(Value::Text(_))) => Kind::String,
        (Shape::Constant, Some(Value::Bool(_))) => Kind::Bool,
        _ => Kind::F64,
    }
}

fn constant(
    value: Option<Literal>,
    kind: Kind,
    table: &Table<'_>,
    problems: &mut Vec<Problem>,
) -> Option<Generator> {
    let Some(Literal(value)) = value else {
        problems.push(Problem::new(table.place(), "`value` is missing").hint("a constant needs `value = …`"));
        return None;
    };
    let Some(fitting) = kind.fit(&value) else {
        let message = format!("`value` is not of type `{}`", kind.word());
        problems.push(Problem::new(table.place_of("value"), message).hint("change `value` or `type`"));
        return None;
    };
    Some(Generator::Fixed(fitting))
}

fn text(
    value: Option<Literal>,
    kind: Kind,
    period: Duration,
    table: &Table<'_>,
    problems: &mut Vec<Problem>,
) -> Option<Generator> {
    if kind != Kind::String {
        let message = format!("a text cannot be of type `{}`", kind.word());
        problems
            .push(Problem::new(table.place_of("type"), message).hint("leave `type` out, or say \"string\""));
        return None;
    }
    let template: Arc<str> = match value {
        None => "text {n}".into(),
        Some(Literal(Value::Text(text))) => text,
        Some(_) => {
            problems.push(
                Problem::new(table.place_of("value"), "`value` is not a text").hint("put it in quotes"),
            );
            return None;
        }
    };
    Some(Generator::Text { template, period })
}
