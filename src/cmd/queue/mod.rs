//! `fieldgate queue`: the store-and-forward queue, with or without the daemon.

mod export;
mod purge;
mod show;

use std::io::Write;
use std::path::PathBuf;

use clap::{Args as ClapArgs, Subcommand};

use super::exit::Exit;

/// Look into the store-and-forward queue, take readings out of it, or throw them away.
#[derive(Debug, ClapArgs)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Show what waits for each uplink.
    Show(show::Args),
    /// Write readings as CSV or JSON lines: what is queued, and the history.
    Export(export::Args),
    /// Throw away what waits for an uplink; it is declared lost.
    Purge(purge::Args),
}

#[derive(Debug, ClapArgs)]
struct Common {
    /// The configuration file.
    #[arg(long, value_name = "FILE", default_value = super::DEFAULT_CONFIG)]
    config: PathBuf,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Does what was asked for.
///
/// # Errors
/// The data directory cannot be read, or the daemon does not answer.
pub fn run(args: &Args, out: &mut dyn Write) -> Result<(), Exit> {
    match &args.what {
        What::Show(args) => show::run(args, out),
        What::Export(args) => export::run(args, out),
        What::Purge(args) => purge::run(args, out),
    }
}
