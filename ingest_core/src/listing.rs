//! Stored runs -> single readings: a page of a list of them, and what is left of runs when some are deleted.

use crate::copy::{fixed, put_rewritten, timestamp, Rows};
use crate::error::Fault;
use crate::pack::{compress, pack, unpack, ENCODING_RAW};
use crate::run::Run;

/// A row of `datapoints` with its readings.
struct Decoded {
    event: i32,
    id: i64,
    experiment: Option<i32>,
    encoding: i16,
    overlapping: bool,
    times: Vec<i64>,
    values: Vec<f64>,
}

/// `runs`: a binary COPY of (event_id, created_on, id, n, experiment_id, encoding, overlapping, payload).
fn read_runs(runs: &[u8], mut each: impl FnMut(Decoded) -> Result<(), Fault>) -> Result<(), Fault> {
    let mut rows = Rows::new(runs)?;
    while let Some([event, created_on, id, n, experiment, encoding, overlapping, payload]) = rows.read()? {
        let (event, id, created_us) = (i32::from_be_bytes(fixed(event)?), i64::from_be_bytes(fixed(id)?), timestamp(created_on)?);
        let place = || format!("the run {id} of event {event} at {created_us} µs");
        let encoding = i16::from_be_bytes(fixed(encoding)?);
        let payload = payload.ok_or_else(|| Fault::Corrupt("a payload is null".into()))?;
        let (mut times, mut values) = (Vec::new(), Vec::new());
        unpack(created_us, encoding, payload, &mut times, &mut values).map_err(|fault| Fault::Corrupt(format!("{}: {fault}", place())))?;
        if times.len() as i64 != i64::from(i32::from_be_bytes(fixed(n)?)) {
            return Err(Fault::Corrupt(format!("{}: its payload does not hold its readings", place())));
        }
        let experiment = experiment.map(|id| fixed(Some(id)).map(i32::from_be_bytes)).transpose()?;
        let overlapping = fixed::<1>(overlapping)? != [0];
        each(Decoded { event, id, experiment, encoding, overlapping, times, values })?;
    }
    Ok(())
}

/// One reading of a list.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Listed {
    pub t_us: i64,
    pub event: i32,
    pub value: f64,
    pub experiment: Option<i32>,
}

/// The readings in [from_us, to_us) in the order of (time, event), or backwards, that come after `after` in this order; at most `limit`.
/// Of an instant written twice the run with the highest id wins. `runs` are all of these events that touch the window.
pub fn page(
    runs: &[u8],
    (from_us, to_us): (i64, i64),
    after: Option<(i64, i32)>,
    backwards: bool,
    limit: usize,
) -> Result<Vec<Listed>, Fault> {
    let mut found: Vec<(Listed, i64)> = Vec::new();
    read_runs(runs, |run| {
        let begin = run.times.partition_point(|&t_us| t_us < from_us);
        let end = run.times.partition_point(|&t_us| t_us < to_us);
        let readings = run.times[begin..end].iter().zip(&run.values[begin..end]);
        found.extend(readings.map(|(&t_us, &value)| (Listed { t_us, event: run.event, value, experiment: run.experiment }, run.id)));
        Ok(())
    })?;
    let place = |listed: &Listed| (listed.t_us, listed.event);
    found.retain(|(listed, _)| match after {
        None => true,
        Some(after) if backwards => place(listed) < after,
        Some(after) => place(listed) > after,
    });
    found.sort_unstable_by_key(|(listed, id)| (listed.t_us, listed.event, std::cmp::Reverse(*id)));
    found.dedup_by_key(|(listed, _)| place(listed));
    if backwards {
        found.reverse();
    }
    found.truncate(limit);
    Ok(found.into_iter().map(|(listed, _)| listed).collect())
}

/// Rows to write in place of runs of which readings were deleted, and how many different instants these were.
#[derive(Debug, Default)]
pub struct Left {
    pub rows: Vec<u8>,
    pub deleted: usize,
}

/// Deletes [from_us, to_us) from every one of the runs, also what was overwritten there and would come to light. What is left of a run
/// keeps its id, its mark and its form: a part of a run in its place changes nothing else (docs/decisions/0010-compaction.md).
pub fn erase(runs: &[u8], from_us: i64, to_us: i64) -> Result<Left, Fault> {
    let mut rows = Vec::new();
    let mut deleted: Vec<i64> = Vec::new();
    let mut payload = Vec::new();
    read_runs(runs, |run| {
        let begin = run.times.partition_point(|&t_us| t_us < from_us);
        let end = begin.max(run.times.partition_point(|&t_us| t_us < to_us));
        deleted.extend(&run.times[begin..end]);
        for kept in [0..begin, end..run.times.len()] {
            if kept.is_empty() {
                continue;
            }
            let part = Run { times: &run.times[kept.clone()], values: &run.values[kept], experiment: run.experiment };
            payload.clear();
            let encoding = match run.encoding {
                ENCODING_RAW => {
                    pack(&part, &mut payload);
                    ENCODING_RAW
                }
                _ => compress(&part, &mut payload),
            };
            put_rewritten(run.event, &part, run.id, encoding, run.overlapping, &payload, &mut rows);
        }
        Ok(())
    })?;
    deleted.sort_unstable();
    deleted.dedup();
    Ok(Left { rows, deleted: deleted.len() })
}
