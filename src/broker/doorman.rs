//! Who may come in: how many at once, how many from one address, how fast, and how long somebody waits who gave
//! wrong passwords. Pure, but for the lock around it in [`Gate`].
//!
//! # What it promises
//! - No address takes all places, and none is served faster than [`Rules::arrivals`]. An address is one of IPv4, or the
//!   64-bit network of IPv6, whose holder has all the addresses in it.
//! - After the n-th wrong password from an address, the next check for it begins only after a delay that doubles
//!   each time ([`delay`]). Every half minute without a wrong one takes one back. On loopback, where every program of this box
//!   is behind one address, the delay ends at a second.
//! - The table of addresses is bounded ([`bounds::BROKER_ADDRESSES`] beside those with open connections): when it is full, who
//!   did the least harm is forgotten.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::time::{Duration, Instant};

use super::stats::Refusal;
use super::tokens::{Bucket, Rate};
use crate::bounds;

/// The delay after the first wrong password.
const FIRST: Duration = Duration::from_millis(100);
/// The longest: clients give up a login after some five seconds, and the right password must have its chance.
const LONGEST: Duration = Duration::from_secs(4);
const LONGEST_ON_LOOPBACK: Duration = Duration::from_secs(1);
/// One wrong password is forgiven each time this has passed without another.
const FORGIVEN: Duration = Duration::from_secs(30);
/// More are not counted: 100 ms doubled so often is over the longest delay, and all is forgiven after four minutes.
const MOST_WRONG: u32 = 8;
/// Logins of one address that wait at once while it has a delay. 16 in 4 s are four guesses a second; a fleet behind one router
/// that comes back beside one device with an old password is told that the server is busy, and comes again.
const WAITING: usize = 16;
/// And while it has none: half of all, so that no address takes all turns.
const WAITING_CLEAN: usize = bounds::BROKER_PASSWORD_CHECKS / 2;

/// How many may come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// Connections at once.
    pub connections: usize,
    /// Of these, from one address.
    pub per_address: usize,
    /// New connections of one address.
    pub arrivals: Rate,
}

/// What is known of an address.
#[derive(Debug, Default)]
struct Seen {
    open: usize,
    arrivals: Bucket,
    wrong: u32,
    last_wrong: Option<Instant>,
    waiting: usize,
}

impl Seen {
    fn wrong(&self, now: Instant) -> u32 {
        let quiet =
            self.last_wrong.map_or(0, |at| now.saturating_duration_since(at).as_secs() / FORGIVEN.as_secs());
        self.wrong.saturating_sub(u32::try_from(quiet).unwrap_or(u32::MAX))
    }

    fn is_worth_nothing(&self, now: Instant) -> bool {
        self.open == 0 && self.waiting == 0 && self.arrivals.is_full(now) && self.wrong(now) == 0
    }
}

/// How long a login waits before its password is looked at, after so many wrong ones.
#[must_use]
pub fn delay(wrong: u32, loopback: bool) -> Duration {
    let longest = if loopback { LONGEST_ON_LOOPBACK } else { LONGEST };
    match wrong {
        0 => Duration::ZERO,
        n => FIRST.saturating_mul(1 << (n - 1).min(MOST_WRONG)).min(longest),
    }
}

/// The table, and the decisions.
#[derive(Debug)]
pub struct Doorman {
    rules: Rules,
    open: usize,
    seen: HashMap<IpAddr, Seen>,
}

impl Doorman {
    /// An empty house.
    #[must_use]
    pub fn new(rules: Rules) -> Self {
        Self { rules, open: 0, seen: HashMap::new() }
    }

    /// From now on these rules. Who is in stays in.
    pub fn change(&mut self, rules: Rules) {
        self.rules = rules;
    }

    /// Somebody is at the door.
    ///
    /// # Errors
    /// Why there is no place.
    pub fn arrive(&mut self, address: IpAddr, now: Instant) -> Result<(), Refusal> {
        let rules = self.rules;
        if self.open >= rules.connections {
            return Err(Refusal::Connections);
        }
        let seen = self.seen(address, now);
        if !seen.arrivals.take(rules.arrivals, now) {
            return Err(Refusal::Rate);
        }
        if seen.open >= rules.per_address {
            return Err(Refusal::Address);
        }
        seen.open += 1;
        self.open += 1;
        Ok(())
    }

    /// Somebody who was in has gone.
    pub fn leave(&mut self, address: IpAddr, now: Instant) {
        self.open = self.open.saturating_sub(1);
        let address = network(address);
        if let Some(seen) = self.seen.get_mut(&address) {
            seen.open = seen.open.saturating_sub(1);
            if seen.is_worth_nothing(now) {
                self.seen.remove(&address);
            }
        }
    }

    /// A login with a password: how long it waits before it is looked at. `None`: too many of this address wait or are being
    /// looked at already.
    pub fn knock(&mut self, address: IpAddr, now: Instant) -> Option<Duration> {
        let seen = self.seen(address, now);
        let wait = delay(seen.wrong(now), network(address).is_loopback());
        let most = if wait.is_zero() { WAITING_CLEAN } else { WAITING };
        if seen.waiting >= most {
            return None;
        }
        seen.waiting += 1;
        Some(wait)
    }

    /// A login that knocked has its answer, or is gone.
    pub fn answered(&mut self, address: IpAddr) {
        if let Some(seen) = self.seen.get_mut(&network(address)) {
            seen.waiting = seen.waiting.saturating_sub(1);
        }
    }

    /// The password was wrong.
    pub fn wrong(&mut self, address: IpAddr, now: Instant) {
        let seen = self.seen(address, now);
        seen.wrong = (seen.wrong(now) + 1).min(MOST_WRONG);
        seen.last_wrong = Some(now);
    }

    fn seen(&mut self, address: IpAddr, now: Instant) -> &mut Seen {
        let address = network(address);
        if !self.seen.contains_key(&address) && self.seen.len() >= bounds::BROKER_ADDRESSES {
            self.make_room(now);
        }
        self.seen.entry(address).or_default()
    }

    /// Nobody with an open connection is forgotten; of these there are as many as [`Rules::connections`] at most.
    fn make_room(&mut self, now: Instant) {
        self.seen.retain(|_, seen| !seen.is_worth_nothing(now));
        let idle = |seen: &Seen| seen.open == 0 && seen.waiting == 0;
        if self.seen.values().filter(|seen| idle(seen)).count() >= bounds::BROKER_ADDRESSES {
            let least =
                self.seen.iter().filter(|(_, seen)| idle(seen)).min_by_key(|(_, seen)| seen.wrong(now));
            if let Some(address) = least.map(|(address, _)| *address) {
                self.seen.remove(&address);
            }
        }
    }
}

/// What counts as one address.
fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
            Some(v4) => v4.into(),
            None if v6.is_loopback() => address,
            None => Ipv6Addr::from(u128::from(v6) >> 64 << 64).into(),
        },
    }
}

/// The doorman of a running broker, for all its connections.
#[derive(Debug)]
pub struct Gate(Mutex<Doorman>);

impl Gate {
    /// A gate with these rules.
    #[must_use]
    pub fn new(rules: Rules) -> Arc<Self> {
        Arc::new(Self(Mutex::new(Doorman::new(rules))))
    }

    /// Asks the doorman.
    pub fn with<T>(&self, ask: impl FnOnce(&mut Doorman) -> T) -> T {
        ask(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A place for somebody from this address.
    ///
    /// # Errors
    /// Why there is none.
    pub fn arrive(self: &Arc<Self>, address: IpAddr) -> Result<Place, Refusal> {
        self.with(|doorman| doorman.arrive(address, Instant::now()))?;
        Ok(Place { gate: self.clone(), address })
    }

    /// Waits until a password from this address may be looked at; to be held until it was. `None`: too many wait already.
    /// Cancel safe.
    pub async fn knock(self: &Arc<Self>, address: IpAddr) -> Option<Turn> {
        let wait = self.with(|doorman| doorman.knock(address, Instant::now()))?;
        let turn = Turn { gate: self.clone(), address };
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
        Some(turn)
    }
}

/// A connection's place; given back when it is dropped.
#[derive(Debug)]
pub struct Place {
    gate: Arc<Gate>,
    address: IpAddr,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.gate.with(|doorman| doorman.leave(self.address, Instant::now()));
    }
}

/// A login that is being looked at, or waits for it.
#[derive(Debug)]
pub struct Turn {
    gate: Arc<Gate>,
    address: IpAddr,
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.gate.with(|doorman| doorman.answered(self.address));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: Rules = Rules { connections: 10, per_address: 4, arrivals: Rate { per_s: 10, burst: 6 } };

    fn ip(text: &str) -> IpAddr {
        text.parse().expect(text)
    }

    #[test]
    fn places_are_bounded_for_all_and_for_one_address_and_come_back() {
        let (mut doorman, now) = (Doorman::new(RULES), Instant::now());
        let mut come = |address: &str, at| doorman.arrive(ip(address), at);
        for _ in 0..4 {
            assert_eq!(come("10.0.0.1", now), Ok(()));
        }
        assert_eq!(come("10.0.0.1", now), Err(Refusal::Address));
        assert_eq!(
            come("::ffff:10.0.0.1", now),
            Err(Refusal::Address),
            "the same address, written in another way"
        );
        assert_eq!(come("10.0.0.1", now), Err(Refusal::Rate), "refused ones count for the rate, too");
        for n in 2..8 {
            assert_eq!(come(&format!("10.0.0.{n}"), now), Ok(()));
        }
        assert_eq!(come("10.0.0.9", now), Err(Refusal::Connections));
        doorman.leave(ip("10.0.0.1"), now);
        assert_eq!(doorman.arrive(ip("10.0.0.1"), now + Duration::from_secs(1)), Ok(()));
    }

    #[test]
    fn a_network_of_ipv6_is_one_address() {
        let (mut doorman, now) = (Doorman::new(RULES), Instant::now());
        for n in 0..4 {
            assert_eq!(doorman.arrive(ip(&format!("2001:db8:1:2::{n}")), now), Ok(()));
        }
        assert_eq!(doorman.arrive(ip("2001:db8:1:2:ffff::1"), now), Err(Refusal::Address));
        assert_eq!(doorman.arrive(ip("2001:db8:1:3::1"), now), Ok(()));
    }

    #[test]
    fn delays_double_to_an_end_that_a_person_can_bear() {
        let far: Vec<_> = (0..9).map(|n| delay(n, false).as_millis()).collect();
        assert_eq!(far, [0, 100, 200, 400, 800, 1600, 3200, 4000, 4000]);
        let near: Vec<_> = (0..9).map(|n| delay(n, true).as_millis()).collect();
        assert_eq!(near, [0, 100, 200, 400, 800, 1000, 1000, 1000, 1000]);
        assert_eq!(delay(u32::MAX, false), LONGEST);
        // A listener on `[::]` sees loopback so.
        let (mut doorman, mapped, now) = (Doorman::new(RULES), ip("::ffff:127.0.0.1"), Instant::now());
        (0..8).for_each(|_| doorman.wrong(mapped, now));
        assert_eq!(doorman.knock(mapped, now), Some(LONGEST_ON_LOOPBACK));
    }

    #[test]
    fn wrong_passwords_delay_their_address_alone_and_are_forgiven_in_time() {
        let (mut doorman, now) = (Doorman::new(RULES), Instant::now());
        let (bad, good) = (ip("10.0.0.1"), ip("10.0.0.2"));
        (0..100).for_each(|_| doorman.wrong(bad, now));
        assert_eq!(
            (doorman.knock(bad, now), doorman.knock(good, now)),
            (Some(LONGEST), Some(Duration::ZERO))
        );
        for _ in 1..WAITING {
            assert!(doorman.knock(bad, now).is_some());
        }
        assert_eq!(doorman.knock(bad, now), None, "enough wait");
        doorman.answered(bad);
        assert_eq!(doorman.knock(bad, now), Some(LONGEST));
        (0..WAITING).for_each(|_| doorman.answered(bad));
        for (minutes, wait) in [(1, 3200), (2, 800), (3, 200), (4, 0)] {
            let at = now + Duration::from_secs(60 * minutes);
            assert_eq!(doorman.knock(bad, at), Some(Duration::from_millis(wait)), "after {minutes} min");
            doorman.answered(bad);
        }
    }

    #[test]
    fn the_table_stays_bounded_and_forgets_who_did_the_least_harm() {
        let (mut doorman, now) = (Doorman::new(RULES), Instant::now());
        let culprit = ip("192.168.0.1");
        (0..8).for_each(|_| doorman.wrong(culprit, now));
        assert_eq!(doorman.arrive(ip("192.168.0.2"), now), Ok(()));
        for n in 0..6000u32 {
            doorman.wrong(IpAddr::from((0x0A00_0000 + n).to_be_bytes()), now);
        }
        assert!(doorman.seen.len() <= bounds::BROKER_ADDRESSES + RULES.connections, "{}", doorman.seen.len());
        assert_eq!(doorman.knock(culprit, now), Some(LONGEST));
        doorman.answered(culprit);
        assert_eq!(doorman.open, 1);
        doorman.leave(ip("192.168.0.2"), now + Duration::from_secs(300));
        doorman.make_room(now + Duration::from_secs(300));
        assert_eq!(doorman.seen.len(), 0, "all is forgiven");
    }

    #[tokio::test(start_paused = true)]
    async fn a_place_is_given_back_and_a_login_waits() {
        let gate = Gate::new(Rules { per_address: 1, ..RULES });
        let address = ip("10.0.0.1");
        let place = gate.arrive(address).expect("a place");
        assert_eq!(gate.arrive(address).err(), Some(Refusal::Address));
        drop(place);
        assert!(gate.arrive(address).is_ok());
        (0..3).for_each(|_| gate.with(|d| d.wrong(address, Instant::now())));
        let began = Instant::now();
        let turn = gate.knock(address).await;
        assert_eq!((turn.is_some(), began.elapsed().as_millis()), (true, 400));
        drop(turn);
        assert_eq!(gate.with(|d| d.seen[&address].waiting), 0);
    }
}
