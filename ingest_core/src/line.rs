//! InfluxDB's line protocol: `measurement,tag=value field=value,field=value time`. A line that cannot be read is refused by itself, and so
//! is a field that is no number; the other fields of its line are taken. Each field is a series of its own, `measurement.field;tag=value`.

use std::borrow::Cow;
use std::collections::HashMap;

use crate::batch::{Batch, Channel, Reading};
use crate::error::{Code, Refusal};
use crate::validate::FRAME_READINGS_MAX;

/// 400 characters: the longest name of an event.
pub const SERIES_CHARS_MAX: usize = 400;

/// The most fields of one body: Telegraf sends thousands of lines with tens of fields.
pub const LINE_READINGS_MAX: usize = FRAME_READINGS_MAX;
/// 65,536 series in one body: their names are longer than what was sent.
const SERIES_MAX: usize = 65_536;

/// What a line's time counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    Nanoseconds,
    /// so many µs
    Microseconds(i64),
}

impl Unit {
    /// By the names that InfluxDB's clients use for it.
    pub fn named(name: &str) -> Option<Unit> {
        Some(match name {
            "ns" | "n" => Unit::Nanoseconds,
            "us" | "u" => Unit::Microseconds(1),
            "ms" => Unit::Microseconds(1_000),
            "s" => Unit::Microseconds(1_000_000),
            "m" => Unit::Microseconds(60_000_000),
            "h" => Unit::Microseconds(3_600_000_000),
            _ => return None,
        })
    }

    /// Rounded to the nearest µs. What no int64 holds is out of every bound.
    fn to_us(self, time: i64) -> i64 {
        match self {
            Unit::Nanoseconds => time.saturating_add(500).div_euclid(1_000),
            Unit::Microseconds(us) => time.saturating_mul(us),
        }
    }
}

/// Reads every line. Refuses the whole body only when it has too many readings or series.
pub fn read(bytes: &[u8], unit: Unit) -> Result<Batch, Refusal> {
    let mut lines = Lines { unit, batch: Batch::default(), series: HashMap::new(), channels: HashMap::new(), last: (b"", 0), full: false };
    let (mut left, mut position) = (bytes, 0);
    while !left.is_empty() {
        let begun = left;
        let read = lines.read_line(&mut left, position);
        if let Err(what) = read {
            lines.batch.refused.push(position, || Refusal::new(Code::Malformed, what));
            let end = left.iter().position(|&c| c == b'\n').map_or(left.len(), |end| end + 1);
            left = &left[end..];
        }
        lines.check_size()?;
        position += begun[..begun.len() - left.len()].iter().filter(|&&c| c == b'\n').count() as u32;
    }
    Ok(lines.batch)
}

struct Lines<'a> {
    unit: Unit,
    batch: Batch,
    /// what stands before a line's fields, as it is written -> its number
    series: HashMap<&'a [u8], u32>,
    /// (series, field as it is written) -> channel, or why there is none
    channels: HashMap<(u32, &'a [u8]), Result<u32, &'static str>>,
    /// the series of the line before, which is often the same
    last: (&'a [u8], u32),
    /// there is more than one body may hold
    full: bool,
}

/// What is wrong with a line.
type What = &'static str;

impl<'a> Lines<'a> {
    fn is_full(&self) -> bool {
        self.batch.readings.len() + self.batch.refused.count > LINE_READINGS_MAX || self.batch.channels.len() > SERIES_MAX
    }

    fn check_size(&self) -> Result<(), Refusal> {
        match self.is_full() || self.full {
            false => Ok(()),
            true => {
                let detail = format!("a body has at most {LINE_READINGS_MAX} fields of {SERIES_MAX} series: send less in one");
                Err(Refusal::new(Code::TooLarge, detail))
            }
        }
    }

    /// Reads one line to its end. What fails leaves nothing of the line, and `left` somewhere in it.
    fn read_line(&mut self, left: &mut &'a [u8], position: u32) -> Result<(), What> {
        skip(left, |c| matches!(c, b' ' | b'\t' | b'\r' | 0));
        match left.first() {
            None => return Ok(()),
            Some(b'\n') => {
                *left = &left[1..];
                return Ok(());
            }
            Some(b'#') => {
                skip(left, |c| c != b'\n');
                return Ok(());
            }
            Some(_) => (),
        }
        let begun = (self.batch.readings.len(), self.batch.refused.listed.len(), self.batch.refused.count);
        let read = self.read_rest(left, position);
        if read.is_err() {
            self.batch.readings.truncate(begun.0);
            self.batch.refused.listed.truncate(begun.1);
            self.batch.refused.count = begun.2;
        }
        read
    }

    fn read_rest(&mut self, left: &mut &'a [u8], position: u32) -> Result<(), What> {
        let key = until(left, |c| matches!(c, b' ' | b'\n'));
        if !take(left, b' ') {
            return Err("a line has at least one field after its measurement and tags");
        }
        skip(left, |c| c == b' ');
        let series = self.series_of(key);
        let first = self.batch.readings.len();
        loop {
            let field = until(left, |c| matches!(c, b'=' | b' ' | b',' | b'\n'));
            if field.is_empty() || !take(left, b'=') {
                return Err("a field is written name=value");
            }
            match read_value(left)? {
                Ok(value) => match self.channel_of(key, series, field) {
                    Ok(channel) => self.batch.readings.push(Reading { channel, position, t_us: None, value }),
                    Err(what) => return Err(what),
                },
                Err(what) => self.batch.refused.push(position, || {
                    let detail = format!("field {}: {what}", String::from_utf8_lossy(&field[..field.len().min(100)]));
                    Refusal::new(Code::Malformed, detail)
                }),
            }
            if self.is_full() {
                self.full = true;
                return Err("the body has too many fields");
            }
            if !take(left, b',') {
                break;
            }
        }
        skip(left, |c| c == b' ');
        let time = until(left, |c| matches!(c, b' ' | b'\n' | b'\r'));
        if !time.is_empty() {
            let time = std::str::from_utf8(time).ok().and_then(|time| time.parse().ok());
            let t_us = self.unit.to_us(time.ok_or("a time is a whole number of the precision's unit since 1970")?);
            self.batch.readings[first..].iter_mut().for_each(|reading| reading.t_us = Some(t_us));
        }
        skip(left, |c| matches!(c, b' ' | b'\r'));
        match left.is_empty() || take(left, b'\n') {
            true => Ok(()),
            false => Err("a line ends after its time"),
        }
    }

    fn series_of(&mut self, key: &'a [u8]) -> u32 {
        if self.last.0 != key {
            let next = self.series.len() as u32;
            self.last = (key, *self.series.entry(key).or_insert(next));
        }
        self.last.1
    }

    fn channel_of(&mut self, key: &'a [u8], series: u32, field: &'a [u8]) -> Result<u32, What> {
        let channels = &mut self.batch.channels;
        *self.channels.entry((series, field)).or_insert_with(|| {
            let name = name(key, field)?;
            channels.push(Channel::Series(name));
            Ok(channels.len() as u32 - 1)
        })
    }
}

/// The outer result is about the line, the inner one about this field.
fn read_value(left: &mut &[u8]) -> Result<Result<f64, What>, What> {
    if take(left, b'"') {
        skip_text(left)?;
        return Ok(Err("a text is no reading; leave the field out, or make a number of it"));
    }
    let written = until(left, |c| matches!(c, b',' | b' ' | b'\n' | b'\r'));
    let Ok(text) = std::str::from_utf8(written) else { return Err("a line is UTF-8") };
    let number = match text.as_bytes() {
        [b'0'..=b'9' | b'-' | b'+' | b'.', .., b'i'] => text[..text.len() - 1].parse::<i64>().map_or(Err(TOO_LARGE), whole),
        [b'0'..=b'9', .., b'u'] => {
            text[..text.len() - 1].parse::<u64>().map_or(Err(TOO_LARGE), |value| i64::try_from(value).map_or(Err(TOO_LARGE), whole))
        }
        [b'0'..=b'9' | b'-' | b'+' | b'.', ..] => match text.parse::<f64>() {
            Ok(value) if value.is_finite() => Ok(value),
            Ok(_) => Err("a value is beyond a float64"),
            Err(_) => return Err("a value is a number, true or false"),
        },
        b"t" | b"T" | b"true" | b"True" | b"TRUE" => Ok(1.0),
        b"f" | b"F" | b"false" | b"False" | b"FALSE" => Ok(0.0),
        _ => return Err("a value is a number, true or false"),
    };
    Ok(number)
}

const TOO_LARGE: What = "an integer beyond 2^53 is not held by a float64";

fn whole(value: i64) -> Result<f64, What> {
    match value.unsigned_abs() <= 1 << 53 {
        true => Ok(value as f64),
        false => Err(TOO_LARGE),
    }
}

/// Goes behind the quotation mark that ends a text.
fn skip_text(left: &mut &[u8]) -> Result<(), What> {
    let mut escaped = false;
    let end = left.iter().position(|&c| {
        let ends = c == b'"' && !escaped;
        escaped = c == b'\\' && !escaped;
        ends
    });
    *left = &left[end.ok_or("a text has no end")? + 1..];
    Ok(())
}

fn skip(left: &mut &[u8], skipped: impl Fn(u8) -> bool) {
    let n = left.iter().position(|&c| !skipped(c)).unwrap_or(left.len());
    *left = &left[n..];
}

fn take(left: &mut &[u8], wanted: u8) -> bool {
    match left.split_first() {
        Some((&c, rest)) if c == wanted => {
            *left = rest;
            true
        }
        _ => false,
    }
}

/// What a backslash before it makes a part of a name; before anything else the backslash is itself a part of it.
fn is_escaped(c: u8) -> bool {
    matches!(c, b',' | b'=' | b' ')
}

/// What stands before the first byte that ends it and is not escaped by a backslash.
fn until<'a>(left: &mut &'a [u8], ends: impl Fn(u8) -> bool) -> &'a [u8] {
    let bytes = *left;
    let mut k = 0;
    while k < bytes.len() && !ends(bytes[k]) {
        k += match bytes[k] {
            b'\\' if bytes.get(k + 1).is_some_and(|&c| is_escaped(c)) => 2,
            _ => 1,
        };
    }
    let (found, rest) = bytes.split_at(k);
    *left = rest;
    found
}

/// `measurement.field;tag=value` of a line's key, its tags in the order of their names. A part that holds what parts the others has a
/// backslash before it, so that no two series have one name.
fn name(key: &[u8], field: &[u8]) -> Result<String, What> {
    let key_length = key.len();
    let mut key = key;
    let measurement = until(&mut key, |c| c == b',');
    let mut tags = Vec::new();
    while take(&mut key, b',') {
        let tag = until(&mut key, |c| matches!(c, b',' | b'='));
        if tag.is_empty() || !take(&mut key, b'=') {
            return Err("a tag is written name=value");
        }
        let value = until(&mut key, |c| c == b',');
        if value.is_empty() {
            return Err("a tag has a value");
        }
        tags.push((unescape(tag), unescape(value)));
    }
    tags.sort_unstable();
    if tags.windows(2).any(|pair| pair[0].0 == pair[1].0) {
        return Err("a tag stands twice");
    }
    let mut name = Vec::with_capacity(key_length + field.len() + 1);
    push_part(&mut name, &unescape(measurement), b"\\;");
    name.push(b'.');
    push_part(&mut name, &unescape(field), b"\\;.");
    for (tag, value) in tags {
        name.push(b';');
        push_part(&mut name, &tag, b"\\;=");
        name.push(b'=');
        push_part(&mut name, &value, b"\\;");
    }
    let name = String::from_utf8(name).map_err(|_| "a line is UTF-8")?;
    match () {
        () if measurement.is_empty() => Err("a line begins with its measurement"),
        () if name.chars().any(char::is_control) => Err("a name holds no control characters"),
        () if name.chars().count() > SERIES_CHARS_MAX => Err("measurement, field and tags together have more than 400 characters"),
        () => Ok(name),
    }
}

fn push_part(name: &mut Vec<u8>, part: &[u8], escaped: &[u8]) {
    for &c in part {
        if escaped.contains(&c) {
            name.push(b'\\');
        }
        name.push(c);
    }
}

fn unescape(text: &[u8]) -> Cow<'_, [u8]> {
    if !text.contains(&b'\\') {
        return Cow::Borrowed(text);
    }
    let mut out = Vec::with_capacity(text.len());
    let mut left = text.iter().copied().peekable();
    while let Some(c) = left.next() {
        match (c, left.peek()) {
            (b'\\', Some(&next)) if is_escaped(next) => {
                out.push(next);
                left.next();
            }
            _ => out.push(c),
        }
    }
    Cow::Owned(out)
}
