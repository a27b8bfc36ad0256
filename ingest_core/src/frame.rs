//! Bytes of a binary frame -> borrowed columns. MessagePack read by hand: nothing is allocated, no length is believed before
//! its bytes are there, and what is wrong is said with its place. The shapes are those of `webmacs_controller.wire`.

use crate::error::{Code, Refusal};

pub const KIND_DATA: i64 = 4;
pub const KIND_GAP: i64 = 5;
pub const KIND_QUALITY: i64 = 6;
pub const KIND_PREVIEW: i64 = 7;

/// Integers up to here have a float64 of their own.
const EXACT_MAX: u64 = 1 << 53;

const CAUSES: [&str; 5] = ["spool_overflow", "spool_damaged", "source_stopped", "device_error", "disabled"];
const QUALITIES: [&str; 7] = ["good", "stale", "out_of_range", "device_error", "simulated", "manual", "maintenance"];

/// What is wrong with the bytes, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Broken {
    at: usize,
    what: &'static str,
    why: &'static str,
    channel: Option<i64>,
    position: Option<usize>,
}

impl From<Broken> for Refusal {
    fn from(broken: Broken) -> Refusal {
        let Broken { at, what, why, channel, position } = broken;
        let position = position.map(|p| p as u64);
        Refusal { channel, position, ..Refusal::new(Code::Malformed, format!("byte {at}: {what} {why}")) }
    }
}

type Read<T> = Result<T, Broken>;

/// A place in a MessagePack text.
#[derive(Clone, Copy, Debug)]
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Reader { bytes, at: 0 }
    }

    #[cold]
    fn broken(&self, what: &'static str, why: &'static str) -> Broken {
        Broken { at: self.at, what, why, channel: None, position: None }
    }

    #[inline]
    fn take(&mut self, n: usize, what: &'static str) -> Read<&'a [u8]> {
        match self.bytes[self.at..].get(..n) {
            Some(taken) => {
                self.at += n;
                Ok(taken)
            }
            None => Err(self.broken(what, "is cut off")),
        }
    }

    #[inline]
    fn fixed<const N: usize>(&mut self, what: &'static str) -> Read<[u8; N]> {
        let mut fixed = [0; N];
        fixed.copy_from_slice(self.take(N, what)?);
        Ok(fixed)
    }

    #[inline]
    fn peek(&self, what: &'static str) -> Read<u8> {
        self.bytes.get(self.at).copied().ok_or_else(|| self.broken(what, "is cut off"))
    }

    /// The number of elements of an array that begins here.
    #[inline]
    fn array(&mut self, what: &'static str) -> Read<usize> {
        let n = match self.peek(what)? {
            marker @ 0x90..=0x9f => {
                self.at += 1;
                usize::from(marker & 0x0f)
            }
            0xdc => {
                self.at += 1;
                usize::from(u16::from_be_bytes(self.fixed(what)?))
            }
            0xdd => {
                self.at += 1;
                u32::from_be_bytes(self.fixed(what)?) as usize
            }
            _ => return Err(self.broken(what, "is not an array")),
        };
        Ok(n)
    }

    /// An array of exactly `n` elements.
    fn tuple(&mut self, n: usize, what: &'static str, why: &'static str) -> Read<()> {
        let at = self.at;
        match self.array(what)? == n {
            true => Ok(()),
            false => Err(Broken { at, what, why, channel: None, position: None }),
        }
    }

    #[inline]
    fn int(&mut self, what: &'static str) -> Read<i64> {
        let before = self.at;
        match self.number(what)? {
            Number::Int(value) => Ok(value),
            Number::Large => Err(Broken { at: before, what, why: "does not fit 63 bits", channel: None, position: None }),
            Number::Float(_) => Err(Broken { at: before, what, why: "is not an integer", channel: None, position: None }),
        }
    }

    fn maybe_int(&mut self, what: &'static str) -> Read<Option<i64>> {
        if self.peek(what)? == 0xc0 {
            self.at += 1;
            return Ok(None);
        }
        self.int(what).map(Some)
    }

    #[inline]
    fn number(&mut self, what: &'static str) -> Read<Number> {
        let marker = self.peek(what)?;
        if !matches!(marker, 0x00..=0x7f | 0xe0..=0xff | 0xca | 0xcb | 0xcc..=0xd3) {
            return Err(self.broken(what, "is not a number"));
        }
        self.at += 1;
        Ok(match marker {
            0xca => Number::Float(f32::from_be_bytes(self.fixed(what)?).into()),
            0xcb => Number::Float(f64::from_be_bytes(self.fixed(what)?)),
            0xcc => Number::Int(u8::from_be_bytes(self.fixed(what)?).into()),
            0xcd => Number::Int(u16::from_be_bytes(self.fixed(what)?).into()),
            0xce => Number::Int(u32::from_be_bytes(self.fixed(what)?).into()),
            0xcf => {
                let value = u64::from_be_bytes(self.fixed(what)?);
                i64::try_from(value).map_or(Number::Large, Number::Int)
            }
            0xd0 => Number::Int(i8::from_be_bytes(self.fixed(what)?).into()),
            0xd1 => Number::Int(i16::from_be_bytes(self.fixed(what)?).into()),
            0xd2 => Number::Int(i32::from_be_bytes(self.fixed(what)?).into()),
            0xd3 => Number::Int(i64::from_be_bytes(self.fixed(what)?)),
            fixint => Number::Int(i64::from(fixint as i8)),
        })
    }

    /// A reading's value: any number that a float64 holds exactly.
    #[inline]
    fn value(&mut self, what: &'static str) -> Read<f64> {
        let before = self.at;
        match self.number(what)? {
            Number::Float(value) => Ok(value),
            Number::Int(value) if value.unsigned_abs() <= EXACT_MAX => Ok(value as f64),
            _ => Err(Broken {
                at: before,
                what,
                why: "is an integer beyond 2^53, which a float64 does not hold",
                channel: None,
                position: None,
            }),
        }
    }

    /// The bytes of a bin that begins here, or None when something else does.
    #[inline]
    fn bin(&mut self, what: &'static str) -> Read<Option<&'a [u8]>> {
        let marker = self.peek(what)?;
        if !matches!(marker, 0xc4..=0xc6) {
            return Ok(None);
        }
        self.at += 1;
        let n = match marker {
            0xc4 => usize::from(u8::from_be_bytes(self.fixed(what)?)),
            0xc5 => usize::from(u16::from_be_bytes(self.fixed(what)?)),
            _ => u32::from_be_bytes(self.fixed(what)?) as usize,
        };
        self.take(n, what).map(Some)
    }

    fn word(&mut self, known: &[&'static str], what: &'static str) -> Read<&'static str> {
        let before = self.at;
        let marker = self.peek(what)?;
        self.at += 1;
        let n = match marker {
            0xa0..=0xbf => usize::from(marker & 0x1f),
            0xd9 => usize::from(u8::from_be_bytes(self.fixed(what)?)),
            0xda => usize::from(u16::from_be_bytes(self.fixed(what)?)),
            0xdb => u32::from_be_bytes(self.fixed(what)?) as usize,
            _ => return Err(Broken { at: before, what, why: "is not a text", channel: None, position: None }),
        };
        let text = self.take(n, what)?;
        let unknown = Broken { at: before, what, why: "is none of the protocol's words", channel: None, position: None };
        known.iter().find(|word| word.as_bytes() == text).copied().ok_or(unknown)
    }

    fn end(&self) -> Read<()> {
        match self.at == self.bytes.len() {
            true => Ok(()),
            false => Err(self.broken("the frame", "goes on after its end")),
        }
    }
}

enum Number {
    Int(i64),
    /// beyond int64
    Large,
    Float(f64),
}

#[derive(Clone, Copy, Debug)]
pub enum Times<'a> {
    /// int32 µs from t0, little-endian
    Offsets(&'a [u8]),
    /// µs between readings, > 0
    Step(i64),
}

#[derive(Clone, Copy, Debug)]
pub enum Values<'a> {
    /// float64, little-endian
    Packed(&'a [u8]),
    /// the elements of a MessagePack array, already read once
    Numbers { n: usize, elements: &'a [u8] },
}

impl Values<'_> {
    #[inline]
    pub fn len(&self) -> usize {
        match self {
            Values::Packed(bytes) => bytes.len() / 8,
            Values::Numbers { n, .. } => *n,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Calls `each` with every value in order.
    #[inline]
    pub fn for_each(&self, mut each: impl FnMut(f64)) {
        match self {
            Values::Packed(bytes) => bytes.chunks_exact(8).for_each(|value| each(float(value))),
            Values::Numbers { n, elements } => {
                let mut reader = Reader::new(elements);
                for _ in 0..*n {
                    match reader.value("a value") {
                        Ok(value) => each(value),
                        Err(_) => unreachable!("decode() has read these numbers"),
                    }
                }
            }
        }
    }
}

#[inline(always)]
pub fn float(bytes: &[u8]) -> f64 {
    f64::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3], bytes[4], bytes[5], bytes[6], bytes[7]])
}

#[inline(always)]
pub fn offset(bytes: &[u8]) -> i32 {
    i32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}

/// The readings of one channel. Its parts are well-formed; whether they are acceptable is `validate`'s question.
#[derive(Clone, Copy, Debug)]
pub struct Column<'a> {
    pub channel: i64,
    pub t0_us: i64,
    pub times: Times<'a>,
    pub values: Values<'a>,
}

/// The columns of a data frame, read as they are asked for: a frame of many tiny columns costs no memory.
#[derive(Clone, Copy, Debug)]
pub struct Columns<'a> {
    reader: Reader<'a>,
    left: usize,
}

impl<'a> Columns<'a> {
    #[inline]
    fn read(&mut self) -> Read<Column<'a>> {
        let reader = &mut self.reader;
        reader.tuple(4, "a column", "does not have 4 elements")?;
        let channel = reader.int("a channel")?;
        Self::read_rest(reader, channel).map_err(|broken| Broken { channel: Some(channel), ..broken })
    }

    #[inline]
    fn read_rest(reader: &mut Reader<'a>, channel: i64) -> Read<Column<'a>> {
        let t0_us = reader.int("t0_us")?;
        let before = *reader;
        let times = match reader.bin("times")? {
            Some(bytes) if bytes.len() % 4 == 0 => Times::Offsets(bytes),
            Some(_) => return Err(before.broken("times", "is not made of int32")),
            None => match reader.int("times")? {
                step if step > 0 => Times::Step(step),
                _ => return Err(before.broken("times", "is a step that is not positive")),
            },
        };
        let before = *reader;
        let values = match reader.bin("values")? {
            Some(bytes) if bytes.len() % 8 == 0 => Values::Packed(bytes),
            Some(_) => return Err(before.broken("values", "is not made of float64")),
            None => {
                let n = reader.array("values")?;
                let from = reader.at;
                for position in 0..n {
                    reader.value("a value").map_err(|broken| Broken { position: Some(position), ..broken })?;
                }
                Values::Numbers { n, elements: &reader.bytes[from..reader.at] }
            }
        };
        let empty = match times {
            Times::Offsets(bytes) => bytes.is_empty(),
            Times::Step(_) => true,
        };
        if values.is_empty() && empty {
            return Err(before.broken("values", "holds no reading"));
        }
        Ok(Column { channel, t0_us, times, values })
    }
}

impl<'a> Iterator for Columns<'a> {
    type Item = Column<'a>;

    #[inline]
    fn next(&mut self) -> Option<Column<'a>> {
        self.left = self.left.checked_sub(1)?;
        match self.read() {
            Ok(column) => Some(column),
            Err(_) => unreachable!("decode() has read these columns"),
        }
    }
}

#[derive(Clone, Copy, Debug)]
pub struct Data<'a> {
    pub sent_us: i64,
    pub columns: Columns<'a>,
    /// how many columns
    pub width: usize,
    /// in all columns
    pub readings: usize,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Gap {
    pub channel: Option<i64>,
    pub from_us: i64,
    pub to_us: i64,
    pub n: i64,
    pub cause: &'static str,
    /// It stands for so many numbers, of which its own is the last.
    pub frames: i64,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Quality {
    pub channel: i64,
    pub from_us: i64,
    pub to_us: Option<i64>,
    pub code: &'static str,
}

/// One reading that is shown and not stored.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Preview {
    pub channel: i64,
    pub t_us: i64,
    pub value: f64,
}

#[derive(Clone, Copy, Debug)]
pub struct Previews<'a> {
    reader: Reader<'a>,
    left: usize,
}

impl Previews<'_> {
    fn read(&mut self) -> Read<Preview> {
        let reader = &mut self.reader;
        reader.tuple(3, "a preview", "does not have 3 elements")?;
        let channel = reader.int("a channel")?;
        let mut rest = || Ok(Preview { channel, t_us: reader.int("t_us")?, value: reader.value("a value")? });
        rest().map_err(|broken: Broken| Broken { channel: Some(channel), ..broken })
    }

    pub fn len(&self) -> usize {
        self.left
    }

    pub fn is_empty(&self) -> bool {
        self.left == 0
    }
}

impl Iterator for Previews<'_> {
    type Item = Preview;

    fn next(&mut self) -> Option<Preview> {
        self.left = self.left.checked_sub(1)?;
        match self.read() {
            Ok(preview) => Some(preview),
            Err(_) => unreachable!("decode() has read these previews"),
        }
    }
}

/// A frame whose every byte has been read once.
#[derive(Clone, Copy, Debug)]
pub enum Frame<'a> {
    Data(Data<'a>),
    Gap(Gap),
    Quality(Quality),
    Preview(Previews<'a>),
}

/// (kind, seq) of a message, reading no further. seq is None for kinds that carry none.
pub fn peek(bytes: &[u8]) -> Result<(i64, Option<i64>), Refusal> {
    let (kind, seq, _, _) = head(bytes)?;
    Ok((kind, seq))
}

/// (kind, seq, elements of the message, what follows)
fn head(bytes: &[u8]) -> Read<(i64, Option<i64>, usize, Reader<'_>)> {
    let mut reader = Reader::new(bytes);
    let elements = reader.array("the message")?;
    if elements == 0 {
        return Err(reader.broken("the message", "is empty"));
    }
    let kind = reader.int("the kind")?;
    if !matches!(kind, KIND_DATA | KIND_GAP | KIND_QUALITY) {
        return Ok((kind, None, elements, reader));
    }
    if elements < 2 {
        return Err(reader.broken("the message", "has no seq"));
    }
    let before = reader;
    let seq = reader.int("seq")?;
    if seq < 1 {
        return Err(before.broken("seq", "does not count from 1"));
    }
    Ok((kind, Some(seq), elements, reader))
}

/// The whole structure of a data, gap, quality or preview frame; what it says is not judged here.
pub fn decode(bytes: &[u8]) -> Result<Frame<'_>, Refusal> {
    let (kind, _, elements, mut reader) = head(bytes)?;
    let expected = match kind {
        KIND_DATA => 4,
        KIND_GAP => 8,
        KIND_QUALITY => 6,
        KIND_PREVIEW => 2,
        _ => return Err(Refusal::new(Code::Malformed, format!("kind {kind} is no data, gap, quality or preview frame"))),
    };
    if elements != expected {
        return Err(Refusal::new(Code::Malformed, format!("a frame of kind {kind} has {expected} elements, not {elements}")));
    }
    let frame = match kind {
        KIND_DATA => Frame::Data(read_data(&mut reader)?),
        KIND_GAP => Frame::Gap(read_gap(&mut reader)?),
        KIND_QUALITY => Frame::Quality(read_quality(&mut reader)?),
        _ => Frame::Preview(read_previews(&mut reader)?),
    };
    reader.end()?;
    Ok(frame)
}

fn read_data<'a>(reader: &mut Reader<'a>) -> Read<Data<'a>> {
    let sent_us = reader.int("sent_us")?;
    let width = reader.array("columns")?;
    let columns = Columns { reader: *reader, left: width };
    let mut walk = columns;
    let mut readings = 0;
    for _ in 0..width {
        readings += walk.read()?.values.len();
    }
    *reader = walk.reader;
    Ok(Data { sent_us, columns, width, readings })
}

fn read_gap(reader: &mut Reader<'_>) -> Read<Gap> {
    let channel = reader.maybe_int("channel")?;
    let mut rest = || {
        Ok(Gap {
            channel,
            from_us: reader.int("from_us")?,
            to_us: reader.int("to_us")?,
            n: reader.int("n")?,
            cause: reader.word(&CAUSES, "cause")?,
            frames: reader.int("frames")?,
        })
    };
    rest().map_err(|broken: Broken| Broken { channel, ..broken })
}

fn read_quality(reader: &mut Reader<'_>) -> Read<Quality> {
    let channel = reader.int("channel")?;
    let mut rest = || {
        Ok(Quality { channel, from_us: reader.int("from_us")?, to_us: reader.maybe_int("to_us")?, code: reader.word(&QUALITIES, "code")? })
    };
    rest().map_err(|broken: Broken| Broken { channel: Some(channel), ..broken })
}

fn read_previews<'a>(reader: &mut Reader<'a>) -> Read<Previews<'a>> {
    let left = reader.array("readings")?;
    let previews = Previews { reader: *reader, left };
    let mut walk = previews;
    for position in 0..left {
        walk.read().map_err(|broken| Broken { position: Some(position), ..broken })?;
    }
    *reader = walk.reader;
    Ok(previews)
}
