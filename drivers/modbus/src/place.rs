//! Where a value is: in one of the four tables of a device, or in a model of SunSpec.
//!
//! Addresses inside a model are relative to its first register, the one that holds its number, and only the
//! device knows where that is. So a model is an address space of its own.

use std::fmt;

use crate::config::{Area, register};
use crate::sunspec::MAX_MODELS;

/// What an address is counted in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Space {
    /// A table of the device, from 0.
    Table(Area),
    /// A SunSpec model, from its first register.
    Model(Which),
}

/// Which of a device's models.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Which {
    /// Its number.
    pub id: u16,
    /// The how many-th with this number, from 1: an inverter with two strings may have two models 160.
    pub nth: u16,
}

/// `103`, and `160#2` for the second one.
impl fmt::Display for Which {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.nth {
            1 => self.id.fmt(f),
            nth => write!(f, "{}#{nth}", self.id),
        }
    }
}

impl Space {
    /// The table that is read and written.
    #[must_use]
    pub const fn area(self) -> Area {
        match self {
            Self::Table(area) => area,
            Self::Model(_) => Area::Holding,
        }
    }
}

impl fmt::Display for Space {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Table(area) => area.fmt(f),
            Self::Model(which) => write!(f, "model {which}"),
        }
    }
}

/// An address and what it is counted in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// What is counted from.
    pub space: Space,
    /// The address there.
    pub at: u16,
}

/// As the configuration writes it.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.space {
            Space::Table(area) => write!(f, "{area}:{}", self.at),
            Space::Model(which) => write!(f, "model:{which}:{}", self.at),
        }
    }
}

/// Understands `"holding:100"`, `"model:103:14"` and `"model:160#2:14"`.
///
/// # Errors
/// What is wrong, and the cure.
pub fn place(text: &str) -> Result<Place, (String, String)> {
    let Some(rest) = text.trim().strip_prefix("model:") else {
        return register(text).map(|(area, at)| Place { space: Space::Table(area), at });
    };
    let shape = "write the model's number and the offset from its first register, as in \"model:103:14\"";
    let wrong = |message: String| (message, shape.to_owned());
    let (model, offset) = rest
        .split_once(':')
        .ok_or_else(|| wrong(format!("`{text}` does not say which register of the model")))?;
    let number = |word: &str| word.trim().parse::<u16>().ok();
    let (id, nth) = match model.split_once('#') {
        None => (model, 1),
        Some((id, nth)) => match number(nth).filter(|nth| (1..=MAX_MODELS).contains(&usize::from(*nth))) {
            Some(nth) => (id, nth),
            None => {
                let message = format!("`#{nth}` does not say which of the models {}", id.trim());
                let hint = "the first one is #1 or nothing, the second one \"model:160#2:14\"";
                return Err((message, hint.to_owned()));
            }
        },
    };
    match (number(id), number(offset)) {
        // 0 is no model, and 65535 is how the list of models ends.
        (Some(id @ 1..=65_534), Some(at)) => Ok(Place { space: Space::Model(Which { id, nth }), at }),
        (Some(_), Some(_)) => Err(wrong(format!("there is no model {}", id.trim()))),
        (None, _) => Err(wrong(format!("`{id}` is no number of a model"))),
        (_, None) => Err(wrong(format!("`{offset}` is no offset in a model"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_and_models_are_read_and_written_alike() {
        for text in ["holding:100", "coil:0", "model:103:14", "model:1:0", "model:160#2:14"] {
            assert_eq!(place(text).map(|p| p.to_string()), Ok(text.to_owned()));
        }
        assert_eq!(place("model:103:14").map(|p| p.space.area()), Ok(Area::Holding));
        assert_eq!(place("model:103#1:14"), place("model:103:14"), "one space, and so one block");
    }

    #[test]
    fn slips_in_models_have_a_cure() {
        for text in ["model:103", "model:0:4", "model:65535:4", "model:x:1", "model:1:70000", "model::"] {
            let (_, hint) = place(text).expect_err(text);
            assert!(hint.contains("model:103:14"), "{text}: {hint}");
        }
        for text in ["model:160#0:14", "model:160#:14", "model:160#x:14", "model:160#65:14"] {
            let (_, hint) = place(text).expect_err(text);
            assert!(hint.contains("model:160#2:14"), "{text}: {hint}");
        }
        let (_, hint) = place("modell:103:14").expect_err("misspelt");
        assert!(hint.contains("`model`"), "{hint}");
    }
}
