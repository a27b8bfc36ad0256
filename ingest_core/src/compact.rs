//! Many small runs -> few long ones. First a plan, from statistics alone: which stretches of time are written anew. Then, from the rows of
//! those stretches, the rows that take their place. What readers see is the same before and after, at every instant
//! (docs/decisions/0010-compaction.md says why).

use std::collections::HashMap;

use crate::catalogue::{Experiment, Span};
use crate::copy::{fixed, put_rewritten, timestamp, Rows};
use crate::error::Fault;
use crate::pack::{compress, pack, unpack, ENCODING_RAW};
use crate::run::{cut, cut_long, newest_written, packed_runs, Run, SETTLED_READINGS_MIN};

/// An event has so many small runs before it is worth the while: 64 runs of a reading become one of 64, 64 of these one of 4,096.
pub const SMALL_RUNS: usize = 64;
/// The most rows of one event that a plan looks at; what comes later in time is left for another one.
pub const RUNS_MAX: usize = 20_000;
/// One plan's readings, 3 MiB of raw payload: what a transaction holds in memory. More only where many long runs begin at the same
/// instant: these are taken together.
pub const READINGS_MAX: i64 = 1 << 18;

/// A row of `datapoints` less what a plan does not need.
#[derive(Clone, Copy, Debug)]
struct Stored {
    event: i32,
    created_us: i64,
    last_us: i64,
    n: i64,
    experiment: Option<i32>,
    raw: bool,
    overlapping: bool,
}

impl Stored {
    fn is_settled(&self) -> bool {
        !self.raw && !self.overlapping && self.n >= SETTLED_READINGS_MIN as i64
    }
}

/// All runs of an event that begin in [from_us, to_us): their readings before to_us are merged, the rest stays with its own run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    pub event: i32,
    pub from_us: i64,
    pub to_us: i64,
    /// runs that begin in it
    pub runs: usize,
}

#[derive(Debug)]
pub struct Plan {
    /// by event and time
    pub ranges: Vec<Range>,
}

/// Rows to write in place of those that were planned.
#[derive(Debug, Default)]
pub struct Merged {
    pub rows: Vec<u8>,
    pub runs: u64,
    pub readings: u64,
}

impl Plan {
    /// `stats`: a binary COPY of (event_id, created_on, last_on, n, experiment_id, encoding, overlapping) of runs of some events on one
    /// day, ordered by event and created_on, at most RUNS_MAX of each. Of every event they are all the runs from some instant on that no
    /// earlier run reaches. Nothing from `before_us` on is touched. `thorough`: whatever can become fewer runs, be they ever so few.
    pub fn new(stats: &[u8], before_us: i64, thorough: bool) -> Result<Plan, Fault> {
        let stored = read_stats(stats)?;
        let mut ranges = Vec::new();
        let mut budget = READINGS_MAX;
        for runs in stored.chunk_by(|a, b| a.event == b.event) {
            let bound_us = match runs.len() < RUNS_MAX {
                true => before_us,
                false => before_us.min(runs[runs.len() - 1].created_us),
            };
            plan_event(runs, bound_us, thorough, &mut budget, &mut ranges);
        }
        Ok(Plan { ranges })
    }

    /// `runs`: a binary COPY of (event_id, created_on, id, n, encoding, overlapping, payload) of the runs in the ranges, in any order.
    /// The merged runs are cut at midnight UTC and where one of `experiments` begins or ends.
    pub fn merge(&self, runs: &[u8], experiments: &[Experiment]) -> Result<Merged, Fault> {
        let mut members = read_runs(runs)?;
        let mut merged = Merged::default();
        let mut spans = Vec::new();
        for range in &self.ranges {
            let own = members.get_mut(&range.event).map_or(&mut [][..], |all| {
                all.sort_unstable_by_key(|run| (run.created_us, run.id));
                let begun = all.partition_point(|run| run.created_us < range.from_us);
                let ended = all.partition_point(|run| run.created_us < range.to_us);
                &mut all[begun..ended]
            });
            if own.len() != range.runs {
                return Err(Fault::Misuse(format!("{} runs were planned in {range:?}, {} came", range.runs, own.len())));
            }
            spans.clear();
            spans.extend(experiments.iter().filter_map(|experiment| experiment.span(range.event)));
            merge_range(range, own, &spans, &mut merged)?;
        }
        Ok(merged)
    }
}

/// Runs that are apart in time from all others, in order; of several, one is marked.
struct Piece<'a> {
    runs: &'a [Stored],
    last_us: i64,
}

impl Piece<'_> {
    fn is_settled(&self) -> bool {
        self.runs.len() == 1 && self.runs[0].is_settled()
    }

    fn is_tangled(&self) -> bool {
        self.runs.len() > 1 || self.runs[0].overlapping
    }

    fn readings(&self) -> i64 {
        self.runs.iter().map(|run| run.n).sum()
    }
}

fn pieces_of(runs: &[Stored]) -> Vec<Piece<'_>> {
    let mut pieces = Vec::new();
    let mut begun = 0;
    let mut last_us = i64::MIN;
    for (k, run) in runs.iter().enumerate() {
        if k > begun && run.created_us > last_us {
            pieces.push(Piece { runs: &runs[begun..k], last_us });
            begun = k;
        }
        last_us = last_us.max(run.last_us);
    }
    if begun < runs.len() {
        pieces.push(Piece { runs: &runs[begun..], last_us });
    }
    pieces
}

fn plan_event(runs: &[Stored], bound_us: i64, thorough: bool, budget: &mut i64, ranges: &mut Vec<Range>) {
    let mut pieces = pieces_of(runs);
    // A lone run that is not over yet is left alone; a chain of runs that goes on is cut.
    pieces.retain(|piece| if piece.is_tangled() { piece.runs[0].created_us < bound_us } else { piece.last_us < bound_us });
    for sequence in pieces.split(Piece::is_settled) {
        let small = sequence.iter().filter(|piece| !piece.is_tangled() && !piece.runs[0].raw).count();
        let all = thorough || small >= SMALL_RUNS || sequence.iter().any(Piece::is_tangled);
        // Small packed runs wait until they are many, or each of their readings would be packed again with every few new ones.
        let first = if all { 0 } else { sequence.iter().position(|piece| piece.runs[0].raw).unwrap_or(sequence.len()) };
        let sequence = &sequence[first..];
        if is_worth(sequence, thorough) {
            divide(sequence, bound_us, budget, ranges);
        }
    }
}

/// Whether readers have less to do afterwards.
fn is_worth(sequence: &[Piece<'_>], thorough: bool) -> bool {
    let runs = || sequence.iter().flat_map(|piece| piece.runs);
    let long_enough = |run: &Stored| thorough || run.n >= SETTLED_READINGS_MIN as i64;
    if sequence.iter().any(Piece::is_tangled) || runs().any(|run| run.raw && long_enough(run)) {
        return true;
    }
    let all: Vec<&Stored> = runs().collect();
    let after: usize =
        all.chunk_by(|a, b| a.experiment == b.experiment).map(|same| packed_runs(same.iter().map(|run| run.n as usize).sum())).sum();
    after < all.len()
}

/// Stretches of at most what is left of the budget. Their ends lie between pieces, or where a piece is too long, or goes beyond the bound,
/// at the beginning of one of its runs.
fn divide(sequence: &[Piece<'_>], bound_us: i64, budget: &mut i64, ranges: &mut Vec<Range>) {
    let mut open: Option<Range> = None;
    for piece in sequence {
        let Stored { event, created_us, .. } = piece.runs[0];
        if *budget <= 0 {
            break;
        }
        let end_us = end_of(piece, bound_us, *budget);
        let runs = piece.runs.iter().take_while(|run| run.created_us < end_us).count();
        let range = open.get_or_insert(Range { event, from_us: created_us, to_us: end_us, runs: 0 });
        range.to_us = end_us;
        range.runs += runs;
        *budget -= piece.runs[..runs].iter().map(|run| run.n).sum::<i64>();
        if end_us <= piece.last_us {
            break;
        }
    }
    ranges.extend(open);
}

/// Where the part of a piece ends that is merged now: after it, or at the beginning of the run that is too much. All runs that begin at
/// the same instant come together, however many they are.
fn end_of(piece: &Piece<'_>, bound_us: i64, budget: i64) -> i64 {
    let after = piece.last_us.saturating_add(1).min(bound_us);
    if piece.readings() <= budget {
        return after;
    }
    let mut readings = 0;
    let too_much = piece.runs.iter().position(|run| {
        readings += run.n;
        readings > budget
    });
    let first_us = piece.runs[0].created_us;
    let rest = &piece.runs[too_much.unwrap_or(0)..];
    rest.iter().map(|run| run.created_us).find(|&created_us| created_us > first_us).map_or(after, |created_us| created_us.min(after))
}

fn read_stats(copy: &[u8]) -> Result<Vec<Stored>, Fault> {
    let mut rows = Rows::new(copy)?;
    let mut stored: Vec<Stored> = Vec::new();
    while let Some([event, created_on, last_on, n, experiment, encoding, overlapping]) = rows.read()? {
        let run = Stored {
            event: i32::from_be_bytes(fixed(event)?),
            created_us: timestamp(created_on)?,
            last_us: timestamp(last_on)?,
            n: i32::from_be_bytes(fixed(n)?).into(),
            experiment: experiment.map(|id| fixed(Some(id)).map(i32::from_be_bytes)).transpose()?,
            raw: i16::from_be_bytes(fixed(encoding)?) == ENCODING_RAW,
            overlapping: fixed::<1>(overlapping)? != [0],
        };
        if stored.last().is_some_and(|before| (before.event, before.created_us) > (run.event, run.created_us)) {
            return Err(Fault::Misuse("the runs of a plan are not in the order of time".into()));
        }
        stored.push(run);
    }
    Ok(stored)
}

#[derive(Debug)]
struct Member<'a> {
    created_us: i64,
    id: i64,
    n: usize,
    encoding: i16,
    overlapping: bool,
    payload: &'a [u8],
}

impl Member<'_> {
    /// Appends its readings.
    fn unpack(&self, event: i32, times: &mut Vec<i64>, values: &mut Vec<f64>) -> Result<(), Fault> {
        let begun = times.len();
        let place = || format!("the run {} of event {event} at {} µs", self.id, self.created_us);
        unpack(self.created_us, self.encoding, self.payload, times, values)
            .map_err(|fault| Fault::Corrupt(format!("{}: {fault}", place())))?;
        match times.len() - begun == self.n {
            true => Ok(()),
            false => Err(Fault::Corrupt(format!("{}: its payload does not hold its {} readings", place(), self.n))),
        }
    }
}

fn read_runs(copy: &[u8]) -> Result<HashMap<i32, Vec<Member<'_>>>, Fault> {
    let mut rows = Rows::new(copy)?;
    let mut members: HashMap<i32, Vec<Member<'_>>> = HashMap::new();
    while let Some([event, created_on, id, n, encoding, overlapping, payload]) = rows.read()? {
        let member = Member {
            created_us: timestamp(created_on)?,
            id: i64::from_be_bytes(fixed(id)?),
            n: i32::from_be_bytes(fixed(n)?) as usize,
            encoding: i16::from_be_bytes(fixed(encoding)?),
            overlapping: fixed::<1>(overlapping)? != [0],
            payload: payload.ok_or_else(|| Fault::Corrupt("a payload is null".into()))?,
        };
        members.entry(i32::from_be_bytes(fixed(event)?)).or_default().push(member);
    }
    Ok(members)
}

fn merge_range(range: &Range, members: &[Member<'_>], spans: &[Span], merged: &mut Merged) -> Result<(), Fault> {
    let (mut times, mut values, mut writers) = (Vec::new(), Vec::new(), Vec::new());
    let mut payload = Vec::new();
    for member in members {
        let begun = times.len();
        member.unpack(range.event, &mut times, &mut values)?;
        let kept = begun + times[begun..].partition_point(|&t_us| t_us < range.to_us);
        let (rest_times, rest_values) = (times.split_off(kept), values.split_off(kept));
        writers.resize(kept, member.id);
        put_part(range.event, member, &rest_times, &rest_values, spans, merged);
    }
    newest_written(&writers, &mut times, &mut values);
    let newest = members.iter().map(|member| member.id).max().unwrap_or_default();
    cut_long(&times, &values, spans, |run| {
        payload.clear();
        let encoding = compress(&run, &mut payload);
        put_rewritten(range.event, &run, newest, encoding, false, &payload, &mut merged.rows);
        merged.runs += 1;
        merged.readings += run.values.len() as u64;
    });
    Ok(())
}

/// A part of a run in its place: it keeps its number, its mark and whether it is packed.
fn put_part(event: i32, member: &Member<'_>, times: &[i64], values: &[f64], spans: &[Span], merged: &mut Merged) {
    let mut payload = Vec::new();
    let put = |run: Run<'_>| {
        payload.clear();
        let encoding = match member.encoding {
            ENCODING_RAW => {
                pack(&run, &mut payload);
                ENCODING_RAW
            }
            _ => compress(&run, &mut payload),
        };
        put_rewritten(event, &run, member.id, encoding, member.overlapping, &payload, &mut merged.rows);
        merged.runs += 1;
        merged.readings += run.values.len() as u64;
    };
    match member.encoding {
        ENCODING_RAW => cut(times, values, spans, put),
        _ => cut_long(times, values, spans, put),
    }
}

/// What is left of some runs without their readings in [from_us, to_us), to be written in their place, and how many readings lay there.
/// `runs` and `experiments` as for `Plan::merge`.
pub fn erase(runs: &[u8], from_us: i64, to_us: i64, experiments: &[Experiment]) -> Result<(Merged, u64), Fault> {
    let (mut left, mut erased) = (Merged::default(), 0);
    let (mut times, mut values) = (Vec::new(), Vec::new());
    for (event, members) in read_runs(runs)? {
        let spans: Vec<Span> = experiments.iter().filter_map(|experiment| experiment.span(event)).collect();
        for member in &members {
            times.clear();
            values.clear();
            member.unpack(event, &mut times, &mut values)?;
            let begun = times.partition_point(|&t_us| t_us < from_us);
            let ended = times.partition_point(|&t_us| t_us < to_us).max(begun);
            erased += (ended - begun) as u64;
            put_part(event, member, &times[..begun], &values[..begun], &spans, &mut left);
            put_part(event, member, &times[ended..], &values[ended..], &spans, &mut left);
        }
    }
    Ok((left, erased))
}
