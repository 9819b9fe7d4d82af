//! The short form of the fuzzing in `tests/fuzz`: its seeds, and thousands of variations of them, the same each time.

use std::fs;
use std::path::PathBuf;

use fieldgate::broker::fuzz;

#[path = "../fuzz/converse.rs"]
mod converse;

fn seeds(target: &str) -> Vec<Vec<u8>> {
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/seeds").join(target);
    let mut files: Vec<_> = fs::read_dir(directory).unwrap().map(|file| file.unwrap().path()).collect();
    files.sort();
    assert!(files.len() > 5);
    files.iter().map(|file| fs::read(file).unwrap()).collect()
}

/// One of the seeds, or two of them crossed, with a few bytes changed, put in, left out or repeated.
fn variation(seeds: &[Vec<u8>], rng: &mut fastrand::Rng) -> Vec<u8> {
    let mut bytes = rng.choice(seeds).cloned().unwrap_or_default();
    if rng.u8(0..4) == 0 {
        let other = rng.choice(seeds).cloned().unwrap_or_default();
        bytes.truncate(rng.usize(1..=bytes.len()));
        bytes.extend_from_slice(&other[rng.usize(0..other.len())..]);
    }
    for _ in 0..rng.usize(1..6) {
        let at = rng.usize(0..bytes.len());
        match rng.u8(0..5) {
            0 => bytes[at] = rng.u8(..),
            1 => bytes[at] ^= 1 << rng.u8(0..8),
            2 => bytes.insert(at, rng.u8(..)),
            3 if bytes.len() > 1 => drop(bytes.remove(at)),
            _ => bytes.extend_from_within(at..),
        }
        bytes.truncate(2000);
    }
    bytes
}

/// `FIELDGATE_FUZZ=100` makes it a hundred times deeper, from another start.
fn depth() -> u64 {
    std::env::var("FIELDGATE_FUZZ").map_or(1, |times| times.parse().expect("a number"))
}

#[test]
fn no_bytes_break_the_reader_of_packets() {
    let seeds = seeds("packets");
    for seed in &seeds {
        assert!(fuzz::read(seed) > 0, "a seed is a packet: {seed:02x?}");
    }
    let mut rng = fastrand::Rng::with_seed(depth());
    let good: usize = (0..200_000 * depth()).map(|_| fuzz::read(&variation(&seeds, &mut rng))).sum();
    assert!(good > 20_000, "{good} well-formed packets: the variations have lost touch");
}

#[test]
fn no_conversation_breaks_the_broker() {
    let seeds = seeds("conversation");
    seeds.iter().for_each(|seed| converse::converse(seed));
    let mut rng = fastrand::Rng::with_seed(2 * depth());
    for _ in 0..1500 * depth() {
        converse::converse(&variation(&seeds, &mut rng));
    }
}
