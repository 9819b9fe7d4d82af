//! `fieldgate ports`: serial ports and I²C buses of this machine, under the names that stay.
//!
//! A USB adapter is `/dev/ttyUSB0` today and `/dev/ttyUSB1` after the next unplugging; its name under
//! `/dev/serial/by-id` (or `by-path`) stays. Opens nothing, so it disturbs nobody.

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Args as ClapArgs;
use serde::Serialize;

use super::exit::Exit;

/// Lists serial ports and I²C buses under their stable names.
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
    /// What it is called now.
    device: String,
    /// What the kernel says it is.
    description: String,
}

/// Prints the list.
///
/// # Errors
/// Output cannot be written.
pub fn run(args: &Args, out: &mut dyn Write) -> Result<(), Exit> {
    let ports = list(Path::new("/"));
    if args.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&ports).map_err(|e| Exit::Failed(e.to_string()))?)?;
        return Ok(());
    }
    if ports.is_empty() {
        writeln!(out, "no serial port and no I²C bus found")?;
        writeln!(out, "  a USB adapter should show in `dmesg`; I²C is switched on in `raspi-config`")?;
    }
    for port in ports {
        writeln!(out, "{:<7} {}", port.kind, port.name)?;
        let now = if port.device == port.name { String::new() } else { format!("now {}, ", port.device) };
        writeln!(out, "        {now}{}", port.description)?;
    }
    Ok(())
}

/// All ports below `root` (`/`, or a test's own tree), sorted.
fn list(root: &Path) -> Vec<Port> {
    let mut ports = serial(root);
    ports.extend(i2c(root));
    ports.sort();
    ports
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
            Port { kind: "serial", name, device, description }
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
            Port { kind: "i2c", name: device.clone(), device, description }
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
                Port {
                    kind: "i2c",
                    name: "/dev/i2c-1".into(),
                    device: "/dev/i2c-1".into(),
                    description: "bcm2835 (i2c@7e804000)".into()
                },
                Port {
                    kind: "serial",
                    name: "/dev/serial/by-id/usb-FTDI_FT232R-if00-port0".into(),
                    device: "/dev/ttyUSB0".into(),
                    description: "FTDI FT232R USB UART".into()
                },
            ]
        );
    }
}
