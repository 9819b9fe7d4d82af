//! Asking a person before something that cannot be taken back.

use std::io::{BufRead, Write};

use super::exit::Exit;

/// Asks whether to go on; anything but a yes means no.
///
/// # Errors
/// `otherwise`, if the answer is no.
pub fn go_on(otherwise: &str, out: &mut dyn Write) -> Result<(), Exit> {
    write!(out, "go on? [y/N] ")?;
    out.flush()?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    match answer.trim() {
        "y" | "Y" | "yes" => Ok(()),
        _ => Err(Exit::Failed(otherwise.into())),
    }
}
