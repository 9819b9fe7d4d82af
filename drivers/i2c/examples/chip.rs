//! Reads one chip on a real bus, for bringing up a new chip file:
//! `cargo run -p driver-i2c --example chip -- /dev/i2c-1 0x76 bme280 5`.

use std::process::ExitCode;
use std::time::Duration;

use driver_api::{BusSpec, DeviceSpec, Driver, Table, Wire};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [path, address, chip, rest @ ..] = arguments.as_slice() else {
        eprintln!("usage: chip PATH ADDRESS CHIP [COUNT]");
        return ExitCode::from(64);
    };
    let count: u32 = rest.first().and_then(|n| n.parse().ok()).unwrap_or(1);
    match read(path, address, chip, count).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn read(path: &str, address: &str, chip: &str, count: u32) -> Result<(), Box<dyn std::error::Error>> {
    let bus = format!("path = '{path}'");
    let device = format!("address = {address}\nchip = '{chip}'");
    let spec = BusSpec {
        name: "bus".into(),
        wire: Wire::default(),
        table: Table::from_text(0, &bus)?,
        devices: vec![DeviceSpec {
            name: chip.into(),
            interval: Duration::from_secs(1),
            timeout: Duration::from_millis(500),
            table: Table::from_text(0, &device)?,
            points: Vec::new(),
        }],
    };
    let mut problems = Vec::new();
    let Some(mut bus) = driver_i2c::I2c.compile(spec, &mut problems) else {
        return Err(problems.iter().map(|p| p.message.as_str()).collect::<Vec<_>>().join("; ").into());
    };
    bus.open().await?;
    for n in 0..count {
        if n > 0 {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        let mut samples = Vec::new();
        bus.read(0, &mut samples).await?;
        for sample in samples {
            let point = &bus.plan().points[sample.point];
            match sample.value {
                Ok(value) => println!("{} {value} {}", point.name, point.unit.as_deref().unwrap_or_default()),
                Err(reason) => println!("{} bad {}", point.name, reason.word()),
            }
        }
    }
    Ok(())
}
