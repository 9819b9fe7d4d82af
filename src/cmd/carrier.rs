//! One request to any unit of a bus: through the daemon, which owns its ports, or on a port that is opened here.

use std::path::{Path, PathBuf};
use std::time::Duration;

use driver_api::table::Table;
use driver_api::{Bus, BusSpec, FrameError, ReadError, Wire};
use driver_modbus::function::refuse;
use tokio::runtime::Runtime;
use tokio::time::Instant;

use super::client;
use super::exit::Exit;
use crate::config::CompiledBus;
use crate::poll::{Carried, NotCarried};
use crate::registry::{DRIVERS, find};
use crate::runtime::control::Request;
use crate::runtime::lines::{from_hex, hex};

/// Something that carries one request at a time (see `Bus::carry` of the drivers).
pub trait Carrier {
    /// Sends a request and waits for its answer.
    ///
    /// # Errors
    /// See [`NotCarried`].
    fn carry(&mut self, unit: u8, request: &[u8], wait: Duration) -> Result<Carried, NotCarried>;
}

/// A bus of the configuration that can be reached.
pub struct Reached {
    /// The way to it.
    pub carrier: Box<dyn Carrier>,
    /// Its driver.
    pub driver: &'static str,
    /// What it opens: port, address or path.
    pub endpoint: String,
    /// Whether the daemon owns it, so that its line settings are fixed and its polls go on.
    pub through_daemon: bool,
}

/// Reaches a bus of the configuration: through the daemon if it runs and has opened it, or directly.
///
/// # Errors
/// There is no such bus, or it cannot be opened.
pub fn reach(config: &Path, name: &str) -> Result<Reached, Exit> {
    let loaded = super::load(config)?;
    let (store, names) = (loaded.store.path, [&loaded.buses, &loaded.idle]);
    let names: Vec<String> = names.into_iter().flatten().map(|bus| bus.name.clone()).collect();
    let polled = loaded.buses.iter().any(|bus| bus.name == name);
    let Some(bus) = loaded.buses.into_iter().chain(loaded.idle).find(|bus| bus.name == name) else {
        let known = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
        return Err(Exit::Usage(format!(
            "`{name}` is no bus of {}; there is {known}; a port has a `/` or a `:` in its name",
            config.display()
        )));
    };
    let (driver, endpoint) = (bus.driver, bus.endpoint.clone());
    // A bus without devices is not opened by the daemon.
    let through_daemon = polled && client::is_running(&store)?;
    let carrier: Box<dyn Carrier> = if through_daemon {
        Box::new(Daemon { store, bus: name.to_owned() })
    } else {
        Box::new(Direct::open(bus.bus)?)
    };
    Ok(Reached { carrier, driver, endpoint, through_daemon })
}

/// The bus of the configuration that opens this port, and that the running daemon has open.
#[must_use]
pub fn owner(config: &Path, port: &str) -> Option<String> {
    let loaded = super::load(config).ok()?;
    let real = |path: &str| std::fs::canonicalize(path).unwrap_or_else(|_| PathBuf::from(path));
    let same = |bus: &CompiledBus| bus.endpoint == port || real(&bus.endpoint) == real(port);
    let bus = loaded.buses.iter().find(|bus| same(bus))?;
    client::is_running(&loaded.store.path).unwrap_or(false).then(|| bus.name.clone())
}

/// A bus of the running daemon.
struct Daemon {
    store: PathBuf,
    bus: String,
}

/// How often and after which pause a request is repeated for which the bus's queue had no place: clients of a
/// share come and go within a second or two.
const BUSY: (u32, Duration) = (20, Duration::from_millis(150));

impl Carrier for Daemon {
    fn carry(&mut self, unit: u8, request: &[u8], wait: Duration) -> Result<Carried, NotCarried> {
        for _ in 0..BUSY.0 {
            match self.ask(unit, request, wait) {
                Err(NotCarried::Busy) => std::thread::sleep(BUSY.1),
                told => return told,
            }
        }
        Err(NotCarried::Busy)
    }
}

impl Daemon {
    fn ask(&self, unit: u8, request: &[u8], wait: Duration) -> Result<Carried, NotCarried> {
        let request = Request::Carry {
            bus: self.bus.clone(),
            unit,
            request: hex(request),
            timeout_ms: u64::try_from(wait.as_millis()).unwrap_or(u64::MAX),
        };
        let down = |why: String| Err(NotCarried::Down(why));
        let told = match client::ask(&self.store, &request) {
            Ok(Some(told)) => told,
            Ok(None) => return down("the daemon went away".to_owned()),
            Err(exit) => return down(exit.to_string()),
        };
        if let Some(answer) = told["answer"].as_str().and_then(from_hex) {
            let took = Duration::from_secs_f64(told["ms"].as_f64().unwrap_or(0.0).max(0.0) / 1e3);
            return Ok(Carried { answer, took });
        }
        let why = told["why"].as_str().unwrap_or_default().to_owned();
        match told["failed"].as_str() {
            Some("busy") => Err(NotCarried::Busy),
            Some("silent") => Err(NotCarried::Silent),
            Some("garbled") => Err(NotCarried::Garbled(why)),
            Some(_) => down(why),
            None => down(told["error"].as_str().unwrap_or("the daemon said something else").to_owned()),
        }
    }
}

/// A bus that was opened here.
pub struct Direct {
    /// `None` only while it is being dropped.
    runtime: Option<Runtime>,
    bus: Box<dyn Bus>,
}

impl Direct {
    /// Opens a compiled bus.
    ///
    /// # Errors
    /// Why it cannot be had, in words.
    pub fn open(mut bus: Box<dyn Bus>) -> Result<Self, Exit> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(bus.open()).map_err(|error| Exit::Start(Box::new(error)))?;
        Ok(Self { runtime: Some(runtime), bus })
    }

    /// Opens a port that stands in no configuration: `keys` are what `[[bus]]` would say of it.
    ///
    /// # Errors
    /// What is wrong with the keys, or why it cannot be had.
    pub fn of(driver: &str, keys: &str) -> Result<Self, Exit> {
        let driver = find(DRIVERS, driver).map_err(|unknown| Exit::Usage(unknown.to_string()))?;
        let table = Table::from_text(0, keys).map_err(|error| Exit::Usage(error.message().to_owned()))?;
        let spec = BusSpec { name: "port".to_owned(), table, devices: Vec::new(), wire: Wire::default() };
        let mut problems = Vec::new();
        match driver.compile(spec, &mut problems) {
            Some(bus) => Self::open(bus),
            None => {
                let words: Vec<String> = problems.into_iter().map(|problem| problem.message).collect();
                Err(Exit::Usage(words.join("; ")))
            }
        }
    }
}

impl Carrier for Direct {
    fn carry(&mut self, unit: u8, request: &[u8], wait: Duration) -> Result<Carried, NotCarried> {
        let Some(runtime) = &self.runtime else { return Err(NotCarried::Busy) };
        let began = Instant::now();
        let answer = match runtime.block_on(self.bus.carry(unit, request, wait)) {
            Ok(answer) => answer,
            Err(ReadError::Refused(code) | ReadError::Transient(FrameError::Exception(code))) => {
                refuse(request, code)
            }
            Err(ReadError::Transient(FrameError::Timeout(_))) => return Err(NotCarried::Silent),
            Err(ReadError::Transient(error)) => return Err(NotCarried::Garbled(error.to_string())),
            Err(ReadError::Bus(error)) => return Err(NotCarried::Down(error.to_string())),
        };
        Ok(Carried { answer, took: began.elapsed() })
    }
}

impl Drop for Direct {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // A thread that hangs in the system must not hold the end up.
            runtime.shutdown_timeout(Duration::from_secs(1));
        }
    }
}
