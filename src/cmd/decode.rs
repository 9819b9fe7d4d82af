//! `fieldgate decode`: readings in payloads of `format = "compact"`, as JSON lines.

use std::fs::File;
use std::io::{Read, Write};
use std::path::PathBuf;

use clap::Args as ClapArgs;

use super::exit::Exit;
use crate::pipeline::compact::{Damage, MAGIC, VERSION, decode};
use crate::pipeline::payload::Readings;

/// Print the readings of `compact` payloads as JSON lines.
///
/// The input holds payloads of the topics `…/compact` and `…/compact/history` as they are, one or several after the
/// other: `mosquitto_sub -N -t 'gw/+/compact/#' | fieldgate decode`. What is damaged is named on stderr and left
/// out; the exit code is then 1.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// File, or `-` for standard input.
    #[arg(default_value = "-")]
    file: PathBuf,
    /// JSON lines are the only form; the option is here because every command that prints data has it.
    #[arg(long)]
    json: bool,
}

/// Most bytes that are held at once; MQTT's largest message is 256 MiB.
const INPUT_MAX: u64 = 1 << 30;

/// Damaged places that are named; the rest is counted.
const TOLD: usize = 20;

/// Decodes.
///
/// # Errors
/// The input cannot be read, or some of it is damaged.
pub fn run(args: &Args, out: &mut dyn Write) -> Result<(), Exit> {
    let mut data = Vec::new();
    let name = args.file.display();
    let read = if args.file.as_os_str() == "-" {
        std::io::stdin().lock().take(INPUT_MAX).read_to_end(&mut data)
    } else {
        File::open(&args.file).and_then(|file| file.take(INPUT_MAX).read_to_end(&mut data))
    };
    read.map_err(|e| Exit::Failed(format!("`{name}` cannot be read: {e}")))?;
    if data.len() as u64 == INPUT_MAX {
        return Err(Exit::Failed(format!("`{name}` is larger than 1 GiB; decode it in pieces")));
    }
    let damaged = print(&data, out)?;
    match damaged.get(TOLD..).map(<[String]>::len) {
        _ if damaged.is_empty() => Ok(()),
        None | Some(0) => Err(Exit::Failed(damaged.join("\n"))),
        Some(more) => Err(Exit::Failed(format!("{}\nand {more} more", damaged[..TOLD].join("\n")))),
    }
}

/// Prints what is whole; returns what is not, in words.
fn print(data: &[u8], out: &mut dyn Write) -> Result<Vec<String>, Exit> {
    let mut damaged = Vec::new();
    if data.is_empty() {
        damaged.push("there is nothing to decode".to_owned());
    }
    let mut writer = Readings::default();
    let mut at = 0;
    while let Some(rest) = data.get(at..).filter(|rest| !rest.is_empty()) {
        match decode(rest) {
            Ok((message, length)) => {
                for record in &message.records {
                    out.write_all(&writer.write_line_of(&message.gateway, message.historical, record))?;
                }
                at += length;
            }
            Err(damage) => {
                damaged.push(format!("at byte {at}: {damage}{}", hint(rest, damage)));
                at += next_start(rest);
            }
        }
    }
    Ok(damaged)
}

/// What a person may have given us instead.
fn hint(rest: &[u8], damage: Damage) -> &'static str {
    match (damage, rest.first()) {
        (Damage::Foreign, Some(b'{')) => "; this looks like JSON, which needs no decoding",
        (Damage::Foreign, Some(b'\n')) => "; was a line's end added? `mosquitto_sub` needs `-N`",
        (Damage::Foreign, Some(b'4')) if rest.starts_with(b"464743") => "; this is hexadecimal: `xxd -r -p`",
        (Damage::Foreign, Some(0x28)) => {
            "; this looks like a zstd frame, such as a `json-batch` has: `zstd -d`"
        }
        _ => "",
    }
}

/// Where the next message may begin.
fn next_start(rest: &[u8]) -> usize {
    let mark = [MAGIC[0], MAGIC[1], MAGIC[2], VERSION];
    let next = rest.windows(mark.len()).skip(1).position(|four| four == mark);
    next.map_or(rest.len(), |n| n + 1)
}
