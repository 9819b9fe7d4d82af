//! The `fieldgate` binary: parse, do, report. Nobody below prints an error or ends the process.

use std::process::ExitCode;

use clap::Parser;
use fieldgate::cli::Cli;
use fieldgate::cmd::exit::Exit;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(words) => {
            // Help and version are answers, not mistakes. Printing can only fail on a closed pipe.
            let _ = words.print();
            return if words.use_stderr() {
                ExitCode::from(&Exit::Usage(String::new()))
            } else {
                ExitCode::SUCCESS
            };
        }
    };
    match cli.run(&mut std::io::stdout().lock()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(exit) => {
            eprint!("{}", exit.report());
            ExitCode::from(&exit)
        }
    }
}
