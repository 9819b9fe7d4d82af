//! Several block reads under way at once, on lines that allow it.
//!
//! Only what is one plain request goes out with others: a block that is split, refused or inside a model is
//! read by itself, and so is one that is refused now, because what a refusal teaches is learned where it is
//! asked alone.

use std::io;

use driver_api::exception::{Exception, Reaction};
use driver_api::{FrameError, ReadError, Sample};
use tokio::time::Instant;

use crate::bus::{Ask, Got, Line, ModbusBus, Reply, read_request, words};
use crate::config::Area;
use crate::learned::Part;
use crate::pdu::{Answer, encode};
use crate::place::Space;
use crate::plan::Run;

/// The one request that reads a block.
struct Plain {
    device: usize,
    area: Area,
    run: Run,
    pdu: Vec<u8>,
}

impl<L: Line> ModbusBus<L> {
    /// Reads these blocks, and gives for each, in order, what reading it alone would.
    pub(crate) async fn read_all(&mut self, blocks: &[usize]) -> Vec<Result<Vec<Sample>, ReadError>> {
        let mut devices: Vec<usize> =
            blocks.iter().filter_map(|b| Some(self.compiled.plan.blocks.get(*b)?.device)).collect();
        devices.sort_unstable();
        devices.dedup();
        for device in devices {
            if let Err(error) = self.chores(device).await {
                let lost = |_| Err(ReadError::Bus(io::Error::other(error.to_string())));
                return blocks.iter().map(lost).collect();
            }
        }
        let plain: Vec<Option<Plain>> = blocks.iter().map(|block| self.plain(*block)).collect();
        let asks: Vec<Ask<'_>> = plain
            .iter()
            .flatten()
            .map(|plain| {
                let device = &self.compiled.devices[plain.device];
                Ask { unit: device.unit, pdu: &plain.pdu, timeout: device.timeout }
            })
            .collect();
        let mut replies = self.line.exchange_all(&asks).await.into_iter();
        let mut results = Vec::with_capacity(blocks.len());
        for (block, plain) in blocks.iter().zip(plain) {
            let result = match plain.and_then(|plain| Some((plain, replies.next()?))) {
                Some((plain, reply)) => self.taken(plain, reply),
                None => None,
            };
            results.push(match result {
                Some(result) => result,
                None => {
                    let mut samples = Vec::new();
                    self.read_block(*block, &mut samples).await.map(|()| samples)
                }
            });
        }
        results
    }

    /// The one request that reads a block, where nothing else is to be done or learned first.
    fn plain(&mut self, block: usize) -> Option<Plain> {
        let device = self.compiled.plan.blocks.get(block)?.device;
        let (space, run) = self.compiled.blocks.get(block)?.clone();
        let Space::Table(area) = space else { return None };
        let whole = self.whole(block);
        let learned = self.blocks.get_mut(block)?;
        learned.refresh(|| whole, Instant::now());
        let [Part { refused: None, .. }] = learned.parts.as_slice() else { return None };
        let pdu = encode(&read_request(area, run.span))?;
        Some(Plain { device, area, run, pdu })
    }

    /// What came of a plain request; `None`: it is to be asked alone.
    fn taken(
        &mut self,
        plain: Plain,
        reply: Result<Reply, ReadError>,
    ) -> Option<Result<Vec<Sample>, ReadError>> {
        self.note(plain.device, &reply);
        self.learn(plain.device, &reply);
        match reply {
            Ok(Reply { answer: Answer::Data(data), at, .. }) => {
                let words = Ok(words(plain.area, plain.run.span, &data));
                let mut samples = Vec::new();
                self.hand_up(vec![Got { run: plain.run, words, at }], &mut samples);
                Some(Ok(samples))
            }
            Ok(Reply { answer: Answer::Exception(code), .. }) => match Exception::of(code).read {
                Reaction::RefusedHere | Reaction::Refused => None,
                Reaction::NextTurn | Reaction::SoonAgain | Reaction::Working | Reaction::Silent => {
                    Some(Err(ReadError::Transient(FrameError::Exception(code))))
                }
            },
            Err(error) => Some(Err(error)),
        }
    }
}
