//! The commands, one file each: `pub struct Args` and `pub fn run(&Args, …, out) -> Result<(), Exit>`.

pub mod check;
pub mod exit;
pub mod schema;
