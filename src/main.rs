//! The `fieldgate` binary.

fn main() {}
