//! Readings that come by REST: one, a batch, one a line, or InfluxDB's line protocol. They are decoded here without a lock, and unlike
//! those of a frame each is good or refused by itself. What channels they are of is said once for all of them.

use std::collections::HashMap;

use serde_json::value::RawValue;

use crate::catalogue::PublicId;
use crate::error::{Code, Refusal};
use crate::line::{self, Unit};
use crate::panic;
use crate::text::{self, Item};
use crate::validate;

/// 16 MiB: the longest body of readings.
pub const BATCH_BYTES_MAX: usize = 16 * 1024 * 1024;
/// 10,000 readings in one batch of JSON.
pub const BATCH_READINGS_MAX: usize = 10_000;
/// 10,000 refusals are listed with their reasons, more are counted: a body of nonsense does not become a hundred bodies of reasons.
const LISTED_MAX: usize = BATCH_READINGS_MAX;

/// What a body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// {"event_public_id", "value", "timestamp"?}
    One,
    /// {"datapoints": [...]}
    Json,
    /// one of them a line
    Lines,
    /// measurement,tag=value field=value time
    LineProtocol(Unit),
}

impl Form {
    /// `reading`, `batch`, `lines`, or a unit of line protocol's time.
    pub fn named(name: &str) -> Option<Form> {
        match name {
            "reading" => Some(Form::One),
            "batch" => Some(Form::Json),
            "lines" => Some(Form::Lines),
            unit => Unit::named(unit).map(Form::LineProtocol),
        }
    }
}

/// How a body names an event.
#[derive(Clone, Debug, PartialEq)]
pub enum Channel {
    PublicId(PublicId),
    /// `measurement.field;tag=value`, the tags in order
    Series(String),
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Reading {
    /// index into Batch::channels
    pub channel: u32,
    /// its index in the body, or its line's, from 0
    pub position: u32,
    pub t_us: Option<i64>,
    pub value: f64,
}

/// What was refused, each with its position.
#[derive(Clone, Debug, Default)]
pub struct Refusals {
    pub listed: Vec<(u32, Refusal)>,
    pub count: usize,
}

impl Refusals {
    pub fn push(&mut self, position: u32, refusal: impl FnOnce() -> Refusal) {
        self.count += 1;
        if self.listed.len() < LISTED_MAX {
            self.listed.push((position, refusal()));
        }
    }

    /// Every reading of a batch for one reason.
    pub fn of_all(batch: &Batch, refusal: &Refusal) -> Refusals {
        let mut all = batch.refused.clone();
        batch.readings.iter().for_each(|reading| all.push(reading.position, || refusal.clone()));
        all
    }
}

/// A body, read.
#[derive(Debug, Default)]
pub struct Batch {
    pub channels: Vec<Channel>,
    pub readings: Vec<Reading>,
    pub refused: Refusals,
}

/// Reads a body of any form. A refusal is one of the whole body: it is no such text at all, or too much.
pub fn read(form: Form, bytes: &[u8]) -> Result<Batch, Refusal> {
    if bytes.len() > BATCH_BYTES_MAX {
        let detail = format!("the body has {} bytes, {BATCH_BYTES_MAX} are allowed: send less in one", bytes.len());
        return Err(Refusal::new(Code::TooLarge, detail));
    }
    panic::point("decoding");
    match form {
        Form::One => Ok(gather([(0, read_item(bytes))], 1)),
        Form::Json => match text::decode::<Item>(bytes, BATCH_READINGS_MAX) {
            Ok(items) => {
                let n = items.len();
                Ok(gather((0..).zip(items.into_iter().map(Ok)), n))
            }
            Err(_) => {
                let items = text::decode::<&RawValue>(bytes, BATCH_READINGS_MAX)?; // now what is wrong in one item costs that item
                Ok(gather((0..).zip(items.iter().map(|item| read_item(item.get().as_bytes()))), items.len()))
            }
        },
        Form::Lines => {
            let lines = || (0..).zip(bytes.split(|&c| c == b'\n')).filter(|(_, line)| !line.trim_ascii().is_empty());
            let n = lines().count();
            validate::check_count(n, BATCH_READINGS_MAX)?;
            Ok(gather(lines().map(|(position, line)| (position, read_item(line))), n))
        }
        Form::LineProtocol(unit) => line::read(bytes, unit),
    }
}

fn read_item(bytes: &[u8]) -> Result<Item, Refusal> {
    serde_json::from_slice(bytes).map_err(|wrong| {
        let said = wrong.to_string();
        let what = said.rsplit_once(" at line ").map_or(&*said, |(what, _)| what);
        Refusal::new(
            Code::Malformed,
            match wrong.is_syntax() || wrong.is_eof() {
                true => format!("this is no JSON: {what} at column {}", wrong.column()),
                false => what.to_owned(),
            },
        )
    })
}

fn gather(items: impl IntoIterator<Item = (u32, Result<Item, Refusal>)>, expected: usize) -> Batch {
    let mut batch = Batch { readings: Vec::with_capacity(expected), ..Batch::default() };
    let mut known: HashMap<PublicId, u32> = HashMap::new();
    for (position, item) in items {
        let Item { event, value, t_us } = match item {
            Ok(item) => item,
            Err(refusal) => {
                batch.refused.push(position, || refusal);
                continue;
            }
        };
        let channels = &mut batch.channels;
        let channel = *known.entry(event).or_insert_with(|| {
            channels.push(Channel::PublicId(event));
            channels.len() as u32 - 1
        });
        batch.readings.push(Reading { channel, position, t_us, value });
    }
    batch
}
