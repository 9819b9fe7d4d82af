//! The configuration: files, typed model, rules across sections, and mistakes with their place.

pub mod model;
