//! Both I²C chips, end to end: a bus with a script that is exact to the transaction, a whole gateway in this
//! process, and mosquitto as the cloud.

use std::io;
use std::sync::atomic::{AtomicU32, Ordering};

use driver_api::Driver;
use driver_i2c::testing::ScriptedI2c;
use driver_i2c::{I2c, I2cPort};
use fieldgate::config;
use fieldgate::runtime::Gateway;
use support::messages::readings;
use support::{Mosquitto, Reading, seconds, temporary};

/// Trimming values and raw data of the worked example in Bosch's BMP280 datasheet (BST-BMP280-DS001, 3.12), with
/// humidity trimming of an ordinary part: 25.08 °C and 1006.53 hPa.
const TRIMMING: &str = "70 6B 43 67 18 FC 7D 8E 43 D6 D0 0B 27 0B 8C 00 F9 FF 8C 3C F8 C6 70 17 00 4B";
const TRIMMING_H: &str = "6A 01 00 13 28 03 1E";
const EXAMPLE: &str = "65 5A C0 7E ED 00 75 30";

static OPENED: AtomicU32 = AtomicU32::new(0);

/// `/dev/i2c-air`: a BME280 at 0x76 that needs a moment for its calibration and for its first measurement.
/// `/dev/i2c-room`: a TMP102 at 0x48 that shows 25 °C, then -25 °C, then is gone for one exchange.
fn open(path: &str) -> io::Result<Box<dyn I2cPort>> {
    OPENED.fetch_add(1, Ordering::SeqCst);
    let bus = ScriptedI2c::new();
    let bus = match path {
        "/dev/i2c-air" => bus
            .write_read(0x76, "D0", "60")
            .write(0x76, "E0 B6")
            .write_read(0x76, "F3", "01")
            .write_read(0x76, "F3", "00")
            .write_read(0x76, "88", TRIMMING)
            .write_read(0x76, "E1", TRIMMING_H)
            .write(0x76, "F2 01")
            .write(0x76, "F4 24")
            .for_ever()
            .write_read(0x76, "F2", "01 00 24")
            .write(0x76, "F4 25")
            .write_read(0x76, "F3", "08")
            .write_read(0x76, "F3", "00")
            .write_read(0x76, "F7", EXAMPLE),
        "/dev/i2c-room" => bus
            .write_read(0x48, "01", "60 A0")
            .write(0x48, "01 60 E0")
            .write_read(0x48, "01", "60 E0")
            .write_read(0x48, "00", "19 00")
            .write_read(0x48, "01", "60 E0")
            .write_read(0x48, "00", "E7 00")
            .write_read(0x48, "01", "60 E0")
            .fails(6) // ENXIO: no acknowledge
            .write_read(0x48, "01", "60 A0")
            .write(0x48, "01 60 E0")
            .write_read(0x48, "01", "60 E0")
            .write_read(0x48, "00", "00 40")
            .for_ever()
            .write_read(0x48, "01", "60 E0")
            .write_read(0x48, "00", "00 40"),
        _ => return Err(io::ErrorKind::NotFound.into()),
    };
    Ok(Box::new(bus))
}

static SCRIPTED: I2c = I2c::with_ports(open);

#[test]
fn both_chips_reach_the_cloud_through_the_whole_gateway() {
    let home = temporary();
    let cloud = Mosquitto::start(home.path());
    let observer = cloud.observe();
    let text = format!(
        "[gateway]\nid = \"box\"\nclock = \"trusted\"\n[store]\npath = \"store\"\nmin_free = \"1MiB\"\n\
         [[broker.listener]]\nbind = \"127.0.0.1:0\"\n\
         [[uplink]]\nname = \"cloud\"\nurl = \"mqtt://127.0.0.1:{}\"\n\
         [[bus]]\nname = \"one\"\ndriver = \"i2c\"\npath = \"/dev/i2c-air\"\n\
         [[device]]\nname = \"air\"\nbus = \"one\"\naddress = 0x76\nchip = \"bme280\"\ninterval = \"300ms\"\n\
         [[bus]]\nname = \"two\"\ndriver = \"i2c\"\npath = \"/dev/i2c-room\"\n\
         [[device]]\nname = \"room\"\nbus = \"two\"\naddress = 0x48\nchip = \"tmp102\"\ninterval = \"300ms\"\n",
        cloud.port()
    );
    let file = home.path().join("fieldgate.toml");
    std::fs::write(&file, text).expect("the configuration can be written");
    let drivers: &[&'static dyn Driver] = &[&SCRIPTED];
    let loaded = config::load(&file, drivers).unwrap_or_else(|report| panic!("{}", report.render(false)));

    let heard = || {
        let (all, faults) = readings(&observer.messages(), "gw/box");
        assert_eq!(faults, [""; 0]);
        all
    };
    let of = |all: &[Reading], name: &str| -> Vec<Reading> {
        all.iter().filter(|r| r.name == name).cloned().collect()
    };
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let gateway = Gateway::start(loaded).await.expect("it starts");
        tokio::task::block_in_place(|| {
            support::wait_until("six readings of each chip in the cloud", seconds(20), || {
                let all = heard();
                ["air/pressure", "room/temperature"].iter().all(|name| of(&all, name).len() >= 6)
            });
        });
        gateway.stop().await.expect("nothing is stuck");
    });

    let all = heard();
    for (name, unit_value, tolerance) in
        [("air/temperature", 25.08, 0.005), ("air/pressure", 1006.5327, 0.001), ("air/humidity", 55.35, 0.03)]
    {
        let readings = of(&all, name);
        assert!(readings.len() >= 6, "{name}: {}", readings.len());
        for reading in readings {
            let value = reading.value.as_f64().unwrap_or(f64::NAN);
            assert!(
                reading.quality == "good" && (value - unit_value).abs() <= tolerance,
                "{name}: {reading:?}"
            );
        }
    }
    let room = of(&all, "room/temperature");
    let shown: Vec<(Option<f64>, &str)> =
        room.iter().take(4).map(|r| (r.value.as_f64(), r.quality.as_str())).collect();
    assert_eq!(shown, [(Some(25.0), "good"), (Some(-25.0), "good"), (None, "bad"), (Some(0.25), "good")]);
    assert!(room.windows(2).all(|w| w[0].ts_ms < w[1].ts_ms && w[0].seq < w[1].seq));
    assert_eq!(
        OPENED.load(Ordering::SeqCst),
        2,
        "a chip that does not answer is no reason to reopen the bus"
    );
    println!("{} readings of the bme280, {} of the tmp102", of(&all, "air/temperature").len(), room.len());
}
