//! PostgreSQL's binary COPY: runs -> rows of `datapoints`, and what a binary COPY gave -> rows.

use crate::error::Fault;
use crate::latest::Last;
use crate::pack::{pack, packed_bytes, ENCODING_RAW};
use crate::run::{sum, Extremes, Run};

/// Signature, flags, length of the header's extension.
pub const HEADER: [u8; 19] = *b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
pub const TRAILER: [u8; 2] = (-1i16).to_be_bytes();
/// The columns of a row, in order.
pub const COLUMNS: [&str; 13] =
    ["event_id", "created_on", "last_on", "n", "min", "max", "sum", "first", "last", "experiment_id", "encoding", "overlapping", "payload"];
/// A row without its payload: field count, 13 lengths, the fixed fields.
pub const ROW_BYTES_MAX: usize = 2 + 13 * 4 + 4 + 8 + 8 + 4 + 5 * 8 + 4 + 2 + 1;
/// 2000-01-01, PostgreSQL's zero, in µs since 1970.
const EPOCH_US: i64 = 946_684_800_000_000;

fn field<const N: usize>(out: &mut Vec<u8>, bytes: [u8; N]) {
    out.extend_from_slice(&(N as i32).to_be_bytes());
    out.extend_from_slice(&bytes);
}

/// Appends the row of a new run; PostgreSQL gives its id.
pub fn put_run(event: i32, run: &Run<'_>, extremes: Extremes, overlapping: bool, out: &mut Vec<u8>) {
    out.reserve(ROW_BYTES_MAX + packed_bytes(run.values.len()));
    out.extend_from_slice(&(COLUMNS.len() as i16).to_be_bytes());
    put_fields(event, run, extremes, ENCODING_RAW, overlapping, out);
    out.extend_from_slice(&(packed_bytes(run.values.len()) as i32).to_be_bytes());
    pack(run, out);
}

/// Appends the row of a run that was written before, in other rows: its id is the last column.
pub fn put_rewritten(event: i32, run: &Run<'_>, id: i64, encoding: i16, overlapping: bool, payload: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&(COLUMNS.len() as i16 + 1).to_be_bytes());
    put_fields(event, run, Extremes::of(run.values), encoding, overlapping, out);
    out.extend_from_slice(&(payload.len() as i32).to_be_bytes());
    out.extend_from_slice(payload);
    field(out, id.to_be_bytes());
}

/// Every field before the payload.
fn put_fields(event: i32, run: &Run<'_>, extremes: Extremes, encoding: i16, overlapping: bool, out: &mut Vec<u8>) {
    let n = run.values.len();
    field(out, event.to_be_bytes());
    field(out, (run.first_us() - EPOCH_US).to_be_bytes());
    field(out, (run.last_us() - EPOCH_US).to_be_bytes());
    field(out, (n as i32).to_be_bytes());
    for statistic in [extremes.min, extremes.max, sum(run.values), run.values[0], run.values[n - 1]] {
        field(out, statistic.to_be_bytes());
    }
    put_experiment(run.experiment, out);
    field(out, encoding.to_be_bytes());
    field(out, [u8::from(overlapping)]);
}

/// The columns of a row of `latest`, in order.
pub const LATEST_COLUMNS: [&str; 4] = ["event_id", "created_on", "value", "experiment_id"];
/// The longest row of `latest`.
pub const LATEST_ROW_BYTES_MAX: usize = 2 + 4 * 4 + 4 + 8 + 8 + 4;

/// Appends one row of `latest`.
pub fn put_latest(event: i32, last: Last, out: &mut Vec<u8>) {
    out.extend_from_slice(&(LATEST_COLUMNS.len() as i16).to_be_bytes());
    field(out, event.to_be_bytes());
    field(out, (last.t_us - EPOCH_US).to_be_bytes());
    field(out, last.value.to_be_bytes());
    put_experiment(last.experiment, out);
}

fn put_experiment(experiment: Option<i32>, out: &mut Vec<u8>) {
    match experiment {
        Some(id) => field(out, id.to_be_bytes()),
        None => out.extend_from_slice(&(-1i32).to_be_bytes()),
    }
}

/// The tuples of a binary COPY's output.
pub struct Rows<'a> {
    left: &'a [u8],
}

fn cut_off() -> Fault {
    Fault::Corrupt("a binary COPY ends too early".into())
}

fn take<const N: usize>(left: &mut &[u8]) -> Result<[u8; N], Fault> {
    let (taken, rest) = left.split_first_chunk::<N>().ok_or_else(cut_off)?;
    *left = rest;
    Ok(*taken)
}

impl<'a> Rows<'a> {
    /// Reads the header.
    pub fn new(copy: &'a [u8]) -> Result<Self, Fault> {
        let mut left = copy.strip_prefix(&HEADER[..11]).ok_or_else(|| Fault::Corrupt("this is no output of a binary COPY".into()))?;
        let flags = u32::from_be_bytes(take(&mut left)?);
        if flags >> 16 != 0 {
            return Err(Fault::Corrupt(format!("a binary COPY has flags {flags:#x} that are not known here")));
        }
        let extension = u32::from_be_bytes(take(&mut left)?) as usize;
        Ok(Rows { left: left.get(extension..).ok_or_else(cut_off)? })
    }

    /// The fields of the next tuple; None after the trailer.
    pub fn read<const N: usize>(&mut self) -> Result<Option<[Option<&'a [u8]>; N]>, Fault> {
        match i16::from_be_bytes(take(&mut self.left)?) {
            -1 if self.left.is_empty() => return Ok(None),
            -1 => return Err(Fault::Corrupt("a binary COPY goes on after its end".into())),
            n if n as usize == N => (),
            n => return Err(Fault::Corrupt(format!("a row of a binary COPY has {n} columns, not {N}"))),
        }
        let mut fields = [None; N];
        for field in &mut fields {
            let n = i32::from_be_bytes(take(&mut self.left)?);
            if n == -1 {
                continue;
            }
            let n = usize::try_from(n).map_err(|_| cut_off())?;
            let (bytes, rest) = self.left.split_at_checked(n).ok_or_else(cut_off)?;
            *field = Some(bytes);
            self.left = rest;
        }
        Ok(Some(fields))
    }
}

/// A field of fixed width that is not null.
pub fn fixed<const N: usize>(field: Option<&[u8]>) -> Result<[u8; N], Fault> {
    let bytes = field.ok_or_else(|| Fault::Corrupt("a column of a binary COPY is null".into()))?;
    bytes.try_into().map_err(|_| Fault::Corrupt(format!("a column of a binary COPY has {} bytes, not {N}", bytes.len())))
}

/// A timestamptz as µs since 1970.
pub fn timestamp(field: Option<&[u8]>) -> Result<i64, Fault> {
    let us = i64::from_be_bytes(fixed(field)?);
    us.checked_add(EPOCH_US).ok_or_else(|| Fault::Corrupt("a timestamp of a binary COPY is infinite".into()))
}
