//! Runs: stretches of an event's readings that become one row each, with their own statistics.

use crate::catalogue::Span;

/// 65,536 readings in one run: 768 KiB of payload, far below what TOAST takes.
pub const RUN_READINGS_MAX: usize = 65_536;
/// 30 minutes: what a raw run's int32 offsets can hold (35 min), rounded down.
pub const RUN_SPAN_US_MAX: i64 = 30 * 60 * 1_000_000;
pub const DAY_US: i64 = 24 * 3600 * 1_000_000;
/// 4,096 readings in a packed run: 0.63 bytes a reading where 8,192 take 0.62 (a signal of two decimals at 1 kHz) and a reader who wants
/// a few of them decodes twice as many.
pub const PACKED_READINGS: usize = 4096;
/// A packed run of half as many is as good as it gets: to make it longer costs more than it saves.
pub const SETTLED_READINGS_MIN: usize = PACKED_READINGS / 2;

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Extremes {
    pub min: f64,
    pub max: f64,
}

impl Extremes {
    pub const NONE: Extremes = Extremes { min: f64::INFINITY, max: f64::NEG_INFINITY };

    /// Of finite values. Four lanes, so that the compiler can make SIMD of it.
    pub fn of(values: &[f64]) -> Extremes {
        let mut lanes = [Extremes::NONE; 4];
        let mut fours = values.chunks_exact(4);
        for four in &mut fours {
            for (lane, &value) in lanes.iter_mut().zip(four) {
                lane.see(value);
            }
        }
        let mut all = Extremes::NONE;
        fours.remainder().iter().for_each(|&value| all.see(value));
        lanes.iter().for_each(|lane| all.join(*lane));
        all
    }

    #[inline]
    pub fn see(&mut self, value: f64) {
        self.min = if value < self.min { value } else { self.min };
        self.max = if value > self.max { value } else { self.max };
    }

    #[inline]
    pub fn join(&mut self, other: Extremes) {
        self.min = if other.min < self.min { other.min } else { self.min };
        self.max = if other.max > self.max { other.max } else { self.max };
    }
}

/// In four lanes, whatever the machine: the same readings always have the same sum.
pub fn sum(values: &[f64]) -> f64 {
    let mut lanes = [0.0; 4];
    let mut fours = values.chunks_exact(4);
    for four in &mut fours {
        for (lane, value) in lanes.iter_mut().zip(four) {
            *lane += value;
        }
    }
    (lanes[0] + lanes[1]) + (lanes[2] + lanes[3]) + fours.remainder().iter().sum::<f64>()
}

/// One row of `datapoints`, less its id. Borrows a stretch of strictly increasing times and their values.
#[derive(Clone, Copy, Debug)]
pub struct Run<'a> {
    pub times: &'a [i64],
    pub values: &'a [f64],
    pub experiment: Option<i32>,
}

impl Run<'_> {
    pub fn first_us(&self) -> i64 {
        self.times[0]
    }

    pub fn last_us(&self) -> i64 {
        self.times[self.times.len() - 1]
    }
}

/// Cuts strictly increasing readings at midnight UTC, where an experiment of this event begins or ends, at RUN_SPAN_US_MAX and
/// RUN_READINGS_MAX. `spans` are the event's experiments.
pub fn cut<'a>(times: &'a [i64], values: &'a [f64], spans: &[Span], each: impl FnMut(Run<'a>)) {
    cut_by(times, values, spans, RUN_SPAN_US_MAX, |n| n.min(RUN_READINGS_MAX), each);
}

/// Cuts readings that are to be packed: at midnight UTC and at experiments, and what lies between into equal parts of about
/// PACKED_READINGS.
pub fn cut_long<'a>(times: &'a [i64], values: &'a [f64], spans: &[Span], each: impl FnMut(Run<'a>)) {
    cut_by(times, values, spans, DAY_US, |n| n.div_ceil(packed_runs(n)), each);
}

/// How many packed runs `n` readings become.
pub fn packed_runs(n: usize) -> usize {
    ((n + PACKED_READINGS / 2) / PACKED_READINGS).max(1)
}

fn cut_by<'a>(
    mut times: &'a [i64],
    mut values: &'a [f64],
    spans: &[Span],
    span_us_max: i64,
    most: impl Fn(usize) -> usize,
    mut each: impl FnMut(Run<'a>),
) {
    while let (Some(&first), Some(&last)) = (times.first(), times.last()) {
        let midnight = (first.div_euclid(DAY_US) + 1) * DAY_US;
        let end = midnight.min(first + span_us_max + 1);
        let (experiment, changes) = experiment_at(spans, first);
        let before = |end: i64| match last < end {
            true => times.len(),
            false => times.partition_point(|&t_us| t_us < end),
        };
        let mut n = before(end.min(changes));
        while n < times.len() && times[n] < end {
            // Another experiment may have come and gone without a reading.
            match experiment_at(spans, times[n]) {
                (same, changes) if same == experiment => n = before(end.min(changes)),
                _ => break,
            }
        }
        let n = most(n);
        each(Run { times: &times[..n], values: &values[..n], experiment });
        (times, values) = (&times[n..], &values[n..]);
    }
}

/// Of readings by several writers the one with the highest id at each instant, in order. `writers` has an id for each reading.
pub fn newest_written(writers: &[i64], times: &mut Vec<i64>, values: &mut Vec<f64>) {
    if times.windows(2).fold(true, |so_far, pair| so_far & (pair[0] < pair[1])) {
        return;
    }
    let mut readings: Vec<(i64, i64, f64)> =
        writers.iter().zip(&*times).zip(&*values).map(|((&id, &t_us), &value)| (t_us, id, value)).collect();
    readings.sort_unstable_by_key(|&(t_us, id, _)| (t_us, id));
    times.clear();
    values.clear();
    for (k, &(t_us, _, value)) in readings.iter().enumerate() {
        if readings.get(k + 1).is_none_or(|next| next.0 != t_us) {
            times.push(t_us);
            values.push(value);
        }
    }
}

/// The experiment that holds `t_us`, and the first instant after it at which the answer may be another.
fn experiment_at(spans: &[Span], t_us: i64) -> (Option<i32>, i64) {
    let (mut experiment, mut changes) = (None, i64::MAX);
    for span in spans {
        if span.from_us <= t_us && t_us < span.to_us {
            experiment = experiment.max(Some(span.experiment));
        }
        for edge in [span.from_us, span.to_us] {
            if edge > t_us {
                changes = changes.min(edge);
            }
        }
    }
    (experiment, changes)
}
