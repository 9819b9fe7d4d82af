//! `fieldgate ports`: serial ports and I²C buses of this machine, under the names that stay.
//!
//! A USB adapter is `/dev/ttyUSB0` today and `/dev/ttyUSB1` after the next unplugging; its name under
//! `/dev/serial/by-id` (or `by-path`) stays. Opens nothing, so it disturbs nobody. Each port says which bus of the
//! configuration opens it, and a port that the configuration names and that is not there is listed as missing.

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Args as ClapArgs;
use serde::Serialize;

use super::exit::Exit;
use crate::config::Loaded;

/// Lists serial ports and I²C buses under their stable names, and which bus of the configuration uses which.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// Prints JSON.
    #[arg(long)]
    json: bool,
}

/// One port.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
struct Port {
    kind: &'static str,
    /// What to write into the configuration.
    name: String,
    /// What it is called now; `null` where it is not there.
    device: Option<String>,
    /// What the kernel says it is.
    description: String,
    /// Whether it is there. What is not is in the list because the configuration names it.
    present: bool,
    /// The bus of the configuration that opens it.
    bus: Option<String>,
    /// What the configuration calls it.
    configured: Option<String>,
}

/// A port that the configuration names.
struct Used {
    bus: String,
    kind: &'static str,
    path: String,
}

/// What stands for the description of a port that is not there.
const MISSING: &str = "not there";

/// Prints the list.
///
/// # Errors
/// Output cannot be written; [`Exit::Config`] behind the list where the `config` that was named has mistakes.
pub fn run(args: &Args, config: Option<&Path>, out: &mut dyn Write) -> Result<(), Exit> {
    let mut ports = list(Path::new("/"));
    let loaded = config
        .or(Some(Path::new(super::DEFAULT_CONFIG)).filter(|path| path.exists()))
        .map(super::load)
        .transpose();
    if let Ok(Some(loaded)) = &loaded {
        mark(&mut ports, used(loaded), |path| std::fs::canonicalize(path).ok());
    }
    if args.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&ports).map_err(|e| Exit::Failed(e.to_string()))?)?;
    } else {
        show(&ports, out)?;
    }
    match loaded {
        Ok(_) => Ok(()),
        // Ports are looked at before there is a configuration, and while it is written.
        Err(_) if config.is_none() => {
            eprintln!(
                "the configuration has mistakes, see `fieldgate check`: no port is marked with its bus"
            );
            Ok(())
        }
        Err(exit) => Err(exit),
    }
}

fn show(ports: &[Port], out: &mut dyn Write) -> std::io::Result<()> {
    if !ports.iter().any(|port| port.present) {
        writeln!(out, "no serial port and no I²C bus found")?;
        writeln!(out, "  a USB adapter should show in `dmesg`; I²C is switched on in `raspi-config`")?;
    }
    for port in ports {
        writeln!(out, "{:<7} {}", port.kind, port.name)?;
        let now = port.device.as_ref().filter(|device| **device != port.name);
        let now = now.map_or(String::new(), |device| format!("now {device}, "));
        writeln!(out, "        {now}{}", port.description)?;
        let Some(bus) = &port.bus else { continue };
        // A link of one's own making (udev) stays, too.
        let passing = port.configured != Some(port.name.clone()) && port.configured == port.device;
        let passing = match &port.configured {
            Some(name) if passing => format!(", as {name}: another adapter's name after the next replugging"),
            _ => String::new(),
        };
        writeln!(out, "        bus `{bus}` of the configuration{passing}")?;
    }
    Ok(())
}

/// The ports of a configuration: what is reached over the network has a path of another kind, and a simulated bus none.
fn used(loaded: &Loaded) -> Vec<Used> {
    let buses = loaded.buses.iter().chain(&loaded.idle).filter(|bus| bus.endpoint.starts_with('/'));
    let kind = |driver: &str| if driver == "i2c" { "i2c" } else { "serial" };
    buses
        .map(|bus| Used { bus: bus.name.clone(), kind: kind(bus.driver), path: bus.endpoint.clone() })
        .collect()
}

/// Notes which bus opens which port, and adds what the configuration alone knows of. `real`: where a path leads.
fn mark(ports: &mut Vec<Port>, used: Vec<Used>, real: impl Fn(&str) -> Option<PathBuf>) {
    for Used { bus, kind, path } in used {
        let place = real(&path);
        let is_it = |port: &&mut Port| {
            place.is_some() && port.device.as_deref().is_some_and(|device| real(device) == place)
        };
        if let Some(port) = ports.iter_mut().find(is_it) {
            (port.bus, port.configured) = (Some(bus), Some(path));
            continue;
        }
        let device = place.map(|place| place.display().to_string());
        let present = device.is_some();
        let description = if present { "no hardware of its own" } else { MISSING }.to_owned();
        let configured = Some(path.clone());
        ports.push(Port { kind, name: path, device, description, present, bus: Some(bus), configured });
    }
    ports.sort();
}

/// All ports below `root` (`/`, or a test's own tree), sorted.
fn list(root: &Path) -> Vec<Port> {
    let mut ports = serial(root);
    ports.extend(i2c(root));
    ports.sort();
    ports
}

fn found(kind: &'static str, name: String, device: String, description: String) -> Port {
    Port { kind, name, device: Some(device), description, present: true, bus: None, configured: None }
}

fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|e| e.file_name().to_string_lossy().into_owned()).collect()
}

fn serial(root: &Path) -> Vec<Port> {
    let class = root.join("sys/class/tty");
    names(&class)
        .into_iter()
        .filter(|tty| {
            // Only what has hardware behind it: virtual consoles have no device, and an 8250 that
            // was never found is bound to the driver under the name serial8250.
            let driver = std::fs::read_link(class.join(tty).join("device/driver"));
            driver.is_ok_and(|d| d.file_name().is_some_and(|name| name != "serial8250"))
        })
        .map(|tty| {
            let device = format!("/dev/{tty}");
            let name = stable(root, &device).unwrap_or_else(|| device.clone());
            let description = describe(&class.join(&tty).join("device"));
            found("serial", name, device, description)
        })
        .collect()
}

/// The name under by-id, or else by-path, that leads to this device.
fn stable(root: &Path, device: &str) -> Option<String> {
    let target = Path::new(device).file_name()?.to_owned();
    ["dev/serial/by-id", "dev/serial/by-path"].iter().find_map(|dir| {
        let dir = root.join(dir);
        let name = names(&dir)
            .into_iter()
            .find(|name| std::fs::read_link(dir.join(name)).is_ok_and(|l| l.file_name() == Some(&target)))?;
        Some(format!("/{}", dir.join(name).strip_prefix(root).ok()?.display()))
    })
}

/// Maker and product of the nearest USB parent, or the driver's name.
fn describe(device: &Path) -> String {
    let mut at: PathBuf = device.canonicalize().unwrap_or_else(|_| device.to_path_buf());
    for _ in 0..6 {
        let word = |file: &str| std::fs::read_to_string(at.join(file)).map(|s| s.trim().to_owned());
        if let Ok(product) = word("product") {
            let maker = word("manufacturer").unwrap_or_default();
            return format!("{maker} {product}").trim().to_owned();
        }
        if !at.pop() {
            break;
        }
    }
    std::fs::read_link(device.join("driver"))
        .ok()
        .and_then(|d| Some(d.file_name()?.to_string_lossy().into_owned()))
        .unwrap_or_else(|| "no description".to_owned())
}

fn i2c(root: &Path) -> Vec<Port> {
    let class = root.join("sys/class/i2c-dev");
    names(&class)
        .into_iter()
        .map(|bus| {
            let device = format!("/dev/{bus}");
            let description = std::fs::read_to_string(class.join(&bus).join("name"))
                .map_or_else(|_| "no description".to_owned(), |name| name.trim().to_owned());
            found("i2c", device.clone(), device, description)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_usb_adapter_is_named_by_id_and_phantoms_are_left_out() {
        let root = tempfile::tempdir().expect("temp dir");
        let at = |p: &str| root.path().join(p);
        for dir in [
            "dev/serial/by-id",
            "sys/devices/usb1/1-1/1-1:1.0/ttyUSB0",
            "sys/devices/phantom",
            "sys/bus/drivers/ftdi_sio",
            "sys/bus/drivers/serial8250",
            "sys/class/tty/ttyUSB0",
            "sys/class/tty/ttyS0",
            "sys/class/tty/tty1",
            "sys/class/i2c-dev/i2c-1",
        ] {
            std::fs::create_dir_all(at(dir)).expect("dir");
        }
        std::fs::write(at("sys/devices/usb1/1-1/manufacturer"), "FTDI\n").expect("file");
        std::fs::write(at("sys/devices/usb1/1-1/product"), "FT232R USB UART\n").expect("file");
        std::fs::write(at("sys/class/i2c-dev/i2c-1/name"), "bcm2835 (i2c@7e804000)\n").expect("file");
        let usb = "sys/devices/usb1/1-1/1-1:1.0/ttyUSB0";
        symlink(at("sys/bus/drivers/ftdi_sio"), at(usb).join("driver")).expect("link");
        symlink(at("sys/bus/drivers/serial8250"), at("sys/devices/phantom/driver")).expect("link");
        symlink(at(usb), at("sys/class/tty/ttyUSB0/device")).expect("link");
        symlink(at("sys/devices/phantom"), at("sys/class/tty/ttyS0/device")).expect("link");
        symlink("../../ttyUSB0", at("dev/serial/by-id/usb-FTDI_FT232R-if00-port0")).expect("link");
        let ports = list(root.path());
        assert_eq!(
            ports,
            [
                found("i2c", "/dev/i2c-1".into(), "/dev/i2c-1".into(), "bcm2835 (i2c@7e804000)".into()),
                found(
                    "serial",
                    "/dev/serial/by-id/usb-FTDI_FT232R-if00-port0".into(),
                    "/dev/ttyUSB0".into(),
                    "FTDI FT232R USB UART".into()
                ),
            ]
        );
    }

    #[test]
    fn each_port_says_its_bus_and_what_the_configuration_names_in_vain_is_missing() {
        let by_id = "/dev/serial/by-id/usb-A";
        let mut ports = vec![
            found("serial", by_id.into(), "/dev/ttyUSB0".into(), "A".into()),
            found("serial", "/dev/ttyS0".into(), "/dev/ttyS0".into(), "B".into()),
        ];
        let used = [("rs485", "/dev/ttyUSB0"), ("scale", "/dev/serial/by-id/usb-gone"), ("pty", "/tmp/line")];
        let used = used.map(|(bus, path)| Used { bus: bus.into(), kind: "serial", path: path.into() });
        let real = |path: &str| match path {
            "/tmp/line" => Some(PathBuf::from("/dev/pts/7")),
            path if path.starts_with("/dev/tty") => Some(PathBuf::from(path)),
            _ => None,
        };
        mark(&mut ports, used.into(), real);
        let mut shown = Vec::new();
        show(&ports, &mut shown).expect("memory takes it");
        let shown = String::from_utf8(shown).expect("text");
        let expected = "\
serial  /dev/serial/by-id/usb-A
        now /dev/ttyUSB0, A
        bus `rs485` of the configuration, as /dev/ttyUSB0: another adapter's name after the next replugging
serial  /dev/serial/by-id/usb-gone
        not there
        bus `scale` of the configuration
serial  /dev/ttyS0
        B
serial  /tmp/line
        now /dev/pts/7, no hardware of its own
        bus `pty` of the configuration
";
        assert_eq!(shown, expected);
    }
}
