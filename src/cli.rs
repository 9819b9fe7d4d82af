//! The command line: what may be typed, and which command it becomes.

use std::io::Write;
use std::path::PathBuf;

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
    /// Configuration file; /etc/fieldgate/fieldgate.toml where none is named.
    ///
    /// Every command takes it, before or behind its name, so that a script may pass it to all. `decode`, `schema`,
    /// `completions` and `man` print the same whatever it holds, and `demo` has a configuration of its own.
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
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
            Command::Demo(args) => demo::run(&args, self.config.as_deref(), out),
            Command::Status(args) => status::run(&args, out),
            Command::Kick(args) => clients::kick(&args, out),
            Command::Watch(args) => watch::run(&args, out),
            Command::Queue(args) => queue::run(&args, out),
            Command::Backup(args) => backup::run(&args, out),
            Command::Restore(args) => restore::run(&args, out),
            Command::Decode(args) => decode::run(&args, out),
            Command::Read(args) => exchange::read(&args, out),
            Command::Write(args) => exchange::write(&args, out),
            Command::Ports(args) => ports::run(&args, self.config.as_deref(), out),
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Every command that does something, subcommands of subcommands included.
    fn leaves(command: &clap::Command, name: &str, found: &mut Vec<(String, clap::Command)>) {
        for sub in command.get_subcommands().filter(|sub| sub.get_name() != "help") {
            let name = format!("{name}{} ", sub.get_name());
            if sub.has_subcommands() {
                leaves(sub, &name, found);
            } else {
                found.push((name.trim_end().to_owned(), sub.clone()));
            }
        }
    }

    #[test]
    fn every_command_takes_config_and_those_that_print_data_take_json() {
        let mut command = Cli::command();
        command.build();
        let mut all = Vec::new();
        leaves(&command, "", &mut all);
        assert!(all.len() > 20, "{all:?}");
        let has = |command: &clap::Command, option| {
            command.get_arguments().any(|arg| arg.get_long() == Some(option))
        };
        let without = |option| -> Vec<&str> {
            all.iter().filter(|(_, sub)| !has(sub, option)).map(|(name, _)| name.as_str()).collect()
        };
        assert!(without("config").is_empty(), "{:?}", without("config"));
        // These do something and say that it is done, or print what is no data.
        assert_eq!(without("json"), ["run", "backup", "restore", "passwd", "completions", "man"]);
    }

    #[test]
    fn the_configuration_may_be_named_before_the_command_and_behind_it() {
        for line in ["--config x.toml status", "status --config x.toml", "queue --config x.toml show"] {
            let words = ["fieldgate"].into_iter().chain(line.split(' '));
            let matches = Cli::command().try_get_matches_from(words).expect("it is a command line");
            let mut at = &matches;
            while let Some((_, sub)) = at.subcommand() {
                at = sub;
            }
            assert_eq!(at.get_one::<PathBuf>("config"), Some(&PathBuf::from("x.toml")), "{line}");
        }
    }
}
