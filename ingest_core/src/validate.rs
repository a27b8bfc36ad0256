//! The checks that a decoded frame passes whole or fails whole, and the limits they hold it to.

use crate::error::{Code, Refusal};
use crate::frame::{float, offset, Column, Data, Gap, Preview, Previews, Quality, Times, Values};

/// 4 MiB: the longest frame, and the longest text frame.
pub const FRAME_BYTES_MAX: usize = 4 * 1024 * 1024;
/// 262,144 readings in one frame.
pub const FRAME_READINGS_MAX: usize = 262_144;
/// 100,000 columns in one frame.
pub const CHANNELS_MAX: usize = 100_000;
/// 30 days: a live reading may be this much older than now.
pub const PAST_US_MAX: i64 = 30 * 24 * 3600 * 1_000_000;
/// 24 hours: a live reading may be this much newer than now.
pub const FUTURE_US_MAX: i64 = 24 * 3600 * 1_000_000;

/// What a connection's table says of a channel number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    Granted,
    /// granted, and met before in this frame
    Repeated,
    /// known, not granted
    Refused,
    Unknown,
}

pub fn check_size(bytes: &[u8]) -> Result<(), Refusal> {
    if bytes.len() > FRAME_BYTES_MAX {
        let detail = format!("the frame has {} bytes, {FRAME_BYTES_MAX} are allowed: send less in one", bytes.len());
        return Err(Refusal::new(Code::TooLarge, detail));
    }
    Ok(())
}

pub fn check_count(readings: usize, allowed: usize) -> Result<(), Refusal> {
    if readings > allowed {
        let detail = format!("there are {readings} readings or more, {allowed} are allowed: send less in one");
        return Err(Refusal::new(Code::TooLarge, detail));
    }
    Ok(())
}

fn check_channel(channel: i64, standing: Standing) -> Result<(), Refusal> {
    let (code, detail) = match standing {
        Standing::Granted => return Ok(()),
        Standing::Repeated => (Code::Malformed, format!("channel {channel} has two columns in one frame")),
        Standing::Refused => (Code::NotGranted, format!("channel {channel} was refused when the connection was opened")),
        Standing::Unknown => (Code::UnknownChannel, format!("channel {channel} is not in the channel table")),
    };
    Err(Refusal::new(code, detail).of_channel(channel))
}

/// Limits first, then the columns in order; in a column the channel, the lengths, the times, their bounds, the values.
pub fn check_data(data: &Data<'_>, now_us: i64, mut standing: impl FnMut(i64) -> Standing) -> Result<(), Refusal> {
    let mut check = || {
        if data.width > CHANNELS_MAX {
            let detail = format!("the frame has {} columns, {CHANNELS_MAX} are allowed", data.width);
            return Err(Refusal::new(Code::TooLarge, detail));
        }
        check_count(data.readings, FRAME_READINGS_MAX)?;
        for column in data.columns {
            check_channel(column.channel, standing(column.channel))?;
            check_column(&column, now_us).map_err(|refusal| refusal.of_channel(column.channel))?;
        }
        Ok(())
    };
    check().map_err(|refusal: Refusal| refusal.holding(data.readings))
}

fn check_column(column: &Column<'_>, now_us: i64) -> Result<(), Refusal> {
    let n = column.values.len();
    let last_us = match column.times {
        Times::Offsets(bytes) => {
            if bytes.len() / 4 != n {
                return Err(Refusal::new(Code::LengthsDiffer, format!("{} times stand beside {n} values", bytes.len() / 4)));
            }
            if !rising(bytes) {
                let position = 1 + pairs(bytes).position(|(a, b)| offset(a) >= offset(b)).unwrap_or(0);
                return Err(
                    Refusal::new(Code::NotIncreasing, format!("reading {position} is not later than the one before it")).at(position)
                );
            }
            column.t0_us.saturating_add(offset(&bytes[bytes.len() - 4..]).into())
        }
        Times::Step(step) => stepped(column.t0_us, step, n - 1),
    };
    let first_us = match column.times {
        Times::Offsets(bytes) => column.t0_us.saturating_add(offset(bytes).into()),
        Times::Step(_) => column.t0_us,
    };
    let (oldest, newest) = bounds(now_us);
    if first_us < oldest {
        return Err(out_of_bounds(first_us, now_us, 0));
    }
    if last_us > newest {
        let (position, t_us) = match column.times {
            Times::Offsets(bytes) => {
                let mut times = bytes.chunks_exact(4).map(|o| column.t0_us.saturating_add(offset(o).into())).enumerate();
                times.find(|(_, t)| *t > newest).unwrap_or((n - 1, last_us))
            }
            Times::Step(step) => {
                let position = if column.t0_us > newest { 0 } else { (newest.saturating_sub(column.t0_us) / step + 1) as usize };
                (position, stepped(column.t0_us, step, position))
            }
        };
        return Err(out_of_bounds(t_us, now_us, position));
    }
    if let Some(position) = unbounded(column.values) {
        return Err(Refusal::new(Code::NotFinite, format!("reading {position} is not a finite number")).at(position));
    }
    Ok(())
}

fn stepped(t0_us: i64, step: i64, k: usize) -> i64 {
    i64::try_from(i128::from(t0_us) + i128::from(step) * k as i128).unwrap_or(i64::MAX)
}

fn bounds(now_us: i64) -> (i64, i64) {
    (now_us.saturating_sub(PAST_US_MAX), now_us.saturating_add(FUTURE_US_MAX))
}

#[cold]
fn out_of_bounds(t_us: i64, now_us: i64, position: usize) -> Refusal {
    let seconds = (i128::from(t_us) - i128::from(now_us)) / 1_000_000;
    let detail = match seconds < 0 {
        true => format!("reading {position} is {} s older than the server's time, 30 days are allowed: set the source's clock", -seconds),
        false => format!("reading {position} is {seconds} s ahead of the server's time, 24 hours are allowed: set the source's clock"),
    };
    Refusal::new(Code::OutOfBounds, detail).at(position)
}

/// Each offset beside the one after it.
fn pairs(bytes: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    bytes.chunks_exact(4).zip(bytes[bytes.len().min(4)..].chunks_exact(4))
}

/// A fold without an early end: the compiler makes SIMD of it.
fn rising(bytes: &[u8]) -> bool {
    pairs(bytes).fold(true, |so_far, (a, b)| so_far & (offset(a) < offset(b)))
}

/// The first value that is no finite number.
fn unbounded(values: Values<'_>) -> Option<usize> {
    match values {
        Values::Packed(bytes) => {
            let finite = bytes.chunks_exact(8).fold(true, |so_far, value| so_far & float(value).is_finite());
            if finite {
                return None;
            }
            bytes.chunks_exact(8).position(|value| !float(value).is_finite())
        }
        Values::Numbers { .. } => {
            let (mut position, mut first) = (0, None);
            values.for_each(|value| {
                if first.is_none() && !value.is_finite() {
                    first = Some(position);
                }
                position += 1;
            });
            first
        }
    }
}

/// One reading that came with its own time, `position`-th of its frame.
pub fn check_reading(t_us: i64, value: f64, now_us: i64, position: usize) -> Result<(), Refusal> {
    let (oldest, newest) = bounds(now_us);
    if t_us < oldest || t_us > newest {
        return Err(out_of_bounds(t_us, now_us, position));
    }
    if !value.is_finite() {
        return Err(Refusal::new(Code::NotFinite, format!("reading {position} is not a finite number")).at(position));
    }
    Ok(())
}

pub fn check_previews(previews: Previews<'_>, now_us: i64, mut standing: impl FnMut(i64) -> Standing) -> Result<(), Refusal> {
    let readings = previews.len();
    let mut check = || {
        check_count(readings, FRAME_READINGS_MAX)?;
        for (position, Preview { channel, t_us, value }) in previews.enumerate() {
            check_channel(channel, standing(channel)).map_err(|refusal| refusal.at(position))?;
            check_reading(t_us, value, now_us, position).map_err(|refusal| refusal.of_channel(channel))?;
        }
        Ok(())
    };
    check().map_err(|refusal: Refusal| refusal.holding(readings))
}

pub fn check_gap(gap: &Gap, now_us: i64, standing: impl FnOnce(i64) -> Standing) -> Result<(), Refusal> {
    let check = || {
        if let Some(channel) = gap.channel {
            check_channel(channel, standing(channel))?;
        }
        check_interval(gap.from_us, Some(gap.to_us), now_us)?;
        if gap.n < 0 {
            return Err(Refusal::new(Code::Malformed, "a gap misses fewer than no readings"));
        }
        if gap.frames < 1 {
            return Err(Refusal::new(Code::Malformed, "a gap stands at least for its own number"));
        }
        Ok(())
    };
    // What it declares is missing all the same, and counts with the refusal.
    check().map_err(|refusal| Refusal { channel: gap.channel, ..refusal }.holding(usize::try_from(gap.n).unwrap_or(0)))
}

pub fn check_quality(quality: &Quality, now_us: i64, standing: impl FnOnce(i64) -> Standing) -> Result<(), Refusal> {
    check_channel(quality.channel, standing(quality.channel))?;
    check_interval(quality.from_us, quality.to_us, now_us).map_err(|refusal| refusal.of_channel(quality.channel))
}

/// A declared interval may lie further back than a reading, but after 1970 and not in the far future: it becomes a timestamp.
fn check_interval(from_us: i64, to_us: Option<i64>, now_us: i64) -> Result<(), Refusal> {
    let (_, newest) = bounds(now_us);
    if to_us.is_some_and(|to_us| to_us < from_us) {
        return Err(Refusal::new(Code::Malformed, "the interval ends before it begins"));
    }
    if from_us < 0 || from_us.max(to_us.unwrap_or(from_us)) > newest {
        return Err(Refusal::new(
            Code::OutOfBounds,
            "the interval does not lie between 1970 and 24 hours from now: set the source's clock",
        ));
    }
    Ok(())
}
