//! `fieldgate read … --raw`: the registers themselves, and everything they could mean.

use std::io::Write;
use std::time::Duration;

use driver_api::Span;
use driver_modbus::config::{Area, register};
use serde_json::{Value as Json, json};

use super::carrier::{Carrier, Reached, reach};
use super::decodings::{decodings, tables};
use super::exchange::ReadArgs;
use super::exit::Exit;

/// Registers to look at.
struct Look {
    /// What it is called in the output.
    name: String,
    unit: u8,
    area: Area,
    first: u16,
    count: u16,
}

/// What was asked for.
struct Asked {
    bus: String,
    looks: Vec<Look>,
    /// Points that cannot be looked at, and why not.
    skipped: Vec<(String, String)>,
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
    let Asked { bus, looks, skipped } = looks(args)?;
    let Reached { mut carrier, driver, .. } = reach(&args.config, &bus)?;
    if !driver.starts_with("modbus-") {
        return Err(no_registers(&bus, driver));
    }
    let (mut rows, mut failed) = (Vec::new(), Vec::new());
    for look in &looks {
        let row = match read(&mut *carrier, look, args.timeout.0) {
            Ok((words, took)) => {
                if !args.json {
                    text(look, &words, took, out)?;
                }
                shown(look, &words, took)
            }
            Err(why) => {
                failed.push(format!("{}: {why}", look.name));
                json!({ "name": look.name, "unit": look.unit, "register": place(look), "error": why })
            }
        };
        rows.push(row);
    }
    for (name, why) in &skipped {
        if !args.json {
            writeln!(out, "{name}: not shown: {why}")?;
        }
        rows.push(json!({ "name": name, "skipped": why }));
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
        let (area, first) = register(place).map_err(|(why, cure)| Exit::Usage(format!("{why}; {cure}")))?;
        let count = args.count.unwrap_or(1);
        let most: u16 = if area.bits() { 2000 } else { 125 };
        if !(1..=most).contains(&count) || u32::from(first) + u32::from(count) > 0x1_0000 {
            return Err(Exit::Usage(format!(
                "`--count` goes from 1 to {most}, and not beyond register 65535"
            )));
        }
        let look = Look { name: args.what.clone(), unit, area, first, count };
        return Ok(Asked { bus: args.what.clone(), looks: vec![look], skipped: Vec::new() });
    }
    let (device, point) = match args.what.split_once('/') {
        Some((device, point)) => (device, Some(point)),
        None => (args.what.as_str(), None),
    };
    let loaded = super::load(&args.config)?;
    let Some(bus) = loaded.buses.iter().find(|bus| bus.devices.iter().any(|d| d.name == device)) else {
        return Err(Exit::Failed(format!("no device `{device}` in {}", args.config.display())));
    };
    if !bus.driver.starts_with("modbus-") {
        return Err(no_registers(&bus.name, bus.driver));
    }
    let plan = bus.bus.plan();
    let (mut looks, mut skipped) = (Vec::new(), Vec::new());
    for info in &plan.points {
        let Some(owner) = plan.devices.get(info.device).filter(|d| d.name == device) else { continue };
        if point.is_some_and(|point| point != info.name) {
            continue;
        }
        // `holding:5 bit 3`: the register is what stands before the first blank.
        let place = info.source.split(' ').next().unwrap_or_default();
        let name = format!("{device}/{}", info.name);
        // `model:103:14`: where the model begins is found by asking the device, which is the driver's work.
        let (Ok((area, first)), Ok(unit)) = (register(place), owner.address.parse()) else {
            let why = format!(
                "where {place} is, only the device knows; `fieldgate read {name}` finds it, and a BUS with `--unit` \
                 and `--register` shows any register"
            );
            skipped.push((name, why));
            continue;
        };
        let count = args.count.or(info.registers).unwrap_or(1);
        looks.push(Look { name, unit, area, first, count });
    }
    if looks.is_empty() && !skipped.is_empty() {
        let all: Vec<String> = skipped.iter().map(|(name, why)| format!("{name}: {why}")).collect();
        return Err(Exit::Failed(all.join("; ")));
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
    Ok(Asked { bus: bus.name.clone(), looks, skipped })
}

/// The registers, or the bits as words of 0 and 1.
fn read(carrier: &mut dyn Carrier, look: &Look, wait: Duration) -> Result<(Vec<u16>, Duration), String> {
    let function = match look.area {
        Area::Coil => 1,
        Area::Discrete => 2,
        Area::Holding => 3,
        Area::Input => 4,
    };
    let ([a, b], [c, d]) = (look.first.to_be_bytes(), look.count.to_be_bytes());
    let carried =
        carrier.carry(look.unit, &[function, a, b, c, d], wait).map_err(|failed| failed.to_string())?;
    let data = match &carried.answer[..] {
        [f, code, ..] if f & 0x80 != 0 => return Err(driver_api::ReadError::Refused(*code).to_string()),
        [_, _, data @ ..] => data,
        _ => return Err("an answer without data".to_owned()),
    };
    let words: Vec<u16> = if look.area.bits() {
        let bits = data.iter().flat_map(|byte| (0..8).map(move |bit| u16::from(byte >> bit & 1)));
        bits.take(usize::from(look.count)).collect()
    } else {
        data.chunks_exact(2).map(|w| u16::from_be_bytes([w[0], w[1]])).collect()
    };
    Ok((words, carried.took))
}

fn place(look: &Look) -> String {
    format!("{}:{}", look.area, look.first)
}

fn millis(took: Duration) -> f64 {
    (took.as_secs_f64() * 1e5).round() / 100.0
}

fn text(look: &Look, words: &[u16], took: Duration, out: &mut dyn Write) -> std::io::Result<()> {
    let what = match (look.area.bits(), words.len()) {
        (true, 1) => "1 bit".to_owned(),
        (true, n) => format!("{n} bits"),
        (false, 1) => "1 register".to_owned(),
        (false, n) => format!("{n} registers"),
    };
    writeln!(out, "{}: unit {}, {}, {what} in {:.1} ms", look.name, look.unit, place(look), millis(took))?;
    if !look.area.bits() {
        return out.write_all(tables(&look.area.to_string(), look.first, words).as_bytes());
    }
    for (index, bits) in words.chunks(16).enumerate() {
        let first = u32::from(look.first) + u32::try_from(index * 16).unwrap_or(0);
        let shown: Vec<String> = bits.iter().map(ToString::to_string).collect();
        writeln!(out, "  {:<16} {}", format!("{}:{first}", look.area), shown.join(" "))?;
    }
    Ok(())
}

fn shown(look: &Look, words: &[u16], took: Duration) -> Json {
    let mut row = json!({
        "name": look.name, "unit": look.unit, "register": place(look), "count": words.len(), "ms": millis(took),
    });
    if look.area.bits() {
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
        [[device]]\nname = 'inverter'\nbus = 'plc'\naddress = 3\n\
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
        let seen: Vec<_> = asked.looks.iter().map(|l| (l.name.as_str(), place(l), l.count)).collect();
        assert_eq!(
            seen,
            [
                ("inverter/scaled", "holding:9".to_owned(), 1),
                ("inverter/energy", "input:4".to_owned(), 4),
                ("inverter/on", "coil:4".to_owned(), 1),
            ]
        );
        let [(name, why)] = &asked.skipped[..] else { panic!("one: {:?}", asked.skipped) };
        assert!(
            name == "inverter/power" && why.contains("where model:103:14 is, only the device knows"),
            "{why}"
        );
    }

    #[test]
    fn a_point_in_a_model_alone_is_no_misuse_and_the_true_reason_is_told() {
        let exit = asked("inverter/power", None).err().expect("nothing to look at");
        assert!(
            exit.code() == 1 && exit.to_string().contains("`fieldgate read inverter/power` finds it"),
            "{exit}"
        );
        let more = asked("inverter/scaled", Some(5)).unwrap_or_else(|exit| panic!("{exit}"));
        assert_eq!(more.looks[0].count, 5, "what was asked for goes before");
    }
}
