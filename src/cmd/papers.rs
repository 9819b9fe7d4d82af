//! `fieldgate man` and `fieldgate completions`: papers made from the command line's own definition.

use std::io::Write;

use clap::Args as ClapArgs;
use clap_complete::Shell;

use super::exit::Exit;

/// Print completions for a shell.
#[derive(Debug, ClapArgs)]
pub struct CompletionsArgs {
    /// Which shell.
    shell: Shell,
}

/// Prints the manual page of the whole program, its commands included.
///
/// # Errors
/// Output cannot be written.
pub fn man(command: clap::Command, out: &mut dyn Write) -> Result<(), Exit> {
    let man = clap_mangen::Man::new(command.clone());
    man.render(out)?;
    for sub in command.get_subcommands().filter(|sub| sub.get_name() != "help") {
        let name = format!("fieldgate {}", sub.get_name());
        let man = clap_mangen::Man::new(sub.clone().display_name(name.clone()).bin_name(name));
        man.render_synopsis_section(out)?;
        man.render_description_section(out)?;
        man.render_options_section(out)?;
    }
    Ok(())
}

/// Prints completions.
pub fn completions(args: &CompletionsArgs, mut command: clap::Command, mut out: &mut dyn Write) {
    clap_complete::generate(args.shell, &mut command, "fieldgate", &mut out);
}
