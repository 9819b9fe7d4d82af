//! `fieldgate profile list|show|check`: the device profiles there are, what is in one, and what is wrong with one.

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::{Args as ClapArgs, Subcommand};
use driver_api::table::nearest;
use driver_api::{Driver, Span};
use serde_json::{Value as Json, json};

use super::exit::Exit;
use crate::config::Report;
use crate::config::catalogue::{self, Checked};
use crate::config::profile::search_path;

/// Look at device profiles.
#[derive(Debug, ClapArgs)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// List the profiles beside the configuration and those of the package.
    List(Common),
    /// Show what is in a profile.
    Show {
        /// Its name.
        name: String,
        #[command(flatten)]
        common: Common,
    },
    /// Check a profile: every mistake with its place.
    Check {
        /// The file.
        file: PathBuf,
        #[command(flatten)]
        common: Common,
    },
}

#[derive(Debug, ClapArgs)]
struct Common {
    /// The configuration file; profiles/*.toml beside it are found first.
    #[arg(long, value_name = "FILE", default_value = super::DEFAULT_CONFIG)]
    config: PathBuf,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Prints.
///
/// # Errors
/// There is no such profile; or [`Exit::Config`] with its mistakes.
pub fn run(args: &Args, drivers: &[&'static dyn Driver], out: &mut dyn Write) -> Result<(), Exit> {
    match &args.what {
        What::List(common) => list(common, out),
        What::Show { name, common } => {
            let directories = search_path(&common.config);
            let Some(file) = catalogue::find(name, &directories) else {
                return Err(Exit::Failed(unknown(name, &directories)));
            };
            let checked = catalogue::check(&file, drivers).map_err(|report| mistaken(&report))?;
            show(name, &checked, common.json, out)
        }
        What::Check { file, common } => check(file, common.json, drivers, out),
    }
}

fn unknown(name: &str, directories: &[PathBuf]) -> String {
    let names = crate::config::profile::known(directories);
    let known: Vec<&str> = names.iter().map(String::as_str).collect();
    match nearest(name, &known) {
        Some(near) => format!("there is no profile `{name}`; did you mean `{near}`?"),
        None => format!("there is no profile `{name}`; `fieldgate profile list` shows them"),
    }
}

fn list(common: &Common, out: &mut dyn Write) -> Result<(), Exit> {
    let all = catalogue::list(&search_path(&common.config));
    if common.json {
        let rows: Vec<Json> = all
            .iter()
            .map(|p| {
                json!({
                    "name": p.name, "file": p.file, "points": p.points,
                    "description": p.head.as_ref().map(|h| &h.description),
                    "driver": p.head.as_ref().map(|h| &h.driver),
                    "document": p.head.as_ref().map(|h| &h.document),
                })
            })
            .collect();
        writeln!(out, "{:#}", json!(rows))?;
        return Ok(());
    }
    if all.is_empty() {
        writeln!(
            out,
            "no profiles beside {} and none in {}",
            common.config.display(),
            crate::config::profile::SYSTEM_DIRECTORY
        )?;
    }
    let width = all.iter().map(|p| p.name.len()).max().unwrap_or(0);
    for p in &all {
        let description =
            p.head.as_ref().map_or("cannot be read; see `fieldgate profile check`", |h| &h.description);
        writeln!(out, "{:width$}  {:>4} points  {description}", p.name, p.points)?;
    }
    Ok(())
}

fn show(name: &str, checked: &Checked, as_json: bool, out: &mut dyn Write) -> Result<(), Exit> {
    let plan = checked.bus.bus.plan();
    let points = || plan.points.iter().zip(&checked.bus.points);
    let head = &checked.head;
    if as_json {
        let rows: Vec<Json> = points()
            .map(|(info, own)| {
                json!({
                    "point": info.name, "source": info.source, "type": info.kind, "unit": own.unit,
                    "scale": own.scale, "offset": own.offset, "interval_ms": own.interval.as_secs_f64() * 1e3,
                    "writable": own.writable, "min": own.min, "max": own.max, "description": own.description,
                })
            })
            .collect();
        let shown = json!({
            "name": name, "file": checked.file, "description": head.description, "document": head.document,
            "driver": head.driver, "points": rows,
        });
        writeln!(out, "{shown:#}")?;
        return Ok(());
    }
    writeln!(out, "{name}: {}", head.description)?;
    writeln!(out, "  driver {}, from {}", head.driver, head.document)?;
    writeln!(out, "  {}", checked.file.display())?;
    let width = points().map(|(info, _)| info.name.len()).max().unwrap_or(0);
    for (info, own) in points() {
        let row = format!(
            "  {:width$}  {:<14} {:<9} {:<6} every {:<6} {}{}",
            info.name,
            info.source,
            info.kind,
            own.unit.as_deref().unwrap_or("-"),
            Span(own.interval).to_string(),
            if own.writable { "writable  " } else { "" },
            own.description.as_deref().unwrap_or("")
        );
        writeln!(out, "{}", row.trim_end())?;
    }
    Ok(())
}

fn check(
    file: &Path,
    as_json: bool,
    drivers: &[&'static dyn Driver],
    out: &mut dyn Write,
) -> Result<(), Exit> {
    match catalogue::check(file, drivers) {
        Ok(checked) => {
            let points = checked.bus.points.len();
            if as_json {
                let warnings = super::check::list(&checked.warnings, &checked.warnings.warnings);
                writeln!(out, "{:#}", json!({ "ok": true, "points": points, "warnings": warnings }))?;
            } else {
                out.write_all(checked.warnings.render(false).as_bytes())?;
                writeln!(out, "ok: {} ({points} points)", checked.head.description)?;
            }
            Ok(())
        }
        Err(report) if as_json => {
            let problems = super::check::list(&report, &report.problems);
            writeln!(out, "{:#}", json!({ "ok": false, "problems": problems }))?;
            Err(Exit::Config(format!("the profile has mistakes: {}", report.problems.len())))
        }
        Err(report) => Err(mistaken(&report)),
    }
}

fn mistaken(report: &Report) -> Exit {
    let colour = std::io::IsTerminal::is_terminal(&std::io::stderr());
    Exit::Config(format!("the profile has mistakes\n\n{}", report.render(colour).trim_end()))
}
