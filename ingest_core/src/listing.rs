//! Stored runs -> single readings: a page of a list of them.

use crate::copy::{fixed, timestamp, Rows};
use crate::error::Fault;
use crate::pack::unpack;

/// A row of `datapoints` with its readings.
struct Decoded {
    event: i32,
    id: i64,
    experiment: Option<i32>,
    times: Vec<i64>,
    values: Vec<f64>,
}

/// `runs`: a binary COPY of (event_id, created_on, id, n, experiment_id, encoding, payload).
fn read_runs(runs: &[u8], mut each: impl FnMut(Decoded)) -> Result<(), Fault> {
    let mut rows = Rows::new(runs)?;
    while let Some([event, created_on, id, n, experiment, encoding, payload]) = rows.read()? {
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
        each(Decoded { event, id, experiment, times, values });
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
