//! Runs: stretches of an event's readings that become one row each, with their own statistics.

use crate::catalogue::Span;

/// 65,536 readings in one run: 768 KiB of payload, far below what TOAST takes.
pub const RUN_READINGS_MAX: usize = 65_536;
/// 30 minutes: what a raw run's int32 offsets can hold (35 min), rounded down.
pub const RUN_SPAN_US_MAX: i64 = 30 * 60 * 1_000_000;
pub const DAY_US: i64 = 24 * 3600 * 1_000_000;

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
pub fn cut<'a>(times: &'a [i64], values: &'a [f64], spans: &[Span], mut each: impl FnMut(Run<'a>)) {
    let (mut times, mut values) = (times, values);
    while let Some(&first) = times.first() {
        let midnight = (first.div_euclid(DAY_US) + 1) * DAY_US;
        let (experiment, changes) = experiment_at(spans, first);
        let end = midnight.min(first + RUN_SPAN_US_MAX + 1).min(changes);
        let most = times.len().min(RUN_READINGS_MAX);
        let n = match times[most - 1] < end {
            true => most,
            false => times[..most].partition_point(|&t_us| t_us < end),
        };
        each(Run { times: &times[..n], values: &values[..n], experiment });
        (times, values) = (&times[n..], &values[n..]);
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
