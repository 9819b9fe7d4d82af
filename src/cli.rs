//! The command line: what may be typed, and which command it becomes.

use std::io::Write;

use clap::{CommandFactory, Parser, Subcommand};

use crate::cmd::exit::Exit;
use crate::cmd::{
    backup, check, clients, decode, demo, exchange, papers, passwd, ports, profile, queue, restore, run,
    scan, schema, status, watch,
};
use crate::registry::DRIVERS;

/// The edge gateway that field engineers trust.
///
/// Polls sensors over serial, Modbus and I²C, publishes readings on an embedded MQTT broker, keeps
/// them in a durable queue, and bridges them to a cloud broker whenever the link allows.
#[derive(Debug, Parser)]
#[command(name = "fieldgate", version)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(run::Args),
    Check(check::Args),
    Demo(demo::Args),
    Status(status::Args),
    Kick(clients::KickArgs),
    Watch(watch::Args),
    Queue(queue::Args),
    Backup(backup::Args),
    Restore(restore::Args),
    Decode(decode::Args),
    Read(exchange::ReadArgs),
    Write(exchange::WriteArgs),
    Ports(ports::Args),
    Scan(scan::Args),
    Profile(profile::Args),
    Passwd(passwd::Args),
    Schema(schema::Args),
    Completions(papers::CompletionsArgs),
    /// Print the manual page.
    Man,
}

impl Cli {
    /// Does what was typed.
    ///
    /// # Errors
    /// See [`Exit`].
    pub fn run(self, out: &mut dyn Write) -> Result<(), Exit> {
        match self.command {
            Command::Run(args) => run::run(&args),
            Command::Check(args) => check::run(&args, out),
            Command::Demo(args) => demo::run(&args, out),
            Command::Status(args) => status::run(&args, out),
            Command::Kick(args) => clients::kick(&args, out),
            Command::Watch(args) => watch::run(&args, out),
            Command::Queue(args) => queue::run(&args, out),
            Command::Backup(args) => backup::run(&args, out),
            Command::Restore(args) => restore::run(&args, out),
            Command::Decode(args) => decode::run(&args, out),
            Command::Read(args) => exchange::read(&args, out),
            Command::Write(args) => exchange::write(&args, out),
            Command::Ports(args) => ports::run(&args, out),
            Command::Scan(args) => scan::run(&args, out),
            Command::Profile(args) => profile::run(&args, DRIVERS, out),
            Command::Passwd(args) => passwd::run(&args, out),
            Command::Schema(args) => schema::run(&args, DRIVERS, out),
            Command::Completions(args) => {
                papers::completions(&args, Self::command(), out);
                Ok(())
            }
            Command::Man => papers::man(Self::command(), out),
        }
    }
}
