//! The commands, one file each: `pub struct Args` and `pub fn run(&Args, …, out) -> Result<(), Exit>`.

pub mod backup;
pub mod carrier;
pub mod check;
pub mod client;
pub mod clients;
mod consent;
pub mod decode;
pub mod decodings;
pub mod demo;
pub mod exchange;
pub mod exit;
pub mod files;
pub mod format;
mod models;
pub mod papers;
pub mod passwd;
pub mod ports;
pub mod profile;
pub mod progress;
pub mod queue;
pub mod raw;
pub mod restore;
pub mod run;
pub mod scan;
pub mod schema;
pub mod status;
pub mod trace;
pub mod watch;

use std::path::{Path, PathBuf};

use exit::Exit;

use crate::config::{self, CompiledBus, Loaded};
use crate::registry::DRIVERS;
use crate::runtime::names::instead;

/// Where the configuration is on an installed box.
pub const DEFAULT_CONFIG: &str = config::DEFAULT_PATH;

/// Loads the configuration with all drivers of this build.
///
/// # Errors
/// Every mistake of every file.
pub fn load(main: &Path) -> Result<Loaded, Exit> {
    config::load(main, DRIVERS).map_err(|report| Exit::from(&report))
}

/// Said of a name that is no device of the configuration.
fn no_device(device: &str, main: &Path, buses: &[CompiledBus]) -> String {
    let known = buses.iter().flat_map(|bus| &bus.devices).map(|d| d.name.as_str()).collect();
    format!("no device `{device}` in {}; {}", main.display(), instead(device, known))
}

/// The data directory that a configuration names. A mistake elsewhere in the file must not keep a
/// person from seeing how the daemon that runs with the file before it is.
fn store_path(main: &Path) -> Result<PathBuf, Exit> {
    match config::load(main, DRIVERS) {
        Ok(loaded) => Ok(loaded.store.path),
        Err(report) => {
            let text = std::fs::read_to_string(main).unwrap_or_default();
            let named = toml::from_str::<toml::Table>(&text).ok().and_then(|document| {
                let path = document.get("store")?.get("path")?.as_str()?;
                Some(main.parent().unwrap_or(Path::new(".")).join(path))
            });
            let path = named.unwrap_or_else(|| config::model::Store::default().path);
            if path.exists() { Ok(path) } else { Err(Exit::from(&report)) }
        }
    }
}
