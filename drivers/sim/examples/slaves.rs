//! Simulated devices to try other programs on: prints where they are, runs until Ctrl-C, and then
//! prints the ledger.
//!
//! `cargo run -p driver-sim --example slaves`

use std::time::Duration;

use driver_sim::signals::{Signal, Wave};
use driver_sim::slaves::{Area, Kind, Layout, LayoutError, Registers, RtuOptions, RtuSlave};
use driver_sim::slaves::{ScaleOptions, ScaleSlave, Source, TcpSlave};

/// `input:0` counts its reads, `input:2` is a voltage, `holding:0` and `coil:0` can be written.
fn image(units: std::ops::RangeInclusive<u8>) -> Result<Registers, LayoutError> {
    let sine = Signal::Sine(Wave { low: 220.0, high: 240.0, period: Duration::from_secs(60) });
    let mut layout = Layout::new(1, 0);
    for unit in units {
        layout = layout
            .with(unit, Area::Input, 0, Kind::U32, Source::Serves)
            .with(unit, Area::Input, 2, Kind::F32, Source::Signal(sine))
            .with(unit, Area::Holding, 0, Kind::U16, Source::Held(0.0))
            .with(unit, Area::Coil, 0, Kind::Bool, Source::Held(0.0));
    }
    layout.build()
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let options = RtuOptions { baud: 19_200, turnaround: Duration::from_millis(5), link: None };
    let rtu = RtuSlave::start(image(1..=3)?, options)?;
    let tcp = TcpSlave::start(image(1..=1)?, 0).await?;
    let scale = ScaleSlave::start(ScaleOptions::default())?;
    let shown = |path: Option<&std::path::Path>| path.map_or_else(String::new, |p| p.display().to_string());
    println!("modbus-rtu {} (19200 baud, units 1 to 3)", shown(rtu.path()));
    println!("modbus-tcp {} (unit 1)", tcp.address());
    println!("scale      {} (9600 baud, once a second)", shown(scale.path()));
    tokio::signal::ctrl_c().await?;
    for row in rtu.registers().ledger().iter().chain(&tcp.registers().ledger()) {
        let last = row.last.as_ref().map_or_else(|| "-".to_owned(), |serve| serve.value.to_string());
        let place = format!("{:?} {}", row.area, row.address);
        println!("unit {} {place:<10} good {:>6} last {last:<12} writes {}", row.unit, row.good, row.writes);
    }
    println!("{:?}", rtu.stats());
    let ledger = scale.ledger();
    println!("scale: {} said, {} unheard", ledger.good, ledger.unheard);
    Ok(())
}
