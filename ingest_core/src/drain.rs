//! What was moved out of the intake -> segments: settled, cut into runs, encoded for COPY. Nothing here holds a lock.

use std::collections::HashMap;

use crate::buffer::Readings;
use crate::catalogue::{Catalogue, Experiment};
use crate::copy::{put_latest, put_run, LATEST_ROW_BYTES_MAX, ROW_BYTES_MAX};
use crate::intake::Records;
use crate::latest::{Brought, Last};
use crate::pack::packed_bytes;
use crate::panic;
use crate::run::{cut, Extremes};

/// Everything stored of an event lies at or before `us`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Frontier {
    pub us: Option<i64>,
    /// the take-over it belongs to
    pub taken_over: u64,
}

/// What one event brought on one connection.
#[derive(Debug)]
pub struct Column {
    pub event: i32,
    /// of its connection
    pub slot: u32,
    pub frontier: Frontier,
    pub readings: Readings,
}

/// All that one connection brought.
#[derive(Debug)]
pub struct Taken {
    pub connection: i64,
    pub records: Records,
    /// by event id
    pub columns: Vec<Column>,
}

#[derive(Debug)]
pub struct Segment {
    pub connection: i64,
    pub records: Records,
    pub rows: Vec<u8>,
    pub runs: u64,
    /// rows of `latest`: the newest reading by time of each event touched
    pub latest: Vec<u8>,
    pub newest_us: Option<i64>,
    pub brought: Vec<Brought>,
}

/// What a drain gives back to the intake.
#[derive(Debug)]
pub struct Settlement {
    pub frontiers: HashMap<i32, Frontier>,
    /// (connection, slot, readings whose memory serves again)
    pub spent: Vec<(i64, u32, Readings)>,
}

/// Encodes in order, so that of two connections with the same event the later one counts as written later.
pub fn encode(mut taken: Vec<Taken>, catalogue: &Catalogue) -> (Vec<Segment>, Settlement) {
    let (mut first_us, mut last_us) = (i64::MAX, i64::MIN);
    for Column { readings, .. } in taken.iter_mut().flat_map(|taken| &mut taken.columns) {
        readings.settle();
        first_us = first_us.min(readings.times[0]);
        last_us = last_us.max(readings.times[readings.times.len() - 1]);
    }
    panic::point("draining");
    let experiments = catalogue.experiments_within(first_us, last_us);
    let mut settlement = Settlement { frontiers: HashMap::new(), spent: Vec::new() };
    let segments = taken.into_iter().map(|taken| encode_segment(taken, &experiments, &mut settlement)).collect();
    (segments, settlement)
}

fn encode_segment(taken: Taken, experiments: &[&Experiment], settlement: &mut Settlement) -> Segment {
    let Taken { connection, records, columns } = taken;
    let expected = columns.iter().map(|column| ROW_BYTES_MAX + packed_bytes(column.readings.times.len())).sum();
    let mut rows = Vec::with_capacity(expected);
    let mut runs = 0;
    let mut latest = Vec::with_capacity(LATEST_ROW_BYTES_MAX * columns.len());
    let mut newest_us = None;
    let mut brought = Vec::with_capacity(columns.len());
    let mut spans = Vec::new();
    for Column { event, slot, frontier, readings } in columns {
        let Readings { times, values, .. } = &readings;
        spans.clear();
        spans.extend(experiments.iter().filter_map(|experiment| experiment.span(event)));
        let frontier = settlement.frontiers.entry(event).or_insert(frontier);
        let mut all = Extremes::NONE;
        let mut experiment = None;
        cut(times, values, &spans, |run| {
            let extremes = Extremes::of(run.values);
            let overlapping = frontier.us.is_some_and(|us| run.first_us() <= us);
            frontier.us = frontier.us.max(Some(run.last_us()));
            put_run(event, &run, extremes, overlapping, &mut rows);
            all.join(extremes);
            experiment = run.experiment;
            runs += 1;
        });
        let last = Last { t_us: times[times.len() - 1], value: values[values.len() - 1], experiment };
        put_latest(event, last, &mut latest);
        newest_us = newest_us.max(Some(last.t_us));
        brought.push(Brought { event, last, extremes: all, n: times.len() as u64 });
        settlement.spent.push((connection, slot, readings));
    }
    Segment { connection, records, rows, runs, latest, newest_us, brought }
}
