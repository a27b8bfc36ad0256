//! Refusals and faults. A refusal is a bad frame, an everyday value; a fault is misuse or a stored payload that cannot be read, an exception.

use pyo3::exceptions::PyException;
use pyo3::PyErr;

/// Why a frame was not taken, as both ends of the wire name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    Malformed,
    Version,
    UnknownChannel,
    NotGranted,
    NotFinite,
    LengthsDiffer,
    NotIncreasing,
    OutOfBounds,
    TooLarge,
    SeqGap,
}

const CODES: [(Code, &str); 10] = [
    (Code::Malformed, "malformed"),
    (Code::Version, "version"),
    (Code::UnknownChannel, "unknown_channel"),
    (Code::NotGranted, "not_granted"),
    (Code::NotFinite, "not_finite"),
    (Code::LengthsDiffer, "lengths_differ"),
    (Code::NotIncreasing, "not_increasing"),
    (Code::OutOfBounds, "out_of_bounds"),
    (Code::TooLarge, "too_large"),
    (Code::SeqGap, "seq_gap"),
];

impl Code {
    pub fn name(self) -> &'static str {
        CODES[self as usize].1
    }
}

/// A frame taken not at all. `position` is the index of the bad reading in its column (in a text or preview frame: in its list),
/// `readings` what the frame held, when that could be counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub code: Code,
    pub channel: Option<i64>,
    pub position: Option<u64>,
    pub detail: String,
    pub readings: Option<u64>,
}

impl Refusal {
    pub fn new(code: Code, detail: impl Into<String>) -> Refusal {
        Refusal { code, channel: None, position: None, detail: plain(detail.into()), readings: None }
    }

    pub fn of_channel(mut self, channel: i64) -> Refusal {
        self.channel = Some(channel);
        self
    }

    pub fn at(mut self, position: usize) -> Refusal {
        self.position = Some(position as u64);
        self
    }

    pub fn holding(mut self, readings: usize) -> Refusal {
        self.readings = Some(readings as u64);
        self
    }
}

/// 300 characters say enough of what a stranger sent.
const DETAIL_CHARS_MAX: usize = 300;

/// `detail` may quote what a stranger sent: bounded, and without control characters (PostgreSQL takes no U+0000).
pub fn plain(detail: String) -> String {
    if detail.len() <= DETAIL_CHARS_MAX && !detail.contains(char::is_control) {
        return detail;
    }
    let kept = || detail.chars().take(DETAIL_CHARS_MAX).map(|c| if c.is_control() { '\u{fffd}' } else { c });
    let mut plain = String::with_capacity(kept().map(char::len_utf8).sum());
    plain.extend(kept());
    plain
}

#[derive(Debug, thiserror::Error)]
pub enum Fault {
    #[error("{0}")]
    Misuse(String),
    #[error("{0}")]
    Corrupt(String),
}

pyo3::create_exception!(ingest_core, CoreError, PyException, "Misuse of the core: an unknown connection, a wrong length.");
pyo3::create_exception!(ingest_core, CorruptPayload, CoreError, "A stored payload that cannot be read back.");

impl From<Fault> for PyErr {
    fn from(fault: Fault) -> PyErr {
        match fault {
            Fault::Misuse(what) => CoreError::new_err(what),
            Fault::Corrupt(what) => CorruptPayload::new_err(what),
        }
    }
}
