//! What the property tests share: frames as bytes, an intake with owned events, rows read back.
#![allow(dead_code)] // every test file uses its own part of it

pub mod hostile;

use std::collections::HashMap;

use ingest_core::catalogue::Catalogue;
use ingest_core::copy::{fixed, timestamp, Rows, HEADER, TRAILER};
use ingest_core::drain::{encode, Segment};
use ingest_core::intake::Intake;
use ingest_core::pack::unpack;

pub const NOW_US: i64 = 1_800_000_000_000_000;

/// A column as a source would say it.
#[derive(Clone, Debug, PartialEq)]
pub struct Column {
    pub channel: i64,
    pub t0_us: i64,
    pub offsets: Vec<i32>,
    pub values: Vec<f64>,
}

/// How a writer may spell the same thing.
#[derive(Clone, Copy, Debug)]
pub struct Spelling {
    /// arrays, bins and integers in their widest form
    pub wide: bool,
    /// values as an array of numbers
    pub numbers: bool,
}

fn put_int(out: &mut Vec<u8>, value: i64, wide: bool) {
    match value {
        0..=127 if !wide => out.push(value as u8),
        -32..=-1 if !wide => out.push(value as u8),
        _ if !wide && i32::try_from(value).is_ok() => {
            out.push(0xd2);
            out.extend((value as i32).to_be_bytes());
        }
        0.. if wide => {
            out.push(0xcf);
            out.extend((value as u64).to_be_bytes());
        }
        _ => {
            out.push(0xd3);
            out.extend(value.to_be_bytes());
        }
    }
}

fn put_length(out: &mut Vec<u8>, n: usize, wide: bool, short: u8, long: u8) {
    if wide || n > 0xffff {
        out.push(long);
        out.extend((n as u32).to_be_bytes());
    } else {
        out.push(short);
        out.extend((n as u16).to_be_bytes());
    }
}

fn put_bin(out: &mut Vec<u8>, bytes: &[u8], wide: bool) {
    put_length(out, bytes.len(), wide, 0xc5, 0xc6);
    out.extend(bytes);
}

fn put_array(out: &mut Vec<u8>, n: usize, wide: bool) {
    if n < 16 && !wide {
        out.push(0x90 | n as u8);
    } else {
        put_length(out, n, wide, 0xdc, 0xdd);
    }
}

pub fn data_frame(seq: i64, columns: &[Column], spelling: Spelling) -> Vec<u8> {
    let Spelling { wide, numbers } = spelling;
    let mut out = Vec::new();
    put_array(&mut out, 4, wide);
    put_int(&mut out, 4, wide);
    put_int(&mut out, seq, wide);
    put_int(&mut out, NOW_US, wide);
    put_array(&mut out, columns.len(), wide);
    for Column { channel, t0_us, offsets, values } in columns {
        put_array(&mut out, 4, wide);
        put_int(&mut out, *channel, wide);
        put_int(&mut out, *t0_us, wide);
        put_bin(&mut out, &offsets.iter().flat_map(|offset| offset.to_le_bytes()).collect::<Vec<_>>(), wide);
        if !numbers {
            put_bin(&mut out, &values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<_>>(), wide);
            continue;
        }
        put_array(&mut out, values.len(), wide);
        for &value in values {
            if value.fract() == 0.0 && value.abs() < 1e15 {
                put_int(&mut out, value as i64, wide);
            } else {
                out.push(0xcb);
                out.extend(value.to_be_bytes());
            }
        }
    }
    out
}

/// Events 1..=n under writer 1, each on the connection's channel of the same number.
pub fn intake(n: i32) -> Intake {
    let mut intake = Intake::default();
    intake.own((1, 1), &(1..=n).map(|event| (event, None)).collect::<Vec<_>>(), &[]);
    intake.open(1, &(1..=n).map(|event| (event.into(), event)).collect::<Vec<_>>(), &[], None).unwrap();
    intake
}

pub fn drain(intake: &mut Intake, catalogue: &Catalogue) -> Vec<Segment> {
    let (segments, settlement) = encode(intake.drain(), catalogue);
    intake.settle(settlement);
    segments
}

#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    pub event: i32,
    pub created_us: i64,
    pub last_us: i64,
    pub n: i32,
    pub min: f64,
    pub max: f64,
    pub sum: f64,
    pub first: f64,
    pub last: f64,
    pub experiment: Option<i32>,
    pub encoding: i16,
    pub overlapping: bool,
    pub readings: Vec<(i64, f64)>,
    pub payload: Vec<u8>,
}

pub fn rows(segment: &Segment) -> Vec<Row> {
    let copy = [&HEADER[..], &segment.rows, &TRAILER].concat();
    let mut rows = Rows::new(&copy).unwrap();
    let mut out = Vec::new();
    while let Some(fields) = rows.read::<13>().unwrap() {
        out.push(row(&fields));
    }
    out
}

/// Rows of a compaction, each with its id.
pub fn rewritten(rows: &[u8]) -> Vec<(i64, Row)> {
    let copy = [&HEADER[..], rows, &TRAILER].concat();
    let mut rows = Rows::new(&copy).unwrap();
    let mut out = Vec::new();
    while let Some(fields) = rows.read::<14>().unwrap() {
        out.push((i64::from_be_bytes(fixed(fields[13]).unwrap()), row(&fields[..13])));
    }
    out
}

fn row(fields: &[Option<&[u8]>]) -> Row {
    let float = |field| f64::from_be_bytes(fixed(field).unwrap());
    let &[event, created_on, last_on, n, min, max, sum, first, last, experiment, encoding, overlapping, payload] = fields else {
        panic!("{} fields", fields.len())
    };
    let created_us = timestamp(created_on).unwrap();
    let encoding = i16::from_be_bytes(fixed(encoding).unwrap());
    let (mut times, mut values) = (Vec::new(), Vec::new());
    unpack(created_us, encoding, payload.unwrap(), &mut times, &mut values).unwrap();
    Row {
        event: i32::from_be_bytes(fixed(event).unwrap()),
        created_us,
        last_us: timestamp(last_on).unwrap(),
        n: i32::from_be_bytes(fixed(n).unwrap()),
        min: float(min),
        max: float(max),
        sum: float(sum),
        first: float(first),
        last: float(last),
        experiment: experiment.map(|id| i32::from_be_bytes(fixed(Some(id)).unwrap())),
        encoding,
        overlapping: fixed::<1>(overlapping).unwrap() == [1],
        readings: times.into_iter().zip(values).collect(),
        payload: payload.unwrap().to_vec(),
    }
}

/// A binary COPY of tuples of fields; None is null.
pub fn copy_of(tuples: impl IntoIterator<Item = Vec<Option<Vec<u8>>>>) -> Vec<u8> {
    let mut out = HEADER.to_vec();
    for fields in tuples {
        out.extend((fields.len() as i16).to_be_bytes());
        for field in fields {
            out.extend(field.as_ref().map_or(-1, |field| field.len() as i32).to_be_bytes());
            out.extend(field.unwrap_or_default());
        }
    }
    out.extend(TRAILER);
    out
}

pub fn time_field(t_us: i64) -> Option<Vec<u8>> {
    Some((t_us - 946_684_800_000_000).to_be_bytes().to_vec())
}

/// What readers see of rows written in this order: per event and instant the newest written value.
pub fn stored<'a>(rows: impl IntoIterator<Item = &'a Row>) -> HashMap<(i32, i64), u64> {
    let mut stored = HashMap::new();
    for row in rows {
        for &(t_us, value) in &row.readings {
            stored.insert((row.event, t_us), value.to_bits());
        }
    }
    stored
}
