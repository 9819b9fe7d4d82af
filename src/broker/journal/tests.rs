//! The journal with a shelf in memory.
