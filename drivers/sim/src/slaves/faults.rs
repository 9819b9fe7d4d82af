//! Faults of a simulated device, switched while it runs: standing ones, and ones for the next few
//! answers only. One place per unit id, so memory is bounded by 256 of them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// What a unit on a serial line does instead of answering properly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RtuFault {
    /// No answer at all, as a dead device.
    Silent,
    /// The right answer, so much later.
    Late(Duration),
    /// The right answer with a wrong checksum.
    BadCrc,
    /// The right answer under this unit's name.
    Foreign(u8),
    /// The right answer without its last three bytes.
    Short,
    /// A refusal with this exception code.
    Exception(u8),
}

/// What a unit behind Modbus TCP does instead of answering properly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TcpFault {
    /// No answer at all; the connection stays.
    Silent,
    /// The right answer, so much later.
    Late(Duration),
    /// A refusal with this exception code.
    Exception(u8),
}

/// The switchboard of a device: cloneable, usable from any task.
#[derive(Debug)]
pub struct Faults<F>(Arc<Mutex<BTreeMap<u8, Unit<F>>>>);

#[derive(Debug)]
struct Unit<F> {
    standing: Option<F>,
    scripted: Option<(F, u32)>,
    refuse_holes: bool,
}

impl<F> Default for Unit<F> {
    fn default() -> Self {
        Self { standing: None, scripted: None, refuse_holes: false }
    }
}

impl<F> Clone for Faults<F> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<F> Default for Faults<F> {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(BTreeMap::new())))
    }
}

impl<F: Copy> Faults<F> {
    /// Every answer of the unit has this fault, until it is set anew; `None` heals it.
    pub fn set(&self, unit: u8, fault: Option<F>) {
        self.units().entry(unit).or_default().standing = fault;
    }

    /// The unit's next `answers` have this fault, in place of a standing one and of what was
    /// scripted before.
    pub fn script(&self, unit: u8, fault: F, answers: u32) {
        self.units().entry(unit).or_default().scripted = Some((fault, answers));
    }

    /// Whether the unit refuses, with exception 02, a read that touches a register it does not
    /// have. Otherwise it reads zero there.
    pub fn refuse_holes(&self, unit: u8, refuse: bool) {
        self.units().entry(unit).or_default().refuse_holes = refuse;
    }

    /// Heals every unit.
    pub fn clear(&self) {
        self.units().clear();
    }

    /// The fault of the answer that is due now; uses one scripted answer up.
    pub(crate) fn take(&self, unit: u8) -> Option<F> {
        let mut units = self.units();
        let unit = units.get_mut(&unit)?;
        match &mut unit.scripted {
            Some((fault, left)) if *left > 0 => {
                *left -= 1;
                Some(*fault)
            }
            _ => unit.standing,
        }
    }

    pub(crate) fn refuses_holes(&self, unit: u8) -> bool {
        self.units().get(&unit).is_some_and(|u| u.refuse_holes)
    }

    /// Held for a map operation only, never across an await.
    fn units(&self) -> MutexGuard<'_, BTreeMap<u8, Unit<F>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripted_faults_come_first_and_end() {
        let faults = Faults::default();
        faults.set(1, Some(RtuFault::Silent));
        faults.script(1, RtuFault::BadCrc, 2);
        let taken: Vec<_> = (0..4).map(|_| faults.take(1)).collect();
        let silent = Some(RtuFault::Silent);
        assert_eq!(taken, [Some(RtuFault::BadCrc), Some(RtuFault::BadCrc), silent, silent]);
        assert_eq!(faults.take(2), None);
        faults.set(1, None);
        assert_eq!(faults.take(1), None);
    }

    #[test]
    fn a_clone_switches_the_same_device() {
        let faults = Faults::<TcpFault>::default();
        faults.clone().refuse_holes(3, true);
        assert!(faults.refuses_holes(3) && !faults.refuses_holes(4));
        faults.clear();
        assert!(!faults.refuses_holes(3));
    }
}
