//! Payloads: the readings of a run as bytes. The first byte is the format's version, the table's `encoding` says what follows.

use pco::data_types::Number;
use pco::wrapped::{FileCompressor, FileDecompressor};
use pco::{ChunkConfig, DeltaSpec, ModeSpec};

use crate::error::Fault;
use crate::frame::{float, offset};
use crate::run::{Run, DAY_US, RUN_READINGS_MAX};

const FORMAT_VERSION: u8 = 1;
/// int32[n] µs from the run's first reading, then float64[n], little-endian
pub const ENCODING_RAW: i16 = 0;
/// n as a varint, the times as integers from the run's first reading, then the values as floats (see `Numbers`)
pub const ENCODING_FLOATS: i16 = 1;
/// n as a varint, the times likewise, the number of decimals as a byte, then values * 10^decimals as integers
pub const ENCODING_DECIMALS: i16 = 2;
const RAW_READING_BYTES: usize = 4 + 8;

/// What sensors are set to; a value that needs more is not decimal at all.
const DECIMALS_MAX: usize = 12;
const POWERS: [f64; DECIMALS_MAX + 1] = [1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12];
/// Adding and subtracting it rounds to an integer what is smaller than DECIMAL_MAX, and compiles to SIMD where `round` does not.
const ROUNDING: f64 = 1.5 * (1u64 << 52) as f64;
const DECIMAL_MAX: f64 = (1u64 << 51) as f64;

/// What stands before a pco chunk in a file of its own. Format 1 of ours means this one of theirs.
const PCO_FORMAT: [u8; 2] = [4, 1];
/// A chunk begins with 4 bits of mode and 4 bits of delta encoding. Only these two are written; all others are refused before pco
/// sees them, because they may ask for up to 256 MiB.
const PCO_PLAIN: u8 = 0x00;
const PCO_CONSECUTIVE: u8 = 0x10;

/// How numbers are written: a byte of these, and what it says.
mod form {
    /// Integers that are first + k * step: both as varints.
    pub const LINE: u8 = 0;
    /// Integers that are first + k * step with the ks in a pco chunk.
    pub const STEPS: u8 = 1;
    /// float64 in a pco chunk.
    pub const DOUBLES: u8 = 2;
    /// float64 that are float32, in a pco chunk.
    pub const SINGLES: u8 = 3;
}

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

/// Appends the payload of a run that is to be kept, made as small as it gets, and answers its encoding. At most RUN_READINGS_MAX readings.
pub fn compress(run: &Run<'_>, out: &mut Vec<u8>) -> i16 {
    let first_us = run.first_us();
    out.push(FORMAT_VERSION);
    put_varint(run.times.len() as u64, out);
    put_integers(run.times.iter().map(|t_us| t_us - first_us), &[1, 2], out);
    if let Some(decimals) = decimals_of(run.values) {
        let power = POWERS[decimals];
        out.push(decimals as u8);
        put_integers(run.values.iter().map(|value| scaled(*value, power) as i64), &[0, 1, 2], out);
        return ENCODING_DECIMALS;
    }
    if run.values.iter().all(|value| f64::from(*value as f32).to_bits() == value.to_bits()) {
        out.push(form::SINGLES);
        put_chunk(&run.values.iter().map(|value| *value as f32).collect::<Vec<_>>(), &[0, 1, 2], out);
    } else {
        out.push(form::DOUBLES);
        put_chunk(run.values, &[0, 1, 2], out);
    }
    ENCODING_FLOATS
}

fn scaled(value: f64, power: f64) -> f64 {
    (value * power + ROUNDING) - ROUNDING
}

/// The least number of decimals with which every value is given back bit for bit; None when there is none.
fn decimals_of(values: &[f64]) -> Option<usize> {
    let exact = |value: f64, power: f64| {
        let k = scaled(value, power);
        (k / power).to_bits() == value.to_bits() && k.abs() < DECIMAL_MAX
    };
    let mut decimals = 0;
    for chunk in values.chunks(64) {
        while !chunk.iter().fold(true, |so_far, &value| so_far & exact(value, POWERS[decimals])) {
            decimals += 1;
            if decimals > DECIMALS_MAX {
                return None;
            }
        }
    }
    // What was exact with fewer decimals is so with more, unless it became too large.
    values.iter().fold(true, |so_far, &value| so_far & exact(value, POWERS[decimals])).then_some(decimals)
}

fn put_varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

/// The greatest common divisor, not negative; of 0 and b it is |b|.
fn gcd(mut a: i64, mut b: i64) -> i64 {
    while a != 0 {
        (a, b) = (b % a, a);
    }
    b.abs()
}

/// Whatever they have in common goes before: a fixed step, a resolution. `orders` are the delta orders that are tried.
fn put_integers(integers: impl Iterator<Item = i64>, orders: &[usize], out: &mut Vec<u8>) {
    let mut integers: Vec<i64> = integers.collect();
    let first = integers[0];
    let line = integers.get(1).map_or(0, |second| second - first);
    let (step, kind) = if integers.iter().zip(0..).all(|(x, k)| *x == first.wrapping_add(line.wrapping_mul(k))) {
        (line, form::LINE)
    } else {
        let mut common = 0;
        for x in &integers {
            if common == 1 {
                break;
            }
            common = gcd(common, x - first);
        }
        (common, form::STEPS)
    };
    out.push(kind);
    put_varint(zigzag(first), out);
    put_varint(zigzag(step), out);
    if kind == form::STEPS {
        match step {
            1 => integers.iter_mut().for_each(|x| *x -= first),
            step => integers.iter_mut().for_each(|x| *x = (*x - first) / step),
        }
        put_chunk(&integers, orders, out);
    }
}

/// The smallest chunk of those with the given delta orders: the codec's own guess, from a sample, is often wrong for so few numbers.
fn put_chunk<T: Number>(numbers: &[T], orders: &[usize], out: &mut Vec<u8>) {
    let config = ChunkConfig::default().with_mode_spec(ModeSpec::Classic);
    let chunks = orders.iter().map(|&order| {
        let config = config.clone().with_delta_spec(DeltaSpec::TryConsecutive(order));
        let mut chunk = Vec::new();
        let mut compressor = FileCompressor::default().chunk_compressor(numbers, &config).expect("the configuration is valid");
        compressor.write_meta(&mut chunk).and_then(|chunk| compressor.write_page(0, chunk)).expect("a vector takes every write");
        chunk
    });
    out.extend(chunks.min_by_key(Vec::len).expect("there are orders"));
}

/// Appends the readings of a payload to `times` and `values`. Allocates for at most RUN_READINGS_MAX readings, whatever it says.
pub fn unpack(created_us: i64, encoding: i16, payload: &[u8], times: &mut Vec<i64>, values: &mut Vec<f64>) -> Result<(), Fault> {
    let begun = times.len();
    let unpacked = match (payload.split_first(), encoding) {
        _ if created_us.checked_add(DAY_US).is_none() => Err(corrupt("a payload does not begin with its run")),
        (None, _) => Err(corrupt("a payload is empty")),
        (Some((&FORMAT_VERSION, readings)), ENCODING_RAW) => unpack_raw(created_us, readings, times, values),
        (Some((&FORMAT_VERSION, readings)), ENCODING_FLOATS | ENCODING_DECIMALS) => {
            decompress(created_us, readings, encoding == ENCODING_DECIMALS, times, values)
        }
        (Some((&version, _)), ENCODING_RAW..=ENCODING_DECIMALS) => Err(corrupt(format!("a payload of format {version} is not known here"))),
        (Some(_), _) => Err(corrupt(format!("a payload of encoding {encoding} is not known here"))),
    };
    let increasing = |times: &[i64]| times.windows(2).fold(true, |so_far, pair| so_far & (pair[0] < pair[1]));
    let checked = unpacked.and_then(|()| match times[begun] == created_us && increasing(&times[begun..]) {
        true => Ok(()),
        false => Err(corrupt("a payload's times do not increase from its run's")),
    });
    if checked.is_err() {
        times.truncate(begun);
        values.truncate(begun);
    }
    checked
}

fn corrupt(what: impl Into<String>) -> Fault {
    Fault::Corrupt(what.into())
}

fn unpack_raw(created_us: i64, readings: &[u8], times: &mut Vec<i64>, values: &mut Vec<f64>) -> Result<(), Fault> {
    let n = readings.len() / RAW_READING_BYTES;
    if n == 0 || !readings.len().is_multiple_of(RAW_READING_BYTES) {
        return Err(corrupt(format!("{} bytes of payload do not hold whole readings", readings.len())));
    }
    let (offsets, floats) = readings.split_at(n * 4);
    times.extend(offsets.chunks_exact(4).map(|o| created_us + i64::from(offset(o))));
    values.extend(floats.chunks_exact(8).map(float));
    Ok(())
}

fn decompress(created_us: i64, packed: &[u8], decimal: bool, times: &mut Vec<i64>, values: &mut Vec<f64>) -> Result<(), Fault> {
    let mut left = packed;
    let n = take_varint(&mut left)?;
    let n = usize::try_from(n).ok().filter(|n| (1..=RUN_READINGS_MAX).contains(n));
    let n = n.ok_or_else(|| corrupt("a payload says that it holds none or too many readings"))?;
    take_integers(&mut left, n, |offset| times.push(created_us.wrapping_add(offset)))?;
    let kind = take_byte(&mut left)?;
    if decimal {
        let power = *POWERS.get(usize::from(kind)).ok_or_else(|| corrupt(format!("a payload has {kind} decimals")))?;
        take_integers(&mut left, n, |k| values.push(k as f64 / power))?;
    } else if kind == form::SINGLES {
        values.extend(take_chunk::<f32>(&mut left, n)?.into_iter().map(f64::from));
    } else if kind == form::DOUBLES {
        values.append(&mut take_chunk::<f64>(&mut left, n)?);
    } else {
        return Err(corrupt(format!("a payload has floats of form {kind}")));
    }
    match left.is_empty() {
        true => Ok(()),
        false => Err(corrupt("a payload goes on after its end")),
    }
}

fn take_byte(left: &mut &[u8]) -> Result<u8, Fault> {
    let (&byte, rest) = left.split_first().ok_or_else(|| corrupt("a payload ends too early"))?;
    *left = rest;
    Ok(byte)
}

fn take_varint(left: &mut &[u8]) -> Result<u64, Fault> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = take_byte(left)?;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Ok(value);
        }
    }
    Err(corrupt("a number of a payload is too long"))
}

fn take_signed(left: &mut &[u8]) -> Result<i64, Fault> {
    let value = take_varint(left)?;
    Ok((value >> 1) as i64 ^ -((value & 1) as i64))
}

fn take_integers(left: &mut &[u8], n: usize, mut each: impl FnMut(i64)) -> Result<(), Fault> {
    let (kind, first, step) = (take_byte(left)?, take_signed(left)?, take_signed(left)?);
    let mut put = |k: i64| each(first.wrapping_add(k.wrapping_mul(step)));
    match kind {
        form::LINE => (0..n as i64).for_each(put),
        form::STEPS => take_chunk::<i64>(left, n)?.into_iter().for_each(&mut put),
        kind => return Err(corrupt(format!("a payload has integers of form {kind}"))),
    }
    Ok(())
}

fn take_chunk<T: Number + Default>(left: &mut &[u8], n: usize) -> Result<Vec<T>, Fault> {
    if !matches!(left.first(), Some(&PCO_PLAIN | &PCO_CONSECUTIVE)) {
        return Err(corrupt("a payload has a chunk of a kind that is not known here"));
    }
    let mut numbers = vec![T::default(); n];
    let mut read = || {
        let (file, _) = FileDecompressor::new(&PCO_FORMAT[..])?;
        let (mut chunk, rest) = file.chunk_decompressor::<T, _>(*left)?;
        let mut page = chunk.page_decompressor(rest, n)?;
        page.read(&mut numbers)?;
        *left = page.into_src();
        Ok::<_, pco::errors::PcoError>(())
    };
    read().map_err(|error| corrupt(format!("a payload cannot be unpacked: {error}")))?;
    Ok(numbers)
}
