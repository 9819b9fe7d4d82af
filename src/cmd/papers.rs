//! `fieldgate man` and `fieldgate completions`: papers made from the command line's own definition.

use std::io::Write;

use clap::Args as ClapArgs;
use clap_complete::Shell;

use super::exit::{CODES, Exit};

/// Print completions for a shell.
#[derive(Debug, ClapArgs)]
pub struct CompletionsArgs {
    /// Which shell.
    shell: Shell,
}

/// Prints the manual page of the whole program, its commands and exit codes included.
///
/// # Errors
/// Output cannot be written.
pub fn man(mut command: clap::Command, out: &mut dyn Write) -> Result<(), Exit> {
    // Options that all commands have are with each of them.
    command.build();
    let man = clap_mangen::Man::new(command.clone());
    man.render(out)?;
    for sub in command.get_subcommands().filter(|sub| sub.get_name() != "help") {
        let name = format!("fieldgate {}", sub.get_name());
        let man = clap_mangen::Man::new(sub.clone().display_name(name.clone()).bin_name(name));
        man.render_synopsis_section(out)?;
        man.render_description_section(out)?;
        man.render_options_section(out)?;
    }
    writeln!(out, ".SH \"EXIT STATUS\"")?;
    for (code, says) in CODES {
        writeln!(out, ".TP\n\\fB{code}\\fR\n{says}")?;
    }
    Ok(())
}

/// Prints completions.
pub fn completions(args: &CompletionsArgs, mut command: clap::Command, mut out: &mut dyn Write) {
    clap_complete::generate(args.shell, &mut command, "fieldgate", &mut out);
}
