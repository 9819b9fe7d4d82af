//! Commands: a write asked for over MQTT becomes one exchange on a bus and an answer.
//!
//! What you may rely on:
//! - Every command with an id is answered, whatever becomes of it: `accepted` and then one of
//!   `verified` (read back and equal), `written` (sent, could not be read back: with why, unless the point
//!   is one that can only be written), `failed`, `expired`;
//!   or at once `refused`, with why.
//! - A repeated id of a point is answered with what came of it, and not carried out again.
//! - After its `ttl` (from arrival) or `expires` (wall time) a command is never carried out.
//! - A command that comes retained is refused: nobody knows how old it is.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use driver_api::{Span, Value};
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::info;

use super::ask::{Ask, BusHandle, Exchange, Failed, Pending};
use super::recalled::{self, Recalled};
use crate::bounds;
use crate::clock::Clock;
use crate::message::{CommandRequest, Message, Moment, Origin, Publish};
use crate::pipeline::payload::command_id;
use crate::pipeline::rule::Rule;

/// Every point that exists, by device and point name.
pub type Targets = HashMap<(String, String), Target>;

/// Where a point is to be written.
#[derive(Debug, Clone)]
pub struct Target {
    /// Its bus.
    pub bus: BusHandle,
    /// Its index in the bus's plan.
    pub point: usize,
    /// Its limits, type and scale.
    pub rule: Rule,
}

/// What outlives a restart: commands by their keys (see `recalled.rs`), and what came of them. Bounded by whoever keeps them.
#[async_trait]
pub trait Memory: Send + Sync {
    /// `None`: never seen. `Some(None)`: begun, and nobody knows what came of it. `Some(Some(json))`:
    /// what was kept last.
    fn recall(&self, key: &str) -> Option<Option<String>>;
    /// Notes, durably, that a command is about to be carried out. `false` if it was before.
    async fn begin(&self, key: &str) -> bool;
    /// Keeps the result of a command that was begun.
    fn keep(&self, key: &str, result: &str);
}

/// How long a command without `ttl` and `expires` may wait.
const DEFAULT_TTL: Duration = Duration::from_secs(30);
/// The longest `ttl`: a setpoint of yesterday is nobody's wish.
const LONGEST_TTL: Duration = Duration::from_secs(86_400);
/// Longest id, in bytes.
const LONGEST_ID: usize = 128;

/// The JSON of a command.
#[derive(Debug, Deserialize)]
struct Payload {
    id: String,
    value: serde_json::Value,
    #[serde(default)]
    ttl: Option<Span>,
    #[serde(default)]
    expires: Option<String>,
}

/// A command's result, as published.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// The command's id; `null` if it had none.
    pub id: Option<String>,
    /// `accepted`, `written`, `verified`, `failed`, `expired` or `refused`.
    pub state: State,
    /// What the point holds now, as read back; or what was asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<serde_json::Value>,
    /// Why, unless it went well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// When this result was known, RFC 3339; placed as readings are.
    pub ts: String,
    /// `unsynced` where the clock had not been set since the boot: `ts` is what the box believed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clock: Option<String>,
}

/// What it is now, by what readings are placed by.
pub type Now = Arc<dyn Fn() -> Moment + Send + Sync>;

/// What became of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// On its way to the bus.
    Accepted,
    /// Sent; the device did not let it be read back.
    Written,
    /// Read back and equal.
    Verified,
    /// The device or the bus did not do it.
    Failed,
    /// Its time had passed; nothing was sent.
    Expired,
    /// Not even tried.
    Refused,
}

impl State {
    /// Whether it is the last word on a command that was begun.
    fn is_final(self) -> bool {
        matches!(self, Self::Written | Self::Verified | Self::Failed | Self::Expired)
    }
}

/// The task that carries commands out.
pub struct Commander {
    gateway: String,
    targets: watch::Receiver<Arc<Targets>>,
    memory: Arc<dyn Memory>,
    clock: Arc<dyn Clock>,
    now: Now,
    publish: Publish,
}

/// A command on the wire.
struct Running {
    id: String,
    device: String,
    point: String,
    target: Target,
    raw: Value,
    asked: serde_json::Value,
    pending: Pending,
}

impl Commander {
    /// A commander for the points of `targets`. What expires does so by the clock; results are of `now`.
    #[must_use]
    pub fn new(
        gateway: &str,
        targets: watch::Receiver<Arc<Targets>>,
        memory: Arc<dyn Memory>,
        (clock, now): (Arc<dyn Clock>, Now),
        publish: Publish,
    ) -> Self {
        Self { gateway: gateway.to_owned(), targets, memory, clock, now, publish }
    }

    /// Runs until every sender of commands is gone, and what was begun is answered.
    pub async fn run(mut self, mut commands: mpsc::Receiver<CommandRequest>) {
        let mut running: JoinSet<Verdict> = JoinSet::new();
        loop {
            tokio::select! {
                Some(finished) = running.join_next(), if !running.is_empty() => {
                    if let Ok(verdict) = finished {
                        self.answer(verdict);
                    }
                }
                request = commands.recv() => {
                    let Some(request) = request else { break };
                    let free = running.len() < bounds::COMMANDS_RUNNING;
                    if let Some(started) = self.accept(&request, free).await {
                        running.spawn(carry_out(started));
                    }
                }
            }
        }
        while let Some(finished) = running.join_next().await {
            if let Ok(verdict) = finished {
                self.answer(verdict);
            }
        }
    }

    /// Checks a command; `Some` when it is on its way to the bus.
    async fn accept(&mut self, request: &CommandRequest, free: bool) -> Option<Running> {
        let (device, point) = (&request.device, &request.point);
        let verdict = |id, state, value, error: Option<String>| Verdict {
            device: device.clone(),
            point: point.clone(),
            id,
            state,
            value,
            error,
            asked: None,
        };
        let from = match &request.origin {
            Origin::Local => "local",
            Origin::Uplink(name) => name,
        };
        let payload: Payload = match serde_json::from_slice(&request.payload) {
            Ok(payload) => payload,
            Err(error) => {
                let id = command_id(&request.payload);
                let why = format!(
                    "not a command ({error}); it looks like {{\"id\":\"c-17\",\"value\":21.5,\"ttl\":\"30s\"}}"
                );
                self.answer(verdict(id, State::Refused, None, Some(why)));
                return None;
            }
        };
        let refuse = |this: &mut Self, why: String| {
            let id = Some(payload.id.clone());
            this.answer(verdict(id, State::Refused, Some(payload.value.clone()), Some(why)));
            None
        };
        if payload.id.is_empty() || payload.id.len() > LONGEST_ID {
            return refuse(self, format!("an id has 1 to {LONGEST_ID} bytes"));
        }
        let targets = self.targets.borrow().clone();
        let Some(target) = targets.get(&(device.clone(), point.clone())) else {
            let known = targets.keys().any(|(d, _)| d == device);
            let what = if known {
                format!("`{device}` has no point `{point}`")
            } else {
                format!("no device `{device}`")
            };
            return refuse(self, what);
        };
        if let Some(known) = recalled::recall(&*self.memory, device, point, &payload.id) {
            self.answer_again(device, point, &payload, known);
            return None;
        }
        if request.retained {
            return refuse(self, "a retained command is never carried out: publish it without retain".into());
        }
        let not_after = match self.deadline(&payload, request.received) {
            Ok(Some(at)) => at,
            Ok(None) => {
                let asked = Some(payload.value.clone());
                let why = Some("it came after its time".to_owned());
                self.answer(verdict(Some(payload.id), State::Expired, asked, why));
                return None;
            }
            Err(why) => return refuse(self, why),
        };
        if !free {
            return refuse(self, "busy: too many commands are waiting".into());
        }
        let raw = match target.rule.to_raw(&payload.value) {
            Ok(raw) => raw,
            Err(why) => return refuse(self, why),
        };
        // Before the id is used up: a repeat may find the bus ready.
        if !target.bus.has_room() {
            return refuse(self, "busy: the bus has too much to do, or is being reloaded".into());
        }
        if !self.memory.begin(&recalled::key(device, point, &payload.id)).await {
            let known = recalled::recall(&*self.memory, device, point, &payload.id).unwrap_or_default();
            self.answer_again(device, point, &payload, known);
            return None;
        }
        let ask = Ask::Write { point: target.point, value: raw.clone(), not_after };
        let pending = match target.bus.begin(ask) {
            Ok(pending) => pending,
            Err(failed) => {
                let asked = Some(payload.value.clone());
                let result = judge(target, &raw, payload.value, Err(failed));
                self.answer(Verdict { asked, ..verdict(Some(payload.id), result.0, result.1, result.2) });
                return None;
            }
        };
        info!(DEVICE = device, POINT = point, "command `{}` from {from}: {}", payload.id, payload.value);
        self.answer(verdict(Some(payload.id.clone()), State::Accepted, Some(payload.value.clone()), None));
        Some(Running {
            id: payload.id,
            device: device.clone(),
            point: point.clone(),
            target: target.clone(),
            raw,
            asked: payload.value,
            pending,
        })
    }

    /// Until when it may be begun; `Ok(None)` when that has passed. A `ttl` counts from the arrival.
    fn deadline(&self, payload: &Payload, received: Instant) -> Result<Option<Instant>, String> {
        let now = Instant::now();
        let mut left = payload.ttl.map_or(DEFAULT_TTL, |ttl| ttl.0.min(LONGEST_TTL));
        if let Some(expires) = &payload.expires {
            let at: jiff::Timestamp = expires
                .parse()
                .map_err(|_| format!("`expires` is not RFC 3339 (2026-11-22T14:30:00Z): `{expires}`"))?;
            if !self.clock.synced() {
                return Err("the gateway's clock is not set yet: use `ttl` instead of `expires`".to_owned());
            }
            let Ok(ms) = u64::try_from(at.as_millisecond() - self.clock.wall().0) else {
                return Ok(None);
            };
            let until = Duration::from_millis(ms).min(LONGEST_TTL);
            // Both count; `until` is from now, `left` from the arrival.
            let until = until + now.saturating_duration_since(received);
            left = if payload.ttl.is_some() { left.min(until) } else { until };
        }
        Ok(Some(received + left).filter(|at| *at > now))
    }

    /// A repeated id is answered with what is known of it.
    fn answer_again(&mut self, device: &str, point: &str, payload: &Payload, known: Recalled) {
        let outcome = known.told(payload.id.clone(), &payload.value, (self.now)());
        let json = serde_json::to_string(&outcome).unwrap_or_default();
        (self.publish)(vec![self.message(device, point, json)]);
    }

    fn answer(&mut self, verdict: Verdict) {
        let Verdict { device, point, id, state, value, error, asked } = verdict;
        let now = (self.now)();
        let (ts, clock) = (now.ts.to_string(), now.clock().map(str::to_owned));
        let outcome = Outcome { id: id.clone(), state, value, error, ts, clock };
        let json = serde_json::to_string(&outcome).unwrap_or_default();
        if let (Some(id), true) = (id, state.is_final()) {
            self.memory.keep(&recalled::key(&device, &point, &id), &recalled::kept(outcome, asked));
        }
        (self.publish)(vec![self.message(&device, &point, json)]);
    }

    fn message(&self, device: &str, point: &str, json: String) -> Message {
        Message::new(format!("gw/{}/result/{device}/{point}", self.gateway), json, false)
    }
}

/// What became of one command, and of which.
struct Verdict {
    device: String,
    point: String,
    id: Option<String>,
    state: State,
    value: Option<serde_json::Value>,
    error: Option<String>,
    /// What was asked, of a command that was begun.
    asked: Option<serde_json::Value>,
}

/// Waits for the bus and judges what was read back.
async fn carry_out(run: Running) -> Verdict {
    let result = run.pending.wait().await;
    let asked = Some(run.asked.clone());
    let (state, value, error) = judge(&run.target, &run.raw, run.asked, result);
    Verdict { device: run.device, point: run.point, id: Some(run.id), state, value, error, asked }
}

/// What a write came to: its state, what the point holds now (or what was asked), and what went wrong.
#[must_use]
pub fn judge(
    target: &Target,
    raw: &Value,
    asked: serde_json::Value,
    result: Result<Exchange, Failed>,
) -> (State, Option<serde_json::Value>, Option<String>) {
    let (rule, point) = (&target.rule, target.point);
    let why = |state, why: String, value| (state, value, Some(why));
    match result.map(|exchange: Exchange| exchange.point(point).map(|sample| sample.value.clone())) {
        // What nobody answers cannot be read back, and nothing is wrong with that.
        Ok(Err(_)) if !rule.readable => (State::Written, Some(asked), None),
        Ok(Ok(Ok(read))) if rule.confirms(raw, &read) => (State::Verified, json(&rule.scaled(read)), None),
        Ok(Ok(Ok(read))) => {
            let now = rule.scaled(read);
            why(State::Failed, format!("read back {now}, not what was written"), json(&now))
        }
        Ok(Ok(Err(reason))) => why(State::Written, format!("read back: {}", reason.word()), Some(asked)),
        Ok(Err(error)) => why(State::Written, format!("read back: {error}"), Some(asked)),
        Err(Failed::Expired) => {
            why(State::Expired, "its time passed before the bus was free".to_owned(), Some(asked))
        }
        Err(Failed::Busy) => why(State::Failed, "the bus has too much to do".to_owned(), Some(asked)),
        Err(Failed::Failed(error)) => why(State::Failed, error, Some(asked)),
    }
}

/// A value as JSON.
#[must_use]
pub fn json(value: &Value) -> Option<serde_json::Value> {
    Some(match value {
        Value::Bool(b) => (*b).into(),
        Value::Int(i) => (*i).into(),
        Value::UInt(u) => (*u).into(),
        Value::Float(x) => serde_json::Number::from_f64(*x)?.into(),
        Value::Text(t) => t.as_ref().into(),
    })
}

#[cfg(test)]
mod tests {
    use driver_api::{Reason, Sample};
    use serde_json::json;

    use super::*;
    use crate::message::PointKey;

    #[test]
    fn what_can_only_be_written_is_written_without_a_complaint() {
        let key = PointKey { device: "all".into(), point: "light".into(), unit: String::new() };
        let target = |readable| {
            let rule = Rule { readable, ..Rule::plain(Arc::new(key.clone()), "bool") };
            Target { bus: BusHandle::new().0, point: 0, rule }
        };
        let judged =
            |readable, read| judge(&target(readable), &Value::Bool(true), json!(true), Ok(Exchange { read }));
        let unread = || Err("this point cannot be read".to_owned());
        assert_eq!(judged(false, unread()), (State::Written, Some(json!(true)), None));
        assert_eq!(judged(true, unread()).2.as_deref(), Some("read back: this point cannot be read"));
        let bad = Ok(vec![Sample { point: 0, value: Err(Reason::Timeout), at: Instant::now() }]);
        assert_eq!(judged(true, bad).2.as_deref(), Some("read back: timeout"));
    }
}
