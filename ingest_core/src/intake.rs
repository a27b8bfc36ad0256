//! The way in: connections and their channel tables, who owns which event, and what has arrived since the last drain.
//! `boundary` keeps one `Intake` behind a mutex; `drain` moves everything out of it, and encoding works without it.

use std::collections::{HashMap, HashSet};

use crate::batch::{self, Batch, Channel, Refusals};
use crate::buffer::Buffer;
use crate::catalogue::{Catalogue, PublicId};
use crate::drain::{Column, Frontier, Settlement, Taken};
use crate::error::{Code, Fault, Refusal};
use crate::frame::{self, Frame, Preview};
use crate::panic;
use crate::rule::{self, Rule, State, Test, Transition};
use crate::text;
use crate::validate::{self, Standing};

/// 32 MiB of empty buffers are kept for the readings to come; what a drain leaves beyond it is freed.
const SPARE_BYTES_MAX: usize = 32 * 1024 * 1024;
const MINUTE_US: i64 = 60_000_000;

/// (writer, generation)
pub type Writer = (i32, i64);
/// (event, t_us, value) to show and not to keep
pub type Shown = (i32, i64, f64);

#[derive(Debug)]
struct Event {
    id: i32,
    owner: Option<Writer>,
    /// counts take-overs: a drain that began before one must not move the new frontier
    taken_over: u64,
    /// everything stored lies at or before it
    frontier: Option<i64>,
    /// the last reading that rules have seen
    evaluated: Option<i64>,
    rules: Vec<Rule>,
}

#[derive(Debug)]
struct Slot {
    /// index into Intake::events
    event: usize,
    buffer: Buffer,
    /// the frame that met it last
    met: u64,
}

/// Channel number -> slot. Sources count from 0 or 1; a table with wide holes falls back to hashing.
#[derive(Debug)]
enum Numbers {
    Dense(Vec<u32>),
    Sparse(HashMap<i64, u32>),
}

const UNKNOWN: u32 = u32::MAX;
const REFUSED: u32 = u32::MAX - 1;

impl Numbers {
    fn new(entries: &[(i64, u32)]) -> Numbers {
        let end = entries.iter().map(|(number, _)| number.saturating_add(1)).max().unwrap_or(0);
        if entries.iter().any(|(number, _)| *number < 0) || end > 4 * entries.len() as i64 + 64 {
            return Numbers::Sparse(entries.iter().copied().collect());
        }
        let mut dense = vec![UNKNOWN; end as usize];
        for &(number, slot) in entries {
            dense[number as usize] = slot;
        }
        Numbers::Dense(dense)
    }

    #[inline]
    fn get(&self, number: i64) -> u32 {
        match self {
            Numbers::Dense(dense) => usize::try_from(number).ok().and_then(|k| dense.get(k)).copied().unwrap_or(UNKNOWN),
            Numbers::Sparse(sparse) => sparse.get(&number).copied().unwrap_or(UNKNOWN),
        }
    }
}

pub type Receipt = (i64, i64, i64, i64, i64);
pub type GapRow = (i64, Option<i32>, i64, i64, i64, &'static str);
pub type QualityRow = (i64, i32, i64, Option<i64>, &'static str);

/// What one connection brought since the last drain, apart from its readings.
#[derive(Debug, Default)]
pub struct Records {
    pub writers: Vec<Writer>,
    pub readings: u64,
    pub frames: u64,
    pub first_seq: Option<i64>,
    pub last_seq: Option<i64>,
    pub last_index: Option<i64>,
    pub receipts: Vec<Receipt>,
    pub gaps: Vec<GapRow>,
    pub quality: Vec<QualityRow>,
    pub refusals: Vec<(Option<i64>, Refusal)>,
    pub transitions: Vec<Transition>,
}

impl Records {
    fn is_empty(&self) -> bool {
        self.frames == 0 && self.refusals.is_empty()
    }

    fn number(&mut self, seq: i64, readings: u64, now_us: i64) {
        self.first_seq.get_or_insert(seq);
        self.last_seq = Some(seq);
        let minute_us = now_us.div_euclid(MINUTE_US) * MINUTE_US;
        match self.receipts.last_mut() {
            Some(receipt) if receipt.0 == minute_us => {
                receipt.2 = seq;
                receipt.3 += 1;
                receipt.4 += readings as i64;
            }
            _ => self.receipts.push((minute_us, seq, seq, 1, readings as i64)),
        }
    }

    fn write_as(&mut self, writer: Writer) {
        if self.writers.last() != Some(&writer) && !self.writers.contains(&writer) {
            self.writers.push(writer);
        }
    }
}

#[derive(Debug)]
struct Connection {
    /// the order of opening, which is the order of segments
    order: u64,
    numbers: Numbers,
    /// slots of the channel table
    table: Vec<u32>,
    slots: Vec<Slot>,
    slot_of: HashMap<usize, u32>,
    /// slots that hold readings
    touched: Vec<u32>,
    grants: Option<HashSet<i32>>,
    records: Records,
    /// bytes of memory that wait for the next drain
    held: usize,
    /// bytes of memory in its buffers that wait for readings
    spare: usize,
    closed: bool,
}

impl Connection {
    fn slot(&mut self, event: usize) -> u32 {
        let slots = &mut self.slots;
        *self.slot_of.entry(event).or_insert_with(|| {
            slots.push(Slot { event, buffer: Buffer::default(), met: 0 });
            slots.len() as u32 - 1
        })
    }

    /// The event of a granted channel.
    fn event_of(&self, channel: i64, events: &[Event]) -> i32 {
        events[self.slots[self.numbers.get(channel) as usize].event].id
    }

    fn standing(&self, channel: i64) -> Standing {
        match self.numbers.get(channel) {
            UNKNOWN => Standing::Unknown,
            REFUSED => Standing::Refused,
            _ => Standing::Granted,
        }
    }

    /// Where the readings of `event` go, from now on among what the next drain takes.
    fn touch(&mut self, slot: u32) -> &mut Buffer {
        let buffer = &mut self.slots[slot as usize].buffer;
        if buffer.is_empty() {
            self.touched.push(slot);
        }
        buffer
    }

    fn refuse(&mut self, seq: Option<i64>, refusal: Refusal, now_us: i64, events: &[Event]) {
        self.held += size_of::<(Option<i64>, Refusal)>() + refusal.detail.len();
        self.records.frames += 1;
        if let Some(seq) = seq {
            self.records.number(seq, 0, now_us);
        }
        self.write_as_table(events);
        self.records.refusals.push((seq, refusal));
    }

    /// Those who own the table's events: what is no reading is taken under all of them.
    fn write_as_table(&mut self, events: &[Event]) {
        for &slot in &self.table {
            if let Some(owner) = events[self.slots[slot as usize].event].owner {
                self.records.write_as(owner);
            }
        }
    }
}

#[derive(Debug)]
pub enum TextVerdict {
    Accepted(u64),
    Refused(Refusal),
    Unowned(Vec<i32>),
    /// events that are not known here, or not yet
    Unnamed(Vec<PublicId>),
}

#[derive(Debug)]
pub enum BatchVerdict {
    /// how many readings were taken, and what was refused
    Taken(u64, Refusals),
    Unowned(Vec<i32>),
    /// what is not known here, or not yet
    Unnamed(Vec<Channel>),
}

/// How readings that name their events are judged: when they came, what exists, which event a series is, and whether all that can be named has been.
#[derive(Clone, Copy, Debug)]
pub struct Standpoint<'a> {
    pub now_us: i64,
    pub catalogue: &'a Catalogue,
    pub names: Option<&'a HashMap<String, i32>>,
    pub named: bool,
}

#[derive(Debug, Default)]
pub struct Intake {
    events: Vec<Event>,
    index: HashMap<i32, usize>,
    connections: HashMap<i64, Connection>,
    opened: u64,
    frames: u64,
    takeovers: u64,
    internal_faults: u64,
    buffered_bytes: usize,
}

impl Intake {
    fn event(&mut self, id: i32) -> usize {
        let events = &mut self.events;
        *self.index.entry(id).or_insert_with(|| {
            events.push(Event { id, owner: None, taken_over: 0, frontier: None, evaluated: None, rules: Vec::new() });
            events.len() - 1
        })
    }

    /// Replaces the rules. One that stays the same keeps its state.
    pub fn set_rules(&mut self, rules: &[(i32, i32, Test)]) {
        let mut known: HashMap<(i32, i32), Rule> = HashMap::new();
        for event in &mut self.events {
            known.extend(event.rules.drain(..).map(|rule| ((rule.id, event.id), rule)));
        }
        for &(id, event, test) in rules {
            let state = known.get(&(id, event)).filter(|rule| rule.test == test).map_or(State::default(), |rule| rule.state);
            let event = self.event(event);
            self.events[event].rules.push(Rule { id, test, state });
        }
    }

    /// Takes events over. An event whose tenure goes on, same writer and generation, keeps its state and at least its frontier.
    pub fn own(&mut self, writer: Writer, events: &[(i32, Option<i64>)], firing: &[i32]) {
        self.takeovers += 1;
        for &(id, frontier) in events {
            let event = self.event(id);
            let event = &mut self.events[event];
            if event.owner == Some(writer) {
                event.frontier = event.frontier.max(frontier); // what is not committed yet counts too
                continue;
            }
            event.owner = Some(writer);
            event.taken_over = self.takeovers;
            event.frontier = frontier;
            event.evaluated = frontier;
            for rule in &mut event.rules {
                rule.state = State { fired: firing.contains(&rule.id) };
            }
        }
    }

    pub fn open(&mut self, id: i64, channels: &[(i64, i32)], refused: &[i64], grants: Option<HashSet<i32>>) -> Result<(), Fault> {
        let owned = |event: &i32| self.index.get(event).is_some_and(|&event| self.events[event].owner.is_some());
        if let Some((number, event)) = channels.iter().find(|(_, event)| !owned(event)) {
            return Err(Fault::Misuse(format!("channel {number}: nobody owns event {event} yet, call own() before open()")));
        }
        let (mut numbers, mut events) = (HashSet::new(), HashSet::new());
        if let Some((number, event)) = channels.iter().find(|(number, event)| !numbers.insert(number) || !events.insert(event)) {
            return Err(Fault::Misuse(format!("channel {number} or its event {event} stands twice in the channel table")));
        }
        self.opened += 1;
        let connection = self.connections.entry(id).or_insert_with(|| Connection {
            order: self.opened,
            numbers: Numbers::Dense(Vec::new()),
            table: Vec::new(),
            slots: Vec::new(),
            slot_of: HashMap::new(),
            touched: Vec::new(),
            grants: None,
            records: Records::default(),
            held: 0,
            spare: 0,
            closed: false,
        });
        connection.closed = false;
        connection.grants = grants;
        let mut entries: Vec<(i64, u32)> = refused.iter().map(|&number| (number, REFUSED)).collect();
        entries.extend(channels.iter().map(|(number, event)| (*number, connection.slot(self.index[event]))));
        connection.table = entries[refused.len()..].iter().map(|(_, slot)| *slot).collect();
        connection.numbers = Numbers::new(&entries);
        Ok(())
    }

    pub fn close(&mut self, id: i64) -> Result<(), Fault> {
        let connection = find(&mut self.connections, id)?;
        if connection.touched.is_empty() && connection.records.is_empty() {
            self.buffered_bytes -= connection.held;
            self.connections.remove(&id);
        } else {
            connection.closed = true;
        }
        Ok(())
    }

    /// Panics that cost a message.
    pub fn internal_faults(&self) -> u64 {
        self.internal_faults
    }

    pub fn buffered_bytes(&self) -> usize {
        self.buffered_bytes
    }

    /// A data, gap, quality or preview frame, whole or not at all. Gives back how many readings it held and what of them is
    /// only to be shown.
    pub fn accept(&mut self, id: i64, bytes: &[u8], now_us: i64) -> Result<Result<(u64, Vec<Shown>), Refusal>, Fault> {
        let connection = find(&mut self.connections, id)?;
        self.frames += 1;
        let number = self.frames;
        let (mut kind, mut seq) = (None, None); // known also when what follows panics: a refusal consumes its number
        let judged = guarded(&mut self.internal_faults, || {
            (kind, seq) = frame::peek(bytes).map_or((None, None), |(kind, seq)| (Some(kind), seq));
            judge(connection, bytes, now_us, number)
        });
        let judged = judged.unwrap_or_else(Err);
        let before = connection.held;
        let verdict = match judged {
            Ok(Frame::Preview(previews)) => Ok((previews.len() as u64, shown(connection, &self.events, previews))),
            Ok(frame) => Ok((take(connection, &mut self.events, seq, frame, now_us), Vec::new())),
            Err(refusal) => {
                if kind != Some(frame::KIND_PREVIEW) {
                    connection.refuse(seq, refusal.clone(), now_us, &self.events);
                }
                Err(refusal)
            }
        };
        self.buffered_bytes += connection.held - before;
        Ok(verdict)
    }

    /// A text frame, whole or not at all.
    pub fn accept_text(&mut self, id: i64, index: i64, bytes: &[u8], standpoint: Standpoint<'_>) -> Result<TextVerdict, Fault> {
        let connection = find(&mut self.connections, id)?;
        let now_us = standpoint.now_us;
        let judged = guarded(&mut self.internal_faults, || judge_text(bytes, standpoint, connection.grants.as_ref()));
        let readings = judged.unwrap_or_else(Err);
        let before = connection.held;
        let verdict = match readings {
            Ok(Text::Unnamed(events)) => return Ok(TextVerdict::Unnamed(events)),
            Ok(Text::Readings(readings)) => {
                let owned = |event: i32| self.index.get(&event).is_some_and(|&event| self.events[event].owner.is_some());
                let mut unowned: Vec<i32> = readings.iter().map(|reading| reading.0).filter(|&event| !owned(event)).collect();
                unowned.sort_unstable();
                unowned.dedup();
                if !unowned.is_empty() {
                    return Ok(TextVerdict::Unowned(unowned));
                }
                for &(event, t_us, value) in &readings {
                    let slot = connection.slot(self.index[&event]);
                    take_reading(connection, &mut self.events, slot, t_us, value);
                }
                connection.records.frames += 1;
                connection.records.readings += readings.len() as u64;
                connection.records.last_index = Some(index);
                TextVerdict::Accepted(readings.len() as u64)
            }
            Err(refusal) => {
                connection.refuse(None, refusal.clone(), now_us, &self.events);
                TextVerdict::Refused(refusal)
            }
        };
        self.buffered_bytes += connection.held - before;
        Ok(verdict)
    }

    /// Counts a panic that was met without the lock, while a batch was read, and makes a refusal of it.
    pub fn refuse_fault(&mut self, said: &str) -> Refusal {
        refuse_fault(&mut self.internal_faults, said)
    }

    /// Every reading by itself: good ones are taken, the others are refused. What is refused here was answered and leaves no record.
    pub fn accept_batch(&mut self, id: i64, index: i64, batch: &Batch, standpoint: Standpoint<'_>) -> Result<BatchVerdict, Fault> {
        let connection = find(&mut self.connections, id)?;
        let channels = resolve(batch, standpoint, connection.grants.as_ref());
        let mut unnamed = Vec::new();
        let mut unowned = Vec::new();
        for (channel, found) in batch.channels.iter().zip(&channels) {
            match found {
                Err(refusal) if refusal.code == Code::UnknownChannel => unnamed.push(channel.clone()),
                Ok(event) if self.index.get(event).is_none_or(|&event| self.events[event].owner.is_none()) => unowned.push(*event),
                _ => (),
            }
        }
        if !standpoint.named && !unnamed.is_empty() {
            return Ok(BatchVerdict::Unnamed(unnamed));
        }
        if !unowned.is_empty() {
            unowned.sort_unstable();
            unowned.dedup();
            return Ok(BatchVerdict::Unowned(unowned));
        }
        let judged = guarded(&mut self.internal_faults, || judge_batch(batch, &channels, standpoint.now_us));
        let (readings, refused) = judged.unwrap_or_else(|refusal| (Vec::new(), Refusals::of_all(batch, &refusal)));
        let before = connection.held;
        let slots: Vec<Option<u32>> =
            channels.iter().map(|event| event.as_ref().ok().map(|event| connection.slot(self.index[event]))).collect();
        for &(channel, t_us, value) in &readings {
            if let Some(slot) = slots[channel as usize] {
                take_reading(connection, &mut self.events, slot, t_us, value);
            }
        }
        connection.records.frames += 1;
        connection.records.readings += readings.len() as u64;
        connection.records.last_index = Some(index);
        self.buffered_bytes += connection.held - before;
        Ok(BatchVerdict::Taken(readings.len() as u64, refused))
    }

    /// Moves everything out. What comes back knows nothing of the intake any more; `settle` brings the frontiers home.
    pub fn drain(&mut self) -> Vec<Taken> {
        let events = &self.events;
        let mut taken: Vec<(u64, Taken)> = Vec::new();
        for (&id, connection) in &mut self.connections {
            if connection.touched.is_empty() && connection.records.is_empty() {
                continue;
            }
            connection.held = 0;
            let mut columns: Vec<Column> = Vec::with_capacity(connection.touched.len());
            for slot in connection.touched.drain(..) {
                let Slot { event, buffer, .. } = &mut connection.slots[slot as usize];
                let Event { id, frontier, taken_over, .. } = events[*event];
                connection.spare -= buffer.spare_bytes();
                columns.push(Column { event: id, slot, frontier: Frontier { us: frontier, taken_over }, readings: buffer.take() });
            }
            columns.sort_unstable_by_key(|column| column.event);
            taken.push((connection.order, Taken { connection: id, records: std::mem::take(&mut connection.records), columns }));
        }
        self.connections.retain(|_, connection| !connection.closed);
        self.buffered_bytes = 0;
        taken.sort_unstable_by_key(|(order, _)| *order);
        taken.into_iter().map(|(_, taken)| taken).collect()
    }

    /// After a drain: the new frontiers, but not of events that were taken over meanwhile, and memory that serves again.
    pub fn settle(&mut self, settlement: Settlement) {
        for (id, frontier) in &settlement.frontiers {
            if let Some(&event) = self.index.get(id) {
                let event = &mut self.events[event];
                if event.taken_over == frontier.taken_over {
                    event.frontier = event.frontier.max(frontier.us);
                }
            }
        }
        let mut room = SPARE_BYTES_MAX.saturating_sub(self.connections.values().map(|connection| connection.spare).sum());
        for (id, slot, readings) in settlement.spent {
            let bytes = readings.bytes();
            let connection = self.connections.get_mut(&id).filter(|_| bytes <= room);
            let Some(connection) = connection else { continue };
            if let Some(Slot { buffer, .. }) = connection.slots.get_mut(slot as usize).filter(|slot| slot.buffer.spare_bytes() == 0) {
                buffer.give_back(readings);
                connection.spare += bytes;
                room -= bytes;
            }
        }
    }
}

fn find(connections: &mut HashMap<i64, Connection>, id: i64) -> Result<&mut Connection, Fault> {
    match connections.get_mut(&id) {
        Some(connection) if !connection.closed => Ok(connection),
        _ => Err(Fault::Misuse(format!("connection {id} is not open"))),
    }
}

/// Runs `judge`, which changes nothing that lasts. Its panic is a fault of ours; it costs that one message.
fn guarded<T>(internal_faults: &mut u64, judge: impl FnOnce() -> T) -> Result<T, Refusal> {
    panic::guarded(judge).map_err(|said| refuse_fault(internal_faults, &said))
}

fn refuse_fault(internal_faults: &mut u64, said: &str) -> Refusal {
    *internal_faults += 1;
    Refusal::new(Code::Malformed, format!("internal fault {internal_faults} while the frame was read, please report it: {said}"))
}

/// Decodes and checks a frame. `number` is its own, so that a channel's second column is seen.
fn judge<'a>(connection: &mut Connection, bytes: &'a [u8], now_us: i64, number: u64) -> Result<Frame<'a>, Refusal> {
    validate::check_size(bytes)?;
    panic::point("decoding");
    let frame = frame::decode(bytes)?;
    panic::point("checking");
    match &frame {
        Frame::Data(data) => validate::check_data(data, now_us, |channel| {
            let standing = connection.standing(channel);
            if standing == Standing::Granted {
                let slot = connection.numbers.get(channel) as usize;
                if std::mem::replace(&mut connection.slots[slot].met, number) == number {
                    return Standing::Repeated;
                }
            }
            standing
        })?,
        Frame::Gap(gap) => validate::check_gap(gap, now_us, |channel| connection.standing(channel))?,
        Frame::Quality(quality) => validate::check_quality(quality, now_us, |channel| connection.standing(channel))?,
        Frame::Preview(previews) => validate::check_previews(*previews, now_us, |channel| connection.standing(channel))?,
    }
    Ok(frame)
}

enum Text {
    /// (event, t_us, value) of every item, which all may be written
    Readings(Vec<Shown>),
    Unnamed(Vec<PublicId>),
}

fn judge_text(bytes: &[u8], standpoint: Standpoint<'_>, grants: Option<&HashSet<i32>>) -> Result<Text, Refusal> {
    let Standpoint { now_us, catalogue, named, .. } = standpoint;
    validate::check_size(bytes)?;
    let items: Vec<text::Item> = text::decode(bytes, validate::FRAME_READINGS_MAX)?;
    panic::point("checking");
    if !named {
        let mut unnamed: Vec<PublicId> =
            items.iter().map(|item| item.event).filter(|event| !catalogue.by_public_id.contains_key(event)).collect();
        if !unnamed.is_empty() {
            unnamed.sort_unstable();
            unnamed.dedup();
            return Ok(Text::Unnamed(unnamed));
        }
    }
    let n = items.len();
    let judge = || {
        let mut repeats: HashMap<i32, i64> = HashMap::new();
        let mut readings = Vec::with_capacity(n);
        for (position, item) in items.into_iter().enumerate() {
            let Some(&event) = catalogue.by_public_id.get(&item.event) else {
                return Err(
                    Refusal::new(Code::UnknownChannel, format!("reading {position} names an event that does not exist")).at(position)
                );
            };
            if grants.is_some_and(|grants| !grants.contains(&event)) {
                return Err(
                    Refusal::new(Code::NotGranted, format!("reading {position} is of an event that you may not write")).at(position)
                );
            }
            let t_us = item.t_us.unwrap_or_else(|| {
                let repeat = repeats.entry(event).or_insert(-1);
                *repeat += 1;
                now_us + *repeat
            });
            validate::check_reading(t_us, item.value, now_us, position)?;
            readings.push((event, t_us, item.value));
        }
        Ok(readings)
    };
    judge().map(Text::Readings).map_err(|refusal: Refusal| refusal.holding(n))
}

/// The event of each channel, or why its readings are refused.
fn resolve(batch: &Batch, standpoint: Standpoint<'_>, grants: Option<&HashSet<i32>>) -> Vec<Result<i32, Refusal>> {
    let find = |channel: &Channel| {
        let event = match channel {
            Channel::PublicId(public_id) => standpoint.catalogue.by_public_id.get(public_id),
            Channel::Series(name) => standpoint.names.and_then(|names| names.get(name)),
        };
        match event {
            None => Err(Refusal::new(
                Code::UnknownChannel,
                match channel {
                    Channel::PublicId(_) => "there is no such event".to_owned(),
                    Channel::Series(name) => format!("there is no event {name}"),
                },
            )),
            Some(event) if grants.is_some_and(|grants| !grants.contains(event)) => {
                Err(Refusal::new(Code::NotGranted, "this event is not yours to write: no channel of this source is mapped to it"))
            }
            Some(&event) => Ok(event),
        }
    };
    batch.channels.iter().map(find).collect()
}

/// (channel, t_us, value) of the readings that are good, and the others with those that could not be read, in order.
fn judge_batch(batch: &Batch, channels: &[Result<i32, Refusal>], now_us: i64) -> (Vec<(u32, i64, f64)>, Refusals) {
    panic::point("checking");
    let mut refused = batch.refused.clone();
    let mut repeats: HashMap<i32, i64> = HashMap::new();
    let mut readings = Vec::with_capacity(batch.readings.len());
    for &batch::Reading { channel, position, t_us, value } in &batch.readings {
        let event = match &channels[channel as usize] {
            Ok(event) => *event,
            Err(refusal) => {
                refused.push(position, || refusal.clone());
                continue;
            }
        };
        let t_us = t_us.unwrap_or_else(|| {
            let repeat = repeats.entry(event).or_insert(-1);
            *repeat += 1;
            now_us + *repeat
        });
        match validate::check_reading(t_us, value, now_us, position as usize) {
            Ok(()) => readings.push((channel, t_us, value)),
            Err(refusal) => refused.push(position, || refusal),
        }
    }
    refused.listed.sort_by_key(|(position, _)| *position);
    (readings, refused)
}

fn shown(connection: &Connection, events: &[Event], previews: frame::Previews<'_>) -> Vec<Shown> {
    let mut shown = Vec::with_capacity(previews.len()); // all of them were met while judging
    shown.extend(previews.map(|Preview { channel, t_us, value }| (connection.event_of(channel, events), t_us, value)));
    shown
}

/// Takes a judged data, gap or quality frame and gives back how many readings it held.
fn take(connection: &mut Connection, events: &mut [Event], seq: Option<i64>, frame: Frame<'_>, now_us: i64) -> u64 {
    let seq = seq.unwrap_or(0); // these kinds have one: peek() saw it
    let mut readings = 0;
    match frame {
        Frame::Data(data) => {
            data.columns.for_each(|column| take_column(connection, events, &column));
            panic::point("taking");
            readings = data.readings as u64;
        }
        Frame::Gap(frame::Gap { channel, from_us, to_us, n, cause, .. }) => {
            let event = channel.map(|channel| connection.event_of(channel, events));
            connection.write_as_table(events);
            connection.held += size_of::<GapRow>();
            connection.records.gaps.push((seq, event, from_us, to_us, n, cause));
        }
        Frame::Quality(frame::Quality { channel, from_us, to_us, code }) => {
            let event = connection.event_of(channel, events);
            connection.write_as_table(events);
            connection.held += size_of::<QualityRow>();
            connection.records.quality.push((seq, event, from_us, to_us, code));
        }
        Frame::Preview(_) => (),
    }
    connection.records.frames += 1;
    connection.records.readings += readings;
    connection.records.number(seq, readings, now_us);
    readings
}

fn take_column(connection: &mut Connection, events: &mut [Event], column: &frame::Column<'_>) {
    let slot = connection.numbers.get(column.channel);
    let event = &mut events[connection.slots[slot as usize].event];
    let buffer = connection.touch(slot);
    let held = buffer.bytes();
    let (times, values) = buffer.push_column(column);
    let late = event.evaluated.map_or(0, |evaluated| match times[0] > evaluated {
        true => 0,
        false => times.partition_point(|&t_us| t_us <= evaluated),
    });
    event.evaluated = event.evaluated.max(times.last().copied());
    let mut transitions = Vec::new();
    rule::scan(&mut event.rules, event.id, &times[late..], &values[late..], &mut transitions);
    connection.held += transitions.len() * size_of::<Transition>() + connection.slots[slot as usize].buffer.bytes() - held;
    connection.records.transitions.append(&mut transitions);
    if let Some(owner) = event.owner {
        connection.records.write_as(owner);
    }
}

fn take_reading(connection: &mut Connection, events: &mut [Event], slot: u32, t_us: i64, value: f64) {
    let event = connection.slots[slot as usize].event;
    let buffer = connection.touch(slot);
    let held = buffer.bytes();
    buffer.push(t_us, value);
    connection.held += connection.slots[slot as usize].buffer.bytes() - held;
    let event = &mut events[event];
    if event.evaluated.is_none_or(|evaluated| t_us > evaluated) {
        event.evaluated = Some(t_us);
        let transitions = &mut connection.records.transitions;
        let known = transitions.len();
        rule::step(&mut event.rules, event.id, t_us, value, transitions);
        connection.held += (transitions.len() - known) * size_of::<Transition>();
    }
    if let Some(owner) = event.owner {
        connection.records.write_as(owner);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_while_judging_costs_one_frame_and_is_counted() {
        let mut faults = 0;
        for count in 1..3 {
            let refusal = guarded(&mut faults, || -> u8 { panic!("a bug") }).unwrap_err();
            assert_eq!(refusal.code, Code::Malformed);
            assert!(refusal.detail.starts_with(&format!("internal fault {count} ")), "{}", refusal.detail);
        }
        assert_eq!(guarded(&mut faults, || 1), Ok(1));
    }

    #[test]
    fn a_table_with_wide_holes_finds_its_channels_too() {
        for numbers in [vec![0, 1, 2], vec![i64::MIN, -1, 0], vec![5, 1 << 40, i64::MAX]] {
            let entries: Vec<(i64, u32)> = numbers.iter().copied().zip(0..).collect();
            let table = Numbers::new(&entries);
            assert!(entries.iter().all(|&(number, slot)| table.get(number) == slot));
            assert_eq!([-2, 3, 1 << 39].map(|number| table.get(number)), [UNKNOWN; 3]);
        }
    }
}
