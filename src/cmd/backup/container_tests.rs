//! The container against outside bytes: cut off, flipped, forged. None of them panics, none is taken for whole, and nothing
//! but the queue's own bytes ever goes to where the queue goes.

use super::*;
use crate::cmd::backup::manifest::MAIN;
use crate::cmd::backup::manifest::tests::manifest;
use crate::store::Copied;

fn queue(bytes: u64) -> Copied {
    Copied { bytes, epoch: "00000001-00000002".to_owned(), next_seq: 9, readings: 8, clean: true }
}

/// Bytes that no compressor makes small.
fn noise(n: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(7);
    (0..n).map(|_| random.u8(..)).collect()
}

fn packed(files: &[(&str, Vec<u8>)], database: Option<&[u8]>) -> Vec<u8> {
    let lengths: Vec<(&str, u64)> = files.iter().map(|(name, bytes)| (*name, bytes.len() as u64)).collect();
    let mut manifest = manifest(&lengths);
    manifest.queue = database.map(|bytes| queue(bytes.len() as u64));
    let mut packer = Packer::new(Vec::new(), &manifest).expect("packs");
    for (member, (_, bytes)) in manifest.files.iter().zip(files) {
        packer.file(member, bytes).expect("packs");
    }
    if let Some(bytes) = database {
        packer.queue(bytes.len() as u64, bytes).expect("packs");
    }
    packer.finish().expect("packs")
}

fn sample() -> (Vec<u8>, Vec<u8>) {
    let database = noise(150_000);
    let files = [(MAIN, b"[gateway]\n".to_vec()), ("config/passwd", noise(300))];
    (packed(&files, Some(&database)), database)
}

/// Reads it; returns what came to the queue's place, too.
fn unpacked(bytes: &[u8]) -> (Result<Contents, Bad>, Vec<u8>) {
    let mut to = Vec::new();
    let read = read(bytes, |_, _| Ok(Some(&mut to)));
    (read, to)
}

fn refused(bytes: &[u8]) -> String {
    match unpacked(bytes).0 {
        Err(Bad::Damaged(why)) => why,
        other => panic!("taken: {other:?}"),
    }
}

#[test]
fn what_was_packed_comes_out() {
    let (bytes, database) = sample();
    let (read, queue) = unpacked(&bytes);
    let contents = read.expect("whole");
    assert_eq!(queue, database);
    assert_eq!(contents.files, [b"[gateway]\n".to_vec(), noise(300)]);
    assert_eq!(contents.manifest.gateway, "plant-7");
    let only = packed(&[(MAIN, Vec::new())], None);
    assert_eq!(unpacked(&only).0.expect("whole").manifest.queue, None);
}

/// Anybody's tools can look into it.
#[test]
fn it_is_an_archive_as_others_read_them_with_checksums_that_sha256sum_finds_right() {
    let dir = tempfile::tempdir().expect("a directory");
    let (bytes, _) = sample();
    let tar = zstd::decode_all(&bytes[..]).expect("one frame");
    std::fs::write(dir.path().join("all.tar"), tar).expect("written");
    let run = |program: &str, args: &[&str]| {
        let done = std::process::Command::new(program).args(args).current_dir(dir.path()).output();
        let done = done.expect("coreutils and tar are there");
        assert!(done.status.success(), "{program}: {done:?}");
        String::from_utf8(done.stdout).expect("UTF-8")
    };
    let names = run("tar", &["-xvf", "all.tar"]);
    assert_eq!(
        names.lines().collect::<Vec<_>>(),
        ["manifest.json", MAIN, "config/passwd", "queue/fieldgate.db", "SHA256SUMS"]
    );
    assert_eq!(run("sha256sum", &["-c", "SHA256SUMS"]).matches(": OK").count(), 4);
}

#[test]
fn cut_off_anywhere_it_is_none() {
    let (bytes, _) = sample();
    for keep in (0..bytes.len()).step_by(1000).chain(bytes.len() - 20..bytes.len()) {
        refused(&bytes[..keep]);
    }
    // The archive, too, if somebody packs what is left of it anew.
    let tar = zstd::decode_all(&bytes[..]).expect("one frame");
    let end = tar.iter().rposition(|byte| *byte != 0).expect("not empty");
    for keep in (0..=end).step_by(1000).chain(end - 20..=end) {
        refused(&zstd::encode_all(&tar[..keep], 1).expect("packs"));
    }
}

/// Refused, or it did not matter: all that is in it is what it was.
fn harmless(bytes: &[u8], whole: &(Contents, Vec<u8>)) -> bool {
    match unpacked(bytes) {
        (Err(Bad::Damaged(_)), _) => false,
        (Err(other), _) => panic!("{other}"),
        (Ok(read), queue) => {
            assert_eq!((&read.manifest, &read.files, &queue), (&whole.0.manifest, &whole.0.files, &whole.1));
            true
        }
    }
}

#[test]
fn a_flipped_bit_anywhere_is_found() {
    let (bytes, _) = sample();
    let (contents, queue) = unpacked(&bytes);
    let whole = (contents.expect("whole"), queue);
    let mut random = fastrand::Rng::with_seed(1);
    for _ in 0..1500 {
        let mut bad = bytes.clone();
        let at = random.usize(..bytes.len());
        bad[at] ^= 1 << random.u8(..8);
        assert!(!harmless(&bad, &whole), "byte {at}");
    }
    // Whoever packs the archive anew makes a frame with a right checksum: then ours must find it, but for the padding
    // and fields of tar that nobody reads.
    let tar = zstd::decode_all(&bytes[..]).expect("one frame");
    let end = tar.iter().rposition(|byte| *byte != 0).expect("not empty");
    let mut passed = 0;
    for _ in 0..300 {
        let mut bad = tar.clone();
        bad[random.usize(..end)] ^= 1 << random.u8(..8);
        passed += u32::from(harmless(&zstd::encode_all(&bad[..], 1).expect("packs"), &whole));
    }
    assert!(passed < 15, "{passed} of 300: the padding is not so large");
}

#[test]
fn nothing_may_follow_it() {
    let (bytes, _) = sample();
    let mut more = bytes.clone();
    more.push(0);
    refused(&more);
    refused(&[&bytes[..], &bytes[..]].concat());
    let mut tar = zstd::decode_all(&bytes[..]).expect("one frame");
    tar.push(1);
    refused(&zstd::encode_all(&tar[..], 1).expect("packs"));
    assert_eq!(refused(b"hello, this is no backup at all"), refused(b"hello, this is no backup at all"));
    refused(b"");
}

/// An archive of these entries, compressed, with right checksums at its end.
fn forged(entries: &[(&str, EntryType, u64, &[u8])]) -> Vec<u8> {
    let mut tar = Builder::new(Vec::new());
    let mut sums = String::new();
    for (name, kind, size, bytes) in entries {
        let mut header = Header::new_ustar();
        // As bytes: the crate refuses to write such names as people forge.
        let field = &mut header.as_old_mut().name;
        field[..name.len()].copy_from_slice(name.as_bytes());
        header.set_entry_type(*kind);
        header.set_link_name_literal(b"/etc/passwd").expect("short");
        header.set_size(*size);
        header.set_cksum();
        tar.append(&header, *bytes).expect("packs");
        let mut summed = Summed::new(*bytes);
        std::io::copy(&mut summed, &mut std::io::sink()).expect("reads");
        sums.push_str(&summed.line(name));
    }
    let mut header = Header::new_ustar();
    header.set_path(SUMS).expect("short");
    header.set_size(sums.len() as u64);
    header.set_cksum();
    tar.append(&header, sums.as_bytes()).expect("packs");
    zstd::encode_all(&tar.into_inner().expect("packs")[..], 1).expect("packs")
}

fn text(files: &[(&str, u64)]) -> Vec<u8> {
    serde_json::to_vec(&manifest(files)).expect("JSON")
}

#[test]
fn an_honest_forgery_is_read_so_that_the_others_say_something() {
    let text = text(&[(MAIN, 2)]);
    let honest = forged(&[
        (MANIFEST, EntryType::Regular, text.len() as u64, &text),
        (MAIN, EntryType::Regular, 2, b"ab"),
    ]);
    assert_eq!(unpacked(&honest).0.expect("whole").files, [b"ab".to_vec()]);
}

#[test]
fn names_links_doubles_and_strangers_are_refused() {
    use EntryType as T;
    for name in ["../../etc/x", "/etc/x", "config/../../../x"] {
        let named = text(&[(name, 2)]);
        let entries = [(MANIFEST, T::Regular, named.len() as u64, &named[..]), (name, T::Regular, 2, b"ab")];
        assert!(refused(&forged(&entries)).contains("no backup has"), "{name}");
        // A manifest that says one thing, an archive that has another.
        let plain = text(&[(MAIN, 2)]);
        let entries = [(MANIFEST, T::Regular, plain.len() as u64, &plain[..]), (name, T::Regular, 2, b"ab")];
        assert!(refused(&forged(&entries)).contains("stands where"), "{name}");
    }
    let plain = text(&[(MAIN, 2)]);
    let head = (MANIFEST, T::Regular, plain.len() as u64, &plain[..]);
    for kind in [T::Symlink, T::Link, T::Directory, T::Fifo, T::Char, T::GNULongName, T::XHeader] {
        assert!(refused(&forged(&[head, (MAIN, kind, 2, b"ab")])).contains("stands where"), "{kind:?}");
        assert!(refused(&forged(&[(MANIFEST, kind, 2, b"{}")])).contains("stands where"), "{kind:?}");
    }
    refused(&forged(&[head, (MAIN, T::GNUSparse, 2, b"ab")]));
    let main = (MAIN, T::Regular, 2, &b"ab"[..]);
    refused(&forged(&[head, main, main]));
    refused(&forged(&[main, head]));
    refused(&forged(&[head]));
    refused(&forged(&[head, main, ("config/more", T::Regular, 2, b"ab")]));
    let doubled = text(&[(MAIN, 2), (MAIN, 2)]);
    let doubled = (MANIFEST, T::Regular, doubled.len() as u64, &doubled[..]);
    assert!(refused(&forged(&[doubled, main, main])).contains("two files"));
}

#[test]
fn sizes_are_what_the_manifest_says_and_no_declaration_costs_memory() {
    use EntryType as T;
    let plain = text(&[(MAIN, 2)]);
    let head = (MANIFEST, T::Regular, plain.len() as u64, &plain[..]);
    for size in [0, 1, 3, LARGEST_FILE, 1 << 40, (1 << 33) - 1] {
        refused(&forged(&[head, (MAIN, T::Regular, size, b"ab")]));
    }
    for size in [LARGEST_FILE + 1, u64::MAX] {
        let giant = text(&[(MAIN, size)]);
        let head = (MANIFEST, T::Regular, giant.len() as u64, &giant[..]);
        assert!(refused(&forged(&[head, (MAIN, T::Regular, 2, b"ab")])).contains("too large"));
    }
    refused(&forged(&[(MANIFEST, T::Regular, 1 << 50, b"{}")]));
    // A queue that says to be larger than all disks ends when its bytes do.
    let mut large = manifest(&[]);
    large.queue = Some(queue(1 << 60));
    let large = serde_json::to_vec(&large).expect("JSON");
    let head = (MANIFEST, T::Regular, large.len() as u64, &large[..]);
    refused(&forged(&[head, (QUEUE, T::Regular, 1 << 60, b"ab")]));
    // A gigabyte of zeros in a few KiB is no manifest, and is not kept.
    let bomb = zstd::encode_all(std::io::repeat(0).take(1 << 28), 1).expect("packs");
    refused(&bomb);
}

#[test]
fn one_of_a_later_form_says_so() {
    use EntryType as T;
    let later = b"{\"format\":2,\"fieldgate\":\"9.9.9\",\"everything\":\"else\"}";
    let why = refused(&forged(&[(MANIFEST, T::Regular, later.len() as u64, later)]));
    assert!(why.contains("9.9.9") && why.contains("form 2"), "{why}");
}

#[test]
fn random_bytes_are_refused() {
    let mut random = fastrand::Rng::with_seed(3);
    for _ in 0..200 {
        let bytes: Vec<u8> = (0..random.usize(..4000)).map(|_| random.u8(..)).collect();
        refused(&bytes);
        refused(&zstd::encode_all(&bytes[..], 1).expect("packs"));
    }
}

#[test]
fn a_queue_that_changes_its_length_is_no_backup() {
    let mut manifest = manifest(&[]);
    manifest.queue = Some(queue(10));
    for bytes in [&b"123456789"[..], b"12345678901"] {
        let mut packer = Packer::new(Vec::new(), &manifest).expect("packs");
        assert!(packer.queue(10, bytes).is_err(), "{}", bytes.len());
    }
}
