//! Payloads: the readings of a run as bytes. The first byte is the format's version, the table's `encoding` says what follows.

use crate::error::Fault;
use crate::frame::{float, offset};
use crate::run::{Run, DAY_US};

const FORMAT_VERSION: u8 = 1;
/// int32[n] µs from the run's first reading, then float64[n], little-endian
pub const ENCODING_RAW: i16 = 0;
const RAW_READING_BYTES: usize = 4 + 8;

pub fn packed_bytes(n: usize) -> usize {
    1 + n * RAW_READING_BYTES
}

/// Appends the payload of a run that spans less than 35 minutes.
pub fn pack(run: &Run<'_>, out: &mut Vec<u8>) {
    let first_us = run.first_us();
    out.push(FORMAT_VERSION);
    out.extend(run.times.iter().flat_map(|t_us| ((t_us - first_us) as i32).to_le_bytes()));
    out.extend(run.values.iter().flat_map(|value| value.to_le_bytes()));
}

/// Appends the readings of a payload to `times` and `values`.
pub fn unpack(created_us: i64, encoding: i16, payload: &[u8], times: &mut Vec<i64>, values: &mut Vec<f64>) -> Result<(), Fault> {
    match (payload.split_first(), encoding) {
        (Some((&FORMAT_VERSION, readings)), ENCODING_RAW) => unpack_raw(created_us, readings, times, values),
        (Some((&version, _)), ENCODING_RAW) => Err(Fault::Corrupt(format!("a payload of format {version} is not known here"))),
        (Some(_), _) => Err(Fault::Corrupt(format!("a payload of encoding {encoding} is not known here"))),
        (None, _) => Err(Fault::Corrupt("a payload is empty".into())),
    }
}

fn unpack_raw(created_us: i64, readings: &[u8], times: &mut Vec<i64>, values: &mut Vec<f64>) -> Result<(), Fault> {
    let n = readings.len() / RAW_READING_BYTES;
    if n == 0 || readings.len() % RAW_READING_BYTES != 0 {
        return Err(Fault::Corrupt(format!("{} bytes of payload do not hold whole readings", readings.len())));
    }
    let (offsets, floats) = readings.split_at(n * 4);
    if offset(offsets) != 0 || created_us.checked_add(DAY_US).is_none() {
        return Err(Fault::Corrupt("a payload does not begin with its run".into()));
    }
    let begun = times.len();
    times.extend(offsets.chunks_exact(4).map(|o| created_us + i64::from(offset(o))));
    if !times[begun..].windows(2).fold(true, |so_far, pair| so_far & (pair[0] < pair[1])) {
        times.truncate(begun);
        return Err(Fault::Corrupt("a payload's times do not increase".into()));
    }
    values.extend(floats.chunks_exact(8).map(float));
    Ok(())
}
