//! The laws of the house, as a test: what a machine can see, a machine says.
//!
//! The laws are in `tidy/laws.rs`; here are the walk over the repository and, for every law, a small
//! bad file that must be found out: a check that cannot fail is worth nothing.

#[path = "tidy/laws.rs"]
mod laws;
#[path = "tidy/lexer.rs"]
mod lexer;
#[path = "tidy/proof.rs"]
mod proof;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use laws::{Known, Place};

#[test]
fn the_repository_keeps_its_laws() {
    let root =
        PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it when it runs a test"));
    let root = root.as_path();
    let bounds = constants(&read(&root.join("src/bounds.rs")));
    let files = files(root);
    let tests = test_files(root, &files);
    let mut found = Vec::new();
    let mut seen = 0;
    for file in &files {
        let path = relative(root, file);
        let Ok(text) = fs::read_to_string(file) else { continue };
        if !path.ends_with(".rs") {
            found
                .extend(laws::length(&text).into_iter().map(|(line, what)| format!("{path}:{line}: {what}")));
            continue;
        }
        seen += 1;
        let place = place(&path);
        let bounds =
            if place == Place::Driver { crate_constants(root, &files, &path) } else { bounds.clone() };
        found.extend(laws::faults(&path, &text, place, &Known { bounds, test_file: tests.contains(file) }));
    }
    for manifest in fs::read_dir(root.join("drivers")).expect("drivers/ is there").flatten() {
        let file = manifest.path().join("Cargo.toml");
        if file.is_file() {
            found.extend(wall(&relative(root, &file), &read(&file)));
        }
    }
    assert!(seen > 20, "only {seen} files seen; the walk has lost its way");
    assert!(found.is_empty(), "\n{}\n", found.join("\n"));
}

/// Code and scripts: what people read from top to bottom.
fn files(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut todo: Vec<PathBuf> =
        ["src", "drivers", "tests", "packaging", "systemd", "config/examples", "benches", "fuzz", ".ci"]
            .iter()
            .map(|dir| root.join(dir))
            .collect();
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            let path = entry.path();
            let name = entry.file_name().to_string_lossy().into_owned();
            let ending = path.extension().and_then(|e| e.to_str()).unwrap_or("");
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                if !matches!(
                    name.as_str(),
                    "target" | "proptest-regressions" | "corpus" | ".venv" | "__pycache__"
                ) {
                    todo.push(path);
                }
            } else if matches!(ending, "rs" | "py" | "sh" | "js" | "css" | "html" | "") {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

fn place(path: &str) -> Place {
    let parts: Vec<&str> = path.split('/').collect();
    match parts.as_slice() {
        ["src", ..] => Place::Gateway,
        ["drivers", _, "src", ..] => Place::Driver,
        _ => Place::Tests,
    }
}

fn relative(root: &Path, file: &Path) -> String {
    file.strip_prefix(root).unwrap_or(file).to_string_lossy().into_owned()
}

fn read(file: &Path) -> String {
    fs::read_to_string(file).unwrap_or_else(|error| panic!("cannot read {}: {error}", file.display()))
}

/// Names of the constants a file declares.
fn constants(text: &str) -> BTreeSet<String> {
    let tokens = lexer::lex(text).tokens;
    tokens.windows(2).filter(|w| w[0].text == "const").map(|w| w[1].text.clone()).collect()
}

/// Names of the constants of the whole driver crate that `path` belongs to.
fn crate_constants(root: &Path, files: &[PathBuf], path: &str) -> BTreeSet<String> {
    let home: String = path.split_inclusive('/').take(2).collect();
    let inside = |file: &&PathBuf| relative(root, file).starts_with(&home) && is_rust(file);
    files.iter().filter(inside).flat_map(|file| constants(&read(file))).collect()
}

fn is_rust(file: &Path) -> bool {
    file.extension().is_some_and(|ending| ending == "rs")
}

/// Files that only a `#[cfg(test)] mod name;` somewhere brings in.
fn test_files(root: &Path, files: &[PathBuf]) -> BTreeSet<PathBuf> {
    let mut homes = Vec::new();
    for file in files.iter().filter(|file| is_rust(file)) {
        let stem = file.file_stem().and_then(|stem| stem.to_str()).unwrap_or("");
        let beside = file.parent().unwrap_or(root);
        let home = if matches!(stem, "mod" | "lib" | "main") { beside.to_owned() } else { beside.join(stem) };
        homes.extend(test_modules(&read(file)).iter().map(|name| home.join(name)));
    }
    let brought = |file: &&PathBuf| {
        homes.iter().any(|home| file.starts_with(home) || **file == home.with_extension("rs"))
    };
    files.iter().filter(brought).cloned().collect()
}

/// Names in `#[cfg(test)] mod name;`.
fn test_modules(text: &str) -> Vec<String> {
    let tokens = lexer::lex(text).tokens;
    let declared = |w: &&[lexer::Token]| w[0].text == "mod" && w[0].test && w[2].text == ";";
    tokens.windows(3).filter(declared).map(|w| w[1].text.clone()).collect()
}

/// The lowest floor: the contract, and what a serial line needs of the operating system.
const GROUND: [&str; 2] = ["driver-api", "driver-tty"];

/// The wall around the drivers, from a manifest: they see the ground, no other floor, no broker, no database.
fn wall(path: &str, manifest: &str) -> Vec<String> {
    let table: toml::Table = match manifest.parse() {
        Ok(table) => table,
        Err(error) => return vec![format!("{path}:1: not TOML ({error}); mend it")],
    };
    let name = table.get("package").and_then(|p| p.get("name")).and_then(toml::Value::as_str).unwrap_or("");
    let mut sections: Vec<&toml::Table> = Vec::new();
    let targets =
        table.get("target").and_then(toml::Value::as_table).into_iter().flat_map(toml::Table::values);
    for holder in std::iter::once(&table).chain(targets.filter_map(toml::Value::as_table)) {
        for kind in ["dependencies", "dev-dependencies", "build-dependencies"] {
            sections.extend(holder.get(kind).and_then(toml::Value::as_table));
        }
    }
    let mut found = Vec::new();
    for (key, value) in sections.into_iter().flatten() {
        let package = value.get("package").and_then(toml::Value::as_str).unwrap_or(key);
        let foreign = package == "fieldgate"
            || matches!(package, "rusqlite" | "rumqttd" | "mqtt-protocol-core")
            || (package.starts_with("driver-") && (!GROUND.contains(&package) || GROUND.contains(&name)));
        if foreign {
            let at = |line: &str| line.trim_start().starts_with(key.as_str());
            let line = manifest.lines().position(at).map_or(1, |n| n + 1);
            found.push(format!(
                "{path}:{line}: `{name}` sees `{package}`; a driver sees only driver-api and driver-tty, so move what it needs there"
            ));
        }
    }
    found
}
