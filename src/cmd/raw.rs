//! `fieldgate read … --raw`: the registers themselves, and everything they could mean.

use std::io::Write;
use std::time::Duration;

use driver_api::Span;
use driver_modbus::config::Area;
use driver_modbus::place::{Place, Space, Which, place as parse};
use serde_json::{Value as Json, json};

use super::carrier::{Carrier, Reached, reach};
use super::decodings::{decodings, tables};
use super::exchange::ReadArgs;
use super::exit::Exit;
use super::models::{Answer, chain, locate, read};
use crate::poll::NotCarried;

/// Registers to look at.
struct Look {
    /// What it is called in the output.
    name: String,
    unit: u8,
    place: Place,
    count: u16,
}

/// Where a look turned out to be.
struct Seen {
    area: Area,
    first: u16,
}

/// What was asked for.
struct Asked {
    bus: String,
    looks: Vec<Look>,
    /// Where the device's models begin, if the configuration says it.
    models_at: Option<u16>,
}

/// Longest wait for an answer that may be asked for.
const LONGEST: Span = Span::s(10);

/// Reads and prints.
///
/// # Errors
/// Unknown names, a bus without registers, or a device that gave none.
pub fn run(args: &ReadArgs, out: &mut dyn Write) -> Result<(), Exit> {
    if args.timeout.0.is_zero() || args.timeout > LONGEST {
        return Err(Exit::Usage(format!("`--timeout` is more than 0 and at most {LONGEST}")));
    }
    let Asked { bus, looks, models_at } = looks(args)?;
    let Reached { mut carrier, driver, .. } = reach(&args.config, &bus)?;
    if !driver.starts_with("modbus-") {
        return Err(no_registers(&bus, driver));
    }
    let (mut rows, mut failed) = (Vec::new(), Vec::new());
    // All looks are at one device, so its models are asked for once.
    let mut models = None;
    for look in &looks {
        let mut seek = |which: Which| {
            let chain =
                models.get_or_insert_with(|| chain(&mut *carrier, look.unit, models_at, args.timeout.0));
            let chain = chain.as_ref().map_err(Clone::clone)?;
            locate(chain, which, look.place.at, look.count)
        };
        let seen = match look.place.space {
            Space::Table(area) => Ok(Seen { area, first: look.place.at }),
            Space::Model(which) => seek(which).map(|first| Seen { area: Area::Holding, first }),
        };
        let read = seen.and_then(|seen| Ok((look_at(&mut *carrier, look, &seen, args.timeout.0)?, seen)));
        let row = match read {
            Ok(((words, took), seen)) => {
                if !args.json {
                    text(look, &seen, &words, took, out)?;
                }
                shown(look, &seen, &words, took)
            }
            Err(why) => {
                failed.push(format!("{}: {why}", look.name));
                json!({ "name": look.name, "unit": look.unit, "register": look.place.to_string(), "error": why })
            }
        };
        rows.push(row);
    }
    if args.json {
        writeln!(out, "{:#}", Json::Array(rows))?;
    }
    if failed.is_empty() { Ok(()) } else { Err(Exit::Failed(failed.join("; "))) }
}

fn no_registers(bus: &str, driver: &str) -> Exit {
    Exit::Usage(format!("bus `{bus}` speaks `{driver}`, which has no registers to show"))
}

/// The bus, and what to look at there.
fn looks(args: &ReadArgs) -> Result<Asked, Exit> {
    if args.unit.is_some() || args.register.is_some() {
        let (Some(unit), Some(place)) = (args.unit, &args.register) else {
            return Err(Exit::Usage(
                "`--unit` and `--register` go together, after the name of a bus".to_owned(),
            ));
        };
        let place = parse(place).map_err(|(why, cure)| Exit::Usage(format!("{why}; {cure}")))?;
        let count = args.count.unwrap_or(1);
        let most: u16 = if place.space.area().bits() { 2000 } else { 125 };
        if !(1..=most).contains(&count) || u32::from(place.at) + u32::from(count) > 0x1_0000 {
            return Err(Exit::Usage(format!(
                "`--count` goes from 1 to {most}, and not beyond register 65535"
            )));
        }
        let look = Look { name: args.what.clone(), unit, place, count };
        return Ok(Asked { bus: args.what.clone(), looks: vec![look], models_at: None });
    }
    let (device, point) = match args.what.split_once('/') {
        Some((device, point)) => (device, Some(point)),
        None => (args.what.as_str(), None),
    };
    let loaded = super::load(&args.config)?;
    let Some(bus) = loaded.buses.iter().find(|bus| bus.devices.iter().any(|d| d.name == device)) else {
        return Err(Exit::Failed(super::no_device(device, &args.config, &loaded.buses)));
    };
    if !bus.driver.starts_with("modbus-") {
        return Err(no_registers(&bus.name, bus.driver));
    }
    let plan = bus.bus.plan();
    let (mut looks, mut models_at) = (Vec::new(), None);
    for info in &plan.points {
        let Some(owner) = plan.devices.get(info.device).filter(|d| d.name == device) else { continue };
        if point.is_some_and(|point| point != info.name) {
            continue;
        }
        // `holding:5 bit 3`: the register is what stands before the first blank.
        let place = info.source.split(' ').next().unwrap_or_default();
        let name = format!("{device}/{}", info.name);
        let (Ok(place), Ok(unit)) = (parse(place), owner.address.parse()) else {
            return Err(Exit::Failed(format!("{name}: {} is no register", info.source)));
        };
        let count = args.count.or(info.registers).unwrap_or(1);
        looks.push(Look { name, unit, place, count });
        models_at = owner.models_at;
    }
    if looks.is_empty() {
        let points: Vec<&str> = plan.points.iter().map(|p| p.name.as_str()).collect();
        return Err(Exit::Failed(format!(
            "`{device}` has no point `{}`; bus `{}` has {}",
            point.unwrap_or_default(),
            bus.name,
            points.join(", ")
        )));
    }
    Ok(Asked { bus: bus.name.clone(), looks, models_at })
}

/// The registers, or the bits as words of 0 and 1.
fn look_at(
    carrier: &mut dyn Carrier,
    look: &Look,
    seen: &Seen,
    wait: Duration,
) -> Result<(Vec<u16>, Duration), String> {
    match read(carrier, look.unit, seen.area, (seen.first, look.count), wait)? {
        Answer::Words(words, took) => Ok((words, took)),
        Answer::Exception(code) => Err(driver_api::ReadError::Refused(code).to_string()),
        Answer::Silence => Err(NotCarried::Silent.to_string()),
    }
}

/// Where it is, for people: a register of a model with the address that it turned out to have.
fn found(look: &Look, seen: &Seen) -> String {
    match look.place.space {
        Space::Table(_) => look.place.to_string(),
        Space::Model(_) => format!("{} at {}:{}", look.place, seen.area, seen.first),
    }
}

fn millis(took: Duration) -> f64 {
    (took.as_secs_f64() * 1e5).round() / 100.0
}

fn text(look: &Look, seen: &Seen, words: &[u16], took: Duration, out: &mut dyn Write) -> std::io::Result<()> {
    let what = match (seen.area.bits(), words.len()) {
        (true, 1) => "1 bit".to_owned(),
        (true, n) => format!("{n} bits"),
        (false, 1) => "1 register".to_owned(),
        (false, n) => format!("{n} registers"),
    };
    writeln!(
        out,
        "{}: unit {}, {}, {what} in {:.1} ms",
        look.name,
        look.unit,
        found(look, seen),
        millis(took)
    )?;
    if !seen.area.bits() {
        return out.write_all(tables(&seen.area.to_string(), seen.first, words).as_bytes());
    }
    for (index, bits) in words.chunks(16).enumerate() {
        let first = u32::from(seen.first) + u32::try_from(index * 16).unwrap_or(0);
        let shown: Vec<String> = bits.iter().map(ToString::to_string).collect();
        writeln!(out, "  {:<16} {}", format!("{}:{first}", seen.area), shown.join(" "))?;
    }
    Ok(())
}

fn shown(look: &Look, seen: &Seen, words: &[u16], took: Duration) -> Json {
    let mut row = json!({
        "name": look.name, "unit": look.unit, "register": format!("{}:{}", seen.area, seen.first),
        "count": words.len(), "ms": millis(took),
    });
    if let Space::Model(_) = look.place.space {
        row["place"] = json!(look.place.to_string());
    }
    if seen.area.bits() {
        row["bits"] = json!(words);
    } else {
        row["hex"] = words.iter().map(|word| json!(format!("{word:04X}"))).collect();
        row["decodings"] = json!(decodings(words));
    }
    row
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEVICE: &str = "[[bus]]\nname = 'plc'\ndriver = 'modbus-tcp'\naddress = '127.0.0.1:1'\n\
        [[device]]\nname = 'inverter'\nbus = 'plc'\naddress = 3\nsunspec_base = 50000\n\
        [[device.point]]\nname = 'scaled'\nregister = 'holding:9'\ntype = 'i16'\nscale_register = 'holding:8'\n\
        [[device.point]]\nname = 'power'\nregister = 'model:103:14'\ntype = 'i16'\n\
        [[device.point]]\nname = 'energy'\nregister = 'input:4'\ntype = 'u64'\n\
        [[device.point]]\nname = 'on'\nregister = 'coil:4'\n";

    fn asked(what: &str, count: Option<u16>) -> Result<Asked, Exit> {
        let dir = tempfile::tempdir().expect("directory");
        let config = dir.path().join("f.toml");
        std::fs::write(&config, DEVICE).expect("written");
        let (what, timeout) = (what.to_owned(), Span::s(1));
        looks(&ReadArgs { what, raw: true, unit: None, register: None, count, timeout, config, json: false })
    }

    #[test]
    fn a_point_is_looked_at_in_as_many_registers_as_it_has_whatever_its_values_are() {
        let asked = asked("inverter", None).unwrap_or_else(|exit| panic!("{exit}"));
        let seen: Vec<_> =
            asked.looks.iter().map(|l| (l.name.as_str(), l.place.to_string(), l.count)).collect();
        assert_eq!(
            seen,
            [
                ("inverter/scaled", "holding:9".to_owned(), 1),
                ("inverter/power", "model:103:14".to_owned(), 1),
                ("inverter/energy", "input:4".to_owned(), 4),
                ("inverter/on", "coil:4".to_owned(), 1),
            ]
        );
        assert_eq!(asked.models_at, Some(50_000), "as the device's table says");
    }

    #[test]
    fn more_registers_may_be_asked_for_than_the_point_has() {
        let more = asked("inverter/scaled", Some(5)).unwrap_or_else(|exit| panic!("{exit}"));
        assert_eq!(more.looks[0].count, 5, "what was asked for goes before");
        assert_eq!(asked("inverter/nothing", None).err().map(|exit| exit.code()), Some(1));
    }

    #[test]
    fn a_register_in_a_model_is_shown_with_both_its_places() {
        let asked = asked("inverter/power", None).unwrap_or_else(|exit| panic!("{exit}"));
        let (look, seen) = (&asked.looks[0], Seen { area: Area::Holding, first: 50_084 });
        let (mut out, took) = (Vec::new(), Duration::from_millis(3));
        text(look, &seen, &[7], took, &mut out).expect("written");
        let out = String::from_utf8(out).expect("text");
        assert!(
            out.starts_with("inverter/power: unit 3, model:103:14 at holding:50084, 1 register"),
            "{out}"
        );
        let row = shown(look, &seen, &[7], took);
        assert_eq!((&row["register"], &row["place"]), (&json!("holding:50084"), &json!("model:103:14")));
    }
}
