//! `fieldgate schema`: the JSON Schema of the configuration, of profiles, or the reference file.

use std::io::Write;

use driver_api::Driver;

use super::exit::Exit;
use crate::config::{reference, schema};

/// Print the JSON Schema of the configuration, for editors and for checks elsewhere.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Print reference.toml instead: every section and key with its explanation and default.
    #[arg(long, conflicts_with = "profile")]
    pub reference: bool,
    /// Print the schema of device profiles instead.
    #[arg(long)]
    pub profile: bool,
    /// A schema is JSON in any case; the option is here because every command that prints data has it.
    #[arg(long, conflicts_with = "reference")]
    pub json: bool,
}

/// Prints it.
///
/// # Errors
/// If the output cannot be written.
pub fn run(args: &Args, drivers: &[&'static dyn Driver], out: &mut dyn Write) -> Result<(), Exit> {
    if args.reference {
        out.write_all(reference::text(drivers).as_bytes())?;
        return Ok(());
    }
    let schema = if args.profile { schema::profile(drivers) } else { schema::whole(drivers) };
    writeln!(out, "{schema:#}")?;
    Ok(())
}
